"""What changes from class to class: both ends of the spectrum, negative share, gradient and sample count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.density import is_certified, part_labels, plain_or_power
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.style import PALETTE, add_legend, literal, shorten, text_width

Array = NDArray[np.float64]

_GROUP_WIDTH = 0.8  # of the distance between two classes
_NEUTRAL = "0.55"
_HATCH = "//////"
_ALL_LABELLED = 40  # classes of which each has its name, in smaller letters if need be
_LINE = 1.2  # from one line of text to the next, in units of the letter size


def class_bars(
    spectra: Sequence[PartSpectrum] | Mapping[str, Sequence[PartSpectrum]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Drawing:
    """Panels over one axis of classes: spectrum ends, negative mass M₋ and its share ν, ‖∇L_c‖, number of samples.

    In the first panel (log scale) a bar is |λ_min| and a dash is λ_max, each with its residual as error bar. A bar is
    filled where λ_min < −noise floor certifies a negative eigenvalue and hatched where the sign cannot be told. M₋ and
    ν have their 95 % interval over probes; an arrow at the top says that it is unbounded, as with one probe. With
    several methods each has a colour and a bar of its own in every class.

    Args:
        spectra: one part a class, in axis order, or method name → such a sequence. A class that one method lacks
            leaves a gap; classes are matched by ``PartSpectrum.part``.
        groups: group name → parts in it, for example ``{"head": ["class/0", "class/1"], ...}``; drawn as bands.

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
    labels = part_labels(methods)
    table = _tabulate(methods, list(labels))
    for name, members in (groups or {}).items():
        unknown = [part for part in members if part not in labels]
        if unknown:
            raise LandscapeError(f"group '{name}' has part '{unknown[0]}', not drawn here: have {', '.join(labels)}")
    words = {
        "parts": np.array(list(labels)),
        "labels": np.array(list(labels.values())),
        "methods": np.array(list(methods)),
    }
    return Drawing("classes", {**words, **table}, {"groups": [[name, list(m)] for name, m in (groups or {}).items()]})


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


@renders("classes")
def _draw(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    methods, parts, labels = (arrays[name].tolist() for name in ("methods", "parts", "labels"))
    table = arrays
    width = matplotlib.rcParams["figure.figsize"][0]
    slots = max(len(labels), 4)  # one or two classes do not make bars as wide as the page
    spacing = (width - 0.75) / slots  # inches from one class to the next
    size = matplotlib.rcParams["xtick.labelsize"]
    rotated = max(text_width(label, size) for label in labels) > 0.9 * spacing
    if rotated and len(labels) <= _ALL_LABELLED:
        size = min(size, spacing * 72 / _LINE)
    ticks = [shorten(label, size, 1.6) if rotated else label for label in labels]
    longest = max(text_width(tick, size) for tick in ticks)
    figure = new_figure(5.3 + (longest if rotated else 0.15))
    panels = figure.subplots(5, 1, sharex=True, height_ratios=[2.0, 1.1, 1.1, 0.9, 0.9])
    ends, mass, fraction, gradient, count = panels

    _draw_ends(ends, table)
    _log_axis(mass, table["negative_mass"], table["negative_mass_high"])
    _log_axis(gradient, table["gradient_norm"])
    fraction.set_ylim(0, min(1.0, 1.15 * float(np.nanmax(table["negative_fraction_high"], initial=0.05))))
    fraction.yaxis.set_major_locator(MaxNLocator(4))
    if np.isnan(table["negative_fraction"]).all():
        fraction.set_yticks([])
        _say(fraction, "not defined: every eigenvalue is 0")
    for axes, key in ((mass, "negative_mass"), (fraction, "negative_fraction")):
        for method in range(len(methods)):
            values, low, high = (table[key + end][method] for end in ("", "_low", "_high"))
            _bars(axes, table, method, values, np.abs([values - low, high - values]))
    for method in range(len(methods)):
        _bars(gradient, table, method, table["gradient_norm"][method])
    mass.set_ylabel("M$_{-}$")
    fraction.set_ylabel("ν")
    gradient.set_ylabel("‖∇L‖")
    counts = table["num_samples"]
    _log_axis(count, counts)
    if np.nanmax(np.ptp(np.ma.masked_invalid(counts), axis=0)) == 0:
        count.bar(np.arange(len(labels)), np.nanmax(counts, axis=0), 0.94 * _GROUP_WIDTH, color=_NEUTRAL, linewidth=0)
    else:
        for method in range(len(methods)):
            _bars(count, table, method, counts[method])
    count.set_ylabel("samples")

    every = math.ceil(_LINE * size / 72 / spacing - 1e-9) if rotated else 1
    positions = np.arange(len(labels))[::every]
    count.set_xticks(positions, [literal(tick) for tick in ticks[::every]], fontsize=size)
    count.set_xlim((len(labels) - 1 - slots) / 2, (len(labels) - 1 + slots) / 2)
    if rotated:
        count.tick_params(axis="x", labelrotation=90)
    for axes in panels:
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.3, color="0.88")
        axes.set_axisbelow(True)
    _draw_groups(panels, parts, settings["groups"])
    _add_legend(figure, methods, width)
    figure.align_ylabels()
    return figure


