"""Do methods that leave less negative curvature classify the tail better? One quantity against another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from landscape.curvature.results import Interval, PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.colors import METHOD_LINES, method_color, part_colors
from landscape.plotting.density import plain_or_power
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend
from landscape.plotting.quantities import quantity
from landscape.plotting.style import PALETTE, literal, shorten

Array = NDArray[np.float64]
Accuracies = Mapping[str, Mapping[str, float]]
"""Method → part → share of samples classified correctly."""

FEWEST = 5
"""Points from which a rank correlation is written."""

_TAIL = "group/tail"
_SMALLEST, _LARGEST = 2.5, 8.0  # sizes of the markers of the rarest and the most frequent class, points


def saddle_scatter(
    methods: Mapping[str, Sequence[PartSpectrum]],
    accuracy: Accuracies | None = None,
    *,
    x: str = "negative_fraction",
    y: str = "accuracy",
    by: Literal["method", "class"] = "method",
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Drawing:
    """One quantity of the tail against another, one marker a method; or those of every class, one marker each.

    The tail is the part ``group/tail``; where that was not measured, the mean over the classes of the tail, whose
    interval is the mean of theirs (as wide as if their errors went together). Of classes a marker is the larger the
    more samples its class has. Spearman's rank correlation is written where there are at least five points: of
    methods one, of classes one a method.

    Args:
        methods: method → its parts.
        accuracy: method → part → accuracy, such as on the test set; of the measured samples if not given.
        x: a name in :data:`~landscape.plotting.quantities.QUANTITIES`, for example ``negative_fraction``,
            ``curvature_ratio``, ``lambda_min``, ``negative_mass``.
        y: likewise; ``accuracy`` is in per cent.
        by: what a point is.
        groups: group name → parts of its classes, with ``tail`` among them; for a tail that is a mean over classes.

    Returns:
        The drawing; its arrays are ``methods`` (M,), ``parts`` and ``labels`` (P,), ``num_samples`` (M, P) and, each
        (M, P) with NaN for what is missing, ``x`` and ``y``, also with ``_low`` and ``_high``, and ``spearman`` and
        ``spearman_n``, (1,) over methods or (M,).

    Raises:
        LandscapeError: nothing to draw, a quantity that is not known, a method without tail or accuracy.
    """
    if not any(methods.values()):
        raise LandscapeError("no spectra to draw: the file has no complete part, or none was selected")
    tables = {"x": _read(methods, accuracy, x), "y": _read(methods, accuracy, y)}
    if by == "class":
        labels = {s.part: s.label for spectra in methods.values() for s in spectra if _is_class(s.part)}
        if not labels:
            raise LandscapeError("no class was measured: `landscape spectrum CHECKPOINT --per-class` adds them")
    else:
        labels = {_TAIL: "tail"}
        tables = {axis: _tails(table, groups) for axis, table in tables.items()}
    arrays: dict[str, NDArray[Any]] = {
        "methods": np.array(list(methods)),
        "parts": np.array(list(labels)),
        "labels": np.array(list(labels.values())),
        "num_samples": np.array([[_num_samples(spectra, part) for part in labels] for spectra in methods.values()]),
    }
    missing = Interval(math.nan, math.nan, math.nan)
    for axis, table in tables.items():
        for end, field in (("", "value"), ("_low", "low"), ("_high", "high")):
            arrays[axis + end] = np.array(
                [[getattr(table[method].get(part, missing), field) for part in labels] for method in methods]
            )
    for method, row in zip(methods, np.isfinite(arrays["x"] * arrays["y"]), strict=True):
        if not row.any():
            raise LandscapeError(f"'{method}' has no {'class' if by == 'class' else 'tail'} with both {x} and {y}")
    clouds = (
        [(arrays["x"].ravel(), arrays["y"].ravel())] if by == "method" else zip(arrays["x"], arrays["y"], strict=True)
    )
    ranks = [_spearman(*cloud) for cloud in clouds]
    arrays["spearman"], arrays["spearman_n"] = (np.array(column) for column in zip(*ranks, strict=True))
    of = "" if by == "class" else " of the tail"
    settings = {
        "by": by,
        "names": [
            ("accuracy" if name == "accuracy" and accuracy else quantity(name).label) + of
            + (" (%)" if name == "accuracy" else "")
            for name in (x, y)
        ],
        "scales": [_scale(quantity(name).scale, arrays[axis]) for axis, name in (("x", x), ("y", y))],
    }  # fmt: skip
    return Drawing("saddle-scatter", arrays, settings)


def _read(
    methods: Mapping[str, Sequence[PartSpectrum]], accuracy: Accuracies | None, name: str
) -> dict[str, dict[str, Interval]]:
    """Method → part → quantity."""
    read = quantity(name).read
    if name != "accuracy":
        return {method: {s.part: read(s) for s in spectra} for method, spectra in methods.items()}
    if accuracy is None:
        accuracy = {method: {s.part: read(s).value for s in spectra} for method, spectra in methods.items()}
    for method in methods:
        if method not in accuracy:
            raise LandscapeError(f"no accuracy of '{method}': have {', '.join(accuracy) or 'none'}")
    return {
        method: {part: Interval(100 * value, math.nan, math.nan) for part, value in accuracy[method].items()}
        for method in methods
    }


def _tails(
    table: Mapping[str, Mapping[str, Interval]], groups: Mapping[str, Sequence[str]] | None
) -> dict[str, dict[str, Interval]]:
    """Method → the tail, measured as a group or the mean over its classes."""
    found = {}
    for method, parts in table.items():
        if _TAIL in parts:
            found[method] = {_TAIL: parts[_TAIL]}
            continue
        classes = list((groups or {}).get("tail", ()))
        absent = [part for part in classes if part not in parts]
        if not classes or absent:
            raise LandscapeError(
                f"'{method}' has no part '{_TAIL}'{f' and no {absent[0]!r}' if absent else ''}: "
                "`landscape spectrum CHECKPOINT --per-group` (or --per-class) adds it"
            )
        chosen = [parts[part] for part in classes]
        ends = [float(np.mean([getattr(one, end) for one in chosen])) for end in ("value", "low", "high")]
        found[method] = {_TAIL: Interval(*ends)}
    return found


def _is_class(part: str) -> bool:
    return part.startswith("class/") and part.count("/") == 1


def _num_samples(spectra: Sequence[PartSpectrum], part: str) -> float:
    return next((float(s.num_samples) for s in spectra if s.part == part), math.nan)


def _spearman(x: Array, y: Array) -> tuple[float, int]:
    """Rank correlation of the points that have both, and their number; NaN for too few, or where one never changes."""
    # SciPy's statistics take a while to import and are needed here alone.
    from scipy import stats

    known = np.isfinite(x) & np.isfinite(y)
    count = int(known.sum())
    if count < FEWEST or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        return math.nan, count
    return float(stats.spearmanr(x[known], y[known]).statistic), count


def _scale(wanted: str, values: Array) -> str:
    """``log`` for positive values over more than a decade of a quantity that may have decades, else ``linear``."""
    known = np.abs(values[np.isfinite(values)])
    if wanted == "linear" or not (known > 0).all() or known.max() < 10 * known.min():
        return "linear"
    return "log" if (values[np.isfinite(values)] > 0).all() else "asinh"


@renders("saddle-scatter")
def _scatter(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width = matplotlib.rcParams["figure.figsize"][0]
    methods, parts, labels = (arrays[name].tolist() for name in ("methods", "parts", "labels"))
    of_classes = settings["by"] == "class"
    colored = of_classes and len(parts) <= len(PALETTE)
    entries = _entries(arrays, methods, parts, labels, width, of_classes=of_classes, colored=colored)
    figure = new_figure(2.45 + 0.16 * math.ceil(len(entries) / max(1, int(width / 1.2))), w_pad=0.04, h_pad=0.03)
    axes = figure.subplots()
    limits = [
        _limits(arrays, axis, scale, percent=name.endswith("(%)"))
        for axis, scale, name in zip("xy", settings["scales"], settings["names"], strict=True)
    ]
    for set_scale, scale, axis in zip((axes.set_xscale, axes.set_yscale), settings["scales"], "xy", strict=True):
        known = np.abs(arrays[axis][np.isfinite(arrays[axis])])
        set_scale(scale, **({"linear_width": float(known[known > 0].min())} if scale == "asinh" else {}))
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    sizes = _sizes(arrays["num_samples"]) if of_classes else np.full(arrays["x"].shape, 5.5)
    for m in range(len(methods)):
        colors = part_colors(parts) if colored else [method_color(m)] * len(parts)
        for p, color in enumerate(colors):
            _draw_interval(axes, arrays, m, p, limits)
            axes.plot(
                arrays["x"][m, p], arrays["y"][m, p], linestyle="none", color=color, zorder=3,
                marker=METHOD_LINES[m % len(METHOD_LINES)]["marker"], markersize=sizes[m, p],
                markeredgecolor="0.15", markeredgewidth=0.4,
            )  # fmt: skip
    axes.set_xlabel(settings["names"][0])
    axes.set_ylabel(settings["names"][1])
    for ruler, scale, ends in zip((axes.xaxis, axes.yaxis), settings["scales"], limits, strict=True):
        if scale == "linear":
            ruler.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        else:
            ruler.set_major_locator(FixedLocator(_round_ticks(*ends)))
            ruler.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
            ruler.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(linewidth=0.3, color="0.88")
    axes.set_axisbelow(True)
    if len(arrays["spearman"]) == 1 and np.isfinite(arrays["spearman"][0]):
        corner = _emptiest(axes, arrays)
        axes.text(
            *corner, _rank(arrays["spearman"][0], arrays["spearman_n"][0]), transform=axes.transAxes,
            ha="left" if corner[0] < 0.5 else "right", va="bottom" if corner[1] < 0.5 else "top",
        )  # fmt: skip
    add_legend(figure, entries, most=8)
    return figure


def _draw_interval(axes: Axes, arrays: Arrays, m: int, p: int, limits: Sequence[tuple[float, float]]) -> None:
    """Whiskers where an interval is known; one without end reaches the edge."""
    x, y = arrays["x"][m, p], arrays["y"][m, p]
    look: dict[str, Any] = {"color": "0.55", "linewidth": 0.6, "zorder": 2}
    ends = {axis: (arrays[f"{axis}_low"][m, p], arrays[f"{axis}_high"][m, p]) for axis in "xy"}
    if not np.isnan(ends["x"]).any():
        axes.hlines(y, *np.clip(ends["x"], *limits[0]), **look)
    if not np.isnan(ends["y"]).any():
        axes.vlines(x, *np.clip(ends["y"], *limits[1]), **look)


def _limits(arrays: Arrays, axis: str, scale: str, *, percent: bool) -> tuple[float, float]:
    """Room for every point and every finite end of an interval."""
    every = np.concatenate([arrays[axis + end].ravel() for end in ("", "_low", "_high")])
    known = every[np.isfinite(every) & ((every > 0) | (scale != "log"))]
    low, high = float(known.min()), float(known.max())
    if scale == "log":
        return low / 1.4, high * 1.4
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    if scale == "asinh":
        return low - 0.3 * abs(low) - margin / 100, high + 0.3 * abs(high) + margin / 100
    return low - margin, min(high + margin, 102.0) if percent else high + margin


def _round_ticks(low: float, high: float) -> list[float]:
    """±10^k between both ends, and ±2 and ±5 · 10^k where that gives fewer than three."""
    largest = math.ceil(math.log10(max(-low, high)))
    for digits in ((1,), (1, 2, 5)):
        sizes = [digit * 10.0**k for k in range(largest - 12, largest + 1) for digit in digits]
        ticks = [tick for size in sizes for tick in (-size, size) if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return sorted(ticks)


def _sizes(num_samples: Array) -> Array:
    """Diameters, whose logarithm of samples is spread over those there are, points."""
    logs = np.log(num_samples)
    span = np.nanmax(logs) - np.nanmin(logs)
    share = (logs - np.nanmin(logs)) / span if span > 0 else np.full(logs.shape, 0.5)
    return np.nan_to_num(_SMALLEST + (_LARGEST - _SMALLEST) * share, nan=_SMALLEST)


def _entries(
    arrays: Arrays, methods: Sequence[str], parts: Sequence[str], labels: Sequence[str], width: float, *,
    of_classes: bool, colored: bool,
) -> list[tuple[Any, str]]:  # fmt: skip
    size = matplotlib.rcParams["legend.fontsize"]
    edge: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "0.15", "markeredgewidth": 0.4}
    entries: list[tuple[Any, str]] = []
    for m, method in enumerate(methods):
        color = "0.7" if colored else method_color(m)
        marker = METHOD_LINES[m % len(METHOD_LINES)]["marker"]
        rank = ""
        if len(arrays["spearman"]) > 1 and np.isfinite(arrays["spearman"][m]):
            rank = f": {_rank(arrays['spearman'][m], arrays['spearman_n'][m])}"
        if method or rank:
            name = literal(shorten(method, size, 0.4 * width)) + (rank if method else rank.lstrip(": "))
            entries.append((Line2D([], [], color=color, marker=marker, markersize=5, **edge), name))
    if colored:
        entries += [
            (
                Line2D([], [], color=color, marker="o", markersize=4.5, **edge),
                literal(shorten(label, size, 0.3 * width)),
            )
            for color, label in zip(part_colors(parts), labels, strict=True)
        ]
    counts = arrays["num_samples"]
    if of_classes and np.nanmin(counts) < np.nanmax(counts):
        entries += [
            (Line2D([], [], color="white", marker="o", markersize=diameter, **edge), f"{count:g} samples")
            for diameter, count in ((_SMALLEST, np.nanmin(counts)), (_LARGEST, np.nanmax(counts)))
        ]
    return entries


def _rank(value: float, count: int) -> str:
    return f"Spearman ρ = {value:.2f}, n = {count}".replace("-", "−")


def _emptiest(axes: Axes, arrays: Arrays) -> tuple[float, float]:
    """The corner farthest from all points, in fractions of the axes."""
    known = np.isfinite(arrays["x"]) & np.isfinite(arrays["y"])
    points = np.column_stack([arrays["x"][known], arrays["y"][known]])
    places = axes.transAxes.inverted().transform(axes.transData.transform(points))
    corners = [(0.02, 0.03), (0.98, 0.03), (0.02, 0.97), (0.98, 0.97)]
    return max(corners, key=lambda corner: float(np.linalg.norm(places - np.array(corner), axis=1).min()))
