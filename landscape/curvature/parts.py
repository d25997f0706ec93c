"""How a problem is cut: by samples (class, group, all), by parameters (layer), or by both."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from landscape.errors import LandscapeError, did_you_mean

LayerUnit = Literal["tensor", "module", "stage"]


@dataclass(frozen=True)
class Part:
    """One cut of a problem; ``None`` keeps everything on that side."""

    path: str  # where its results are stored, for example "class/3/layer/conv1"
    label: str  # what a figure or a table calls it
    samples: Tensor | None = None  # (N_part,) int64 indices
    parameters: tuple[str, ...] | None = None  # names in the model


def whole_part() -> Part:
    """Every sample and every parameter."""
    return Part(path="all", label="all")


def class_parts(labels: Tensor, class_names: Sequence[str], classes: Sequence[int] | None = None) -> list[Part]:
    """One part a class, of the samples that carry its label.

    Raises:
        LandscapeError: a class that was asked for has no samples.
    """
    chosen = range(len(class_names)) if classes is None else classes
    parts = []
    for c in chosen:
        index = torch.nonzero(labels == c).flatten()
        if not len(index):
            raise LandscapeError(f"class {c} ('{class_names[c]}') has no samples here; leave it out with --classes")
        parts.append(Part(path=f"class/{c}", label=class_names[c], samples=index))
    return parts


def group_parts(labels: Tensor, groups: Mapping[str, Sequence[int]]) -> list[Part]:
    """One part a non-empty group of classes (head, mid, tail): all samples of its classes together."""
    parts = []
    for name, classes in groups.items():
        index = torch.nonzero(torch.isin(labels, torch.tensor(list(classes), device=labels.device))).flatten()
        if len(index):
            parts.append(Part(path=f"group/{name}", label=name, samples=index))
    return parts


def layer_parts(
    parameter_names: Iterable[str], patterns: Sequence[str] | None = None, *, unit: LayerUnit = "module"
) -> list[Part]:
    """One part a layer, in module order; together the layers hold every parameter exactly once.

    ==========  ==========================================================  ===========================================
    unit        a layer is                                                  of a ResNet
    ==========  ==========================================================  ===========================================
    ``tensor``  one parameter tensor, under its full name                   ``layer1.0.bn1.weight``, ``fc.bias``, …
    ``module``  a module that owns parameters: a convolution or linear map  ``layer1.0.conv1``, ``layer1.0.bn1``, …
                with its bias, a normalisation on its own
    ``stage``   all that lies below one name of the outermost module        ``conv1``, ``bn1``, ``layer1``, …, ``fc``
    ==========  ==========================================================  ===========================================

    Where every parameter lies below one and the same module (``net.layer1…``, ``net.fc``), a stage is one level further
    in, so that a wrapper does not hide the stages.

    Args:
        parameter_names: names of the trainable parameters, in module order.
        patterns: globs over the names of the layers, for example ``layer3.*``; all layers by default.
        unit: what makes a layer.

    Raises:
        LandscapeError: a pattern matches no layer, the nearest names are quoted; or an unknown unit.
    """
    if unit not in get_args(LayerUnit):
        raise LandscapeError(f"unit='{unit}': a layer is a {', a '.join(get_args(LayerUnit))}")
    names = list(parameter_names)
    shared = _shared_components(names)
    members: dict[str, list[str]] = {}
    for name in names:
        owners = name.split(".")[:-1]
        layer = ".".join(owners[: shared + 1] if unit == "stage" else owners)
        members.setdefault(layer if layer and unit != "tensor" else name, []).append(name)
    chosen = list(members)
    if patterns is not None:
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(layer, pattern) for layer in members):
                raise LandscapeError(f"no {_NOUNS[unit]} matches '{pattern}'{_nearest(pattern, list(members))}")
        chosen = [layer for layer in members if any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)]
    return [Part(path=f"layer/{layer}", label=layer, parameters=tuple(members[layer])) for layer in chosen]


def _shared_components(names: Sequence[str]) -> int:
    """How many leading modules all parameters have in common."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


_NOUNS = {"tensor": "tensor", "module": "layer", "stage": "stage"}


def cross_parts(by_samples: Sequence[Part], by_parameters: Sequence[Part]) -> list[Part]:
    """Every cut by samples combined with every cut by parameters, for class × layer."""
    return [
        Part(
            path=f"{outer.path}/{inner.path}",
            label=f"{outer.label} · {inner.label}",
            samples=outer.samples,
            parameters=inner.parameters,
        )
        for outer in by_samples
        for inner in by_parameters
    ]


def resolve_classes(text: str, class_names: Sequence[str]) -> list[int]:
    """Class indices from ``0,3,truck``; names and numbers may be mixed, order and repeats are tidied.

    A name may hold commas itself: from the left, the longest run of pieces that is a name is taken for that name.

    Raises:
        LandscapeError: an unknown name or a number out of range; the nearest names are quoted.
    """
    chosen: set[int] = set()
    pieces = text.split(",")
    while pieces:
        ends = range(len(pieces), 0, -1)
        end = next((end for end in ends if ",".join(pieces[:end]).strip() in class_names), 1)
        word = ",".join(pieces[:end]).strip()
        pieces = pieces[end:]
        if word in class_names:
            chosen.add(list(class_names).index(word))
        elif word.isdecimal() and int(word) < len(class_names):
            chosen.add(int(word))
        elif word.isdecimal():
            raise LandscapeError(f"class {word} does not exist: there are {len(class_names)}, numbered from 0")
        elif word:
            raise LandscapeError(f"unknown class '{word}'{_nearest(word, class_names)}")
    if not chosen:
        raise LandscapeError(f"no class in '{text}'; write for example 0,3,{class_names[-1]}")
    return sorted(chosen)


def _nearest(word: str, known: Sequence[str]) -> str:
    return did_you_mean(word, known) or f"; known: {', '.join(known[:12])}"
