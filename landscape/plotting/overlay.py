"""Spectral densities of several methods in one frame, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.colors import METHOD_LINES
from landscape.plotting.density import (
    LEAST_COUNT,
    MAX_PANELS,
    NEGATIVE,
    density_curve,
    draw_curve,
    horizontal_limits,
    linear_threshold,
    numbers_of,
    part_labels,
    set_vertical_axis,
    short_number,
    signed_panels,
    triangle,
    with_error,
    with_interval,
)
from landscape.plotting.drawing import Arrays, Canvas, Drawing, renders
from landscape.plotting.frames import add_legend
from landscape.plotting.style import PALETTE, label_width, literal, shorten, text_width

MAX_METHODS = len(METHOD_LINES)
"""Curves that can be told apart in one frame."""

_CURVES = ("eigenvalues", "mean", "low", "high")
_ROW = 0.075  # inches of a method's row of ticks


def density_overlay(methods: Mapping[str, Sequence[PartSpectrum]]) -> Drawing:
    """One panel a part, one curve a method: eigenvalues per decade over λ, all on the same axes.

    Curves and bands are those of :func:`landscape.plotting.density_grid`. Below them each method has a row of ticks,
    one a deflated eigenvalue, with a dot where it lies below −noise floor and so certifies a negative eigenvalue, and
    the triangle of λ_min: filled if certified, open if its sign cannot be told. Above them stand λ_min ± residual and
    M₋ with its 95 % interval.

    Args:
        methods: name → its parts; parts are matched by ``PartSpectrum.part``, and one that a method lacks is left out.

    Returns:
        The drawing; its arrays are ``methods`` (m,), ``parts`` and ``labels`` (p,), ``num_samples`` (m, p),
        ``threshold``, those of :func:`landscape.plotting.density_grid` that are numbers, as (m, p) and (m, p, 3) with
        NaN for a gap, and ``PART/METHOD/{eigenvalues, probes, mean, low, high, outliers}``, METHOD being its position.

    Raises:
        LandscapeError: nothing to draw, a part twice in one method, or more parts or methods than a page or frame
            holds.
    """
    if not any(methods.values()):
        raise LandscapeError("no spectra to draw: the files have no complete part, or none was selected")
    labels = part_labels(methods)
    if len(labels) > MAX_PANELS:
        raise LandscapeError(f"{len(labels)} parts do not fit on a page of {MAX_PANELS} panels: choose some, --parts")
    if len(methods) > MAX_METHODS:
        raise LandscapeError(f"{len(methods)} methods do not fit into one frame: draw {MAX_METHODS} at most")
    spectra = [spectrum for parts in methods.values() for spectrum in parts]
    threshold = linear_threshold(spectra)
    shape = len(methods), len(labels)
    arrays: dict[str, NDArray[Any]] = {
        "methods": np.array(list(methods)),
        "parts": np.array(list(labels)),
        "labels": np.array(list(labels.values())),
        "num_samples": np.full(shape, np.nan),
        "threshold": np.array(threshold),
    }
    curves = []
    for row, parts in enumerate(methods.values()):
        for spectrum in parts:
            place = row, list(labels).index(spectrum.part)
            arrays["num_samples"][place] = spectrum.num_samples
            for name, values in numbers_of([spectrum]).items():
                table = arrays.setdefault(name, np.full((*shape, *values.shape[1:]), np.nan))
                table[place] = values[0]
            curves.append(density_curve(spectrum.density, threshold))
            for name in (*_CURVES, "probes"):
                arrays[f"{spectrum.part}/{row}/{name}"] = getattr(curves[-1], name)
            arrays[f"{spectrum.part}/{row}/outliers"] = spectrum.density.deflated
    return Drawing("density-overlay", arrays, {"limits": horizontal_limits(spectra, curves, threshold)})


@renders("density-overlay")
def _overlay(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    methods, parts, (low, high) = arrays["methods"].tolist(), arrays["parts"].tolist(), settings["limits"]
    size = matplotlib.rcParams["font.size"] - 1
    text, rows = (len(methods) + 1) * size * 1.3 / 72 + 0.05, len(methods) * _ROW + 0.03
    panels = signed_panels(
        len(parts),
        (low, high),
        float(arrays["threshold"]),
        narrowest=1.45,
        height=lambda width: min(max(0.5 * width, 0.8), 1.6) + text + rows,
    )
    top = max(
        float(np.nanmax(np.r_[arrays[name], arrays[name.replace("/mean", "/high")]]))
        for name in sorted(arrays)
        if name.endswith("/mean")
    )
    above, below = text / panels.height, rows / panels.height
    set_vertical_axis(panels.axes[0], top, above=above, below=below)
    written = []
    for place, (part, axes) in enumerate(zip(parts, panels.axes, strict=True)):
        axes.axvspan(low, 0.0, color=NEGATIVE, alpha=0.08, linewidth=0, zorder=0)
        axes.axvline(0.0, ymax=1 - above, color="0.6", linewidth=0.5, zorder=1)
        axes.axhline(LEAST_COUNT, color="0.8", linewidth=0.4, zorder=1)
        visible = Rectangle((0, below), 1, 1, transform=axes.transAxes)
        numbers = [("λ$_{min}$ ± r,  M$_{−}$ [95 %]", "λ$_{min}$,  M$_{−}$")]
        for row in range(len(methods)):
            if np.isnan(arrays["lambda_min"][row, place]):
                numbers.append(("–", "–"))
                continue
            color, style = PALETTE[row], METHOD_LINES[row]["linestyle"]
            curve = {name: arrays[f"{part}/{row}/{name}"] for name in _CURVES}
            for artist in draw_curve(axes, curve, color, style):
                artist.set_clip_path(visible)
            middle = below * (1 - (row + 0.5) / len(methods))
            certified = bool(arrays["certified"][row, place])
            _draw_ticks(axes, arrays[f"{part}/{row}/outliers"], arrays["noise_floor"][row, place], middle, color)
            axes.plot(
                [arrays["lambda_min"][row, place]], [middle], transform=axes.get_xaxis_transform(), zorder=5,
                **{**triangle(certified, color), "markersize": 3.5},
            )  # fmt: skip
            least, residual = (float(arrays[f"lambda_min{end}"][row, place]) for end in ("", "_residual"))
            mass = arrays["negative_mass"][row, place]
            numbers.append((
                f"{with_error(least, residual)},  {with_interval(mass)}",
                f"{short_number(least, 3)},  {short_number(float(mass[0]), 2)}",
            ))  # fmt: skip
        written.append(numbers)
        axes.set_title(_title(arrays, place, panels.width))
    _write_numbers(panels.axes, written, size, panels.width)
    panels.figure.supylabel("eigenvalues per decade of |λ|")
    _add_legend(panels.figure, methods)
    return panels.figure


def _draw_ticks(axes: Axes, outliers: NDArray[Any], floor: float, middle: float, color: Any) -> None:
    """One a deflated eigenvalue, in the method's row; with a dot if it is certified negative."""
    look: dict[str, Any] = {"linestyle": "none", "color": color, "transform": axes.get_xaxis_transform(), "zorder": 4}
    axes.plot(outliers, np.full(len(outliers), middle), marker="|", markersize=3.5, markeredgewidth=0.6, **look)
    certified = outliers[outliers < -floor]
    axes.plot(certified, np.full(len(certified), middle), marker=".", markersize=2.5, **look)


