"""Where a walk through the loss landscape goes: a line or a plane through θ, and what is known to lie on it.

| directions    | when                                                        | unit of a coordinate                   |
|---------------|-------------------------------------------------------------|----------------------------------------|
| `random`      | how rough is it around a point; comparing networks          | the norm of every filter of θ          |
| `eigen`       | is this a saddle of that class, and what lies beyond it     | the quadratic term is 1 nat            |
| `checkpoints` | are two solutions connected; which side of a barrier is one | distance of the first two checkpoints  |
| `trajectory`  | how a training came here (:mod:`.trajectory`)               | Euclidean distance                     |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.errors import LandscapeError

Array = NDArray[Any]
Vector = dict[str, Tensor]
"""A vector in parameter space: float64 tensors on the CPU by name; names that are missing are zero."""

Normalization = Literal["filter", "layer", "none"]

# A unit step along a flat eigenvector is no longer than this share of ‖θ‖.
_LONGEST_STEP = 0.1
# Beyond the checkpoints on all sides, on a line and in a plane, as a share of their largest distance along an axis.
_OVERSHOOT = {1: 0.5, 2: 0.25}
# Two directions are one when what is left of the second is this short beside it.
_PARALLEL = 1e-6


@dataclass(frozen=True)
class Slice:
    """A line θ + a₁d₁ or a plane θ + a₁d₁ + a₂d₂, and what is known to lie on it."""

    kind: str  # random | eigen | checkpoints | trajectory
    directions: tuple[Vector, ...]  # (D,) d_k over the trainable parameters
    axis_labels: tuple[str, ...]  # (D,)
    ranges: tuple[tuple[float, float], ...]  # (D,) what a grid covers unless another range is asked for
    buffers: tuple[Vector, ...] = ()  # (D,) what floating buffers change by along d_k; () where they stay
    curvatures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # part → (D,) d_kᵀHd_k/‖d_k‖² at θ
    marks: Array | None = None  # (T, D) known points
    mark_labels: tuple[str, ...] | None = None  # (T,)
    mark_distances: Array | None = None  # (T,) ‖·‖₂ from each of them to the slice
    explained_variance: Array | None = None  # (D,) share of a trajectory's variance

    @property
    def norms(self) -> Array:
        """``(D,)`` ‖d_k‖₂ over the parameters."""
        return np.array([norm(direction) for direction in self.directions])

    @property
    def cosine(self) -> float:
        """Of the angle between d₁ and d₂; NaN for a line."""
        if len(self.directions) < 2:
            return math.nan
        first, second = self.directions
        return inner(first, second) / (norm(first) * norm(second))

    @property
    def moves(self) -> list[Vector]:
        """What changes along every direction: parameters, and the buffers that move with them."""
        buffers = self.buffers or ({},) * len(self.directions)
        return [{**direction, **moved} for direction, moved in zip(self.directions, buffers, strict=True)]


# ---------------------------------------------------------------------- vectors


def inner(first: Vector, second: Vector) -> float:
    """⟨u, v⟩ in float64."""
    return float(sum(torch.sum(first[name] * second[name]) for name in first.keys() & second.keys()))


def norm(vector: Vector) -> float:
    """‖v‖₂ in float64."""
    return math.sqrt(inner(vector, vector))


def combine(coefficients: Sequence[float] | Array, vectors: Sequence[Vector]) -> Vector:
    """Σ_t c_t v_t over the names that the vectors have."""
    names = dict.fromkeys(name for vector in vectors for name in vector)
    return {
        name: sum(
            (float(c) * vector[name] for c, vector in zip(coefficients, vectors, strict=True) if name in vector),
            start=torch.zeros((), dtype=torch.float64),
        )
        for name in names
    }


def parameters_of(model: nn.Module) -> Vector:
    """θ: the trainable parameters, as float64 copies on the CPU."""
    return {name: _double(p) for name, p in model.named_parameters() if p.requires_grad}


def displacement(model: nn.Module, other: nn.Module, *, buffers: bool = False) -> Vector:
    """What leads from one model to another of the same architecture.

    Args:
        buffers: of the floating buffers (running statistics of batch normalisation) instead of the parameters.

    Raises:
        LandscapeError: their parameters or buffers have other names or shapes.
    """
    here, there = (_buffers_of(m) if buffers else parameters_of(m) for m in (model, other))
    for name in here.keys() | there.keys():
        if name not in here or name not in there or here[name].shape != there[name].shape:
            raise LandscapeError(
                f"no line leads from one model to the other: '{name}' is not in both, or of two shapes"
            )
    return {name: there[name] - values for name, values in here.items()}


def _buffers_of(model: nn.Module) -> Vector:
    return {name: _double(b) for name, b in model.named_buffers() if b.is_floating_point()}


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to(device="cpu", dtype=torch.float64, copy=True)


# ---------------------------------------------------------------------- random


def random_slice(
    model: nn.Module,
    dims: int = 2,
    *,
    seed: int = 0,
    normalize: Normalization = "filter",
    keep_1d: bool = False,
) -> Slice:
    """Gaussian directions, scaled so that networks of other weight scales compare (Li et al. 2018, arXiv 1712.09913).

    d_f ← d_f · ‖θ_f‖/‖d_f‖ for every filter f, the slice of a tensor that makes one output: of a convolution a filter,
    of a linear map a row. ReLU networks with batch normalisation do not change when a filter is scaled; a direction
    without this normalisation looks flat for large weights and sharp for small ones.

    Direction k of a seed depends on nothing but the seed, k and the shapes, so a line lies in the plane of its seed.

    Args:
        model: θ.
        dims: 1 or 2 directions.
        seed: of PCG64.
        normalize: ``filter``; ``layer`` gives every tensor the norm of that of θ; ``none`` leaves it Gaussian.
        keep_1d: move biases and the weights of normalisations too, each tensor as one filter; they stay otherwise.

    Raises:
        LandscapeError: the model has nothing that moves, or an unknown normalisation.
    """
    if normalize not in get_args(Normalization):
        raise LandscapeError(f"normalisation '{normalize}': use {', '.join(get_args(Normalization))}")
    theta = {name: values for name, values in parameters_of(model).items() if keep_1d or values.dim() > 1}
    if not any(values.any() for values in theta.values()):
        raise LandscapeError("the model has no matrix or filter that could move; --keep-1d moves biases too")
    directions = []
    for number in range(dims):
        generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number])))
        # Also for parameters that stay, so that the others do not depend on --keep-1d.
        drawn = {name: _gaussian(generator, values) for name, values in parameters_of(model).items()}
        directions.append({name: _scaled(drawn[name], values, normalize) for name, values in theta.items()})
    title = "random direction" if normalize == "none" else f"{normalize}-normalised random direction"
    return Slice(
        kind="random",
        directions=tuple(directions),
        axis_labels=tuple(f"{title} {number + 1}" for number in range(dims)),
        ranges=((-1.0, 1.0),) * dims,
    )


def _gaussian(generator: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(generator.standard_normal(tuple(like.shape)))


def _scaled(drawn: Tensor, theta: Tensor, normalize: Normalization) -> Tensor:
    if normalize == "none":
        return drawn
    # One row a filter; a tensor of one dimension, or a whole layer, is one filter.
    rows = len(theta) if normalize == "filter" and theta.dim() > 1 else 1
    flat, reference = drawn.reshape(rows, -1), theta.reshape(rows, -1)
    sizes = reference.norm(dim=1) / flat.norm(dim=1)
    return (flat * sizes[:, None]).reshape(theta.shape)


# ---------------------------------------------------------------------- eigenvectors


@dataclass(frozen=True)
class Eigenvector:
    """One eigenpair of the Hessian of a part's loss."""

    name: str  # "v_min" or "v_max"
    value: float  # λ
    vector: Tensor  # (n,) unit vector over the trainable parameters in module order


