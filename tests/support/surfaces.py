"""Synthetic surfaces of the loss: long-tailed bowls and saddles whose values are known, with holes where asked for."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape.surface.results import Surface

Array = NDArray[np.float64]

PARTS = ("all", "group/head", "group/mid", "group/tail", "class/0", "class/3")
LABELS = ("all", "head", "mid", "tail", "airplane", "cat")
RARITY = np.array([0.4, 0.0, 0.5, 1.0, 0.0, 0.4])


def loss_at(a: Any, b: Any, rarity: float, sharpness: float = 1.0) -> Any:
    """A bowl that is the flatter along b the rarer the part, and falls on one side: a tail sits on a slope."""
    return 0.01 * (1 + 3 * rarity) + sharpness * (a**2 + (1.2 - rarity) * b**2 + 0.05 * rarity * (b + 1) ** 3)


def line(sharpness: float = 1.0, *, num_points: int = 21) -> Surface:
    """L(θ + a d) for a in [−1, 1]."""
    x = np.linspace(-1, 1, num_points)
    losses = np.stack([loss_at(x, 0.0, rarity, sharpness) for rarity in RARITY])
    return Surface(
        kind="random",
        x=x,
        y=None,
        parts=PARTS,
        labels=LABELS,
        num_samples=np.full(len(PARTS), 100),
        losses=losses,
        accuracies=np.exp(-losses),
        done=np.ones(num_points, dtype=bool),
        norms=np.array([8.5]),
        cosine=float("nan"),
        axis_labels=("filter-normalised random direction 1",),
    )


def plane(sharpness: float = 1.0, *, num_x: int = 9, num_y: int = 7) -> Surface:
    """L(θ + a d₁ + b d₂), a in [−1, 1] and b in [−0.8, 0.8]: neither square nor symmetric, so no axis is another."""
    x, y = np.linspace(-1, 1, num_x), np.linspace(-0.8, 0.8, num_y)
    losses = np.stack([loss_at(x[None, :], y[:, None], rarity, sharpness) for rarity in RARITY])
    return dataclasses.replace(
        line(sharpness),
        x=x,
        y=y,
        losses=losses,
        accuracies=np.exp(-losses),
        done=np.ones((num_y, num_x), dtype=bool),
        norms=np.array([8.5, 8.7]),
        cosine=0.01,
        axis_labels=("filter-normalised random direction 1", "filter-normalised random direction 2"),
    )


def trajectory(sharpness: float = 1.0) -> Surface:
    """The same plane along two principal components, with five epochs that end at θ; one lies far off the plane."""
    marks = np.array([[-0.9, -0.6], [-0.6, 0.1], [-0.3, 0.3], [-0.1, 0.1], [0.0, 0.0]])
    return dataclasses.replace(
        plane(sharpness),
        kind="trajectory",
        norms=np.ones(2),
        cosine=0.0,
        axis_labels=("PC 1", "PC 2"),
        explained_variance=np.array([0.83, 0.093]),
        marks=marks,
        mark_labels=tuple(f"epoch {epoch}" for epoch in (0, 10, 20, 30, 40)),
        mark_distances=np.array([0.02, 0.5, 0.01, 0.03, 0.0]),
    )


def with_holes(surface: Surface) -> Surface:
    """A loss that is NaN, one that is infinite and one not computed yet, in the first three places of every row."""
    losses, done = surface.losses.copy(), surface.done.copy()
    losses[..., 1], losses[..., 3] = np.nan, np.inf
    losses[..., -1], done[..., -1] = np.nan, False
    return dataclasses.replace(surface, losses=losses, done=done)