def _offsets(table: Arrays, method: int) -> tuple[Array, float]:
    """Bar centres (c,) and bar width of one method."""
    methods, classes = table["lambda_min"].shape
    width = _GROUP_WIDTH / methods
    return np.arange(classes) + (method - (methods - 1) / 2) * width, width


def _bars(axes: Axes, table: Arrays, method: int, values: Array, error: Array | None = None) -> BarContainer:
    """Bars with whiskers of ``error`` (2, c) or (c,); an infinite one reaches the top of the axis and has an arrow."""
    centres, width = _offsets(table, method)
    if error is not None and np.isinf(error).any():
        unbounded, top = np.isinf(error).reshape(-1, len(values))[-1], axes.get_ylim()[1]
        error = np.where(np.isinf(error), top - values, error)
        axes.plot(
            centres[unbounded],
            np.full(unbounded.sum(), top),
            linestyle="none",
            marker="^",
            markersize=3.5,
            color="0.15",
            clip_on=False,
        )
    return axes.bar(
        centres,
        values,
        width * 0.94,
        color=PALETTE[method % len(PALETTE)],
        linewidth=0,
        yerr=error,
        error_kw={"elinewidth": 0.7, "capsize": 1.2, "capthick": 0.7, "ecolor": "0.15"},
    )


def _draw_ends(axes: Axes, table: Arrays) -> None:
    """|λ_min| as bars, λ_max as dashes with error bars."""
    magnitude, residual = np.abs(table["lambda_min"]), table["lambda_min_residual"]
    largest = np.abs(table["lambda_max"])
    _log_axis(
        axes,
        np.concatenate([magnitude, largest]),
        np.concatenate([magnitude + residual, largest + table["lambda_max_residual"]]),
    )
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


def _log_axis(axes: Axes, values: Array, upper: Array | None = None) -> None:
    """Logarithmic, from a little below the smallest positive value: a bar has no foot of its own on a log axis.

    The axis includes the finite ends ``upper`` of the error bars. Where it has fewer than two powers of ten, 2 and 5
    are labelled too.
    """
    positive = values[np.isfinite(values) & (values > 0)]
    if not positive.size:
        axes.set_ylim(0.01, 1)  # a bar of height 0 draws no line at the foot
        axes.set_yticks([])
        _say(axes, "every value is 0")
        return
    tops = values if upper is None else np.concatenate([values, upper])
    low = positive.min() / 2.5
    high = max(2.0 * positive.max(), 6.0 * positive.min(), 1.2 * tops[np.isfinite(tops)].max())
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_minor_formatter(NullFormatter())
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    if len(exponents) > 1:
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        return
    around = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks = [digit * 10.0**exponent for exponent in around for digit in (1, 2, 5)]
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))


def _say(axes: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="0.4")


def _draw_groups(panels: Sequence[Axes], parts: Sequence[str], groups: Sequence[tuple[str, list[str]]]) -> None:
    """Alternating bands behind each run of neighbouring classes of a group, named once above the first panel."""
    for number, (name, members) in enumerate(groups):
        indices = sorted(parts.index(part) for part in members)
        runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1) if indices else []
        for run in runs:
            for axes in panels:
                if number % 2 == 0:
                    axes.axvspan(run[0] - 0.5, run[-1] + 0.5, color="0.955", linewidth=0, zorder=-1)
            panels[0].annotate(
                literal(name),
                xy=((run[0] + run[-1]) / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )


def _add_legend(figure: Canvas, methods: Sequence[str], width: float) -> None:
    several = len(methods) > 1
    neutral, size = _NEUTRAL if several else PALETTE[0], matplotlib.rcParams["legend.fontsize"]
    entries: list[tuple[Any, str]] = [
        (Patch(color=PALETTE[number % len(PALETTE)]), literal(shorten(name, size, 0.4 * width)))
        for number, name in enumerate(methods)
        if several
    ]
    entries += [
        (Patch(color=neutral), "λ$_{min}$ certified negative"),
        (Patch(facecolor="white", edgecolor=neutral, hatch=_HATCH), "sign of λ$_{min}$ not told"),
    ]
    add_legend(figure, entries)