def eigen_slice(model: nn.Module, pairs: Sequence[Eigenvector], *, part: str = "all", label: str = "all") -> Slice:
    """Along eigenvectors of the Hessian of one part: v_max and v_min of a class, for example.

    d_k = s_k v_k with s_k = √(2/|λ_k|), so that the quadratic term ½λ_k‖a_k d_k‖² is a_k² nats: if the loss were its
    quadratic model without gradient, the plane of v_max and v_min would show L + a₁² − a₂². s_k is 10 % of ‖θ‖ at most,
    which a nearly flat direction reaches.

    Args:
        model: θ.
        pairs: one or two eigenpairs.
        part: path of the part whose Hessian they belong to.
        label: what a figure calls it.

    Raises:
        LandscapeError: a vector that is not of the model's size, or not of length 1.
    """
    theta = parameters_of(model)
    size = sum(values.numel() for values in theta.values())
    longest = _LONGEST_STEP * norm(theta)
    directions = []
    for pair in pairs:
        vector = _double(pair.vector)
        if vector.shape != (size,):
            raise LandscapeError(
                f"an eigenvector of {vector.numel()} values, the model has {size} trainable parameters"
            )
        if not abs(float(vector.norm()) - 1) < 1e-3:
            raise LandscapeError(f"{pair.name} has length {float(vector.norm()):.3g}, not 1")
        scale = min(math.sqrt(2 / abs(pair.value)), longest) if pair.value else longest
        pieces = (scale * vector / vector.norm()).split([values.numel() for values in theta.values()])
        directions.append({name: piece.reshape(theta[name].shape) for name, piece in zip(theta, pieces, strict=True)})
    return Slice(
        kind="eigen",
        directions=tuple(directions),
        axis_labels=tuple(f"{pair.name} of {label}" for pair in pairs),
        ranges=((-1.0, 1.0),) * len(pairs),
        curvatures={part: tuple(pair.value for pair in pairs)},
    )


