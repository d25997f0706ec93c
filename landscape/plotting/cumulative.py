"""How many eigenvalues lie beyond λ, with bounds that no smoothing has touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.patches import Patch
from numpy.typing import NDArray

from landscape.curvature.results import Counts, PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.density import (
    CURVE,
    LEAST_COUNT,
    MAX_PANELS,
    NEGATIVE,
    horizontal_limits,
    linear_threshold,
    panel_title,
    set_vertical_axis,
    short_number,
    signed_panels,
)
from landscape.plotting.drawing import Arrays, Canvas, Drawing, renders
from landscape.plotting.style import add_legend, label_width

Array = NDArray[np.float64]

_POINTS = 90  # over the whole axis
_BOUNDS = ("lower", "upper", "low", "high")
_SIDES = {"below": NEGATIVE, "above": CURVE}


def density_cumulative(spectra: Sequence[PartSpectrum]) -> Drawing:
    """One panel a part: left of 0 the number of eigenvalues below λ, right of 0 the number above, on a log scale.

    Counted from either end, one eigenvalue is as legible as all of them. The dark band is the Gauss-Radau enclosure,
    the mean over probes of its two bounds; the light one holds the probes' error too, at 1 % a side
    (:meth:`landscape.curvature.results.SpectralDensity.cumulative`). Deflated eigenvalues are steps of one. Grey is
    the noise floor, within which no sign is known; n₋ and n₊ are the numbers of eigenvalues beyond it.

    Args:
        spectra: the parts, in panel order.

    Returns:
        The drawing; its arrays are ``parts``, ``labels``, ``num_samples``, ``num_parameters``, ``noise_floor`` (p,),
        ``threshold``, ``negative_count`` and ``positive_count`` (p, 2), the ends of the light band at the noise floor,
        and, a part, ``PART/below/{points, lower, upper, low, high}`` and ``PART/above/…``.

    Raises:
        LandscapeError: no part, or more than :data:`landscape.plotting.density.MAX_PANELS`.

    Cost: about 130 small eigenvalue problems a probe and part, 0.2 s.
    """
    if not spectra:
        raise LandscapeError("no spectra to draw: the file has no complete part, or none was selected")
    if len(spectra) > MAX_PANELS:
        raise LandscapeError(f"{len(spectra)} parts do not fit on a page of {MAX_PANELS} panels: choose some, --parts")
    threshold = linear_threshold(spectra)
    limits = horizontal_limits(spectra, [], threshold)
    arrays: dict[str, NDArray[Any]] = {
        "parts": np.array([spectrum.part for spectrum in spectra]),
        "labels": np.array([spectrum.label for spectrum in spectra]),
        "num_samples": np.array([spectrum.num_samples for spectrum in spectra]),
        "num_parameters": np.array([spectrum.num_parameters for spectrum in spectra]),
        "noise_floor": np.array([spectrum.saddle.noise_floor for spectrum in spectra]),
        "threshold": np.array(threshold),
        "negative_count": np.empty((len(spectra), 2)),
        "positive_count": np.empty((len(spectra), 2)),
    }
    for row, spectrum in enumerate(spectra):
        floor = spectrum.saddle.noise_floor
        points = _points(limits, threshold, floor, spectrum.density.deflated)
        below, above = spectrum.density.cumulative(points)
        for name, counts, edge, chosen in (
            ("below", below, -floor, points <= 0),
            ("above", above, floor, points >= 0),
        ):
            arrays[f"{spectrum.part}/{name}/points"] = points[chosen]
            for bound in _BOUNDS:
                arrays[f"{spectrum.part}/{name}/{bound}"] = getattr(counts, bound)[chosen]
            arrays["negative_count" if name == "below" else "positive_count"][row] = _ends_at(counts, edge)
    return Drawing("density-cumulative", arrays, {"limits": limits})


def _points(limits: tuple[float, float], threshold: float, floor: float, deflated: Array) -> Array:
    """Even on the axis, with 0, both ends of the noise, and both sides of every step of one."""
    first, last = (float(np.arcsinh(limit / threshold)) for limit in limits)
    even = threshold * np.sinh(np.linspace(first, last, _POINTS))
    steps = [np.nextafter(deflated, end) for end in (-np.inf, np.inf)]
    return np.unique(np.concatenate([even, [-floor, 0.0, floor], *steps]))


def _ends_at(counts: Counts, point: float) -> tuple[float, float]:
    place = int(np.searchsorted(counts.points, point))
    return float(counts.low[place]), float(counts.high[place])


@renders("density-cumulative")
def _cumulative(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    low, high = settings["limits"]
    size = matplotlib.rcParams["font.size"] - 1
    text = 2 * size * 1.25 / 72 + 0.06
    panels = signed_panels(
        len(arrays["parts"]), (low, high), float(arrays["threshold"]),
        height=lambda width: min(max(0.7 * width, 0.9), 2.2) + text,
    )  # fmt: skip
    above = text / panels.height
    set_vertical_axis(panels.axes[0], float(arrays["num_parameters"].max()), above=above)
    for number, (part, axes) in enumerate(zip(arrays["parts"].tolist(), panels.axes, strict=True)):
        floor = float(arrays["noise_floor"][number])
        axes.axvspan(low, 0.0, color=NEGATIVE, alpha=0.08, linewidth=0, zorder=0)
        axes.axvspan(-floor, floor, color="0.8", linewidth=0, zorder=1)
        axes.axvline(0.0, ymax=1 - above, color="0.6", linewidth=0.5, zorder=1.5)
        for side, color in _SIDES.items():
            points = arrays[f"{part}/{side}/points"]
            bounds = {name: np.maximum(arrays[f"{part}/{side}/{name}"], LEAST_COUNT / 10) for name in _BOUNDS}
            axes.fill_between(points, bounds["low"], bounds["high"], color=color, alpha=0.25, linewidth=0, zorder=2)
            axes.fill_between(points, bounds["lower"], bounds["upper"], color=color, alpha=0.6, linewidth=0, zorder=3)
            for bound in ("lower", "upper"):
                axes.plot(points, bounds[bound], color=color, linewidth=0.6, zorder=4)
        lines = [
            f"n$_{{{sign}}}$ {_between(arrays[name][number])}"
            for sign, name in (("−", "negative_count"), ("+", "positive_count"))
        ]
        fitting = min(1.0, (panels.width - 0.1) / max(label_width(line, size) for line in lines))
        axes.annotate(
            "\n".join(lines), xy=(1, 1), xycoords="axes fraction", xytext=(-2.5, -2), textcoords="offset points",
            ha="right", va="top", fontsize=size * fitting, linespacing=1.05, zorder=6,
        )  # fmt: skip
        axes.set_title(panel_title(str(arrays["labels"][number]), int(arrays["num_samples"][number]), panels.width))
    panels.figure.supylabel("eigenvalues below λ < 0, above λ > 0")
    dark: dict[str, Any] = {"alpha": 0.6, "linewidth": 0}
    entries: list[tuple[Any, str]] = [
        (tuple(Patch(color=color, **dark) for color in _SIDES.values()), "Gauss–Radau bounds, mean over probes"),
        (Patch(color=CURVE, alpha=0.25, linewidth=0), "with the probes' error, 1 % a side"),
        (Patch(color="0.8", linewidth=0), "noise floor; n$_{−}$, n$_{+}$: eigenvalues beyond it"),
    ]
    add_legend(panels.figure, entries, side_by_side=entries[0][0])
    return panels.figure


def _between(ends: Array) -> str:
    low, high = (short_number(float(end), 2) for end in ends)
    return low if low == high else f"{low} to {high}"
