"""Decision regions of classifiers of two features, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from landscape.errors import LandscapeError
from landscape.plotting.colors import class_colors
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, legend_height
from landscape.plotting.style import literal, shorten, text_width

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

_MARKERS = "os^DvP*<>p"  # by class index, so that classes differ in grey
_GRID = 81  # points along each axis at which scores are kept
_CROSSES = 40  # generated points of a class that are drawn: more would hide the regions
_MARGIN = 0.04  # of the range of the points, around them
_PALE = 0.78  # share of white in the colour of a region
_LEGEND_COLUMNS = 4
_BROAD = 5.0  # inches of a figure from which all panels stand side by side


@dataclass(frozen=True)
class PlaneClassifier:
    """A classifier of points in the plane."""

    title: str
    scores: Callable[[Array], Array]  # points (M, 2) → (M, C), whose argmax is the prediction
    accuracy: Sequence[float]  # (C,) share of right answers among test points of each class
    generated: tuple[Array, Labels] | None = None  # points (G, 2) it was also trained on, and their classes


def decision_regions(
    classifiers: Sequence[PlaneClassifier], points: Array, labels: Labels, class_names: Sequence[str]
) -> Drawing:
    """One panel a classifier: its regions in pale class colours, over them the training points, a marker a class.

    Generated points are crosses, at most 40 of a class, evenly over those given. Above a panel stand the accuracy on
    the test points, the mean over classes, and that of the smallest class.

    Args:
        classifiers: from left to right, at least one.
        points: (N, 2) training points, the same for all.
        labels: (N,) their classes.
        class_names: (C,) words of the legend; at most ten classes.

    Returns:
        The drawing; its arrays are ``x`` (81,), ``y`` (81,), ``scores`` (P, C, 81, 81) at these points, rows by ``y``,
        ``points``, ``labels``, ``class_names``, ``class_counts`` (C,), ``titles`` (P,), ``accuracy`` (P, C), and of
        the crosses ``generated`` (G, 2), ``generated_labels`` (G,) and ``generated_panels`` (G,).

    Raises:
        LandscapeError: no classifier, more than ten classes, classifiers that know other classes than these, points
            that span no plane, or labels of none of the classes.
    """
    if not classifiers or len(class_names) > len(_MARKERS):
        raise LandscapeError(
            f"decision regions are drawn of one classifier or more and at most {len(_MARKERS)} classes, got "
            f"{len(classifiers)} and {len(class_names)}"
        )
    known = np.isin(labels, np.arange(len(class_names)))
    if not (np.isfinite(points).all() and len(points) and np.ptp(points, axis=0).all() and known.all()):
        raise LandscapeError(
            "decision regions need finite points that differ in both features, and labels from 0 to "
            f"{len(class_names) - 1}"
        )
    shown = [_shown(each.generated) for each in classifiers]
    generated = np.concatenate([some for some, _ in shown])
    everything = np.concatenate([points, generated])
    low, high = everything.min(0), everything.max(0)
    margin = _MARGIN * (high - low)
    x, y = (np.linspace(start, end, _GRID) for start, end in zip(low - margin, high + margin, strict=True))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    scores = [np.asarray(each.scores(grid)) for each in classifiers]
    for each, values in zip(classifiers, scores, strict=True):
        if values.shape[1] != len(class_names) or len(each.accuracy) != len(class_names):
            raise LandscapeError(
                f"'{each.title}' has scores of {values.shape[1]} classes and accuracies of {len(each.accuracy)}, the "
                f"figure has {len(class_names)} classes"
            )
    arrays: dict[str, NDArray[Any]] = {
        "x": x,
        "y": y,
        "scores": np.stack([values.T.reshape(-1, _GRID, _GRID) for values in scores]).astype(np.float32),
        "points": np.asarray(points),
        "labels": np.asarray(labels),
        "class_names": np.array(list(class_names)),
        "class_counts": np.bincount(labels, minlength=len(class_names)),
        "titles": np.array([each.title for each in classifiers]),
        "accuracy": np.array([each.accuracy for each in classifiers], dtype=np.float64),
        "generated": generated,
        "generated_labels": np.concatenate([theirs for _, theirs in shown]),
        "generated_panels": np.repeat(np.arange(len(shown)), [len(some) for some, _ in shown]),
    }
    return Drawing("decision-regions", arrays)


def _shown(generated: tuple[Array, Labels] | None) -> tuple[Array, Labels]:
    if generated is None:
        return np.empty((0, 2)), np.empty(0, dtype=np.int64)
    points, labels = generated
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(members[np.linspace(0, len(members) - 1, min(_CROSSES, len(members))).astype(int)])
    index = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
    return points[index], labels[index]


@renders("decision-regions")
def _regions(arrays: Arrays, _: Mapping[str, Any]) -> Canvas:
    width = matplotlib.rcParams["figure.figsize"][0]
    number, num_classes = arrays["scores"].shape[:2]
    columns = number if width >= _BROAD or number == 1 else 2
    rows = math.ceil(number / columns)
    alone = rows * columns > number  # the legend has the place of a panel, where one is left
    x, y, counts = arrays["x"], arrays["y"], arrays["class_counts"]
    side = (width - 0.35) / columns - 0.08
    entries = _legend(arrays, side if alone else width / 2)
    titles = _titles(arrays, side)
    lines = 1 + max(title.count("\n") for title in titles)
    above = 1.25 * lines * matplotlib.rcParams["axes.titlesize"] / 72 + 0.06
    below = 2.6 * matplotlib.rcParams["axes.labelsize"] / 72 + 0.1
    upwards = float((y[-1] - y[0]) / (x[-1] - x[0]))
    height = rows * (side * upwards + above) + below * (1 + alone)
    figure = new_figure(height + (0 if alone else legend_height(entries, most=_LEGEND_COLUMNS)))
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = grid.flatten()[:number]
    colors = class_colors(range(num_classes))
    by_size = np.argsort(-counts, kind="stable").tolist()  # the points of small classes lie on top
    sizes = np.interp(np.log10(np.maximum(counts, 1)), [1, 2.5], [14, 6])  # and may be few
    ticks = _ticks(x, y)
    for place, axes in enumerate(panels):
        _fill(axes, x, y, arrays["scores"][place], colors)
        mine = arrays["generated_panels"] == place
        for label in by_size:
            crosses = arrays["generated"][mine & (arrays["generated_labels"] == label)]
            axes.scatter(*crosses.T, s=7, color=colors[label], marker="x", linewidth=0.6, zorder=3)
        for label in by_size:
            members = arrays["points"][arrays["labels"] == label]
            axes.scatter(*members.T, s=sizes[label], color=colors[label], marker=_MARKERS[label], edgecolor="white",
                         linewidth=0.2, zorder=2)  # fmt: skip
        axes.set_title(titles[place])
        axes.set(aspect="equal", xticks=ticks[0], yticks=ticks[1], xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
        if place + columns >= number:
            axes.set_xlabel("feature 1")
            axes.tick_params(labelbottom=True)
        if place % columns == 0:
            axes.set_ylabel("feature 2")
    for axes in grid.flatten()[number:]:
        axes.set_axis_off()
    if alone:
        grid[-1, -1].legend(*zip(*entries, strict=True), loc="center", handletextpad=0.3)
    else:
        add_legend(figure, entries, most=_LEGEND_COLUMNS, handle=1.0)
    return figure


def _fill(axes: Axes, x: Array, y: Array, scores: Array, colors: Mapping[int, tuple[float, float, float]]) -> None:
    """The region of a class is where its score minus the best of the others is positive."""
    for label, color in colors.items():
        lead = scores[label] - np.delete(scores, label, axis=0).max(axis=0, initial=-np.inf)
        if not (lead > 0).any():
            continue
        pale = tuple(_PALE + (1 - _PALE) * channel for channel in to_rgb(color))
        axes.contourf(x, y, lead, levels=[0, np.inf], colors=[pale], zorder=1)
        axes.contour(x, y, lead, levels=[0], colors="0.25", linewidths=0.8, zorder=4)


def _ticks(x: Array, y: Array) -> list[list[float]]:
    """The same distance on both axes; fixed, since other ones would be wider than the layout has left room for."""
    longer = max((x, y), key=np.ptp)
    step = float(np.diff(MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(longer[0], longer[-1]))[0])
    return [(step * np.arange(np.ceil(each[0] / step), each[-1] / step)).tolist() for each in (x, y)]


def _titles(arrays: Arrays, side: float) -> list[str]:
    size = matplotlib.rcParams["axes.titlesize"]
    names, smallest = arrays["class_names"].tolist(), int(np.argmin(arrays["class_counts"]))
    titles = []
    for title, shares in zip(arrays["titles"].tolist(), 100 * arrays["accuracy"], strict=True):
        words = [f"accuracy {shares.mean():.1f} %", f"{names[smallest]}: {shares[smallest]:.1f} %"]
        together = ", ".join(words)
        below = [together] if text_width(together, size) < side else words
        titles.append("\n".join(literal(shorten(line, size, side)) for line in [title, *below]))
    return titles


def _legend(arrays: Arrays, width: float) -> list[tuple[Any, str]]:
    """Handles and words that fit ``width`` inches."""
    names, counts = arrays["class_names"].tolist(), arrays["class_counts"].tolist()
    look: dict[str, Any] = {"linestyle": "none", "markersize": 4, "markeredgewidth": 0.3}
    handles = [
        Line2D([], [], color=color, marker=_MARKERS[label], markeredgecolor="white", **look)
        for label, color in class_colors(range(len(names))).items()
    ]
    size = matplotlib.rcParams["legend.fontsize"]
    tails = [f" ({count:,})" for count in counts]
    room = width - 0.2 - 3.5 * size / 72
    words = [
        literal(shorten(name, size, room - text_width(tail, size))) + tail
        for name, tail in zip(names, tails, strict=True)
    ]
    if len(arrays["generated"]):
        handles.append(Line2D([], [], color="0.3", marker="x", linestyle="none", markersize=4, markeredgewidth=0.6))
        words.append("generated")
    return list(zip(handles, words, strict=True))
