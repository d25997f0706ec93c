"""What a walk through the loss landscape returns: losses and accuracies on a line or a plane, by part (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from landscape.curvature.results import Record

Array = NDArray[Any]


@dataclass(frozen=True)
class Surface(Record):
    """Losses L_p(θ + a₁d₁ + a₂d₂) of the parts p over a grid of a₁, or of a₁ and a₂.

    What is not finite is kept as it came: NaN and ±inf are holes in a figure, never filled or smoothed.
    """

    kind: str  # where the directions come from: random | eigen | checkpoints | trajectory | imported (not known)
    x: Array  # (nx,) a₁, ascending, in units of d₁
    parts: tuple[str, ...]  # (P,) "all", "group/tail", "class/3"
    labels: tuple[str, ...]  # (P,) what a figure calls them
    num_samples: Array  # (P,)
    losses: Array  # (P, nx) or (P, ny, nx) mean loss of the part, nats
    accuracies: Array  # like losses: share of the part's samples that are classified correctly
    done: Array  # (nx,) or (ny, nx) bool: which points have been computed; losses elsewhere are NaN
    norms: Array  # (D,) ‖d_k‖₂, D = 1 or 2
    cosine: float  # of the angle between d₁ and d₂; NaN for a line
    axis_labels: tuple[str, ...]  # (D,) for example "filter-normalised random direction 1", "v_min of truck"
    y: Array | None = None  # (ny,) a₂, ascending, in units of d₂; None for a line
    curvatures: Array | None = None  # (P, D) d_kᵀ H_p d_k / ‖d_k‖² at θ where it is known, NaN where not
    marks: Array | None = None  # (T, D) known points in these coordinates, in order: checkpoints of a training
    mark_labels: tuple[str, ...] | None = None  # (T,) for example "epoch 10"
    mark_distances: Array | None = None  # (T,) ‖·‖₂ from each of them to the plane: 0 for one that lies in it
    explained_variance: Array | None = None  # (D,) share of the trajectory's variance along d_k; PCA only

    @property
    def complete(self) -> bool:
        """Whether every point has been computed."""
        return bool(self.done.all())
