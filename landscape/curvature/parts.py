"""How a problem is cut: by samples (class, group, all), by parameters (layer), or by both."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.errors import LandscapeError, did_you_mean


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


def layer_parts(parameter_names: Iterable[str], patterns: Sequence[str] | None = None) -> list[Part]:
    """One part a layer: a convolution or linear map with its bias, a normalisation on its own.

    A layer is a module that owns parameters, so its name is the parameters' without the last component.

    Args:
        parameter_names: names of the trainable parameters, in module order.
        patterns: globs over layer names, for example ``layer3.*``; all layers by default.

    Raises:
        LandscapeError: a pattern matches no layer; the nearest names are quoted.
    """
    members: dict[str, list[str]] = {}
    for name in parameter_names:
        members.setdefault(name.rpartition(".")[0] or name, []).append(name)
    chosen = list(members)
    if patterns is not None:
        for pattern in patterns:
            if not fnmatch.filter(members, pattern):
                raise LandscapeError(f"no layer matches '{pattern}'{_nearest(pattern, list(members))}")
        chosen = [layer for layer in members if any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)]
    return [Part(path=f"layer/{layer}", label=layer, parameters=tuple(members[layer])) for layer in chosen]


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
