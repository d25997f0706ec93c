"""How many images each class has, and how many of its test images are classified correctly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import ArrayLike, NDArray

from landscape.errors import LandscapeError
from landscape.plotting.colors import METHOD_HATCHES, METHOD_LINES, Color, method_color, part_colors
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, label_numbers, legend_entries, legend_height, plain_axes
from landscape.plotting.scales import set_percent_labels
from landscape.plotting.style import literal, shorten, text_width

Array = NDArray[np.float64]

MOST_BARS = 60
"""Classes up to which each has a bar; more are drawn as steps."""

_BARS = 0.8  # of the distance between two classes
_LEAST_LETTERS = 5.0  # points
_NEUTRAL = "0.55"
_WHISKERS = {"elinewidth": 0.7, "capsize": 1.2, "capthick": 0.7, "ecolor": "0.15"}


# ---------------------------------------------------------------------- class sizes


def class_sizes(
    counts: Sequence[int],
    names: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    *,
    rotated: bool = False,
) -> Drawing:
    """Training images a class, in the order given, coloured by group.

    Up to 60 classes have a bar each, with its number; more are a filled curve of steps, cut by a dashed line where one
    group ends and the next begins.

    Args:
        counts: images, one entry a class; give them sorted to see the tail.
        names: what the classes are called; their numbers if not given.
        groups: group → its classes, as numbers of entries of ``counts``; a class in no group is grey.
        rotated: classes from top to bottom, images to the right.

    Returns:
        The drawing; its arrays are ``counts`` (c,), ``names`` (c,), ``groups`` (c,) words, empty for none.

    Raises:
        LandscapeError: no class, another number of names, or a group with a class that is not there.
    """
    names = _checked_names(names, len(counts))
    arrays = {
        "counts": np.array(counts, dtype=np.int64),
        "names": np.array(names),
        "groups": np.array(_group_of_each(groups or {}, len(counts))),
    }
    return Drawing("class-sizes", arrays, {"groups": list(groups or {}), "rotated": rotated})


def _checked_names(names: Sequence[str] | None, count: int) -> list[str]:
    if count == 0:
        raise LandscapeError("no class to draw")
    names = [str(number) for number in range(count)] if names is None else list(names)
    if len(names) != count:
        raise LandscapeError(f"{count} classes have {len(names)} names: give one each")
    return names


def _group_of_each(groups: Mapping[str, Sequence[int]], count: int) -> list[str]:
    each = [""] * count
    for group, members in groups.items():
        for member in members:
            if not 0 <= member < count:
                raise LandscapeError(f"group '{group}' has class {member}, but there are classes 0 to {count - 1}")
            each[member] = group
    return each


@renders("class-sizes")
def _class_sizes(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    counts, names, each = arrays["counts"], arrays["names"].tolist(), arrays["groups"].tolist()
    rotated, groups = settings["rotated"], settings["groups"]
    width = matplotlib.rcParams["figure.figsize"][0]
    colors = dict(zip(groups, part_colors(groups), strict=True))
    steps = len(counts) > MOST_BARS
    size = matplotlib.rcParams["xtick.labelsize"]
    height = min(2.4, 0.62 * width)
    spacing = (width - 0.7) / max(len(counts), 4)
    if rotated:
        height = 2.4 if steps else max(1.2, 0.19 * len(counts))
        spacing = height / len(counts)
    shown = [shorten(name, size, 0.3 * width if rotated else 1.2) for name in names]
    upright = not rotated and max(text_width(name, size) for name in shown) > 0.9 * spacing
    below = max(text_width(name, size) for name in shown) if upright and not steps else 0.15
    runs = _runs(each)
    entries = [] if steps else legend_entries([Patch(color=colors[group]) for group in groups], groups)
    figure = new_figure(height + (0.0 if rotated else below) + 0.35 + legend_height(entries))
    axes = figure.subplots()
    if steps:
        _draw_steps(axes, counts, runs, colors, rotated)
        axes.set_xlim(0, None)
        axes.set_ylim(0, None)
    else:
        _draw_bars(axes, counts, [colors.get(group, _NEUTRAL) for group in each], rotated, spacing)
        add_legend(figure, entries)
    axis, other = (axes.yaxis, axes.xaxis) if rotated else (axes.xaxis, axes.yaxis)
    other.set_label_text("training images")
    if steps:
        axis.set_label_text("class, sorted by size" if (np.diff(counts) <= 0).all() else "class")
        axis.set_major_locator(MaxNLocator(5, integer=True))
    else:
        _name_classes(axis, shown, spacing, size, upright=upright)
    if rotated:
        axes.invert_yaxis()
    plain_axes(axes, grid="x" if rotated else "y")
    return figure


def _runs(each: Sequence[str]) -> list[tuple[str, int, int]]:
    """(group, first, behind the last) of each run of neighbouring classes of one group."""
    edges = [0, *(place for place in range(1, len(each)) if each[place] != each[place - 1]), len(each)]
    return [(each[first], first, last) for first, last in itertools.pairwise(edges)]


def _draw_bars(axes: Axes, counts: Array, colors: Sequence[Color], rotated: bool, spacing: float) -> None:
    places = np.arange(len(counts))
    bars = (axes.barh if rotated else axes.bar)(places, counts, _BARS, color=colors, linewidth=0)
    size = min(matplotlib.rcParams["font.size"], 72 * spacing / 1.25 if rotated else math.inf)
    widest = max(text_width(str(count), size) for count in counts.tolist())
    if rotated or widest < 0.98 * spacing:
        axes.bar_label(bars, [str(count) for count in counts.tolist()], padding=1.5, fontsize=size)
        if rotated:
            axes.margins(x=0.14)
        else:
            axes.margins(y=0.1)
    slots = max(len(counts), 4)
    ends = (len(counts) - 1 - slots) / 2, (len(counts) - 1 + slots) / 2
    (axes.set_ylim if rotated else axes.set_xlim)(*ends)


def _draw_steps(
    axes: Axes, counts: Array, runs: Sequence[tuple[str, int, int]], colors: Mapping[str, Color], rotated: bool
) -> None:
    """Filled steps, with the name of each group within its run and a dashed line between two runs."""
    size = matplotlib.rcParams["font.size"]
    top = float(counts.max())
    for group, first, last in runs:
        color = colors.get(group, _NEUTRAL)
        axes.stairs(counts[first:last], np.arange(first, last + 1), fill=True, color=color, alpha=0.75, linewidth=0,
                    orientation="horizontal" if rotated else "vertical")  # fmt: skip
        if first:
            (axes.axhline if rotated else axes.axvline)(first, color="0.25", linewidth=0.8, linestyle="--")
        if group:
            middle = (first + last) / 2
            # Beside the steps, where there is room for words: the head reaches to the end of the axis.
            across = min(0.9 * top, max(float(counts[first:last].max()) + 0.06 * top, 0.45 * top))
            place = (across, middle) if rotated else (middle, across)
            axes.annotate(literal(group), place, ha="center", va="center", fontsize=size)


def _name_classes(axis: Any, names: Sequence[str], spacing: float, size: float, *, upright: bool) -> None:
    """A name at every class, or at every second, third, … where the letters would be too small."""
    if upright:
        size = min(size, max(_LEAST_LETTERS, 72 * spacing / 1.15))
    every = math.ceil(1.1 * size / 72 / spacing - 1e-9) if upright or axis.axis_name == "y" else 1
    places = np.arange(len(names))[::every]
    axis.set_ticks(places, [literal(names[place]) for place in places], fontsize=size)
    axis.set_tick_params(length=0, **({"labelrotation": 90} if upright else {}))
    label_numbers(axis, names)


# ---------------------------------------------------------------------- accuracy


def accuracy_bars(
    methods: Mapping[str, ArrayLike],
    names: Sequence[str] | None = None,
    groups: Mapping[str, Sequence[int]] | None = None,
    counts: Sequence[int] | None = None,
) -> Drawing:
    """Accuracy class by class, several methods side by side; the mean of each group as a line through its classes.

    Of several seeds the mean is drawn, with one standard deviation either way. Up to 60 classes have bars; more are
    drawn as points, since only the means of groups can be told apart then.

    Args:
        methods: method → accuracies in [0, 1], ``(C,)`` or ``(seeds, C)``; NaN for a class without samples.
        names: what the classes are called; their numbers if not given.
        groups: group → its classes; they should be neighbours.
        counts: training images a class, drawn below.

    Returns:
        The drawing; its arrays are ``names`` (c,), ``groups`` (c,), ``mean`` and ``deviation`` (m, c), ``group_mean``
        (m, g), and ``counts`` (c,) if given.

    Raises:
        LandscapeError: no method, methods with different numbers of classes, accuracies outside [0, 1], or as
            :func:`class_sizes`.
    """
    tables = {method: np.atleast_2d(np.asarray(values, dtype=np.float64)) for method, values in methods.items()}
    sizes = {method: table.shape[1] for method, table in tables.items()}
    if len(set(sizes.values())) != 1:
        raise LandscapeError(f"methods must have accuracies of the same classes, got {sizes or 'no method'}")
    for method, table in tables.items():
        known = table[np.isfinite(table)]
        if known.size and (known.min() < 0 or known.max() > 1):
            raise LandscapeError(
                f"accuracies of '{method}' run from {known.min():g} to {known.max():g}: expected shares in [0, 1]"
            )
    count = next(iter(sizes.values()))
    names = _checked_names(names, count)
    if counts is not None and len(counts) != count:
        raise LandscapeError(f"{count} classes have {len(counts)} counts: give one each")
    mean = np.array([table.mean(axis=0) for table in tables.values()])
    deviation = np.array([_deviation(table) for table in tables.values()])
    members = list((groups or {}).values())
    arrays: dict[str, NDArray[Any]] = {
        "names": np.array(names),
        "groups": np.array(_group_of_each(groups or {}, count)),
        "mean": mean,
        "deviation": deviation,
        "group_mean": np.array([[_mean(row[list(group)]) for group in members] for row in mean]).reshape(
            len(tables), len(members)
        ),
    }
    if counts is not None:
        arrays["counts"] = np.array(counts, dtype=np.int64)
    return Drawing("accuracy", arrays, {"methods": list(tables), "groups": list(groups or {})})


def _deviation(table: Array) -> Array:
    return table.std(axis=0, ddof=1) if len(table) > 1 else np.full(table.shape[1], np.nan)


def _mean(values: Array) -> float:
    """Of the classes that have samples."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else math.nan


