"""What is measured: a model with its weights and the data it belongs to, once or over a whole training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from landscape.anomaly.checkpoint import is_detector
from landscape.data import ClassGroups, ImageSet, Normalization
from landscape.data.longtailed import LongTailedData, class_groups
from landscape.errors import LandscapeError
from landscape.losses import ClassificationLoss, build_loss, class_weights_at
from landscape.store import MetaValue
from landscape.training.checkpoint import (
    Checkpoint,
    file_sha256,
    find_checkpoint,
    fit_state,
    load_checkpoint,
    load_state,
    model_from_factory,
)
from landscape.training.evaluation import check_fit
from landscape.training.loop import build_training_loss
from landscape.training.recipe import DataRecipe, Recipe
from landscape.training.schedules import milestone


class MeasuredSamples(Protocol):
    """One split of the samples, in memory."""

    @property
    def labels(self) -> Tensor:
        """``(N,)`` int64: the class that each sample is measured with."""
        ...

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """SHA-256 of samples and labels in their order."""
        ...


class MeasuredData(Protocol):
    """The samples by split, and their classes."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Training samples of each class."""
        ...

    def split(self, name: Literal["train", "test"]) -> MeasuredSamples: ...


class Measured(Protocol):
    """What a study needs to know of a trained model: :class:`Subject`, or a detector of :mod:`landscape.anomaly`."""

    @property
    def path(self) -> Path: ...

    @property
    def sha256(self) -> str: ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def data(self) -> MeasuredData: ...

    @property
    def groups(self) -> ClassGroups:
        """Head, mid and tail of the classes."""
        ...

    @property
    def recipe(self) -> Recipe | None:
        """Of the training, which a sweep must share; ``None`` where there can be no sweep or it is not known."""
        ...

    @property
    def epoch(self) -> int | None: ...

    @property
    def source(self) -> str:
        """Where the samples come from."""
        ...

    @property
    def default_loss(self) -> Literal["ce", "training"]: ...

    def loss(self, kind: Literal["ce", "training"]) -> ClassificationLoss: ...

    def samples(self, split: Any, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What the model takes and what the loss is told, on the device, of a split of its own data."""
        ...

    def accuracy(self, outputs: Tensor, targets: Tensor) -> float | None:
        """Share of right answers; ``None`` for a model that gives none."""
        ...

    def describe(self) -> dict[str, MetaValue]:
        """What a results file says of it."""
        ...


@dataclass(frozen=True)
class Subject:
    """A classifier with its weights, and the data it is to be measured on."""

    path: Path
    sha256: str
    model: nn.Module
    data: LongTailedData
    data_recipe: DataRecipe
    recipe: Recipe | None  # of the training; None for a foreign checkpoint
    epoch: int | None
    model_name: str  # as a recipe or --model names it
    training_counts: tuple[int, ...]  # (C,) training images a class, which the training loss depends on
    logit_scale: float  # s of a cosine head, 1 otherwise: the bare cosines have a meaninglessly small Hessian

    default_loss: ClassVar[Literal["ce"]] = "ce"

    @property
    def source(self) -> str:
        return self.data_recipe.source

    @property
    def normalization(self) -> Normalization:
        return self.data_recipe.normalization

    @property
    def groups(self) -> ClassGroups:
        """Head, mid and tail by index of the classes as they were trained, whatever images are measured."""
        return class_groups(self.training_counts)[0]

    def loss(self, kind: Literal["ce", "training"]) -> ClassificationLoss:
        """Plain cross-entropy, or the training loss with the class weights of the checkpoint's last epoch.

        Raises:
            LandscapeError: the training loss of a checkpoint that does not say how it was trained.
        """
        if kind == "ce":
            return build_loss("ce", self.data.counts, logit_scale=self.logit_scale)
        if self.recipe is None or self.epoch is None:
            raise LandscapeError(f"{self.path} does not say which loss trained it; use --loss ce")
        section, epochs = self.recipe.loss, self.recipe.schedule.epochs
        weights = class_weights_at(
            self.epoch - 1,
            section.reweight,
            self.training_counts,
            switch_epoch=milestone(section.defer, epochs),
            beta=section.beta,
        )
        return build_training_loss(self.recipe, self.training_counts).with_class_weights(weights)

    def samples(self, split: ImageSet, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Normalised images ``(N, C, H, W)`` and labels ``(N,)``."""
        return self.normalization(split.images.to(device), dtype=dtype), split.labels

    def accuracy(self, outputs: Tensor, targets: Tensor) -> float:
        """Share of the samples whose largest output is their class's."""
        return float((outputs.argmax(1) == targets).double().mean())

    def describe(self) -> dict[str, MetaValue]:
        """What a results file says of it."""
        return {
            "model": self.model_name,
            "recipe": self.recipe.to_toml() if self.recipe is not None else "",
            "imbalance": self.data_recipe.imbalance,
            "normalize": str(self.normalization),
            "logit_scale": float(self.logit_scale),
        }


def open_subject(
    path: Path,
    *,
    model: str | None = None,
    data: dict[str, Any] | None = None,
    allow_pickle: bool = False,
    logit_scale: float | None = None,
) -> Subject:
    """A checkpoint of ours, which knows its model and data, or a foreign one, for which both are named.

    Args:
        path: a checkpoint file or a run's folder.
        model: ``package.module:factory`` of a foreign checkpoint; the factory is called without arguments.
        data: fields of :class:`DataRecipe` that replace the checkpoint's own, such as a source that has moved.
        allow_pickle: see :func:`landscape.training.checkpoint.load_state`.
        logit_scale: s of a foreign checkpoint with a cosine head, by which the loss multiplies its outputs; 1 if not
            given. A checkpoint of ours knows its own.

    Raises:
        LandscapeError: whatever is missing, with the flag that would name it; a logit scale that is not a positive
            number, or one for a checkpoint of ours.
    """
    changes = dict(data or {})
    if logit_scale is not None and not 0 < logit_scale < math.inf:
        raise LandscapeError(f"logit scale {logit_scale:g}: it multiplies the logits, give a positive number")
    if model is None:
        if is_detector(path):
            raise LandscapeError(
                f"{path} is an anomaly detector, not a classifier: `landscape info {path}` tells its AUCs, `landscape "
                "spectrum` measures it"
            )
        if logit_scale is not None:
            raise LandscapeError(
                f"--logit-scale {logit_scale:g} is for a foreign checkpoint (--model …); {path} knows its own scale"
            )
        checkpoint = load_checkpoint(path)
        recipe = checkpoint.recipe
        trained_on = recipe.dump()["data"]
        if changes.get("source", "").startswith(("folder:", "list:")):
            trained_on.pop("root", None)  # a path that is given now starts where the command runs
        data_recipe = Recipe.parse({"data": {**trained_on, **changes}}, where="data").data
        opened = data_recipe.open()
        if len(opened.class_names) != len(checkpoint.info.class_names):
            raise LandscapeError(
                f"{path} was trained on {len(checkpoint.info.class_names)} classes, {data_recipe.source} has "
                f"{len(opened.class_names)}; name the right data with --data"
            )
        _check_class_order(checkpoint.info.class_names, opened.class_names, path, data_recipe.source)
        network = checkpoint.build_model()
        check_fit(network, opened.first_image(), data_recipe.normalization, opened.num_classes)
        return Subject(
            path=checkpoint.path,
            sha256=checkpoint.sha256,
            model=network,
            data=opened,
            data_recipe=data_recipe,
            recipe=recipe,
            epoch=checkpoint.info.epoch,
            model_name=recipe.model.name,
            training_counts=tuple(checkpoint.info.class_counts),
            logit_scale=recipe.logit_scale,
        )
    for flag in ("source", "normalize"):
        if flag not in changes:
            name = {"source": "--data", "normalize": "--normalize"}[flag]
            raise LandscapeError(f"a foreign checkpoint does not say what it was trained on: give {name}")
    path = find_checkpoint(path)
    network = _foreign_network(model, path, allow_pickle=allow_pickle)
    data_recipe = Recipe.parse({"data": changes}, where="data").data
    opened = data_recipe.open()
    check_fit(network, opened.first_image(), data_recipe.normalization, opened.num_classes)
    return Subject(
        path=path,
        sha256=file_sha256(path),
        model=network,
        data=opened,
        data_recipe=data_recipe,
        recipe=None,
        epoch=None,
        model_name=model,
        training_counts=opened.counts,
        logit_scale=1.0 if logit_scale is None else logit_scale,
    )


def _foreign_network(reference: str, path: Path, *, allow_pickle: bool) -> nn.Module:
    network = model_from_factory(reference)
    fit_state(network, load_state(path, allow_pickle=allow_pickle), path)
    return network.eval()


@dataclass(frozen=True)
class Sweep:
    """Checkpoints of one training, in the order of their epochs; weights are read when a checkpoint's turn comes."""

    first: Subject  # what all of them share: data, recipe, model
    paths: tuple[Path, ...]  # (E,)
    sha256: tuple[str, ...]  # (E,)
    epochs: tuple[int, ...]  # (E,) ascending, each once
    load: Callable[[Path], nn.Module] = field(repr=False)  # the network with the weights of a path, in eval mode

    def subject(self, number: int) -> Subject:
        """The checkpoint at position ``number``; data and recipe are shared with the others."""
        if number == 0:
            return self.first
        return replace(
            self.first,
            path=self.paths[number],
            sha256=self.sha256[number],
            model=self.load(self.paths[number]),
            epoch=None if self.first.epoch is None else self.epochs[number],
        )


def open_sweep(
    paths: Sequence[Path],
    *,
    model: str | None = None,
    data: dict[str, Any] | None = None,
    allow_pickle: bool = False,
    logit_scale: float | None = None,
) -> Sweep:
    """Several checkpoints of one training, which must agree in everything but their weights.

    The epoch of a checkpoint of ours stands in its metadata. A foreign one does not say it, so the last number in its
    file's name is taken for it. A checkpoint that comes twice (``last`` beside ``epoch-0200``) is measured once.

    Args:
        paths: checkpoint files or runs' folders, in any order; the other arguments are those of :func:`open_subject`.

    Raises:
        LandscapeError: trainings that differ, with the first setting in which they do; two checkpoints of one epoch; a
            foreign file without a number in its name; and whatever :func:`open_subject` refuses.
    """
    if not paths:
        raise LandscapeError("a sweep needs at least one checkpoint")
    found: dict[int, tuple[Path, str]] = {}
    reference: Checkpoint | None = None
    for given in paths:
        if model is None:
            checkpoint = load_checkpoint(given)
            reference = reference or checkpoint
            _check_same_training(reference, checkpoint)
            epoch, path, sha256 = checkpoint.info.epoch, checkpoint.path, checkpoint.sha256
        else:
            path = find_checkpoint(given)
            epoch, sha256 = _epoch_in_name(path), file_sha256(path)
        other, other_sha256 = found.setdefault(epoch, (path, sha256))
        if other_sha256 != sha256:
            raise LandscapeError(f"{other} and {path} are two different checkpoints of epoch {epoch}; give one of them")
    epochs = tuple(sorted(found))
    first = open_subject(
        found[epochs[0]][0], model=model, data=data, allow_pickle=allow_pickle, logit_scale=logit_scale
    )

    def load(path: Path) -> nn.Module:
        if model is None:
            return load_checkpoint(path).build_model()
        return _foreign_network(model, path, allow_pickle=allow_pickle)

    return Sweep(
        first=first,
        paths=tuple(found[epoch][0] for epoch in epochs),
        sha256=tuple(found[epoch][1] for epoch in epochs),
        epochs=epochs,
        load=load,
    )


def _epoch_in_name(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise LandscapeError(
            f"{path} does not say its epoch: in a sweep of foreign checkpoints it is the last number in the file's "
            "name, as in net-030.pt"
        )
    return int(numbers[-1])


def _check_class_order(trained: Sequence[str], given: Sequence[str], path: Path, source: str) -> None:
    """Classes may have other names in other data, but a name that both know must mean the same output."""
    place = {name: index for index, name in enumerate(trained)}
    for index, name in enumerate(given):
        if place.get(name, index) != index:
            raise LandscapeError(
                f"class '{name}' is output {place[name]} of {path} but class {index} of {source}: its labels mean "
                "other classes. Name data with the classes in the order of the training"
            )


def _check_same_training(first: Checkpoint, other: Checkpoint) -> None:
    difference = recipe_difference(first.recipe, other.recipe)
    if difference is None and first.info.class_counts != other.info.class_counts:
        difference = f"class counts {other.info.class_counts[:8]}, not {first.info.class_counts[:8]}"
    if difference is None and first.info.class_names != other.info.class_names:
        difference = "other class names"
    if difference is not None:
        raise LandscapeError(
            f"{other.path} is of another training than {first.path}: {difference}. A sweep follows one training"
        )


def recipe_difference(first: Recipe, other: Recipe) -> str | None:
    """The first setting in which ``other`` differs, such as ``optimizer.lr = 0.2, not 0.1``; ``None`` if they agree."""
    # Resolved again, since older versions wrote folders down in another way.
    difference = first.resolved.difference(other.resolved)
    return None if difference is None else f"{difference[0]} = {difference[2]!r}, not {difference[1]!r}"
