"""A grid of points on a slice, and the walk over it: in passes, with what is there kept now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from landscape.errors import LandscapeError
from landscape.surface.directions import Array, Slice
from landscape.surface.results import Surface

# A killed walk loses at most so many seconds.
SECONDS_BETWEEN_SAVES = 20.0


class PointEvaluator(Protocol):
    """Losses and accuracies at many points of a slice, such as :class:`landscape.surface.evaluate.PointLosses`."""

    @property
    def points_per_pass(self) -> int:
        """Points that are best asked for at once."""
        ...

    def __call__(self, coordinates: Array) -> tuple[Array, Array]:
        """Mean losses and accuracies ``(K, P)`` at θ + Σ_k a_k d_k for coordinates ``(K, D)``."""
        ...


def axis(low: float, high: float, points: int) -> Array:
    """``(points,)`` evenly spaced coordinates; one that should be 0 or 1 is exactly that.

    Raises:
        LandscapeError: fewer than two points, or a range that is empty or not finite.
    """
    if points < 2:
        raise LandscapeError(f"{points} point{'s' * (points != 1)} on an axis: give at least 2")
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise LandscapeError(f"range {low:g}:{high:g}: write the smaller end first, for example -1:1")
    values = np.linspace(low, high, points)
    for exact in (0.0, 1.0):
        # θ and the checkpoints are points of the grid, not their neighbours by a rounding error.
        values[np.abs(values - exact) < 1e-9 * min(high - low, 1.0)] = exact
    return values


def unwalked(
    through: Slice, axes: Sequence[Array], parts: Sequence[str], labels: Sequence[str], num_samples: Sequence[int]
) -> Surface:
    """The record of a walk before its first point: every loss NaN.

    Args:
        through: the line or plane.
        axes: (D,) ascending coordinates of the grid.
        parts: (P,) paths of the parts.
        labels: (P,) what a figure calls them.
        num_samples: (P,) of every part.
    """
    x, y = axes[0], axes[1] if len(axes) > 1 else None
    shape = tuple(len(values) for values in reversed(axes))
    dims = len(axes)
    known = np.array([through.curvatures.get(part, (math.nan,) * dims) for part in parts])
    return Surface(
        kind=through.kind,
        x=x,
        y=y,
        parts=tuple(parts),
        labels=tuple(labels),
        num_samples=np.array(num_samples, dtype=np.int64),
        losses=np.full((len(parts), *shape), np.nan),
        accuracies=np.full((len(parts), *shape), np.nan),
        done=np.zeros(shape, dtype=bool),
        norms=through.norms,
        cosine=through.cosine,
        axis_labels=through.axis_labels,
        curvatures=None if np.isnan(known).all() else known,
        marks=through.marks,
        mark_labels=through.mark_labels,
        mark_distances=through.mark_distances,
        explained_variance=through.explained_variance,
    )


def coordinates(surface: Surface) -> Array:
    """``(K, D)`` coordinates of the points in the order of ``surface.done.ravel()``: a₁ runs fastest."""
    if surface.y is None:
        return surface.x[:, None]
    a2, a1 = np.meshgrid(surface.y, surface.x, indexing="ij")
    return np.stack([a1.ravel(), a2.ravel()], axis=1)


def walk(
    surface: Surface,
    evaluate: PointEvaluator,
    *,
    save: Callable[[Surface], None] | None = None,
    seconds_between_saves: float = SECONDS_BETWEEN_SAVES,
    on_price: Callable[[float], None] | None = None,
    on_points: Callable[[int], None] | None = None,
) -> Surface:
    """Compute every point that is not done yet.

    Nothing depends on which points were there before, so a walk that was stopped and taken up again gives the numbers
    of one that was not.

    Args:
        surface: from :func:`unwalked`, or as a stopped walk left it.
        evaluate: its columns are the parts of the surface.
        save: called with what is there: now and then, at the end, and when something stops the walk.
        seconds_between_saves: at least, between two calls of it.
        on_price: called once with the seconds that the points still to come will take, from a pass that was timed.
        on_points: called with the number of points just done.
    """
    count = len(surface.parts)
    losses, accuracies = surface.losses.reshape(count, -1).copy(), surface.accuracies.reshape(count, -1).copy()
    done = surface.done.ravel().copy()
    places = coordinates(surface)

    def so_far() -> Surface:
        shape = surface.losses.shape
        return replace(
            surface, losses=losses.reshape(shape), accuracies=accuracies.reshape(shape), done=done.reshape(shape[1:])
        )

    missing = np.flatnonzero(~done)
    size = evaluate.points_per_pass
    passes = [missing[start : start + size] for start in range(0, len(missing), size)]
    saved, fresh = time.monotonic(), False
    try:
        for number, chosen in enumerate(passes):
            start = time.monotonic()
            found = evaluate(places[chosen])
            # One assignment after the other, so that an interruption leaves no point that is done but not there.
            losses[:, chosen], accuracies[:, chosen] = found[0].T, found[1].T
            done[chosen] = fresh = True
            now = time.monotonic()
            if on_points is not None:
                on_points(len(chosen))
            # The first pass warms up.
            if on_price is not None and number == min(1, len(passes) - 1):
                on_price((now - start) / len(chosen) * float(np.sum(~done)))
            if save is not None and now - saved > seconds_between_saves:
                save(so_far())
                saved, fresh = time.monotonic(), False
    except BaseException:
        if save is not None and fresh:
            save(so_far())
        raise
    if save is not None and fresh:
        save(so_far())
    return so_far()
