"""How far a step looks: a radius that may change with the epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, cast

from landscape.errors import LandscapeError

RadiusSetting = float | str  # what a user writes for a radius; see Radius

Shape = Literal["step", "linear", "cosine"]


@dataclass(frozen=True)
class Radius:
    """A radius as a function of the epoch e = 0 … E−1, written as a number or as a word.

    | written                                          | radius in epoch e                                       |
    |--------------------------------------------------|---------------------------------------------------------|
    | ``0.05``                                         | 0.05                                                    |
    | ``linear:0.05:0.8``                              | a + (b−a)·e/(E−1)                                       |
    | ``cosine:0.0005:0.008``                          | a + (b−a)·(1 − cos(πe/(E−1)))/2                         |
    | ``step:0.05,0.1@5/200,0.5@160/200,0.6@180/200``  | the last value whose share k/K has round(E·k/K) ≤ e     |

    The first epoch has the first value and the last epoch of ``linear`` and ``cosine`` the last one; a run of one epoch
    has the first. ``0.5@160/200`` reads "0.5 once 160 of 200 epochs are done": a run of another length steps at the
    same share, in the epoch in which class weights deferred to that share switch on (from three epochs up).

    Source: Rangwani et al. 2022, arXiv 2212.13827 (linear, and the steps of the last line, for CIFAR); Bisla et al.
    2022, arXiv 2201.08025 (cosine).
    """

    shape: Shape
    values: tuple[float, ...]  # in the order of the run
    shares: tuple[float, ...]  # of a step: of the run, after which each value holds, the first one 0; else ()

    def at(self, epoch: int, epochs: int) -> float:
        """The radius in epoch ``epoch`` (0-based) of ``epochs``."""
        if self.shape == "step":
            # Rounded, as the product in floating point lies above the epoch for shares such as 14/200.
            held = [value for value, share in zip(self.values, self.shares, strict=True)
                    if round(share * epochs) <= epoch]  # fmt: skip
            return held[-1]
        first, last = self.values
        done = epoch / (epochs - 1) if epochs > 1 else 0.0
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return first + (last - first) * done

    @property
    def constant(self) -> bool:
        """Whether every epoch has the same radius, because it was written as one value."""
        return len(self.values) == 1

    @classmethod
    def parse(cls, name: str, setting: RadiusSetting) -> Radius:
        """Read what a user wrote.

        Args:
            name: of the setting, for the error.
            setting: a number, or one of the words above.

        Raises:
            LandscapeError: neither, a negative or non-finite radius, or steps that are not in the order of the run.
        """
        if isinstance(setting, bool) or not isinstance(setting, int | float | str):
            raise _not_a_radius(name, setting)
        try:
            shape, values, shares = _read(setting)
        except (ValueError, ZeroDivisionError):
            raise _not_a_radius(name, setting) from None
        if not all(math.isfinite(value) and value >= 0 for value in values):
            raise LandscapeError(f"{name} = {setting}: the perturbation radius must be 0 or more (0.05 is usual)")
        if any(one >= other for one, other in pairwise((*shares, 1.0))):
            raise LandscapeError(f"{name} = {setting}: the steps must follow each other within the run, as @5/200 does")
        return cls(shape, values, shares)


def plain_radius(name: str, setting: RadiusSetting) -> RadiusSetting:
    """The setting as a recipe keeps it: checked, and a number where the text says one.

    Raises:
        LandscapeError: as :meth:`Radius.parse`.
    """
    radius = Radius.parse(name, setting)
    return radius.values[0] if radius.constant else setting


def _read(setting: float | str) -> tuple[Shape, tuple[float, ...], tuple[float, ...]]:
    """Shape, values and shares; raises ``ValueError`` or ``ZeroDivisionError`` where there is no such thing."""
    if not isinstance(setting, str) or ":" not in setting:
        return "step", (float(setting),), (0.0,)
    shape, _, rest = setting.partition(":")
    if shape in ("linear", "cosine"):
        first, last = rest.split(":")
        return cast("Shape", shape), (float(first), float(last)), ()
    if shape != "step":
        raise ValueError(shape)
    start, *steps = rest.split(",")
    values, shares = [float(start)], [0.0]
    for step in steps:
        value, when = step.split("@")
        done, epochs = when.split("/")
        values.append(float(value))
        shares.append(int(done) / int(epochs))
    return "step", tuple(values), tuple(shares)


def _not_a_radius(name: str, setting: object) -> LandscapeError:
    return LandscapeError(
        f"{name} = {setting!r}: a perturbation radius is a number, linear:FROM:TO, cosine:FROM:TO or "
        "step:VALUE,VALUE@EPOCH/EPOCHS,…"
    )