@renders("accuracy")
def _accuracy(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    methods, groups = settings["methods"], settings["groups"]
    mean, each = arrays["mean"], arrays["groups"].tolist()
    classes = mean.shape[1]
    width = matplotlib.rcParams["figure.figsize"][0]
    spacing = (width - 0.7) / max(classes, 4)
    size = matplotlib.rcParams["xtick.labelsize"]
    names = [shorten(name, size, 1.2) for name in arrays["names"].tolist()]
    steps = classes > MOST_BARS
    upright = max(text_width(name, size) for name in names) > 0.9 * spacing
    below = max(text_width(name, size) for name in names) if upright and not steps else 0.15
    entries = legend_entries(*_accuracy_legend(methods, groups, steps))
    with_counts = "counts" in arrays
    figure = new_figure(2.0 + 0.75 * with_counts + below + 0.35 + legend_height(entries), h_pad=0.03)
    rows = figure.subplots(1 + with_counts, 1, sharex=True, squeeze=False,
                           height_ratios=[2.6, 1.0] if with_counts else None)[:, 0]  # fmt: skip
    axes, last = rows[0], rows[-1]
    for place in range(len(methods)):
        _draw_method(axes, arrays, place, len(methods), steps)
    runs = [run for run in _runs(each) if run[0]]
    _draw_group_means(axes, runs, groups, arrays["group_mean"], steps)
    # Room for the names of the groups above the highest bar.
    top = float(np.nanmax(np.fmax(mean, mean + arrays["deviation"]), initial=0.0))
    axes.set_ylim(0, min(1.0, top * 1.05) if top > 0 else 1.0)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    set_percent_labels(axes.yaxis)
    axes.set_ylabel("test accuracy (%)")
    if with_counts:
        colors = dict(zip(groups, part_colors(groups), strict=True))
        last.bar(np.arange(classes), arrays["counts"], 1.0 if steps else _BARS, linewidth=0,
                 color=[colors.get(group, _NEUTRAL) for group in each])  # fmt: skip
        last.set_yscale("log")
        last.set_ylim(0.5 * max(1, arrays["counts"].min()), 2 * arrays["counts"].max())
        last.yaxis.set_major_locator(LogLocator(numticks=4))
        last.yaxis.set_minor_formatter(NullFormatter())
        last.set_ylabel("images")
    if steps:
        last.set_xlabel("class")
        last.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    else:
        _name_classes(last.xaxis, names, spacing, size, upright=upright)
    slots = max(classes, 4)
    axes.set_xlim((classes - 1 - slots) / 2, (classes - 1 + slots) / 2)
    for panel in rows:
        plain_axes(panel)
        panel.tick_params(axis="x", length=0)
        for number, (_, first, behind) in enumerate(runs):
            if number % 2 == 0:
                panel.axvspan(first - 0.5, behind - 0.5, color="0.955", linewidth=0, zorder=-1)
    add_legend(figure, entries)
    figure.align_ylabels()
    return figure


def _accuracy_legend(methods: Sequence[str], groups: Sequence[str], steps: bool) -> tuple[list[Any], list[str]]:
    handles: list[Any] = []
    if len(methods) > 1:
        for place in range(len(methods)):
            if steps:
                handles.append(Line2D([], [], color=method_color(place), markersize=2.5, linestyle="none",
                                      marker=METHOD_LINES[place % len(METHOD_LINES)]["marker"]))  # fmt: skip
            else:
                handles.append(Patch(**_bar_look(place)))
    names = list(methods) if len(methods) > 1 else []
    if groups:
        handles.append(Line2D([], [], color="0.15", linewidth=1.2))
        names.append("mean of the group")
    return handles, names


def _bar_look(place: int) -> dict[str, Any]:
    return {
        "facecolor": method_color(place),
        "hatch": METHOD_HATCHES[place % len(METHOD_HATCHES)],
        "edgecolor": "white",
        "linewidth": 0.0,
    }


def _draw_method(axes: Axes, arrays: Arrays, place: int, count: int, steps: bool) -> None:
    values, deviation = arrays["mean"][place], arrays["deviation"][place]
    places = np.arange(len(values))
    if steps:
        axes.plot(places, values, linestyle="none", marker=METHOD_LINES[place % len(METHOD_LINES)]["marker"],
                  markersize=2.2, markeredgewidth=0, color=method_color(place), alpha=0.6)  # fmt: skip
        return
    width = _BARS / count
    error = np.where(np.isfinite(deviation), deviation, 0.0) if np.isfinite(deviation).any() else None
    axes.bar(places + (place - (count - 1) / 2) * width, values, 0.94 * width, yerr=error, error_kw=_WHISKERS,
             **_bar_look(place))  # fmt: skip


def _draw_group_means(
    axes: Axes, runs: Sequence[tuple[str, int, int]], groups: Sequence[str], means: Array, steps: bool
) -> None:
    """A line of each method through every run of a group, edged in white so that it shows on the bars."""
    for group, first, behind in runs:
        for place, mean in enumerate(means[:, groups.index(group)]):
            color = method_color(place) if steps or len(means) > 1 else "0.15"
            line = METHOD_LINES[place % len(METHOD_LINES)]["linestyle"] if len(means) > 1 else "-"
            axes.plot([first - 0.45, behind - 0.55], [mean, mean], color="white", linewidth=1.8, zorder=4)
            axes.plot([first - 0.45, behind - 0.55], [mean, mean], color=_darker(color), linewidth=1.0,
                      linestyle=line, zorder=5)  # fmt: skip
        axes.annotate(literal(group), xy=((first + behind - 1) / 2, 1), xycoords=("data", "axes fraction"),
                      xytext=(0, 2), textcoords="offset points", ha="center", va="bottom")  # fmt: skip


def _darker(color: Color) -> Color:
    red, green, blue = (0.6 * channel for channel in matplotlib.colors.to_rgb(color))
    return red, green, blue
