"""Surfaces of the loss: lines, contours and reliefs, on scales that all panels share.

What is not finite stays a hole: no line is drawn across it and no colour fills it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LightSource, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from mpl_toolkits.mplot3d.art3d import Poly3DCollection  # type: ignore[import-untyped]
from mpl_toolkits.mplot3d.axes3d import Axes3D  # type: ignore[import-untyped]
from numpy.typing import NDArray

from landscape.errors import LandscapeError
from landscape.plotting.colors import METHOD_LINES, method_color, part_colors
from landscape.plotting.density import MAX_PANELS, plain_or_power
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend
from landscape.plotting.style import label_width, literal, shorten
from landscape.surface.results import Surface

Array = NDArray[np.float64]
Surfaces = Surface | Mapping[str, Surface]

MAX_LINES = 16
"""Lines that can be told apart in one panel."""

NUM_LEVELS = 12
"""Contour lines over the range that all panels share, about."""

_BROAD = 4.5  # inches from which a figure has more than two panels beside each other
_LOGARITHMIC = 30.0  # ratio of the largest to the smallest loss from which their axis is logarithmic
_MOST_DECADES = 6.0  # that contour lines are spread over; what lies below has the colour of the lowest
_BANDS = 3  # shades between two contour lines
_FAR = 0.1  # of the way from θ to the farthest mark: how far off the plane a mark may be and still be drawn filled
_MAX_VECTOR_CELLS = 4000  # cells of all reliefs together that a PDF of a few hundred kilobytes holds
_HIGHEST = 3.2  # inches of a panel that has the width of the page for itself
_PAGE = 8.3  # inches that all rows of panels take at most, so that words and a caption have room on a page
_ROOM_FOR_NAMES = 1.0  # inches of a panel from which names stand in it
_SMALL_RELIEF = 2.0  # inches below which a relief has smaller letters
_MARGIN = 0.07  # of a panel along its frame, where no number stands in a contour line
_LEAST_RELIEF = 1.05  # inches from which a relief can be read
_NOTHING = "no loss of these parts is finite: nothing to draw; compute it in a narrower --range"
_FLOOR = 0.35  # of the range of a relief, from its lowest point down to the contours
_COLORS = cm.batlow


# ---------------------------------------------------------------------- lines


def surface_lines(surfaces: Surfaces, parts: Sequence[str] | None = None) -> Drawing:
    """Loss and accuracy of parts along a line through θ, of one network or several.

    A part has its own colour and a method its own style of line; if only one part is drawn the methods have colours.
    The axis of the loss is logarithmic where losses span a factor of 30. A loss that is infinite is an arrow at the
    upper edge, one that is NaN or not computed yet a gap.

    Args:
        surfaces: of one dimension, or method → such a one.
        parts: in the order of the legend; the groups if all have them, else the classes, else all parts.

    Returns:
        The drawing; its arrays are ``methods`` (M,), ``parts`` and ``labels`` (P,) and, for the m-th method,
        ``m/x`` (n,), ``m/losses`` (P, n) in nats, ``m/accuracies`` (P, n) and ``m/marks`` (T,) where there are any.

    Raises:
        LandscapeError: nothing to draw, a surface of two dimensions, a part that is not there, or more than
            :data:`MAX_LINES` lines.
    """
    methods, chosen = _chosen(surfaces, parts)
    for name, surface in methods.items():
        if surface.y is not None:
            raise LandscapeError(
                f"{_of(name)}has two dimensions: draw it with --kind surface, or compute a line with --dims 1"
            )
    if len(methods) * len(chosen) > MAX_LINES:
        raise LandscapeError(
            f"{len(methods) * len(chosen)} lines cannot be told apart, at most {MAX_LINES}: choose some with --parts"
        )
    arrays: dict[str, NDArray[Any]] = _words(methods, chosen)
    for number, surface in enumerate(methods.values()):
        rows = [surface.parts.index(part) for part in chosen]
        arrays[f"{number}/x"] = surface.x
        arrays[f"{number}/losses"] = surface.losses[rows]
        arrays[f"{number}/accuracies"] = surface.accuracies[rows]
        if surface.marks is not None:
            arrays[f"{number}/marks"] = surface.marks[:, 0]
    losses = np.concatenate([arrays[f"{number}/losses"].ravel() for number in range(len(methods))])
    if not np.isfinite(losses).any():
        raise LandscapeError(_NOTHING)
    directions = {_direction(surface, 0) for surface in methods.values()}
    direction = directions.pop() if len(directions) == 1 else "own direction of each method"
    settings = {
        "scale": "log" if _spread(losses) > _LOGARITHMIC else "linear",
        "axis": _named(direction, _unit([surface.norms[0] for surface in methods.values()])),
        "mark_labels": [list(surface.mark_labels or ()) for surface in methods.values()],
    }
    return Drawing("surface-line", arrays, settings)


@renders("surface-line")
def _lines(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    methods, parts, labels = (arrays[name].tolist() for name in ("methods", "parts", "labels"))
    numbers, colors = range(len(methods)), part_colors(parts)
    has_accuracy = any(np.isfinite(arrays[f"{number}/accuracies"]).any() for number in numbers)
    width, size = matplotlib.rcParams["figure.figsize"][0], matplotlib.rcParams["font.size"]
    broad = width >= _BROAD and has_accuracy
    figure = new_figure(2.35 if broad else 3.6 if has_accuracy else 2.4, w_pad=0.04, h_pad=0.03)
    grid = figure.subplots(
        1 if broad else 1 + has_accuracy, 1 + broad, sharex=True, squeeze=False,
        height_ratios=None if broad or not has_accuracy else [1.6, 1],
    )  # fmt: skip
    panels = list(grid.flat)
    panels[0].set_ylabel("loss (nats)")
    if settings["scale"] == "log":
        _set_log_axis(panels[0], np.concatenate([arrays[f"{number}/losses"].ravel() for number in numbers]))
    for axes, name, scale in zip(panels, ("losses", "accuracies"), (1, 100), strict=False):
        for number in numbers:
            x = arrays[f"{number}/x"]
            for row in range(len(parts)):
                color = method_color(number) if len(parts) == 1 < len(methods) else colors[row]
                _draw_line(axes, x, scale * arrays[f"{number}/{name}"][row], color, _line_style(methods, number, row))
    if has_accuracy:
        panels[1].set_ylabel("accuracy (%)")
    limits = [float(edge) for number in numbers for edge in arrays[f"{number}/x"][[0, -1]]]
    panels[0].set_xlim(min(limits), max(limits))
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    _mark_line(panels, arrays, settings["mark_labels"], size, (width / 2 if broad else width) - 0.6)
    figure.supxlabel(_fitted(settings["axis"], matplotlib.rcParams["figure.labelsize"], width - 0.3))
    figure.align_ylabels(panels)
    infinite = any(np.isposinf(arrays[f"{number}/losses"]).any() for number in numbers)
    entries = _line_entries(methods, parts, labels, width, infinite=infinite)
    if entries:
        add_legend(figure, entries, most=7)
    return figure


def _line_style(methods: Sequence[str], method: int, part: int) -> Any:
    """Of the method if there are several, else of the part: nothing is told by colour alone."""
    return METHOD_LINES[(method if len(methods) > 1 else part) % len(METHOD_LINES)]["linestyle"]


def _draw_line(axes: Axes, x: Array, values: Array, color: Any, line: Any) -> None:
    finite = np.isfinite(values)
    axes.plot(x, np.where(finite, values, np.nan), color=color, linestyle=line)
    # A finite value between two that are not is no line: without a dot it would be lost.
    left, right = np.r_[False, finite[:-1]], np.r_[finite[1:], False]
    alone = finite & ~left & ~right
    if alone.any():
        axes.plot(x[alone], values[alone], linestyle="none", marker=".", markersize=3, color=color)
    infinite = np.isposinf(values)
    if infinite.any():
        axes.plot(
            x[infinite], np.ones(infinite.sum()), linestyle="none", marker="^", markersize=3, color=color,
            clip_on=False, transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _set_log_axis(axes: Axes, losses: Array) -> None:
    positive = losses[np.isfinite(losses) & (losses > 0)]
    axes.set_yscale("log", nonpositive="clip")
    axes.set_ylim(positive.min() / 1.5, positive.max() * 1.5)
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=12))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _mark_line(
    panels: Sequence[Axes], arrays: Arrays, names: Sequence[Sequence[str]], size: float, inches: float
) -> None:
    """Dotted lines at θ and at the marks; a name where it is the same for all methods, cut where it meets others.

    Args:
        inches: of a panel from side to side.
    """
    found: dict[float, set[str]] = {}
    for number, words in enumerate(names):
        for place, word in zip(arrays.get(f"{number}/marks", np.empty(0)).tolist(), words, strict=True):
            found.setdefault(round(place, 12), set()).add(word)
    found.setdefault(0.0, {"θ"})
    low, high = panels[0].get_xlim()
    places = sorted(place for place in found if low <= place <= high)
    named = sorted(set(places if len(places) <= 4 else (places[0], places[-1], 0.0)) & set(places))
    gaps = [inches, *(np.diff(named) / (high - low) * inches), inches]
    room = {place: min(pair) - 0.06 for place, pair in zip(named, itertools.pairwise(gaps), strict=False)}
    for place in places:
        for axes in panels:
            axes.axvline(place, color="0.5", linewidth=0.6, linestyle=(0, (1, 2)), zorder=0)
        if place in named and len(found[place]) == 1:
            name = shorten(next(iter(found[place])), size - 1, room[place])
            panels[0].annotate(
                literal(name), (place, 1), (0, 2), xycoords=panels[0].get_xaxis_transform(),
                textcoords="offset points", ha="center", va="bottom", fontsize=size - 1, color="0.35",
            )  # fmt: skip


def _line_entries(
    methods: Sequence[str], parts: Sequence[str], labels: Sequence[str], width: float, *, infinite: bool
) -> list[tuple[Any, str]]:
    size = matplotlib.rcParams["legend.fontsize"]
    several = len(methods) > 1
    entries: list[tuple[Any, str]] = []
    if len(parts) > 1 or not several:
        entries += [
            (
                Line2D([], [], color=color, linestyle="-" if several else _line_style(methods, 0, row)),
                literal(shorten(label, size, 0.4 * width)),
            )
            for row, (color, label) in enumerate(zip(part_colors(parts), labels, strict=True))
        ]
    if several:
        entries += [
            (
                Line2D([], [], color="0.35" if len(parts) > 1 else method_color(number),
                       linestyle=_line_style(methods, number, 0)),
                literal(shorten(method, size, 0.4 * width)),
            )
            for number, method in enumerate(methods)
        ]  # fmt: skip
    if infinite:
        entries.append((Line2D([], [], color="0.35", linestyle="none", marker="^", markersize=3), "infinite loss"))
    return entries


# ---------------------------------------------------------------------- planes


def surface_contours(
    surfaces: Surfaces, parts: Sequence[str] | None = None, levels: int | Sequence[float] = NUM_LEVELS
) -> Drawing:
    """Contours of the loss in a plane through θ: one panel a part and method, all on the same levels.

    Of several methods and parts a row is a part and a column a method. Contour lines are at 1, 2, 5 or 1, 3 or 1 times
    powers of ten, as many as about ``levels``, over the range of all panels; where that is less than a factor of ten
    they are at equal distances. Losses that are not finite leave hatched holes. θ and the marks of the surface (the
    epochs of a trajectory, checkpoints) are drawn where they are projected to; a mark is hollow if it lies off the
    plane by more than a tenth of the way from θ to the farthest mark. Both axes have the same scale if both directions
    have about the same norm.

    Args:
        surfaces: of two dimensions, or method → such a one.
        parts: in panel order; the groups if all have them, else the classes, else all parts.
        levels: about how many contour lines, or at which losses, nats.

    Returns:
        The drawing; its arrays are ``methods`` (M,), ``parts`` and ``labels`` (P,), ``levels`` (L,) and ``limits``
        (2,) of the colours in nats and, for the m-th method, ``m/x`` (nx,), ``m/y`` (ny,), ``m/losses`` (P, ny, nx),
        ``m/done`` (ny, nx) and, where there are marks, ``m/marks`` (T, 2), ``m/mark_distances`` and ``m/far`` (T,).

    Raises:
        LandscapeError: nothing to draw, a surface of one dimension, a part that is not there, more than
            :data:`~landscape.plotting.density.MAX_PANELS` panels, or levels that are no losses.

    Source: Li et al., NeurIPS 2018; trajectories by principal components: Lorch, ICML workshop 2016.
    """
    arrays, settings = _plane(surfaces, parts, levels)
    return Drawing("surface", arrays, settings)


def surface_relief(
    surfaces: Surfaces, parts: Sequence[str] | None = None, levels: int | Sequence[float] = NUM_LEVELS
) -> Drawing:
    """The surfaces of :func:`surface_contours` as reliefs over their contours, on one scale of height and colour.

    Cells with a corner that is not finite are left out.

    Args, returns and raises as :func:`surface_contours`.
    """
    arrays, settings = _plane(surfaces, parts, levels)
    return Drawing("surface-3d", arrays, settings)


def _plane(
    surfaces: Surfaces, parts: Sequence[str] | None, levels: int | Sequence[float]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    methods, chosen = _chosen(surfaces, parts)
    for name, surface in methods.items():
        if surface.y is None:
            raise LandscapeError(
                f"{_of(name)}has one dimension: draw it with --kind surface-line, or compute a plane with --dims 2"
            )
    if len(methods) * len(chosen) > MAX_PANELS:
        raise LandscapeError(
            f"{len(methods) * len(chosen)} panels do not fit on a page, at most {MAX_PANELS}: choose some with --parts"
        )
    arrays: dict[str, NDArray[Any]] = _words(methods, chosen)
    for number, surface in enumerate(methods.values()):
        assert surface.y is not None
        arrays[f"{number}/x"], arrays[f"{number}/y"] = surface.x, surface.y
        arrays[f"{number}/losses"] = surface.losses[[surface.parts.index(part) for part in chosen]]
        arrays[f"{number}/done"] = surface.done
        if surface.marks is not None:
            distances = np.zeros(len(surface.marks)) if surface.mark_distances is None else surface.mark_distances
            arrays[f"{number}/marks"], arrays[f"{number}/mark_distances"] = surface.marks, distances
            arrays[f"{number}/far"] = distances > _FAR * _farthest(surface, distances)
    losses = np.concatenate([arrays[f"{number}/losses"].ravel() for number in range(len(methods))])
    scale, arrays["levels"], arrays["limits"] = loss_levels(losses, levels)
    every = list(methods.values())
    names = [[_direction(surface, axis) for surface in every] for axis in (0, 1)]
    alike = [
        names[axis][0]
        if len(set(names[axis])) == 1 and all(_same_grid(surface, every[0]) for surface in every)
        else None
        for axis in (0, 1)
    ]
    settings = {
        "scale": scale,
        "axes": names,
        "shared_axes": alike if None not in alike else [None, None],
        "unit": _unit([norm for surface in every for norm in surface.norms]),
        "units": [_unit([surface.norms[axis] for surface in every]) for axis in (0, 1)],
        "equal": all(_is_isometric(surface) for surface in every),
        "path": [surface.kind == "trajectory" for surface in every],
        "mark_labels": [list(surface.mark_labels or ()) for surface in every],
    }
    return arrays, settings


def loss_levels(losses: Array, levels: int | Sequence[float] = NUM_LEVELS) -> tuple[str, Array, Array]:
    """Round levels over the range of ``losses``, for contours that can be compared.

    Args:
        losses: of all panels; what is not finite is passed over.
        levels: about how many, or which.

    Returns:
        The scale (``log`` or ``linear``), the levels ascending, and the two ends of the colours: of the finite losses,
        on a logarithmic scale of the positive ones and not more than six decades below the highest.

    Raises:
        LandscapeError: no finite loss, fewer than two levels asked for, or levels that are not finite and positive.
    """
    known = losses[np.isfinite(losses)]
    if not known.size:
        raise LandscapeError(_NOTHING)
    positive = known[known > 0]
    low, high = float(known.min()), float(known.max())
    scale = "linear"
    if positive.size and high > 10 * positive.min():
        scale, low = "log", max(float(positive.min()), high * 10**-_MOST_DECADES)
    if not isinstance(levels, int):
        chosen = np.unique(np.asarray(levels, dtype=np.float64))
        if not chosen.size or not np.isfinite(chosen).all() or (scale == "log" and chosen[0] <= 0):
            raise LandscapeError(f"levels = {list(levels)}: contour lines are at losses, give finite numbers above 0")
        return scale, chosen, np.array([min(low, chosen[0]), max(high, chosen[-1])])
    if levels < 2:
        raise LandscapeError(f"levels = {levels}: give at least 2 contour lines")
    if high - low <= 1e-9 * abs(high):  # flat: there is no level between its ends
        margin = 0.05 * (abs(high) or 1.0)
        return "linear", np.array([high]), np.array([high - margin, high + margin])
    if scale == "linear":
        chosen = np.asarray(MaxNLocator(levels).tick_values(low, high))
        return scale, chosen[(chosen > low) & (chosen < high)], np.array([low, high])
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    chosen = np.empty(0)
    for digits in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        chosen = np.array([digit * 10.0**decade for decade in decades for digit in digits])
        chosen = chosen[(chosen > low) & (chosen < high)]
        if len(chosen) <= levels:
            break
    return scale, chosen, np.array([low, high])


@renders("surface")
def _contours(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width, size = matplotlib.rcParams["figure.figsize"][0], matplotlib.rcParams["font.size"]
    own_axes = None in settings["shared_axes"]
    grid = _Grid.of(arrays, 4 if width >= _BROAD else 1 if own_axes else 2, side="right")
    shades = _Shades.of(arrays, settings)
    panel_width = (width - 1.3) / grid.columns - (0.4 if own_axes else 0.12)
    tallest = max(_aspect(arrays, number) for number in range(len(arrays["methods"])))
    # A panel much flatter or taller than a square has room for the other axis only if that is stretched.
    equal = settings["equal"] and 0.4 <= tallest <= 2.0
    height = min(panel_width * (tallest if equal else 0.9), _HIGHEST, _page_share(grid))
    if equal:  # a panel that must not be higher is no wider either
        panel_width = height / tallest
    entries = _plane_entries(arrays, settings)
    words = _plane_words(settings, width - 0.9, grid.rows * height)
    below = (grid.rows if own_axes else 1) * 0.32 + 0.14 * words.below.count("\n")
    figure = new_figure(
        grid.rows * (height + 0.06) + 0.2 * grid.num_titled + below + 0.15 + 0.25 * bool(entries),
        w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02,
    )  # fmt: skip
    plots = figure.subplots(grid.rows, grid.columns, squeeze=False, sharex=not own_axes, sharey=not own_axes)
    for axes in plots.flat[len(grid.panels) :]:
        axes.set_axis_off()
    for axes, panel in zip(plots.flat, grid.panels, strict=False):
        own = {name: arrays[f"{panel.method}/{name}"] for name in ("x", "y", "done")}
        losses = arrays[f"{panel.method}/losses"][panel.part]
        axes.set_xlim(own["x"][0], own["x"][-1])
        axes.set_ylim(own["y"][0], own["y"][-1])
        if equal:
            axes.set_aspect("equal")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(min(max(2, int(panel_width / 0.38)), 6), steps=[1, 2, 5, 10]))
            axis.set_major_formatter(FuncFormatter(_plain))
        axes.set_title(literal(shorten(panel.title, matplotlib.rcParams["axes.titlesize"], panel_width)))
        if panel.side:
            side = literal(shorten(panel.side, size, height))
            axes.annotate(side, (1, 0.5), (3, 0), xycoords="axes fraction", textcoords="offset points",
                          rotation=-90, ha="left", va="center")  # fmt: skip
        _draw_holes(axes, own, losses)
        shades.draw(axes, own["x"], own["y"], losses, labels=panel_width > _ROOM_FOR_NAMES, size=size - 1.5)
        _draw_marks(axes, arrays, panel, settings, panel_width, size)
        if own_axes:
            axes.set_xlabel(settings["axes"][0][panel.method] if grid.is_bottom(panel) else "")
            axes.set_ylabel(settings["axes"][1][panel.method] if grid.is_left(panel) else "")
            axes.tick_params(labelbottom=grid.is_bottom(panel), labelleft=grid.is_left(panel))
        elif grid.is_bottom(panel):
            axes.tick_params(labelbottom=True)  # of a column whose lowest place is empty
    figure.supxlabel(words.below)
    if len(grid.panels) == 1:
        plots[0, 0].set_ylabel(words.left)
    elif not own_axes:
        figure.supylabel(words.left)
    shades.add_bar(figure, list(plots.flat), size)
    if entries:
        add_legend(figure, entries)
    return figure


@renders("surface-3d")
def _reliefs(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width, size = matplotlib.rcParams["figure.figsize"][0], matplotlib.rcParams["font.size"]
    grid = _Grid.of(arrays, min(max(int((width - 0.6) / _LEAST_RELIEF), 1), 4), side="left")
    shades = _Shades.of(arrays, settings)
    panel_width = (width - 0.6) / grid.columns
    height = min(0.82 * panel_width, _HIGHEST, max(_page_share(grid), 0.82 * _LEAST_RELIEF))
    panel_width = height / 0.82
    words = _plane_words(settings, width, 0.0)
    figure = new_figure(
        grid.rows * (height + 0.04) + 0.14 * grid.num_titled + 0.25 + 0.14 * words.below.count("\n"),
        w_pad=0.05, h_pad=0.02, wspace=0.0, hspace=0.0,
    )  # fmt: skip
    cells = sum(arrays[f"{panel.method}/done"].size for panel in grid.panels)
    plots = []
    for place, panel in enumerate(grid.panels):
        axes = figure.add_subplot(grid.rows, grid.columns, place + 1, projection="3d", computed_zorder=False)
        plots.append(axes)
        own = {name: arrays[f"{panel.method}/{name}"] for name in ("x", "y")}
        losses = arrays[f"{panel.method}/losses"][panel.part]
        shades.raise_relief(axes, own["x"], own["y"], losses, rasterized=cells > _MAX_VECTOR_CELLS)
        _set_camera(axes, shades, panel_width, size)
        axes.set_title(literal(shorten(panel.title, matplotlib.rcParams["axes.titlesize"], panel_width)), pad=-1)
        if panel.side:
            axes.text2D(-0.06, 0.45, literal(shorten(panel.side, size, height)), transform=axes.transAxes, rotation=90,
                        ha="left", va="center")  # fmt: skip
    shades.add_bar(figure, plots, size)
    figure.supxlabel(words.below)
    return figure


# ---------------------------------------------------------------------- panels of a plane


@dataclass(frozen=True)
class _Panel:
    """What one panel shows and where its names stand."""

    method: int
    part: int
    title: str  # above
    side: str  # beside, turned
    row: int
    column: int


@dataclass(frozen=True)
class _Grid:
    """Panels in rows and columns: parts × methods, or the one of them that there are several of, wrapped."""

    panels: list[_Panel]
    rows: int
    columns: int

    @classmethod
    def of(cls, arrays: Arrays, most: int, side: Literal["left", "right"]) -> _Grid:
        """Rows of parts and columns of methods, or the other way where only that fits: ``most`` beside each other."""
        methods, labels = arrays["methods"].tolist(), arrays["labels"].tolist()
        if len(methods) > 1 and len(labels) > 1:
            turned = len(methods) > max(most, 2) and len(labels) < len(methods)
            above, beside = (labels, methods) if turned else (methods, labels)
            panels = [
                _Panel(
                    row if turned else column,
                    column if turned else row,
                    above[column] if row == 0 else "",
                    beside[row] if column == (0 if side == "left" else len(above) - 1) else "",
                    row,
                    column,
                )
                for row in range(len(beside))
                for column in range(len(above))
            ]
            return cls(panels, len(beside), len(above))
        count = max(len(methods), len(labels))
        columns = math.ceil(count / math.ceil(count / most))
        panels = [
            _Panel(i if len(methods) > 1 else 0, i if len(labels) > 1 else 0, name, "", i // columns, i % columns)
            for i, name in enumerate(methods if len(methods) > 1 else labels)
        ]
        return cls(panels, math.ceil(count / columns), columns)

    @property
    def num_titled(self) -> int:
        """Rows with names above their panels."""
        return len({panel.row for panel in self.panels if panel.title})

    def is_bottom(self, panel: _Panel) -> bool:
        """Whether no panel of the same plane is right below it."""
        return not any(
            (other.row, other.column, other.method) == (panel.row + 1, panel.column, panel.method)
            for other in self.panels
        )

    def is_left(self, panel: _Panel) -> bool:
        """Whether no panel of the same plane is right before it."""
        return not any(
            (other.row, other.column, other.method) == (panel.row, panel.column - 1, panel.method)
            for other in self.panels
        )


def _page_share(grid: _Grid) -> float:
    """Inches that a row of panels may take, its name with it, so that all of them stand on one page."""
    return (_PAGE - 0.2 * grid.num_titled) / grid.rows - 0.06


@dataclass(frozen=True)
class _Words:
    """What stands beside all panels of a plane."""

    below: str
    left: str


def _plane_words(settings: Mapping[str, Any], width: float, height: float) -> _Words:
    """Directions and units of both axes, on the axes if they fit, else below with a short name on each axis."""
    size = matplotlib.rcParams["figure.labelsize"]
    if None in settings["shared_axes"]:
        return _Words(settings["unit"], "")
    names = [_named(name, unit) for name, unit in zip(settings["shared_axes"], settings["units"], strict=True)]
    upright = _fitted(names[1], size, height)
    if max(label_width(line, size) for line in upright.split("\n")) < height:
        return _Words(_fitted(names[0], size, width), upright)
    return _Words(
        "\n".join(_fitted(f"a$_{number}$: {name}", size, width) for number, name in enumerate(names, 1)), "a$_2$"
    )


@dataclass(frozen=True)
class _Shades:
    """Colours and levels that all panels share, in units of their common axis: log₁₀ of the loss, or the loss."""

    scale: str  # log | linear
    levels: Array  # of the lines, in these units
    bands: Array  # edges of the shades
    below: bool  # whether some losses lie below the lowest shade

    @classmethod
    def of(cls, arrays: Arrays, settings: Mapping[str, Any]) -> _Shades:
        scale = settings["scale"]
        levels, limits = (_on_axis(arrays[name], scale) for name in ("levels", "limits"))
        edges = np.unique(np.concatenate([limits, levels]))
        steps = [np.linspace(low, high, _BANDS, endpoint=False) for low, high in itertools.pairwise(edges)]
        losses = np.concatenate([arrays[f"{m}/losses"].ravel() for m in range(len(arrays["methods"]))])
        return cls(
            scale,
            levels,
            np.concatenate([*steps, edges[-1:]]),
            bool((losses[np.isfinite(losses)] < arrays["limits"][0]).any()),
        )

    @property
    def norm(self) -> Normalize:
        return Normalize(self.bands[0], self.bands[-1])

    def heights(self, losses: Array) -> Array:
        """Losses on the axis, those below it at its foot; NaN for what is not finite."""
        finite = np.isfinite(losses)
        return np.where(finite, np.maximum(_on_axis(np.where(finite, losses, 1.0), self.scale), self.bands[0]), np.nan)

    def draw(self, axes: Axes, x: Array, y: Array, losses: Array, *, labels: bool, size: float) -> None:
        """Filled contours and lines, the lines with their losses where there is room."""
        z = np.ma.masked_invalid(self.heights(losses))
        if z.mask.all() or min(z.shape) < 2:
            return
        filled = axes.contourf(x, y, z, self.bands, cmap=_COLORS, norm=self.norm, extend=self._extend)
        # Neighbouring shades share an edge, which viewers leave white if neither draws it.
        filled.set(edgecolor="face", linewidth=0.15)
        inside = self.levels[(self.levels > z.min()) & (self.levels < z.max())]
        if not inside.size:
            return
        lines = axes.contour(x, y, z, inside, colors=[self._ink(level) for level in inside], linewidths=0.4,
                             linestyles="solid")  # fmt: skip
        if labels:
            axes.apply_aspect()
            numbers = axes.clabel(
                lines, inside[:: math.ceil(len(inside) / 5)], fmt=self._word, fontsize=size, inline_spacing=1
            )
            for number in numbers:  # one that the frame would cut says nothing
                place = axes.transAxes.inverted().transform(axes.transData.transform(number.get_position()))
                number.set_visible(bool((np.abs(place - 0.5) < 0.5 - _MARGIN).all()))

    def raise_relief(self, axes: Axes3D, x: Array, y: Array, losses: Array, *, rasterized: bool) -> None:
        """The cells whose corners are all finite, shaded, and their contours on the floor."""
        z = self.heights(losses)
        corners = [
            np.stack(np.broadcast_arrays(x[None, i : len(x) - 1 + i], y[j : len(y) - 1 + j, None],
                                         z[j : len(y) - 1 + j, i : len(x) - 1 + i]), axis=-1)
            for j, i in ((0, 0), (0, 1), (1, 1), (1, 0))
        ]  # fmt: skip
        cells = np.stack(corners, axis=2).reshape(-1, 4, 3)
        cells = cells[np.isfinite(cells).all(axis=(1, 2))]
        axes.set_xlim(x[0], x[-1], view_margin=0)
        axes.set_ylim(y[0], y[-1], view_margin=0)
        axes.set_zlim(self._foot, self.bands[-1], view_margin=0)
        if not len(cells):
            return
        # In box units: the light falls on slopes as they are seen.
        scale = np.array([np.ptp(x), np.ptp(y), np.ptp(self.bands)])
        edges = (cells[:, 1] - cells[:, 0]) / scale, (cells[:, 3] - cells[:, 0]) / scale
        normals = np.cross(*edges)
        light = LightSource(azdeg=225, altdeg=50).direction
        lit = 0.72 + 0.28 * (normals @ light) / np.linalg.norm(normals, axis=1)
        colors = _COLORS(self.norm(cells[:, :, 2].mean(axis=1)))
        colors[:, :3] *= np.clip(lit, 0.35, 1.0)[:, None]
        mesh = Poly3DCollection(cells, facecolors=colors, edgecolors=colors, linewidths=0.15, zorder=3)
        mesh.set_rasterized(rasterized)
        axes.add_collection3d(mesh, autolim=False)
        masked = np.ma.masked_invalid(z)
        inside = self.levels[(self.levels > masked.min()) & (self.levels < masked.max())]
        if inside.size:
            axes.contour(x, y, masked, inside, colors=[_COLORS(self.norm(level)) for level in inside], linewidths=0.6,
                         linestyles="solid", zdir="z", offset=self._foot, zorder=2)  # fmt: skip

    def add_bar(self, figure: Canvas, plots: Sequence[Axes], size: float) -> None:
        """One bar for all panels, with the contour lines on it."""
        # A single panel may be narrower than its place: the bar goes beside the panel, not beside the place.
        where: dict[str, Any] = {"ax": plots, "aspect": 25, "pad": 0.02, "fraction": 0.05}
        if plots[0].name == "3d":
            where |= {"shrink": 0.7, "aspect": 20, "pad": 0.04}
        elif len(plots) == 1:
            where = {"cax": plots[0].inset_axes((1.03, 0, 0.045, 1))}
        bar = figure.colorbar(
            ScalarMappable(self.norm, _COLORS), boundaries=self.bands, spacing="proportional", extend=self._extend,
            **where,
        )  # fmt: skip
        bar.set_label("loss (nats)")
        bar.outline.set_linewidth(0.4)
        inside = self.levels
        bar.ax.hlines(inside, 0, 1, colors=[self._ink(level) for level in inside], linewidth=0.4)
        bar.set_ticks(self.ticks(8).tolist())
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda level, _: self._word(level)))
        bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=size)

    def ticks(self, most: int) -> Array:
        """What has a number on an axis: powers of ten if there are enough levels at such, else every so many levels."""
        if self.scale == "log":
            powers = self.levels[np.isclose(self.levels, np.round(self.levels))]
            if len(powers) >= 3:
                return powers[:: math.ceil(len(powers) / most)]
        elif len(self.levels) > 1:
            ticks = np.asarray(MaxNLocator(most - 1, steps=[1, 2, 5, 10]).tick_values(self.bands[0], self.bands[-1]))
            return ticks[(ticks >= self.bands[0]) & (ticks <= self.bands[-1])]
        return self.levels[:: math.ceil(len(self.levels) / most)]

    @property
    def _foot(self) -> float:
        return float(self.bands[0] - _FLOOR * (self.bands[-1] - self.bands[0]))

    @property
    def _extend(self) -> Any:
        return "min" if self.below else "neither"

    def _ink(self, level: float) -> str:
        """Of a line on its shade."""
        red, green, blue, _ = _COLORS(self.norm(level))
        return "0.1" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.42 else "0.95"

    def _word(self, level: float) -> str:
        loss = 10.0**level if self.scale == "log" else level
        return f"{round(loss, 6):g}" if loss == 0 or 1e-2 <= abs(loss) < 1e4 else plain_or_power(loss)


def _on_axis(losses: Array, scale: str) -> Array:
    if scale == "linear":
        return np.asarray(losses, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(losses > 0, np.log10(losses), -np.inf)


def _plain(value: float, _: int | None) -> str:
    return f"{value:g}".replace("-", "−")


def _set_camera(axes: Axes3D, shades: _Shades, panel_width: float, size: float) -> None:
    axes.view_init(elev=28, azim=-58)
    axes.set_box_aspect((1, 1, 0.75), zoom=1.04)
    small = panel_width < _SMALL_RELIEF
    letters = size - 1 if small else size
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_linewidth(0.5)
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis):
        # Not at the corner, where the numbers of both axes meet.
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="both"))
        axis.set_major_formatter(FuncFormatter(_plain))
    axes.zaxis.set_major_locator(FixedLocator(shades.ticks(4 if small else 6).tolist()))
    axes.zaxis.set_major_formatter(FuncFormatter(lambda level, _: shades._word(level)))
    axes.tick_params(labelsize=letters, pad=-3.5 if small else -2)
    axes.set_xlabel("a$_1$", labelpad=-11 if small else -8, fontsize=letters)
    axes.set_ylabel("a$_2$", labelpad=-11 if small else -8, fontsize=letters)


def _draw_holes(axes: Axes, own: Mapping[str, Array], losses: Array) -> None:
    """Hatched where losses are not finite, grey where they have not been computed; behind the contours."""
    if not np.isfinite(losses[own["done"]]).all():
        axes.add_patch(
            Rectangle((0, 0), 1, 1, transform=axes.transAxes, facecolor="white", edgecolor="0.5", hatch=_HATCH,
                      linewidth=0, zorder=-2)
        )  # fmt: skip
    done = np.asarray(own["done"], dtype=bool)
    if not done.all():
        whole = done[:-1, :-1] & done[1:, :-1] & done[:-1, 1:] & done[1:, 1:]
        axes.pcolormesh(own["x"], own["y"], np.ma.masked_where(whole, np.zeros(whole.shape)), cmap=_GREY, zorder=-1)


def _draw_marks(
    axes: Axes, arrays: Arrays, panel: _Panel, settings: Mapping[str, Any], panel_width: float, size: float
) -> None:
    """θ and the marks, with their names where there is room; of a path those of both ends."""
    method, names = panel.method, {}
    if f"{method}/marks" in arrays:
        marks, far = arrays[f"{method}/marks"], arrays[f"{method}/far"]
        if settings["path"][method]:
            axes.plot(*marks.T, color="white", linewidth=1.5, zorder=4)
            axes.plot(*marks.T, color="black", linewidth=0.7, zorder=4)
            _draw_arrows(axes, marks)
        for is_far, face in ((False, "black"), (True, "white")):
            axes.plot(*marks[far == is_far].T, **{**_MARK, "markerfacecolor": face})
        words = settings["mark_labels"][method]
        named = range(len(words)) if not settings["path"][method] else (0, len(words) - 1) if words else ()
        names = {tuple(marks[index].tolist()): words[index] for index in named}
    axes.plot([0], [0], **_THETA)
    if panel.row == panel.column == 0:
        names[0.0, 0.0] = f"{names[0.0, 0.0]} (θ)" if (0.0, 0.0) in names else "θ"
    if panel_width > _ROOM_FOR_NAMES:
        for place, name in names.items():
            _name_mark(axes, place, literal(shorten(name, size, 0.6 * panel_width)), size - 0.5)


def _name_mark(axes: Axes, place: tuple[float, float], name: str, size: float) -> None:
    """A name beside a mark, on the side where there is more room."""
    across, up = axes.transAxes.inverted().transform(axes.transData.transform(place))
    axes.annotate(
        name, place, (4 if across < 0.5 else -4, 4 if up < 0.5 else -4), textcoords="offset points", fontsize=size,
        ha="left" if across < 0.5 else "right", va="bottom" if up < 0.5 else "top", zorder=6, annotation_clip=True,
        bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
    )  # fmt: skip


def _draw_arrows(axes: Axes, marks: Array) -> None:
    """Heads on the longest legs of a path, which say where it goes."""
    spans = np.array([np.diff(axes.get_xlim())[0], np.diff(axes.get_ylim())[0]])
    legs = np.diff(marks, axis=0)
    lengths = np.linalg.norm(legs / spans, axis=1)
    for index in np.argsort(lengths)[::-1][:3]:
        if lengths[index] > 0.12:
            axes.annotate(
                "", marks[index] + 0.6 * legs[index], marks[index] + 0.4 * legs[index], zorder=5,
                arrowprops={"arrowstyle": "-|>,head_width=0.22,head_length=0.45", "color": "black", "linewidth": 0.5,
                            "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip


def _plane_entries(arrays: Arrays, settings: Mapping[str, Any]) -> list[tuple[Any, str]]:
    methods = range(len(arrays["methods"]))
    entries: list[tuple[Any, str]] = []
    marked = [m for m in methods if f"{m}/marks" in arrays]
    if marked:
        line = {"linestyle": "-", "linewidth": 0.7, "color": "black"} if any(settings["path"]) else {}
        entries.append((Line2D([], [], **{**_MARK, **line}), "epochs" if line else "checkpoints"))
    if any(arrays[f"{m}/far"].any() for m in marked):
        most = max(float(arrays[f"{m}/mark_distances"].max()) for m in marked)
        entries.append(
            (Line2D([], [], **{**_MARK, "markerfacecolor": "white"}), f"off the plane, L$_2$ distance up to {most:.2g}")
        )
    if any(not np.isfinite(arrays[f"{m}/losses"][:, arrays[f"{m}/done"]]).all() for m in methods):
        entries.append((Patch(facecolor="white", edgecolor="0.5", hatch=_HATCH, linewidth=0), "not finite"))
    if any(not arrays[f"{m}/done"].all() for m in methods):
        entries.append((Patch(facecolor=_GREY(0.0), linewidth=0), "not computed yet"))
    return entries


# ---------------------------------------------------------------------- shared

_HATCH = "//////"
_GREY = matplotlib.colors.ListedColormap(["0.85"])
_MARK: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 2.6,
    "color": "black",
    "markerfacecolor": "black",
    "markeredgecolor": "black",
    "markeredgewidth": 0.5,
    "zorder": 5,
}
_THETA: dict[str, Any] = {
    "linestyle": "none",
    "marker": "P",
    "markersize": 5,
    "markerfacecolor": "white",
    "markeredgecolor": "black",
    "markeredgewidth": 0.6,
    "zorder": 6,
}


def _chosen(surfaces: Surfaces, parts: Sequence[str] | None) -> tuple[dict[str, Surface], list[str]]:
    """Method → surface, and the parts to draw of each."""
    methods = {"": surfaces} if isinstance(surfaces, Surface) else dict(surfaces)
    if not methods:
        raise LandscapeError("no surface to draw: give at least one file of `landscape surface`")
    first = next(iter(methods.values())).parts
    common = [part for part in first if all(part in surface.parts for surface in methods.values())]
    if parts is None:
        for kind in ("group/", "class/", ""):
            found = [part for part in common if part.startswith(kind)]
            if found:
                return methods, found
        raise LandscapeError("these surfaces have no part in common: name the same parts when computing them")
    if not parts:
        raise LandscapeError(f"no part to draw was chosen; there are {', '.join(common)}")
    for part in parts:
        for name, surface in methods.items():
            if part not in surface.parts:
                raise LandscapeError(f"{_of(name)}has no part '{part}': it holds {', '.join(surface.parts)}")
    return methods, list(parts)


def _of(name: str) -> str:
    return f"the surface of '{name}' " if name else "the surface "


def _words(methods: Mapping[str, Surface], chosen: Sequence[str]) -> dict[str, NDArray[Any]]:
    first = next(iter(methods.values()))
    return {
        "methods": np.array(list(methods)),
        "parts": np.array(chosen),
        "labels": np.array([first.labels[first.parts.index(part)] for part in chosen]),
    }


def _spread(losses: Array) -> float:
    """The largest finite loss over the smallest positive one."""
    positive = losses[np.isfinite(losses) & (losses > 0)]
    return float(positive.max() / positive.min()) if positive.size else 1.0


def _same_grid(one: Surface, other: Surface) -> bool:
    return np.array_equal(one.x, other.x) and np.array_equal(one.y, other.y)  # type: ignore[arg-type]


def _direction(surface: Surface, axis: int) -> str:
    name = re.sub(r"^v_(min|max)\b", r"v$_{\1}$", literal(surface.axis_labels[axis]))
    if surface.explained_variance is None:
        return name
    percent = 100 * surface.explained_variance[axis]
    return f"{name} ({percent:{'.0f' if percent >= 99.5 else '.2g'}} %)"


def _unit(norms: Sequence[float]) -> str:
    """What 1 on an axis is: a direction of this norm; of an imported surface nobody knows."""
    if not np.isfinite(norms).all():
        return ""
    ends = sorted({f"{float(norm):.3g}" for norm in norms}, key=float)
    return f"‖d‖ = {ends[0]}" if len(ends) == 1 else f"‖d‖ = {ends[0]} to {ends[-1]}"


def _named(direction: str, unit: str) -> str:
    return f"{direction}, {unit}" if unit else direction


def _is_isometric(surface: Surface) -> bool:
    return bool(abs(surface.norms[1] / surface.norms[0] - 1) < 0.1)


def _farthest(surface: Surface, distances: Array) -> float:
    """The largest distance from θ to a mark, ‖·‖₂."""
    assert surface.marks is not None
    inner = np.prod(surface.norms) * surface.cosine
    metric = np.array([[surface.norms[0] ** 2, inner], [inner, surface.norms[1] ** 2]])
    return float(np.sqrt(np.einsum("ti,ij,tj->t", surface.marks, metric, surface.marks) + distances**2).max())


def _aspect(arrays: Arrays, method: int) -> float:
    return float(np.ptp(arrays[f"{method}/y"]) / np.ptp(arrays[f"{method}/x"]))


def _fitted(text: str, size: float, width: float) -> str:
    """On as many lines as it needs; the unit on one of its own rather than cut."""
    if label_width(text, size) < width:
        return text
    lines = [""]
    # A number stays with the word before it.
    for word in re.sub(r" (?=\d)", "\u00a0", text.replace(", ‖d‖ = ", " ‖d‖\u00a0=\u00a0")).split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and (label_width(longer, size) >= width or word.startswith("‖d‖")):
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
