"""What changes from class to class: both ends of the spectrum, negative share, gradient and sample count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.density import is_certified
from landscape.plotting.style import PALETTE, Column, Drawing, new_figure, shorten, style, text_width

Array = NDArray[np.float64]

_GROUP_WIDTH = 0.8  # of the distance between two classes
_NEUTRAL = "0.55"
_HATCH = "//////"


def class_bars(
    spectra: Sequence[PartSpectrum] | Mapping[str, Sequence[PartSpectrum]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    column: Column = "double",
) -> Drawing:
    """Panels over one axis of classes: spectrum ends, negative mass M₋ and its share ν, ‖∇L_c‖, number of samples.

    In the first panel (log scale) a bar is |λ_min| and a dash is λ_max, each with its residual as error bar. A bar is
    filled where λ_min < −noise floor certifies a negative eigenvalue and hatched where the sign cannot be told. M₋ and
    ν have their 95 % interval over probes. With several methods each has a colour and a bar of its own in every class.

    Args:
        spectra: one part a class, in axis order, or method name → such a sequence. A class that one method lacks
            leaves a gap; classes are matched by ``PartSpectrum.part``.
        groups: group name → parts in it, for example ``{"head": ["class/0", "class/1"], ...}``; drawn as bands.
        column: width of the figure, see :func:`landscape.plotting.style.style`.

    Returns:
        The drawing; its arrays are ``parts``, ``labels`` (c,), ``methods`` (m,) and, each (m, c) with NaN for a gap,
        ``lambda_max``, ``lambda_max_residual``, ``lambda_min``, ``lambda_min_residual``, ``certified`` (0 or 1),
        ``negative_mass`` and ``negative_fraction``, each also with ``_low`` and ``_high``, ``gradient_norm`` and
        ``num_samples``.

    Raises:
        LandscapeError: nothing to draw, a part twice in one method, or a group names a part that is not there.
    """
    methods = dict(spectra) if isinstance(spectra, Mapping) else {"": spectra}
    if not any(methods.values()):
        raise LandscapeError("no spectra to draw: the file has no complete part, or none was selected")
    labels = _labels(methods)
    table = _tabulate(methods, list(labels))
    for name, members in (groups or {}).items():
        unknown = [part for part in members if part not in labels]
        if unknown:
            raise LandscapeError(f"group '{name}' has part '{unknown[0]}', not drawn here: have {', '.join(labels)}")
    with style(column):
        figure = _draw(list(methods), labels, table, groups or {})
        figure.draw_without_rendering()
    words = {
        "parts": np.array(list(labels)),
        "labels": np.array(list(labels.values())),
        "methods": np.array(list(methods)),
    }
    return Drawing(figure, {**words, **table})


def _labels(methods: Mapping[str, Sequence[PartSpectrum]]) -> dict[str, str]:
    """Part → label, in the order of first appearance."""
    labels: dict[str, str] = {}
    for method, parts in methods.items():
        names = [spectrum.part for spectrum in parts]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise LandscapeError(f"part '{twice}' appears twice{f' in {method!r}' if method else ''}: give each once")
        for spectrum in parts:
            labels.setdefault(spectrum.part, spectrum.label)
    return labels


def _tabulate(methods: Mapping[str, Sequence[PartSpectrum]], parts: Sequence[str]) -> dict[str, Array]:
    columns = {
        "lambda_max": lambda part: part.saddle.lambda_max,
        "lambda_max_residual": lambda part: part.saddle.lambda_max_residual,
        "lambda_min": lambda part: part.saddle.lambda_min,
        "lambda_min_residual": lambda part: part.saddle.lambda_min_residual,
        "certified": lambda part: is_certified(part.saddle),
        "negative_mass": lambda part: part.saddle.negative_mass.value,
        "negative_mass_low": lambda part: part.saddle.negative_mass.low,
        "negative_mass_high": lambda part: part.saddle.negative_mass.high,
        "negative_fraction": lambda part: part.saddle.negative_fraction.value,
        "negative_fraction_low": lambda part: part.saddle.negative_fraction.low,
        "negative_fraction_high": lambda part: part.saddle.negative_fraction.high,
        "gradient_norm": lambda part: part.saddle.gradient_norm,
        "num_samples": lambda part: part.num_samples,
    }
    table = {name: np.full((len(methods), len(parts)), np.nan) for name in columns}
    for row, spectra in enumerate(methods.values()):
        for spectrum in spectra:
            for name, value in columns.items():
                table[name][row, parts.index(spectrum.part)] = value(spectrum)
    return table


def _draw(
    methods: Sequence[str], labels: Mapping[str, str], table: dict[str, Array], groups: Mapping[str, Sequence[str]]
) -> Figure:
    width = matplotlib.rcParams["figure.figsize"][0]
    slots = max(len(labels), 4)  # one or two classes do not make bars as wide as the page
    spacing = (width - 0.75) / slots  # inches from one class to the next
    size = matplotlib.rcParams["xtick.labelsize"]
    ticks = [shorten(label, size, 1.1) for label in labels.values()]
    longest = max(text_width(tick, size) for tick in ticks)
    rotated = longest > 0.9 * spacing
    figure = new_figure(5.3 + (longest if rotated else 0.15))
    panels = figure.subplots(5, 1, sharex=True, height_ratios=[2.0, 1.1, 1.1, 0.9, 0.9])
    ends, mass, fraction, gradient, count = panels

    _draw_ends(ends, table)
    for axes, key in ((mass, "negative_mass"), (fraction, "negative_fraction"), (gradient, "gradient_norm")):
        for method in range(len(methods)):
            values = table[key][method]
            error = None
            if f"{key}_low" in table:
                error = np.abs([values - table[f"{key}_low"][method], table[f"{key}_high"][method] - values])
            _bars(axes, table, method, values, error)
    _log_axis(mass, table["negative_mass"])
    mass.set_ylabel("M$_{-}$")
    fraction.set_ylim(0, min(1.0, 1.15 * float(np.nanmax(table["negative_fraction_high"], initial=0.05))))
    fraction.yaxis.set_major_locator(MaxNLocator(4))
    fraction.set_ylabel("ν")
    _log_axis(gradient, table["gradient_norm"])
    gradient.set_ylabel("‖∇L‖")
    counts = table["num_samples"]
    if np.nanmax(np.ptp(np.ma.masked_invalid(counts), axis=0)) == 0:
        count.bar(np.arange(len(labels)), np.nanmax(counts, axis=0), 0.94 * _GROUP_WIDTH, color=_NEUTRAL, linewidth=0)
    else:
        for method in range(len(methods)):
            _bars(count, table, method, counts[method])
    _log_axis(count, counts)
    count.set_ylabel("samples")

    every = math.ceil(1.35 * size / 72 / spacing) if rotated else 1
    positions = np.arange(len(labels))[::every]
    count.set_xticks(positions, ticks[::every])
    count.set_xlim((len(labels) - 1 - slots) / 2, (len(labels) - 1 + slots) / 2)
    if rotated:
        count.tick_params(axis="x", labelrotation=90)
    for axes in panels:
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.3, color="0.88")
        axes.set_axisbelow(True)
    _draw_groups(panels, list(labels), groups)
    _add_legend(figure, methods, width)
    figure.align_ylabels()
    return figure


def _offsets(table: dict[str, Array], method: int) -> tuple[Array, float]:
    """Bar centres (c,) and bar width of one method."""
    methods, classes = table["lambda_min"].shape
    width = _GROUP_WIDTH / methods
    return np.arange(classes) + (method - (methods - 1) / 2) * width, width


def _bars(axes: Axes, table: dict[str, Array], method: int, values: Array, error: Array | None = None) -> BarContainer:
    centres, width = _offsets(table, method)
    return axes.bar(
        centres,
        values,
        width * 0.94,
        color=PALETTE[method % len(PALETTE)],
        linewidth=0,
        yerr=error,
        error_kw={"elinewidth": 0.7, "capsize": 1.2, "capthick": 0.7, "ecolor": "0.15"},
    )


def _draw_ends(axes: Axes, table: dict[str, Array]) -> None:
    """|λ_min| as bars, λ_max as dashes with error bars."""
    magnitude, residual = np.abs(table["lambda_min"]), table["lambda_min_residual"]
    _log_axis(axes, np.concatenate([magnitude, np.abs(table["lambda_max"])]))
    for method in range(len(magnitude)):
        bars = _bars(axes, table, method, magnitude[method], residual[method])
        for bar, certified in zip(bars, table["certified"][method], strict=True):
            if certified != 1:
                bar.set(facecolor="white", edgecolor=PALETTE[method % len(PALETTE)], hatch=_HATCH, linewidth=0.6)
        centres, width = _offsets(table, method)
        axes.errorbar(
            centres,
            table["lambda_max"][method],
            xerr=width * 0.47,
            yerr=table["lambda_max_residual"][method],
            linestyle="none",
            ecolor=tuple(0.6 * np.array(PALETTE[method % len(PALETTE)])),
            elinewidth=1.1,
        )
    axes.set_ylabel("|λ$_{min}$| (bar), λ$_{max}$ (dash)")


def _log_axis(axes: Axes, values: Array) -> None:
    """Logarithmic, from a little below the smallest positive value: a bar has no foot of its own on a log axis."""
    positive = values[np.isfinite(values) & (values > 0)]
    axes.set_yscale("log")
    if positive.size:
        axes.set_ylim(positive.min() / 2.5, max(positive.max() * 2.0, positive.min() * 6))
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_groups(panels: Sequence[Axes], parts: Sequence[str], groups: Mapping[str, Sequence[str]]) -> None:
    """Alternating bands behind each run of neighbouring classes of a group, named once above the first panel."""
    for number, (name, members) in enumerate(groups.items()):
        indices = sorted(parts.index(part) for part in members)
        runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if indices else []
        for run in runs:
            for axes in panels:
                if number % 2 == 0:
                    axes.axvspan(run[0] - 0.5, run[-1] + 0.5, color="0.955", linewidth=0, zorder=-1)
            panels[0].annotate(
                name,
                xy=((run[0] + run[-1]) / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )


def _add_legend(figure: Figure, methods: Sequence[str], width: float) -> None:
    several = len(methods) > 1
    neutral = _NEUTRAL if several else PALETTE[0]
    handles: list[Patch | Line2D] = [Patch(color=PALETTE[i % len(PALETTE)]) for i in range(len(methods)) if several]
    names = list(methods) if several else []
    handles += [Patch(color=neutral), Patch(facecolor="white", edgecolor=neutral, hatch=_HATCH)]
    names += ["λ$_{min}$ certified negative", "sign of λ$_{min}$ not told"]
    figure.legend(
        handles,
        names,
        loc="outside upper center",
        ncols=2 if width < 5 else min(len(names), 5),
        columnspacing=1.2,
        handlelength=1.5,
        handletextpad=0.5,
    )
