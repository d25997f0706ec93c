"""What changes from class to class: both ends of the spectrum, masses, gradient, accuracy and sample count."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError, did_you_mean
from landscape.plotting.colors import METHOD_HATCHES
from landscape.plotting.density import is_certified, part_labels, plain_or_power, set_signed_axis
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, label_numbers
from landscape.plotting.style import PALETTE, literal, shorten, text_width

Array = NDArray[np.float64]

_GROUP_WIDTH = 0.8  # of the distance between two classes
_NEUTRAL = "0.55"
_HATCH = "//////"
_ALL_LABELLED = 40  # classes of which each has its name, in smaller letters if need be
_LINE = 1.2  # from one line of text to the next, in units of the letter size


QUANTITIES = {
    "lambda_min": "|λ_min| as bars, λ_max as dashes",
    "negative_mass": "M₋, the sum of |λ| over λ < 0",
    "negative_fraction": "ν, its share of the sum of all |λ|",
    "trace": "tr H",
    "gradient_norm": "‖∇L‖",
    "accuracy": "share of the part's samples that are classified correctly",
    "num_samples": "samples that were measured",
    "class_size": "training images of the class",
}
"""What a panel can show, in the order in which all are drawn."""


def class_bars(
    spectra: Sequence[PartSpectrum] | Mapping[str, Sequence[PartSpectrum]],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    quantities: Sequence[str] | None = None,
    class_sizes: Mapping[str, int] | Mapping[str, Mapping[str, int]] | None = None,
) -> Drawing:
    """Panels over one axis of classes: spectrum ends, M₋ and its share ν, trace, ‖∇L_c‖, accuracy, numbers of samples.

    In the panel of the ends (log scale) a bar is |λ_min| and a dash is λ_max, each with its residual as error bar. A
    bar is filled where λ_min < −noise floor certifies a negative eigenvalue and hatched with slashes where the sign
    cannot be told. M₋ and ν have their 95 % interval over probes; an arrow at the top says that it is unbounded, as
    with one probe. The trace has its standard error over probes, none with one probe. With several methods each has a
    colour, a filling and a bar of its own in every class. A quantity that no part has is left out.

    Args:
        spectra: one part a class, in axis order, or method name → such a sequence. A class that one method lacks
            leaves a gap; classes are matched by ``PartSpectrum.part``.
        groups: group name → parts in it, for example ``{"head": ["class/0", "class/1"], ...}``; drawn as bands.
        quantities: of :data:`QUANTITIES`, from above; all of them if not given, the samples that were measured only
            where they are not the training images of the class.
        class_sizes: part → training images of its class, or method name → such a mapping where ``spectra`` is one.

    Returns:
        The drawing; its arrays are ``parts``, ``labels`` (c,), ``methods`` (m,) and, each (m, c) with NaN for a gap,
        ``lambda_max``, ``lambda_max_residual``, ``lambda_min``, ``lambda_min_residual``, ``certified`` (0 or 1),
        ``negative_mass`` and ``negative_fraction``, each also with ``_low`` and ``_high``, ``trace``,
        ``trace_standard_error``, ``gradient_norm``, ``accuracy``, ``num_samples`` and ``class_size``.

    Raises:
        LandscapeError: nothing to draw, a part twice in one method, a group names a part that is not there, or a
            quantity that is not one or is named twice.
    """
    methods = dict(spectra) if isinstance(spectra, Mapping) else {"": spectra}
    if not any(methods.values()):
        raise LandscapeError("no spectra to draw: the file has no complete part, or none was selected")
    labels = part_labels(methods)
    table = _tabulate(methods, list(labels))
    given: Mapping[str, Any] = class_sizes or {}
    sizes = given if isinstance(spectra, Mapping) else {"": given}
    table["class_size"] = np.array(
        [[sizes.get(method, {}).get(part, math.nan) for part in labels] for method in methods], dtype=np.float64
    )
    for name, members in (groups or {}).items():
        unknown = [part for part in members if part not in labels]
        if unknown:
            raise LandscapeError(f"group '{name}' has part '{unknown[0]}', not drawn here: have {', '.join(labels)}")
    wanted = list(QUANTITIES) if quantities is None else list(quantities)
    if quantities is None and np.array_equal(table["num_samples"], table["class_size"], equal_nan=True):
        wanted.remove("num_samples")
    for name in wanted:
        if name not in QUANTITIES:
            way_out = did_you_mean(name, QUANTITIES) or f": have {', '.join(QUANTITIES)}"
            raise LandscapeError(f"no quantity '{name}'{way_out}")
    if len(set(wanted)) < len(wanted):
        raise LandscapeError(f"quantities {', '.join(wanted)}: name each once")
    known = [name for name in wanted if name == "negative_fraction" or np.isfinite(table[name]).any()]
    if not known:
        raise LandscapeError(f"no part has {', '.join(wanted)}: nothing to draw")
    words = {
        "parts": np.array(list(labels)),
        "labels": np.array(list(labels.values())),
        "methods": np.array(list(methods)),
    }
    settings = {"quantities": known, "groups": [[name, list(members)] for name, members in (groups or {}).items()]}
    return Drawing("classes", {**words, **table}, settings)


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
        "trace": lambda part: part.saddle.trace,
        "trace_standard_error": lambda part: part.saddle.trace_standard_error,
        "gradient_norm": lambda part: part.saddle.gradient_norm,
        "accuracy": lambda part: math.nan if part.accuracy is None else part.accuracy,
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
    width = matplotlib.rcParams["figure.figsize"][0]
    slots = max(len(labels), 4)  # one or two classes do not make bars as wide as the page
    spacing = (width - 0.75) / slots  # inches from one class to the next
    size = matplotlib.rcParams["xtick.labelsize"]
    rotated = max(text_width(label, size) for label in labels) > 0.9 * spacing
    if rotated and len(labels) <= _ALL_LABELLED:
        size = min(size, spacing * 72 / _LINE)
    ticks = [shorten(label, size, 1.6) if rotated else label for label in labels]
    longest = max(text_width(tick, size) for tick in ticks)
    ratios = [_PANELS[name][0] for name in settings["quantities"]]
    figure = new_figure(0.82 * sum(ratios) + 0.4 + (longest if rotated else 0.15))
    panels = figure.subplots(len(ratios), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0].tolist()
    for axes, name in zip(panels, settings["quantities"], strict=True):
        _PANELS[name][1](axes, arrays)

    every = math.ceil(_LINE * size / 72 / spacing - 1e-9) if rotated else 1
    positions = np.arange(len(labels))[::every]
    last = panels[-1]
    last.set_xticks(positions, [literal(tick) for tick in ticks[::every]], fontsize=size)
    label_numbers(last.xaxis, labels)
    last.set_xlim((len(labels) - 1 - slots) / 2, (len(labels) - 1 + slots) / 2)
    if rotated:
        last.tick_params(axis="x", labelrotation=90)
    for axes in panels:
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.3, color="0.88")
        axes.set_axisbelow(True)
    _draw_groups(panels, parts, settings["groups"])
    _add_legend(figure, methods, width, signs="lambda_min" in settings["quantities"])
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
        np.where(np.isfinite(values), values, np.nan),
        width * 0.94,
        color=PALETTE[method % len(PALETTE)],
        hatch=METHOD_HATCHES[method % len(METHOD_HATCHES)],
        edgecolor="white",
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


def _draw_mass(axes: Axes, table: Arrays) -> None:
    _log_axis(axes, table["negative_mass"], table["negative_mass_high"])
    _bars_with_interval(axes, table, "negative_mass")
    axes.set_ylabel("M$_{-}$")


def _draw_fraction(axes: Axes, table: Arrays) -> None:
    axes.set_ylim(0, min(1.0, 1.15 * float(np.nanmax(table["negative_fraction_high"], initial=0.05))))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if np.isnan(table["negative_fraction"]).all():
        axes.set_yticks([])
        _say(axes, "not defined: every eigenvalue is 0")
    _bars_with_interval(axes, table, "negative_fraction")
    axes.set_ylabel("ν")


def _bars_with_interval(axes: Axes, table: Arrays, key: str) -> None:
    for method in range(len(table[key])):
        values, low, high = (table[key + end][method] for end in ("", "_low", "_high"))
        _bars(axes, table, method, values, np.abs([values - low, high - values]))


def _draw_trace(axes: Axes, table: Arrays) -> None:
    values = table["trace"]
    errors = np.where(np.isfinite(table["trace_standard_error"]), table["trace_standard_error"], np.nan)
    known = values[np.isfinite(values)]
    if (known > 0).all() or not (known != 0).any():
        _log_axis(axes, values, values + errors)
    else:
        set_signed_axis(axes, known)
    for method in range(len(values)):
        _bars(axes, table, method, values[method], errors[method])
    axes.set_ylabel("tr H")


def _draw_gradient(axes: Axes, table: Arrays) -> None:
    _log_axis(axes, table["gradient_norm"])
    for method in range(len(table["gradient_norm"])):
        _bars(axes, table, method, table["gradient_norm"][method])
    axes.set_ylabel("‖∇L‖")


def _draw_accuracy(axes: Axes, table: Arrays) -> None:
    for method in range(len(table["accuracy"])):
        _bars(axes, table, method, 100 * table["accuracy"][method])
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_ylabel("accuracy (%)")


def _draw_samples(axes: Axes, table: Arrays) -> None:
    _draw_counts(axes, table, "num_samples")
    axes.set_ylabel("samples\nmeasured")


def _draw_sizes(axes: Axes, table: Arrays) -> None:
    _draw_counts(axes, table, "class_size")
    axes.set_ylabel("training\nimages")


def _draw_counts(axes: Axes, table: Arrays, key: str) -> None:
    """One neutral bar a class where all methods agree."""
    counts = table[key]
    _log_axis(axes, counts)
    least, most = np.fmin.reduce(counts), np.fmax.reduce(counts)
    if np.array_equal(least, most, equal_nan=True):
        axes.bar(np.arange(counts.shape[1]), most, 0.94 * _GROUP_WIDTH, color=_NEUTRAL, linewidth=0)
    else:
        for method in range(len(counts)):
            _bars(axes, table, method, counts[method])


_PANELS: dict[str, tuple[float, Callable[[Axes, Arrays], None]]] = {
    "lambda_min": (2.0, _draw_ends),
    "negative_mass": (1.1, _draw_mass),
    "negative_fraction": (1.1, _draw_fraction),
    "trace": (1.0, _draw_trace),
    "gradient_norm": (0.9, _draw_gradient),
    "accuracy": (0.9, _draw_accuracy),
    "num_samples": (0.9, _draw_samples),
    "class_size": (0.9, _draw_sizes),
}
"""Quantity → the share of the height that its panel has, and what draws it."""


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


def _add_legend(figure: Canvas, methods: Sequence[str], width: float, *, signs: bool) -> None:
    several = len(methods) > 1
    neutral, size = _NEUTRAL if several else PALETTE[0], matplotlib.rcParams["legend.fontsize"]
    entries: list[tuple[Any, str]] = []
    for number, name in enumerate(methods if several else ()):
        hatch = METHOD_HATCHES[number % len(METHOD_HATCHES)]
        bar = Patch(facecolor=PALETTE[number % len(PALETTE)], edgecolor="white", hatch=hatch, linewidth=0)
        entries.append((bar, literal(shorten(name, size, 0.4 * width))))
    if signs:
        entries += [
            (Patch(color=neutral), "λ$_{min}$ certified negative"),
            (Patch(facecolor="white", edgecolor=neutral, hatch=_HATCH), "sign of λ$_{min}$ not told"),
        ]
    if entries:
        add_legend(figure, entries)
