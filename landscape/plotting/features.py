"""Real and generated features: where they lie (t-SNE), and whose class their neighbours are of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from numpy.typing import NDArray

from landscape.errors import LandscapeError
from landscape.plotting.colors import class_colors
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.style import literal, shorten, text_width
from landscape.store.calibration_file import CalibrationFile

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

# Points a class that are embedded: enough for its shape, few enough that markers do not hide each other.
_EMBEDDED = 150
_SEED = 0
_ANNOTATED = 12  # classes up to which a cell of the matrix has its number
_BACKGROUND = "0.86"
_NAME_WIDTH = 0.9  # inches
_SIDE_BY_SIDE = 5.0  # inches of a figure from which two panels stand beside each other, not one above the other


def tsne_map(file: CalibrationFile) -> Drawing:
    """Two panels over one t-SNE of real and generated features: real ones, and generated ones over them in grey.

    A class has one colour in both, that of its index; of more than ten classes ten are shown, from the largest to the
    smallest. The embedding is computed once, with a fixed seed, and kept in the file.

    Returns:
        The drawing; its arrays are ``points`` (M, 2), ``labels`` (M,), ``generated`` (M,) 0 or 1, ``classes``,
        ``class_names`` and ``class_counts`` of those shown.

    Raises:
        LandscapeError: the method generated no features.

    Cost: of the embedding of 3000 points some 20 s on a CPU.
    Source: van der Maaten and Hinton, JMLR 2008, by scikit-learn.
    """
    file.need_points()
    counts = np.asarray(file.meta["class_counts"])
    classes = _shown(counts)
    arrays = file.embedding(_SEED)
    if arrays is None:
        arrays = _embed(file, classes)
        try:
            file.store_embedding(arrays, _SEED)
        except LandscapeError as error:
            # Somebody else's results, say: the figure is made all the same.
            warnings.warn(f"the embedding is not kept, the next figure computes it again: {error}", stacklevel=2)
    names = [file.meta["class_names"][label] for label in classes]
    words = {"classes": classes, "class_names": np.array(names), "class_counts": counts[classes]}
    return Drawing("tsne", {**arrays, **words})


def _shown(counts: NDArray[np.int64]) -> Labels:
    """At most ten classes, evenly by rank of their size, the largest and the smallest among them."""
    order = np.argsort(-counts, kind="stable")
    return order[np.unique(np.linspace(0, len(order) - 1, min(10, len(order))).round().astype(int))]


def _embed(file: CalibrationFile, classes: Labels) -> dict[str, NDArray[Any]]:
    from sklearn.manifold import TSNE

    features, labels, generated = [], [], []
    for kind in ("real", "generated"):
        group = file.points[kind]
        for label in classes:
            members = np.flatnonzero(group["labels"] == label)
            chosen = members[np.linspace(0, len(members) - 1, min(_EMBEDDED, len(members))).astype(int)]
            features.append(group["features"][chosen])
            labels.append(np.full(len(chosen), label))
            generated.append(np.full(len(chosen), int(kind == "generated")))
    points = np.concatenate(features)
    perplexity = min(30.0, (len(points) - 1) / 3)
    embedding = TSNE(init="pca", perplexity=perplexity, random_state=_SEED).fit_transform(points)
    return {"points": embedding, "labels": np.concatenate(labels), "generated": np.concatenate(generated)}


@renders("tsne")
def _draw_map(arrays: Arrays, _: Mapping[str, Any]) -> Canvas:
    classes, names, counts = (arrays[name].tolist() for name in ("classes", "class_names", "class_counts"))
    colors = class_colors(classes)
    width = matplotlib.rcParams["figure.figsize"][0]
    points, labels, generated = arrays["points"], arrays["labels"], arrays["generated"].astype(bool)
    real = ~generated
    low, high = points.min(0), points.max(0)
    margin = 0.04 * (high - low).max()
    # As high as equal units on both axes make it, so that no band of the page stays empty.
    across, upwards = high - low + 2 * margin
    beside, legend_columns = (2, 5) if width >= _SIDE_BY_SIDE else (1, 2)
    rows, below = math.ceil(len(classes) / legend_columns), 2 // beside
    figure = new_figure(below * ((width - 0.35) * upwards / across / beside + 0.2) + 0.55 + 0.15 * rows)
    panels = figure.subplots(below, beside, sharex=True, sharey=True)
    panels[1].scatter(*points[real].T, s=5, color=_BACKGROUND, linewidth=0)
    for label, color in colors.items():
        mine = labels == label
        # Small classes last, on top: theirs are the points that the large ones would hide.
        panels[0].scatter(*points[mine & real].T, s=7, color=color, linewidth=0)
        panels[1].scatter(*points[mine & generated].T, s=9, color=color, marker="x", linewidth=0.7)
    panels[0].set_title("training features")
    panels[1].set_title("generated features (training features in grey)")
    for axes in panels:
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.set(xlim=(low[0] - margin, high[0] + margin), ylim=(low[1] - margin, high[1] + margin))
    for axes in panels[-beside:]:
        axes.set_xlabel("t-SNE 1")
    for axes in panels[::beside]:
        axes.set_ylabel("t-SNE 2")
    size = matplotlib.rcParams["legend.fontsize"]
    each = (width - 0.3) / legend_columns - 0.3
    handles = [Line2D([], [], linestyle="none", marker="o", markersize=3.5, color=colors[label]) for label in classes]
    texts = []
    for name, count in zip(names, counts, strict=True):
        tail = f" ({count:,})"
        texts.append(literal(shorten(name, size, each - text_width(tail, size))) + tail)
    figure.legend(
        handles,
        texts,
        loc="outside lower center",
        ncols=legend_columns,
        columnspacing=1.0,
        handletextpad=0.2,
        title="class (training images)",
        title_fontsize=size,
    )
    return figure


def nearest_class_matrix(file: CalibrationFile) -> Drawing:
    """Whose training feature is nearest to a generated one, and to a real one with itself left out; with class sizes.

    Row: class of the point. Column: class of the nearest training feature on the unit sphere. A cell is the share of
    its row. Classes are sorted by size, so a column at the left that is dark far down means that head classes surround
    what was made for the tail.

    Returns:
        The drawing; its arrays are ``generated`` and ``real`` (C, C), rows sum to 1 or are NaN where a class has no
        points, in the order ``classes``, ``class_names`` and ``class_counts``.

    Raises:
        LandscapeError: the method generated no features.
    """
    points = file.need_points()
    counts = np.asarray(file.meta["class_counts"])
    order = np.argsort(-counts, kind="stable")
    matrices = {kind: _shares(points[kind], len(counts))[np.ix_(order, order)] for kind in ("generated", "real")}
    names = [file.meta["class_names"][label] for label in order]
    words = {"classes": order, "class_names": np.array(names), "class_counts": counts[order]}
    return Drawing("nearest-class", {**matrices, **words})


def _shares(points: Mapping[str, NDArray[Any]], num_classes: int) -> Array:
    """(C, C) row: own class, column: class of the nearest training feature; NaN for a class without points."""
    matrix = np.zeros((num_classes, num_classes))
    np.add.at(matrix, (points["labels"], points["nearest_sample"]), 1)
    total = matrix.sum(1, keepdims=True)
    return np.divide(matrix, total, out=np.full_like(matrix, np.nan), where=total > 0)


@renders("nearest-class")
def _draw_matrices(arrays: Arrays, _: Mapping[str, Any]) -> Canvas:
    names, counts = arrays["class_names"].tolist(), arrays["class_counts"]
    width = matplotlib.rcParams["figure.figsize"][0]
    size = matplotlib.rcParams["xtick.labelsize"]
    labels = [shorten(name, size, _NAME_WIDTH) for name in names]
    longest = max(text_width(label, size) for label in labels)
    beside = 2 if width >= _SIDE_BY_SIDE else 1
    below = 2 // beside
    side = (width - longest - 0.6 - 0.5 * beside) / beside
    figure = new_figure(below * (side + 0.25) + longest + 0.2)
    grid = figure.subplots(
        below, beside + 1, sharey=True, sharex="col", squeeze=False, width_ratios=[1] * beside + [0.35]
    )
    panels, bars = grid[:, :beside].flatten(), grid[:, beside]
    titles = {"generated": "generated features", "real": "training features, themselves left out"}
    colours: Colormap = cm.oslo_r.with_extremes(bad="0.93")
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        matrix = arrays[kind]
        image = axes.imshow(matrix, cmap=colours, vmin=0, vmax=1, aspect="auto")
        axes.set_title(title)
        _name_classes(axes, labels, side, size)
        if len(names) <= _ANNOTATED:
            _write_numbers(axes, matrix, size)
        axes.tick_params(length=0)
    for axes in panels[-beside:]:
        axes.set_xlabel("class of the nearest training feature")
    points = "class of the point" + " (rows in %)" * (len(names) <= _ANNOTATED)
    # One label for both where it may be longer than a panel is high.
    figure.supylabel(points) if below == 2 else panels[0].set_ylabel(points)
    if len(names) > _ANNOTATED:
        place: dict[str, Any] = {"location": "right"} if beside == 2 else {"location": "bottom", "aspect": 30}
        figure.colorbar(image, ax=list(panels), label="share of the row", fraction=0.03, pad=0.02, **place)
    for axes in bars:
        axes.barh(np.arange(len(names)), counts, 0.8, color="0.55", linewidth=0)
        axes.set(xscale="log", xlim=(max(0.7, counts.min() / 3), counts.max() * 1.3))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    bars[-1].set_xlabel("training\nimages")
    return figure


def _name_classes(axes: Axes, labels: list[str], side: float, size: float) -> None:
    """A name at every class, or at every so many of them where names would touch."""
    every = math.ceil(1.2 * size / 72 * len(labels) / side)
    places = np.arange(0, len(labels), every)
    texts = [literal(labels[place]) for place in places]
    axes.set_xticks(places, texts, rotation=90)
    axes.set_yticks(places, texts)


def _write_numbers(axes: Axes, matrix: Array, size: float) -> None:
    """Percent in each cell; what rounds to 0 stays empty, and a class without points says so."""
    for row, shares in enumerate(matrix):
        if np.isnan(shares).all():
            axes.text((len(shares) - 1) / 2, row, "none", ha="center", va="center", color="0.4", fontsize=size)
            continue
        for place, share in enumerate(shares):
            if share >= 0.005:
                dark = share > 0.45
                axes.text(
                    place,
                    row,
                    f"{100 * share:.0f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "0.15",
                    fontsize=size - 1,
                )
