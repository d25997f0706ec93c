"""A study: a checkpoint and its data in, a results file out. What `landscape spectrum` does, callable from Python.

This is the one place where the rooms meet: `training` gives the model and the data, `curvature` the numbers, `store`
keeps them. It decides which samples a part sees and what is written beside the numbers, and computes nothing itself.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

import landscape
from landscape.curvature import (
    HessianOperator,
    MeasureSettings,
    Part,
    Problem,
    Samples,
    class_parts,
    cross_parts,
    group_parts,
    layer_parts,
    measure,
    resolve_classes,
    whole_part,
)
from landscape.data import ImageSet, Normalization
from landscape.data.longtailed import LongTailedData
from landscape.errors import LandscapeError
from landscape.losses import ClassificationLoss, build_loss, class_weights_at
from landscape.store import MetaValue, SpectrumFile
from landscape.training.checkpoint import (
    file_sha256,
    find_checkpoint,
    fit_state,
    load_checkpoint,
    load_state,
    model_from_factory,
)
from landscape.training.evaluation import check_fit
from landscape.training.loop import build_training_loss
from landscape.training.recipe import DataRecipe, Recipe, resolve_device
from landscape.training.schedules import milestone

# What must agree before a part is added to an existing file.
_DECISIVE = (
    "checkpoint_sha256",
    "model",
    "dataset_fingerprint",
    "class_names",
    "class_counts",
    "split",
    "loss",
    "logit_scale",
    "normalize",
    "dtype",
    "batch_norm",
    "max_samples",
    "num_pairs",
    "tol",
    "max_matvecs",
    "num_probes",
    "num_steps",
    "seed",
    "radius",
)


@dataclass(frozen=True)
class Subject:
    """A model with its weights, and the data it is to be measured on."""

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

    @property
    def normalization(self) -> Normalization:
        return self.data_recipe.normalization

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
        if logit_scale is not None:
            raise LandscapeError(
                f"--logit-scale {logit_scale:g} is for a foreign checkpoint (--model …); {path} knows its own scale"
            )
        checkpoint = load_checkpoint(path)
        recipe = checkpoint.recipe
        data_recipe = Recipe.parse({"data": {**recipe.dump()["data"], **changes}}, where="data").data
        opened = data_recipe.open()
        if len(opened.class_names) != len(checkpoint.info.class_names):
            raise LandscapeError(
                f"{path} was trained on {len(checkpoint.info.class_names)} classes, {data_recipe.source} has "
                f"{len(opened.class_names)}; name the right data with --data"
            )
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
    network = model_from_factory(model)
    fit_state(network, load_state(path, allow_pickle=allow_pickle), path)
    data_recipe = Recipe.parse({"data": changes}, where="data").data
    opened = data_recipe.open()
    check_fit(network, opened.first_image(), data_recipe.normalization, opened.num_classes)
    return Subject(
        path=path,
        sha256=file_sha256(path),
        model=network.eval(),
        data=opened,
        data_recipe=data_recipe,
        recipe=None,
        epoch=None,
        model_name=model,
        training_counts=opened.counts,
        logit_scale=1.0 if logit_scale is None else logit_scale,
    )


@dataclass(frozen=True)
class StudyPlan:
    """Which parts, on which samples, with which loss, how precisely."""

    whole: bool = False
    per_class: bool = False
    classes: str | None = None  # "0,3,truck"; implies per_class
    per_group: bool = False
    per_layer: bool = False
    layers: tuple[str, ...] | None = None  # globs; implies per_layer
    split: Literal["train", "test"] = "train"
    loss: Literal["ce", "training"] = "ce"
    max_samples: int | None = None  # images a part, drawn with the seed; None takes all
    dtype: Literal["float32", "float64"] = "float32"
    batch_norm: Literal["eval", "batch"] = "eval"
    chunk_size: int | None = None
    device: str = "auto"
    keep_vectors: bool = False
    settings: MeasureSettings = field(default_factory=MeasureSettings)


class StudyProgress(Protocol):
    """What a front end hears while a study goes on."""

    def cost(self, estimate: Cost) -> None: ...
    def part(self, part: Part, number: int, total: int, products: int) -> None: ...
    def product(self, count: int) -> None: ...
    def skipped(self, part: Part) -> None: ...


@dataclass(frozen=True)
class Cost:
    """What a study takes, from products that were timed."""

    parts: int
    matvecs: int  # Hessian products, all parts
    images: int  # images of all parts together, a product passes over those of its part
    seconds: float
    bytes: int  # kept graphs and Lanczos basis of the largest part


def plan_parts(plan: StudyPlan, labels: Tensor, data: LongTailedData, model: nn.Module) -> list[Part]:
    """The parts that a plan names, in the order in which they are measured."""
    by_samples: list[Part] = []
    if plan.per_group:
        by_samples += group_parts(labels, dict(data.groups[0].items()))
    if plan.per_class or plan.classes is not None:
        chosen = None if plan.classes is None else resolve_classes(plan.classes, data.class_names)
        by_samples += class_parts(labels, data.class_names, chosen)
    by_layer: list[Part] = []
    if plan.per_layer or plan.layers is not None:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        by_layer = layer_parts(names, plan.layers)
    parts = cross_parts(by_samples, by_layer) if by_samples and by_layer else by_samples or by_layer
    return [whole_part(), *parts] if plan.whole or not parts else parts


def run_study(
    subject: Subject,
    plan: StudyPlan,
    output: Path,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: StudyProgress | None = None,
) -> SpectrumFile:
    """Measure every part that ``output`` does not hold yet, and write each as soon as it is done.

    A killed study goes on where it stopped and gives the same numbers: nothing depends on the order of the parts.

    Raises:
        LandscapeError: ``output`` holds results of another checkpoint, data set or setting.
    """
    progress = progress or Quiet()
    images = subject.data.split(plan.split)
    parts = plan_parts(plan, images.labels, subject.data, subject.model)
    parts = [_thin(part, len(images), plan) for part in parts]
    device = torch.device(resolve_device(plan.device))
    problem = build_problem(subject, plan, images, device)
    meta = _meta(subject, plan, images, problem, device, command)
    if output.exists() and not overwrite:
        file = SpectrumFile.open(output)
        file.check_resumable(meta, _DECISIVE)
    else:
        file = SpectrumFile.create(output, meta, overwrite=overwrite)
    done = set(file.complete_parts())
    open_parts = [part for part in parts if part.path not in done]
    for part in parts:
        if part.path in done:
            progress.skipped(part)
    if open_parts:
        progress.cost(_cost(problem, open_parts, plan))
    for number, part in enumerate(open_parts):
        restricted = problem.restrict(part)
        progress.part(part, number, len(open_parts), plan.settings.expected_matvecs)
        right = restricted.outputs().argmax(1) == restricted.samples.targets
        spectrum = measure(
            restricted,
            plan.settings,
            part=part.path,
            label=part.label,
            accuracy=float(right.double().mean()),
            keep_vectors=plan.keep_vectors,
            on_product=progress.product,
        )
        file.write_part(spectrum)
    return file


def build_problem(subject: Subject, plan: StudyPlan, images: ImageSet, device: torch.device) -> Problem:
    """The whole question of a study; every part is a restriction of it."""
    dtype = getattr(torch, plan.dtype)
    inputs = subject.normalization(images.images.to(device), dtype=dtype)
    return Problem(
        subject.model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        subject.loss(plan.loss).to(device),
        Samples(inputs, images.labels),
        batch_norm=plan.batch_norm,
        chunk_size=plan.chunk_size,
        dtype=dtype,
        device=device,
    )


def _thin(part: Part, num_samples: int, plan: StudyPlan) -> Part:
    """At most ``max_samples`` of a part's samples, the same ones for one seed, in their old order."""
    index = torch.arange(num_samples) if part.samples is None else part.samples.cpu()
    if plan.max_samples is None or len(index) <= plan.max_samples:
        return part
    generator = torch.Generator().manual_seed(plan.settings.seed)
    chosen = torch.randperm(len(index), generator=generator)[: plan.max_samples].sort().values
    return Part(path=part.path, label=part.label, samples=index[chosen], parameters=part.parameters)


