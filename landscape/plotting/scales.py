"""Axes and colours over decades, of one sign or of both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter
from numpy.typing import NDArray

from landscape.plotting.density import plain_or_power
from landscape.plotting.quantities import Scale

Array = NDArray[np.float64]

_DECADES = 3  # of the largest value that an asinh scale shows at least as linear: what is less is about 0


def scale_of(scale: Scale, values: Array, floor: float = 0.0) -> dict[str, Any]:
    """How values are shown, as settings: ``linear``, ``log``, or ``asinh`` with its ``linear_width``.

    A logarithm has no place for 0 and below: where there are such values, the scale is asinh, linear below its width.

    Args:
        scale: what suits the quantity.
        values: all that is shown; NaN is ignored.
        floor: noise floor; what is less is drawn as all but 0.
    """
    known = np.abs(values[np.isfinite(values)])
    if scale == "linear" or not known.any():
        return {"scale": "linear"}
    if scale == "log" and (values[np.isfinite(values)] > 0).all():
        return {"scale": "log"}
    return {"scale": "asinh", "linear_width": max(floor, 10.0**-_DECADES * float(known.max()))}


def asinh_ticks(low: float, high: float, linear_width: float, length: float, apart: float) -> list[float]:
    """0 and those ±10^k, from the ends inwards, whose labels have room; ±2 and ±5·10^k too if under three.

    Args:
        low: lower end of the axis.
        high: upper end.
        linear_width: of the scale.
        length: of the axis, inches.
        apart: least distance from one tick to the next, inches.
    """
    inches = length / (math.asinh(high / linear_width) - math.asinh(low / linear_width))
    largest = math.floor(math.log10(max(-low, high)) + 1e-9)
    least = math.ceil(math.log10(linear_width) - 1e-9)
    chosen = [0.0] if low <= 0 <= high else []
    for digits in ((1,), (5, 2)):
        if len(chosen) >= 3:
            break
        powers = [digit * 10.0**k for k in range(largest, least - 1, -1) for digit in digits]
        for tick in [sign * power for power in powers for sign in (1, -1)]:
            places = [math.asinh(other / linear_width) for other in chosen]
            place = math.asinh(tick / linear_width)
            if low <= tick <= high and all(abs(place - other) * inches >= apart for other in places):
                chosen.append(tick)
    return sorted(chosen)


def set_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Labels of a logarithmic axis from ``low`` to ``high``: never a single one, which tells nothing.

    Powers of ten over 60-fold and more; else 1, 2 and 5, or as many digits as two labels need.
    """
    axis.set_minor_formatter(NullFormatter())
    if high >= 60 * low:
        axis.set_major_locator(LogLocator())
        return
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 2, 3, 4, 6, 8)):
        ticks = [digit * 10.0**k for k in decades for digit in digits if low <= digit * 10.0**k <= high]
        if len(ticks) > 1:
            axis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
            break
    else:
        ticks = [tick for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]
        axis.set_major_formatter(ScalarFormatter())
    axis.set_major_locator(FixedLocator(ticks))


def set_percent_labels(axis: Axis) -> None:
    """Write shares as percent, with no more digits than the ticks need."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
