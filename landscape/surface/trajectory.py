"""The plane in which a training moved most, and where its checkpoints lie in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from landscape.errors import LandscapeError
from landscape.surface.directions import Array, Slice, Vector, combine, inner, norm, ranges_around

# Around the trajectory on all sides, as a share of its largest extent.
_MARGIN = 0.15
# Variance below this share of the whole is rounding of the checkpoints, stored in float32.
_NO_VARIANCE = 1e-12


def trajectory_slice(
    displacements: Sequence[Vector], labels: Sequence[str], dims: int = 2, *, buffers: Sequence[Vector] = ()
) -> Slice:
    """The leading principal components of a training, through its last checkpoint (Li et al. 2018, arXiv 1712.09913).

    With D the T × n matrix of rows δ_t = θ_t − θ_T and J = 1 − 11ᵀ/T, the eigenvectors w_k of the Gram matrix
    J D Dᵀ J = Σ λ_k w_k w_kᵀ give the components u_k = Dᵀ J w_k/√λ_k without a matrix of n × n. All in float64. Of λ_k
    comes the share of variance λ_k/Σ λ. d_k = u_k has length 1, so coordinates are Euclidean distances: checkpoint t
    lies at ⟨δ_t, u_k⟩, and ‖δ_t − Σ_k ⟨δ_t, u_k⟩ u_k‖ off the plane.

    Args:
        displacements: δ_t of every checkpoint, in the order of the training; the last is zero.
        labels: (T,) of the checkpoints, for example ``epoch 10``.
        dims: 1 or 2 components.
        buffers: (T,) the same of the buffers, which then move along the components by the same mixtures of checkpoints;
            without them they stay those of the last checkpoint.

    Raises:
        LandscapeError: fewer than ``dims`` + 1 checkpoints, or they lie in fewer dimensions.

    Cost: T² n operations, and T + ``dims`` vectors of n values in float64.
    """
    count = len(displacements)
    if count < dims + 1:
        raise LandscapeError(
            f"{count} checkpoint{'s' * (count != 1)} of a training: {dims} components take {dims + 1} at least"
        )
    rows = (torch.stack([path[name].reshape(-1) for path in displacements]) for name in displacements[0])
    gram = np.sum([(block @ block.T).numpy() for block in rows], axis=0)
    centre = np.eye(count) - 1 / count
    centred = centre @ gram @ centre
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    total = float(np.trace(centred))
    if not values[dims - 1] > _NO_VARIANCE * total:
        raise LandscapeError(
            f"the {count} checkpoints lie in fewer than {dims} dimensions: "
            + ("give --dims 1, or more checkpoints" if dims > 1 and values[0] > 0 else "they are all the same")
        )
    weights = [centre @ vectors[:, k] / np.sqrt(values[k]) for k in range(dims)]
    # The sign of an eigenvector is arbitrary: every component points to where the training began, row 0 of D.
    weights = [row if gram[0] @ row >= 0 else -row for row in weights]
    directions = [combine(row, displacements) for row in weights]
    marks = np.array([[inner(path, direction) for direction in directions] for path in displacements])
    return Slice(
        kind="trajectory",
        directions=tuple(directions),
        axis_labels=tuple(f"PC {k + 1}" for k in range(dims)),
        ranges=ranges_around(marks, _MARGIN),
        buffers=tuple(combine(row, buffers) for row in weights) if buffers else (),
        marks=marks,
        mark_labels=tuple(labels),
        mark_distances=_distances(displacements, directions, marks),
        explained_variance=np.maximum(values[:dims], 0.0) / total,
    )


def _distances(displacements: Sequence[Vector], directions: Sequence[Vector], marks: Array) -> Array:
    """From the residual itself: a difference of squares would keep half of the digits."""
    return np.array(
        [norm(combine([1.0, *-mark], [path, *directions])) for path, mark in zip(displacements, marks, strict=True)]
    )