def _cost(problem: Problem, parts: Sequence[Part], plan: StudyPlan) -> Cost:
    """Time kept-graph products on a few and on more images: a part costs a share of its own and one an image."""
    few, more = problem.thinned(8), problem.thinned(64)
    op, seconds = _timed_product(more)
    _, seconds_few = _timed_product(few)
    an_image = max(0.0, (seconds - seconds_few) / max(more.num_samples - few.num_samples, 1))
    a_product = max(0.0, seconds_few - an_image * few.num_samples)
    sizes = [problem.num_samples if part.samples is None else len(part.samples) for part in parts]
    each = plan.settings.expected_matvecs
    largest = max(problem.restrict(part).num_parameters for part in parts)
    basis = largest * torch.finfo(problem.dtype).bits // 8 * (plan.settings.num_steps + 40)
    graph = op.kept_bytes // more.num_samples * max(sizes)
    return Cost(
        parts=len(parts),
        matvecs=each * len(parts),
        images=sum(sizes),
        seconds=each * (a_product * len(parts) + an_image * sum(sizes)),
        bytes=basis + min(graph, op.memory_budget),
    )


def _timed_product(problem: Problem) -> tuple[HessianOperator, float]:
    """An operator that has traced and kept what it can, and the seconds a product takes from then on, best of three."""
    op = HessianOperator(problem)
    vector = torch.ones(op.shape[0], dtype=op.dtype, device=op.device)
    op @ vector
    seconds = []
    for _ in range(3):
        start = time.monotonic()
        float((op @ vector).norm())  # the norm waits for the device
        seconds.append(time.monotonic() - start)
    return op, min(seconds)


