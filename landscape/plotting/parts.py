"""What parts, methods and quantities look like in every figure: a class has the same colour wherever it is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import FigureBase

from landscape.curvature.results import Interval, PartSpectrum
from landscape.errors import LandscapeError, did_you_mean
from landscape.plotting.style import PALETTE, text_width

Color = str | tuple[float, float, float]

GROUP_COLORS: dict[str, Color] = {"head": PALETTE[0], "mid": PALETTE[1], "tail": PALETTE[3]}
WHOLE_COLOR: Color = "0.15"

METHOD_LINES: list[dict[str, Any]] = [
    {"linestyle": "-", "marker": "o"},
    {"linestyle": "--", "marker": "s"},
    {"linestyle": ":", "marker": "^"},
    {"linestyle": "-.", "marker": "D"},
    {"linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"linestyle": (0, (1, 3)), "marker": "P"},
]
"""Of methods by position, so that they also differ in grey."""


def method_color(place: int) -> Color:
    """The colour of the method at ``place`` among those of a figure."""
    return PALETTE[place % len(PALETTE)]


def part_colors(parts: Sequence[str]) -> list[Color]:
    """A class by its index, head, mid and tail in fixed colours, the whole nearly black, anything else by place."""
    colors: list[Color] = []
    for place, part in enumerate(parts):
        kind, _, name = part.partition("/")
        if part == "all":
            colors.append(WHOLE_COLOR)
        elif kind == "group" and name in GROUP_COLORS:
            colors.append(GROUP_COLORS[name])
        else:
            colors.append(PALETTE[(int(name) if kind == "class" and name.isdecimal() else place) % len(PALETTE)])
    return colors


@dataclass(frozen=True)
class Quantity:
    """How a quantity is read and shown."""

    label: str  # on an axis
    scale: str  # signed: of both signs over decades; log: positive over decades; linear: a share or a ratio
    read: Callable[[PartSpectrum], Interval]


def _plus_minus(value: float, error: float) -> Interval:
    return Interval(value, value - error, value + error)


def _ratio(spectrum: PartSpectrum) -> Interval:
    saddle = spectrum.saddle
    value = saddle.curvature_ratio
    error = math.nan
    if math.isfinite(value):
        error = (saddle.lambda_min_residual + value * saddle.lambda_max_residual) / abs(saddle.lambda_max)
    return _plus_minus(value, error)


QUANTITIES: dict[str, Quantity] = {
    "negative_fraction": Quantity("negative share ν", "linear", lambda s: s.saddle.negative_fraction),
    "curvature_ratio": Quantity("|λ$_{min}$/λ$_{max}$|", "linear", _ratio),
    "lambda_min": Quantity(
        "λ$_{min}$", "signed", lambda s: _plus_minus(s.saddle.lambda_min, s.saddle.lambda_min_residual)
    ),
    "negative_mass": Quantity("negative mass M$_{-}$", "log", lambda s: s.saddle.negative_mass),
    "accuracy": Quantity(
        "accuracy where measured",
        "linear",
        lambda s: _plus_minus(math.nan if s.accuracy is None else s.accuracy, math.nan),
    ),
}
"""Name → quantity of a part. Errors are the residual of an eigenvalue, to first order that of the ratio, the 95 %
interval of ν and M₋; NaN for what has none."""


def quantity(name: str) -> Quantity:
    """The quantity of that name.

    Raises:
        LandscapeError: there is none.
    """
    if name not in QUANTITIES:
        way_out = did_you_mean(name, QUANTITIES) or f": give one of {', '.join(QUANTITIES)}"
        raise LandscapeError(f"no quantity '{name}'{way_out}")
    return QUANTITIES[name]


def add_legend(figure: FigureBase, entries: Sequence[tuple[Any, str]], *, most: int = 5) -> None:
    """A legend above all axes, in as many columns as the width of the figure holds.

    Args:
        figure: or the panel of one.
        entries: handle and label.
        most: columns at most.
    """
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    texts = [
        text_width(words.replace("$_{", "").replace("}$", "").replace("$", ""), size) + 3.4 * size / 72
        for _, words in entries
    ]

    def inches(columns: int) -> float:
        # Matplotlib fills the columns one after another; each is as wide as its widest entry.
        return float(sum(max(column) for column in np.array_split(texts, columns)))

    legend = figure.legend(
        [handle for handle, _ in entries],
        [str(number) for number in range(len(entries))],
        loc="outside upper center",
        ncols=max([n for n in range(1, min(most, len(entries)) + 1) if inches(n) < width - 0.1], default=1),
        columnspacing=1.2,
        handlelength=1.5,
        handletextpad=0.5,
    )
    # Set afterwards, since matplotlib leaves out an entry whose name begins with "_".
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(words)
