"""Which parts, on which samples, with which loss, how precisely, within what budget."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from landscape.curvature import (
    MeasureSettings,
    Part,
    Problem,
    Samples,
    class_parts,
    cross_parts,
    group_parts,
    layer_parts,
    resolve_classes,
    whole_part,
)
from landscape.curvature.parts import LayerUnit
from landscape.errors import LandscapeError
from landscape.study.cost import Budget
from landscape.study.subject import Measured, MeasuredSamples

BATCH_SIZE = 128
"""Images a mini-batch."""


@dataclass(frozen=True)
class StudyPlan:
    """Which parts, on which samples, with which loss, how precisely, within what budget.

    Raises:
        LandscapeError: a setting that means nothing without another.
    """

    whole: bool = False
    per_class: bool = False
    classes: str | None = None  # "0,3,truck"; implies per_class
    per_group: bool = False
    per_layer: bool = False
    layers: tuple[str, ...] | None = None  # globs; implies per_layer
    layer_unit: LayerUnit = "module"
    num_batches: int = 0  # mini-batches whose spectrum ends are measured beside the parts
    batch_size: int = BATCH_SIZE
    weight_decay: float = 0.0  # L2 penalty of the mini-batch losses; the parts never have one
    split: Literal["train", "test"] = "train"
    loss: Literal["ce", "training"] = "ce"
    max_samples: int | None = None  # images a part, drawn with the seed; None takes all
    dtype: Literal["float32", "float64"] = "float32"
    batch_norm: Literal["eval", "batch"] = "eval"
    chunk_size: int | None = None
    device: str = "auto"
    keep_vectors: bool = False
    budget: Budget | None = None  # None: every part until its interval meets the target
    settings: MeasureSettings = field(default_factory=MeasureSettings)

    def __post_init__(self) -> None:
        if self.layer_unit != "module" and not (self.per_layer or self.layers):
            raise LandscapeError(f"--layer-unit {self.layer_unit} says what a layer is: add --per-layer or --layers")
        if self.batch_size != BATCH_SIZE and not self.num_batches:
            raise LandscapeError(
                f"--batch-size {self.batch_size} belongs to --per-batch N; --chunk-size says how many images of a part "
                "pass at once"
            )
        if self.weight_decay and not self.num_batches:
            raise LandscapeError(
                f"--weight-decay {self.weight_decay:g} belongs to --per-batch N; the parts are measured without penalty"
            )


def plan_parts(plan: StudyPlan, labels: Tensor, subject: Measured) -> list[Part]:
    """The parts that a plan names, in the order in which they are measured; none if it names mini-batches only."""
    names = subject.data.class_names
    by_samples: list[Part] = []
    if plan.per_group:
        by_samples += group_parts(labels, dict(subject.groups.items()))
    if plan.per_class or plan.classes is not None:
        chosen = None if plan.classes is None else resolve_classes(plan.classes, names)
        by_samples += class_parts(labels, names, chosen)
    by_layer: list[Part] = []
    if plan.per_layer or plan.layers is not None:
        trainable = [name for name, parameter in subject.model.named_parameters() if parameter.requires_grad]
        by_layer = layer_parts(trainable, plan.layers, unit=plan.layer_unit)
    parts = cross_parts(by_samples, by_layer) if by_samples and by_layer else by_samples or by_layer
    whole = plan.whole or not (parts or plan.num_batches)
    return [_thin(part, len(labels), plan) for part in ([whole_part(), *parts] if whole else parts)]


def part_size(part: Part, num_samples: int, model: nn.Module) -> tuple[int, int]:
    """Samples and parameters of a part."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if parameter.requires_grad}
    samples = num_samples if part.samples is None else len(part.samples)
    return samples, sum(sizes[name] for name in part.parameters or sizes)


def build_problem(subject: Measured, plan: StudyPlan, images: MeasuredSamples, device: torch.device) -> Problem:
    """The whole question of a study; every part is a restriction of it."""
    dtype = getattr(torch, plan.dtype)
    return Problem(
        subject.model.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        subject.loss(plan.loss).to(device),
        Samples(*subject.samples(images, device, dtype)),
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
    return replace(part, samples=index[chosen])
