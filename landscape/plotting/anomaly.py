"""Anomaly detection with and without perturbation: AUC-PR data set by data set, and the paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from landscape.anomaly.results import BASELINE, TITLES, GridResults
from landscape.errors import LandscapeError
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.style import PALETTE, add_legend, literal, text_width

Array = NDArray[np.float64]

_LOOKS: dict[str, tuple[str | tuple[float, float, float], str]] = {
    "sgd": ("0.35", "o"),
    "sam": (PALETTE[0], "s"),
    "imbsam": (PALETTE[3], "D"),
}
_ROW = 0.24  # inches a data set
_SPREAD = 0.24  # of a row, between two optimisers


def detection_panels(results: GridResults) -> Drawing:
    """A column a method; above AUC-PR of every data set, below its paired difference to SGD.

    Above: mean and standard deviation over seeds, and a tick at the AUC-PR of random scores. Below: mean over seeds of
    the difference to the run of the same seed with SGD, in percentage points, with two standard errors; filled where
    it is larger than them, open where it is not. p is Wilcoxon's signed-rank test over the data sets.

    Args:
        results: of ``landscape anomaly``.

    Returns:
        The drawing; its arrays are ``data`` (d,), ``methods`` (m,), ``optimizers`` (o,), ``prevalence`` (d,) and, each
        (m, d, o) with NaN for a gap, ``auc_pr``, ``auc_pr_sd``, ``difference``, ``difference_se`` and ``claimed``
        (0 or 1); ``p_wilcoxon`` (m, o).

    Raises:
        LandscapeError: no runs.
    """
    if not results.runs:
        raise LandscapeError("no runs to draw: the results are empty")
    data, methods = results.names("data"), results.names("method")
    optimizers = results.names("optimizer")
    table = _tabulate(results, data, methods, optimizers)
    words = {"data": np.array(data), "methods": np.array(methods), "optimizers": np.array(optimizers)}
    return Drawing("anomaly", {**words, **table})


def _tabulate(results: GridResults, data: list[str], methods: list[str], optimizers: list[str]) -> dict[str, Array]:
    shape = len(methods), len(data), len(optimizers)
    names = ("auc_pr", "auc_pr_sd", "difference", "difference_se", "claimed")
    table = {name: np.full(shape, np.nan) for name in names}
    table["p_wilcoxon"] = np.full((len(methods), len(optimizers)), np.nan)
    table["prevalence"] = np.array([results.prevalence(name) for name in data])
    for m, method in enumerate(methods):
        for o, optimizer in enumerate(optimizers):
            for d, name in enumerate(data):
                sample = results.sample(name, method, optimizer, "auc_pr")
                if sample is not None:
                    table["auc_pr"][m, d, o] = sample.mean
                    table["auc_pr_sd"][m, d, o] = sample.standard_deviation
            contrast = None if optimizer == BASELINE else results.contrast(method, optimizer, "auc_pr")
            if contrast is None:
                continue
            table["p_wilcoxon"][m, o] = contrast.p_value
            for name, sample in contrast.differences.items():
                d = data.index(name)
                table["difference"][m, d, o] = sample.mean
                table["difference_se"][m, d, o] = sample.standard_error
                table["claimed"][m, d, o] = float(sample.claim != "")
    return table


@renders("anomaly")
def _draw(table: Arrays, _: Mapping[str, Any]) -> Canvas:
    data, methods, optimizers = (table[name].tolist() for name in ("data", "methods", "optimizers"))
    paired = bool(np.isfinite(table["difference"]).any())
    rows = 2 if paired else 1
    figure = new_figure(rows * (_ROW * max(len(data), 3) + 0.55) + 0.3)
    panels = figure.subplots(rows, len(methods), sharey=True, squeeze=False)
    room = (matplotlib.rcParams["figure.figsize"][0] - 0.8) / len(methods)
    for m, method in enumerate(methods):
        _levels(panels[0, m], table, m, optimizers, room)
        panels[0, m].set_title(TITLES[method])
        if paired:
            _differences(panels[1, m], table, m, optimizers, room)
    # The axes share what is below: the first data set is at the top.
    panels[0, 0].set_ylim(len(data) - 0.5, -0.5)
    panels[0, 0].set_yticks(range(len(data)), [literal(name) for name in data])
    for axes in panels.flat:
        axes.tick_params(axis="y", length=0)
        for edge in np.arange(len(data) - 1) + 0.5:
            axes.axhline(edge, color="0.9", linewidth=0.5, zorder=0)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    random = Line2D([], [], linestyle="none", marker="|", markersize=7, color="0.6")
    add_legend(figure, [*((_handle(name), TITLES[name]) for name in optimizers), (random, "random scores")])
    return figure


def _levels(axes: Axes, table: Arrays, m: int, optimizers: list[str], room: float) -> None:
    rows = np.arange(table["auc_pr"].shape[1])
    axes.plot(table["prevalence"], rows, linestyle="none", marker="|", markersize=8, color="0.6", zorder=1)
    for o, optimizer in enumerate(optimizers):
        color, marker = _LOOKS[optimizer]
        spread = _finite(table["auc_pr_sd"][m, :, o])
        height = rows + _shift(o, len(optimizers))
        axes.errorbar(
            table["auc_pr"][m, :, o],
            height,
            xerr=spread,
            fmt=marker,
            markersize=3,
            color=color,
            elinewidth=0.7,
            zorder=2,
        )
    axes.set_xlim(-0.02, 1.02)
    # Fewer digits than matplotlib's: the last label of a panel and the first of the next would touch.
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    axes.set_xlabel(_fitting("AUC-PR, mean\u00a0±\u00a0s.d.", matplotlib.rcParams["axes.labelsize"], room))


def _differences(axes: Axes, table: Arrays, m: int, optimizers: list[str], room: float) -> None:
    rows = np.arange(table["auc_pr"].shape[1])
    axes.axvline(0, color=_LOOKS[BASELINE][0], linewidth=0.6, zorder=1)
    words = []
    for o, optimizer in enumerate(optimizers):
        color, marker = _LOOKS[optimizer]
        mean, error = 100 * table["difference"][m, :, o], 200 * table["difference_se"][m, :, o]
        if not np.isfinite(mean).any():
            continue
        height = rows + _shift(o, len(optimizers))
        axes.errorbar(mean, height, xerr=_finite(error), fmt="none", ecolor=color, elinewidth=0.7, zorder=2)
        for claimed in (0.0, 1.0):
            chosen = table["claimed"][m, :, o] == claimed
            axes.plot(mean[chosen], height[chosen], linestyle="none", marker=marker, markersize=3.2, color=color,
                      markerfacecolor=color if claimed else "white", markeredgewidth=0.7, zorder=3)  # fmt: skip
        p_value = table["p_wilcoxon"][m, o]
        if math.isfinite(p_value):
            words.append(f"{TITLES[optimizer]} p = {p_value:.2g}".replace(" ", "\u00a0"))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(
        _fitting("Δ AUC-PR to SGD, points\u00a0±\u00a02\u00a0s.e.", matplotlib.rcParams["axes.labelsize"], room)
    )
    axes.set_title(_fitting(", ".join(words), matplotlib.rcParams["axes.titlesize"], room))


def _fitting(text: str, size: float, room: float) -> str:
    """In as many lines as ``room`` inches ask for; a no-break space stays in its line."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_width(longer, size) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines).replace("\u00a0", " ")


def _shift(position: int, count: int) -> float:
    return _SPREAD * (position - (count - 1) / 2)


def _finite(errors: Array) -> Array:
    """A single seed has no error bar."""
    return np.nan_to_num(errors)


def _handle(optimizer: str) -> Line2D:
    color, marker = _LOOKS[optimizer]
    return Line2D([], [], linestyle="none", marker=marker, markersize=4, color=color)
