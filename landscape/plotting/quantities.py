"""What a spectrum says in one number, with its error, its name on an axis and the scale that suits it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from landscape.curvature.results import Interval, PartSpectrum
from landscape.errors import LandscapeError, did_you_mean

Scale = Literal["signed", "log", "linear"]
"""``signed``: of both signs over decades; ``log``: positive over decades; ``linear``: a share or a ratio."""


@dataclass(frozen=True)
class Quantity:
    """How a quantity is read and shown."""

    label: str  # on an axis, with its unit where it has one
    scale: Scale
    read: Callable[[PartSpectrum], Interval]


def _plus_minus(value: float, error: float) -> Interval:
    return Interval(value, value - error, value + error)


def _without_error(value: float | None) -> Interval:
    return _plus_minus(math.nan if value is None else value, math.nan)


def _ratio(spectrum: PartSpectrum) -> Interval:
    saddle = spectrum.saddle
    value = saddle.curvature_ratio
    return _plus_minus(value, (saddle.lambda_min_residual + value * saddle.lambda_max_residual) / abs(saddle.lambda_max)
                       if math.isfinite(value) else math.nan)  # fmt: skip


QUANTITIES: dict[str, Quantity] = {
    "lambda_max": Quantity(
        "λ$_{max}$", "log", lambda s: _plus_minus(s.saddle.lambda_max, s.saddle.lambda_max_residual)
    ),
    "lambda_min": Quantity(
        "λ$_{min}$", "signed", lambda s: _plus_minus(s.saddle.lambda_min, s.saddle.lambda_min_residual)
    ),
    "curvature_ratio": Quantity("|λ$_{min}$/λ$_{max}$|", "linear", _ratio),
    "negative_fraction": Quantity("negative share ν", "linear", lambda s: s.saddle.negative_fraction),
    "negative_mass": Quantity("negative mass M$_{-}$", "log", lambda s: s.saddle.negative_mass),
    "trace": Quantity("trace", "log", lambda s: _plus_minus(s.saddle.trace, s.saddle.trace_standard_error)),
    "gradient_norm": Quantity("‖∇L‖", "log", lambda s: _without_error(s.saddle.gradient_norm)),
    "loss": Quantity("loss (nats)", "log", lambda s: _without_error(s.saddle.loss)),
    "accuracy": Quantity("accuracy where measured", "linear", lambda s: _without_error(s.accuracy)),
}
"""Name → quantity of a part. Errors are the residual of an eigenvalue, to first order that of the ratio, one standard
error of a trace, the 95 % interval of ν and M₋; NaN for what has none. ``accuracy`` is that of the part's own samples,
of the split that the spectrum was measured on."""


def quantity(name: str) -> Quantity:
    """The quantity of that name.

    Raises:
        LandscapeError: there is none.
    """
    if name not in QUANTITIES:
        way_out = did_you_mean(name, QUANTITIES) or f": give one of {', '.join(QUANTITIES)}"
        raise LandscapeError(f"no quantity '{name}'{way_out}")
    return QUANTITIES[name]
