"""`landscape features`."""

from __future__ import annotations

import datetime
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click
import torch
from rich.markup import escape

import landscape
from landscape.errors import LandscapeError
from landscape.store import check_replaceable
from landscape.store.features_file import (
    FEATURES_SCHEMA,
    SPLITS,
    FeaturesFile,
    FeatureWriter,
    SplitName,
)
from landscape.study import Subject
from landscape.training.recipe import resolve_device
from landscape.twostage.features import FeatureLayer, feature_batches, find_feature_layer

from .checks import int64
from .progress import WorkBar, console
from .subject_options import subject_of, subject_options


@click.command(name="features")
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@subject_options("features")
@click.option("--split", type=click.Choice(["train", "test", "both"]), default="both", show_default=True)
@click.option("--layer", metavar="NAME",
              help="take what this module receives, for example 'fc' [default: the linear or cosine layer whose output "
                   "are the logits]")  # fmt: skip
@click.option("--augment", is_flag=True,
              help="see the training images through the augmentation of the training, drawn once, as TailCalibX's code "
                   "does")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), callback=int64, default=0, show_default=True,
              help="of --augment")  # fmt: skip
@click.option("--logit-scale", type=click.FloatRange(0, min_open=True), metavar="S",
              help="of a foreign checkpoint with a cosine head: its loss took S·z [default: 1]")  # fmt: skip
@click.option("--device", default="auto", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FEATURES.h5")
@click.option("--overwrite", is_flag=True, help="replace a features file that is there")
def command(
    checkpoint: Path,
    factory: str | None,
    allow_pickle: bool,
    split: str,
    layer: str | None,
    augment: bool,
    seed: int,
    logit_scale: float | None,
    device: str,
    output: Path,
    overwrite: bool,
    **fields: Any,
) -> None:
    """Write down what the last layer of a checkpoint sees of every image: one vector an image.

    The file also has the labels, what the checkpoint predicts, and the weights of its last layer, so that second stages
    (`landscape calibrate`) need neither images nor network. Features are kept as the layer receives them, in float32,
    without normalisation. Images go through in eval mode, unaugmented unless `--augment` is given, a batch at a time.
    """
    if augment and split == "test":
        raise click.UsageError("--augment is of training images, and --split test leaves them out")
    check_replaceable(output, FEATURES_SCHEMA, overwrite=overwrite)
    subject = subject_of(checkpoint, factory, allow_pickle, fields, logit_scale=logit_scale)
    augmentation = subject.data_recipe.augmentation if augment else "none"
    if augment and augmentation == "none":
        raise LandscapeError(f"images of {subject.source} are not augmented in training: leave --augment out")
    where = resolve_device(device)
    model = subject.model.to(where).eval()
    found = find_feature_layer(model, subject.normalization(subject.data.first_images(2).to(where)), layer)
    splits: tuple[SplitName, ...] = tuple(name for name in SPLITS if split in (name, "both"))
    counts = {name: len(subject.data.labelled(name).labels) for name in splits}
    size = sum(counts.values()) * found.width * 4
    words = " and ".join(f"{count:,} {name}" for name, count in counts.items())
    console.print(
        f"{words} images, one forward pass each: {found.width} features, the input of '{found.name}' ({found.kind} "
        f"head); {max(1, round(size / 1e6))} MB on disk",
        markup=False,
        soft_wrap=True,
    )
    meta = _meta(subject, found, augmentation, seed, where)
    started = time.monotonic()
    with (
        FeaturesFile.writing(output, meta, found.head(subject.logit_scale)) as file,
        WorkBar("reading images", sum(counts.values()), "images") as bar,
    ):
        for name in splits:
            writer = FeatureWriter(file.create_group(name), counts[name])
            for features, labels, predicted in feature_batches(
                model,
                found,
                subject.data,
                name,
                subject.normalization,
                augmentation=augmentation if name == "train" else "none",
                seed=seed,
                channels_last=subject.recipe is not None,
            ):
                writer.add(features, labels, predicted)
                bar.advance(len(features))
            writer.check_full()
    # A second stage needs both splits.
    stage = ["calibrate", str(output), "--method", "tailcalibx", "-o", "calibrated.h5"]
    following = shlex.join(["landscape", *(stage if split == "both" else ["info", str(output)])])
    console.print(
        f"{time.monotonic() - started:.0f} s; kept in {escape(str(output))}; next: [bold]{escape(following)}[/]",
        soft_wrap=True,
    )


def _meta(subject: Subject, layer: FeatureLayer, augmentation: str, seed: int, device: str) -> dict[str, Any]:
    return {
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
        "command": shlex.join(["landscape", *sys.argv[1:]]),
        "created": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": device,
        "landscape_version": landscape.__version__,
        "torch_version": str(torch.__version__),
        "numpy_version": str(np.__version__),
    }