# ---------------------------------------------------------------------- between checkpoints


def checkpoint_slice(
    model: nn.Module, others: Sequence[nn.Module], labels: Sequence[str], *, interpolate_buffers: bool = False
) -> Slice:
    """The line through two checkpoints, or the plane through three.

    d₁ = θ_B − θ_A. In a plane d₂ is what of θ_C − θ_A is orthogonal to d₁, as long as d₁, so that the picture is not
    sheared and both axes have one unit (Garipov et al. 2018, arXiv 1802.10026). A is at 0 and B at 1.

    Buffers stay those of A: the running statistics of batch normalisation then belong to A everywhere, and the loss at
    B's mark is not that of B as it was trained. ``interpolate_buffers`` moves them along too: every checkpoint then has
    its own at its mark, and what lies between has mixtures. Beyond, a variance soon becomes negative and the loss NaN,
    which is kept, so that a line then ends at its checkpoints.

    Args:
        model: A.
        others: B, or B and C.
        labels: of A, B and C.

    Raises:
        LandscapeError: models of two architectures, equal ones, or three on one line.
    """
    paths = [displacement(model, other) for other in others]
    for path, label in zip(paths, labels[1:], strict=True):
        if not math.isfinite(norm(path)):
            raise LandscapeError(
                f"no line leads from {labels[0]} to {label}: one of them has weights that are not finite"
            )
    distance = norm(paths[0])
    if not distance > 0:
        raise LandscapeError(f"{labels[0]} and {labels[1]} have the same parameters: no line leads through them")
    weights = [[1.0] + [0.0] * (len(others) - 1)]
    marks = [[0.0] * len(others), [1.0] + [0.0] * (len(others) - 1)]
    if len(others) == 2:
        along = inner(paths[0], paths[1]) / distance**2
        across = norm(combine([-along, 1.0], paths))
        if not across > _PARALLEL * norm(paths[1]):
            raise LandscapeError(f"{', '.join(labels)} lie on one line, which is no plane: give two of them, --dims 1")
        weights.append([-along * distance / across, distance / across])
        marks.append([along, across / distance])
    moved: tuple[Vector, ...] = ()
    if interpolate_buffers:
        buffers = [displacement(model, other, buffers=True) for other in others]
        moved = tuple(combine(row, buffers) for row in weights)
    places = np.array(marks)
    overshoot = 0.0 if len(others) == 1 and interpolate_buffers else _OVERSHOOT[len(others)]
    return Slice(
        kind="checkpoints",
        directions=tuple(combine(row, paths) for row in weights),
        axis_labels=(f"from {labels[0]} to {labels[1]}",)
        + ((f"towards {labels[2]}, orthogonal",) if len(others) == 2 else ()),
        ranges=ranges_around(places, overshoot),
        buffers=moved,
        marks=places,
        mark_labels=tuple(labels),
        mark_distances=np.zeros(len(places)),
    )


def ranges_around(marks: Array, margin: float) -> tuple[tuple[float, float], ...]:
    """One range an axis that covers the marks ``(T, D)``, with the same margin on all sides.

    Args:
        margin: as a share of the largest extent over the axes.
    """
    low, high = marks.min(axis=0), marks.max(axis=0)
    room = margin * float((high - low).max())
    return tuple((float(a - room), float(b + room)) for a, b in zip(low, high, strict=True))