def _meta(
    subject: Subject, plan: StudyPlan, images: ImageSet, problem: Problem, device: torch.device, command: str
) -> dict[str, MetaValue]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    recipe = subject.recipe
    return {
        "landscape_version": landscape.__version__,
        "torch_version": str(torch.__version__),
        "python_version": platform.python_version(),
        "command": command,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "device": str(device),
        "device_name": name,
        "checkpoint": str(subject.path),
        "checkpoint_sha256": subject.sha256,
        "model": subject.model_name,
        "recipe": recipe.to_toml() if recipe is not None else "",
        "epoch": subject.epoch if subject.epoch is not None else -1,
        "source": subject.data_recipe.source,
        "imbalance": subject.data_recipe.imbalance,
        "normalize": str(subject.normalization),
        "dataset_fingerprint": images.fingerprint(),
        "split": plan.split,
        "loss": plan.loss,
        "logit_scale": float(subject.logit_scale),
        "dtype": plan.dtype,
        "batch_norm": plan.batch_norm,
        "max_samples": plan.max_samples if plan.max_samples is not None else 0,
        "num_parameters": problem.num_parameters,
        **asdict(plan.settings),
        **{f"check_{key}": float(value) for key, value in asdict(problem.check).items()},
        "class_names": list(subject.data.class_names),
        "class_counts": list(subject.data.counts),
        "class_groups": [subject.data.groups[0].of(label) for label in range(subject.data.num_classes)],
    }


class Quiet:
    """A study that says nothing."""

    def cost(self, estimate: Cost) -> None:
        pass

    def part(self, part: Part, number: int, total: int, products: int) -> None:
        pass

    def product(self, count: int) -> None:
        pass

    def skipped(self, part: Part) -> None:
        pass
