"""From a checkpoint to its features file, and from second stages to theirs."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import landscape
from landscape.store import MetaValue
from landscape.store.calibration_file import CalibrationFile
from landscape.store.features_file import SPLITS, FeaturesFile, FeatureWriter, SplitName
from landscape.training.checkpoint import file_sha256
from landscape.twostage.features import FeatureLayer, feature_batches
from landscape.twostage.second_stage import SecondStage, SeedOutcome, kept_per_class

if TYPE_CHECKING:
    from landscape.study import Subject


def record_features(
    subject: Subject,
    layer: FeatureLayer,
    output: str | os.PathLike[str],
    *,
    splits: Sequence[SplitName] = SPLITS,
    augmentation: str = "none",
    seed: int = 0,
    device: str = "cpu",
    command: str = "",
    on_images: Callable[[int], None] = lambda count: None,
) -> FeaturesFile:
    """Write down what a layer of a checkpoint sees of every image of some splits, in one atomic step.

    Args:
        subject: the checkpoint with its data.
        layer: of its model, see :func:`landscape.twostage.find_feature_layer`.
        output: the features file.
        splits: which.
        augmentation: of the training images.
        seed: of the augmentation.
        device: to compute on.
        command: stored with the features.
        on_images: called with the number of images that have just been seen.

    Cost: one forward pass an image.
    """
    model = subject.model.to(device).eval()
    meta: dict[str, MetaValue] = {
        "checkpoint": str(subject.path),
        "checkpoint_sha256": subject.sha256,
        "model": subject.model_name,
        "recipe": "" if subject.recipe is None else subject.recipe.to_toml(),
        "epoch": -1 if subject.epoch is None else subject.epoch,
        "layer": layer.name,
        "source": subject.data_recipe.source,
        "imbalance": subject.data_recipe.imbalance,
        "normalize": str(subject.normalization),
        "augment": augmentation,
        "seed": seed,
        "class_names": list(subject.data.class_names),
        "class_counts": list(subject.training_counts),
        **_origin(command, device),
    }
    with FeaturesFile.writing(output, meta, layer.head(subject.logit_scale)) as file:
        for name in splits:
            writer = FeatureWriter(file.create_group(name), len(subject.data.labelled(name).labels))
            for features, labels, predicted in feature_batches(
                model,
                layer,
                subject.data,
                name,
                subject.normalization,
                augmentation=augmentation if name == "train" else "none",
                seed=seed,
                channels_last=subject.recipe is not None,
            ):
                writer.add(features, labels, predicted)
                on_images(len(features))
            writer.check_full()
    return FeaturesFile.open(output)


def record_outcomes(
    file: FeaturesFile,
    stage: SecondStage,
    outcomes: Sequence[SeedOutcome],
    output: str | os.PathLike[str],
    *,
    command: str = "",
) -> CalibrationFile:
    """Keep everything about the second stages of some seeds; generated features are those of the first seed.

    Args:
        file: the features that they worked from.
        stage: what was run.
        outcomes: one a seed.
        output: the calibration file, written in one atomic step.
        command: stored with them.
    """
    first = outcomes[0]
    points: dict[str, dict[str, Any]] = {}
    if first.generated is not None:
        made = first.generated
        near = stage.nearest(made.features)
        real = stage.some_real(kept_per_class(stage.num_classes))
        points["generated"] = {
            "features": made.features,
            "labels": made.labels,
            "seeds": made.seeds,
            "nearest_sample": near.sample,
            "nearest_mean": near.mean,
        }
        if stage.settings.method != "modals":
            points["generated"]["neighbors"] = stage.calibration.neighbors[made.seeds]
        near = stage.nearest(stage.inputs[real], without=real)
        points["real"] = {
            "features": stage.inputs[real],
            "labels": stage.labels[real],
            "index": real,
            "nearest_sample": near.sample,
            "nearest_mean": near.mean,
        }
    meta = {
        "features": str(file.path),
        "features_sha256": file_sha256(file.path),
        **{key: file.meta[key] for key in ("checkpoint", "checkpoint_sha256", "model", "layer", "source", "imbalance")},
        "method": stage.settings.method,
        **{name: value for name, value in stage.settings.own().items() if value is not None},
        "class_names": list(file.class_names),
        "class_counts": list(file.class_counts),
        **_origin(command, str(stage.device)),
    }
    accuracy = {
        "seeds": np.array([outcome.seed for outcome in outcomes]),
        "correct": np.array([outcome.result.correct for outcome in outcomes]),
        "before": np.array(stage.before.correct),
        "total": np.array(stage.before.total),
    }
    if first.tau is not None:
        accuracy["tau"] = np.array([outcome.tau for outcome in outcomes])
    classifiers = {
        name: torch.stack([outcome.classifier[name] for outcome in outcomes]).numpy() for name in first.classifier
    }
    arrays = {
        group: {name: tensor.cpu().numpy() for name, tensor in columns.items()} for group, columns in points.items()
    }
    return CalibrationFile.write(output, meta, accuracy, classifiers, arrays)


def _origin(command: str, device: str) -> dict[str, MetaValue]:
    return {
        "command": command,
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device,
        "landscape_version": landscape.__version__,
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
    }