def _write_numbers(
    panels: Sequence[Axes], numbers: Sequence[Sequence[tuple[str, str]]], size: float, width: float
) -> None:
    """A heading and a row a method, with its line before it: colours alone would not do in print.

    Without the errors, in all panels, where those ``numbers`` would have to be much smaller than ``size`` in one.
    """
    room = width - 2.4 * size / 72 - 0.14

    def fitting(form: int) -> float:
        return min(1.0, room / max(label_width(line[form], size) for lines in numbers for line in lines))

    form = 0 if fitting(0) > 0.85 else 1
    size *= fitting(form)
    for axes, lines in zip(panels, numbers, strict=True):
        heading, *rows = (line[form] for line in lines)
        legend = axes.legend(
            [Line2D([], [], color=PALETTE[row], linestyle=METHOD_LINES[row]["linestyle"]) for row in range(len(rows))],
            rows,
            title=heading,
            loc="upper right",
            fontsize=size,
            title_fontsize=size,
            alignment="right",
            borderpad=0.2,
            borderaxespad=0.0,
            labelspacing=0.15,
            handlelength=2.0,
            handletextpad=0.4,
        )
        legend.set_zorder(6)


def _title(arrays: Arrays, place: int, width: float) -> str:
    counts = arrays["num_samples"][:, place]
    known = sorted({int(count) for count in counts[np.isfinite(counts)]})
    count = f", N = {known[0]}" if len(known) == 1 else f", N = {known[0]}–{known[-1]}"
    size = matplotlib.rcParams["axes.titlesize"]
    return literal(shorten(str(arrays["labels"][place]), size, width - text_width(count, size))) + count


def _add_legend(figure: Canvas, methods: Sequence[str]) -> None:
    size = matplotlib.rcParams["legend.fontsize"]
    entries: list[tuple[Any, str]] = [
        (
            Line2D([], [], color=PALETTE[row], linestyle=METHOD_LINES[row]["linestyle"]),
            literal(shorten(name, size, 1.6)),
        )
        for row, name in enumerate(methods)
    ]
    tick: dict[str, Any] = {
        "linestyle": "none",
        "color": "0.25",
        "marker": "|",
        "markersize": 5,
        "markeredgewidth": 0.6,
    }
    dot = Line2D([], [], linestyle="none", color="0.25", marker=".", markersize=3.5)
    entries += [
        (Line2D([], [], **tick), "deflated eigenvalue"),
        ((Line2D([], [], **tick), dot), "certified negative"),
        (Line2D([], [], **triangle(True, "0.25")), "λ$_{min}$, certified negative"),
        (Line2D([], [], **triangle(False, "0.25")), "λ$_{min}$, sign not told"),
    ]
    add_legend(figure, entries, most=4)
