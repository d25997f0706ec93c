"""What becomes of accuracy and curvature as one setting is varied, such as the radius of SAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import ArrayLike, NDArray

from landscape.errors import LandscapeError
from landscape.plotting.colors import METHOD_LINES, part_colors
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import legend_above, legend_height, plain_axes
from landscape.plotting.style import text_width

Spacing = Literal["log", "even", "linear"]

_LINKED: dict[str, Any] = {"markersize": 3.2, "linewidth": 1.0}


def setting_curves(
    values: Sequence[float],
    panels: Mapping[str, Mapping[str, ArrayLike]],
    *,
    setting: str = "ρ",
    spacing: Spacing = "log",
) -> Drawing:
    """One panel a quantity against the values of a setting, one curve a part or a method.

    Of several seeds the mean is drawn with one standard deviation either way; of a single one there are no bars.
    Curves called ``all``, ``head``, ``mid``, ``tail`` have the colours of these everywhere; each curve has a marker and
    a line of its own.

    Args:
        values: of the setting, ascending.
        panels: label of the vertical axis, with its unit → curve → numbers ``(v,)`` or ``(v, seeds)``; NaN for a run
            that is missing.
        setting: label of the horizontal axis.
        spacing: of the values: by their logarithm, at equal distances, or as they are.

    Returns:
        The drawing; its arrays are ``values`` (v,) and, panel by panel and curve by curve,
        ``PANEL/CURVE/{mean, deviation}`` (v,), by number.

    Raises:
        LandscapeError: values that do not ascend, or one that has no logarithm; a curve with another number of values;
            or nothing to draw.
    """
    places = np.asarray(values, dtype=np.float64)
    if places.size == 0 or (np.diff(places) <= 0).any():
        raise LandscapeError(f"the values of {setting} must ascend, got {', '.join(f'{value:g}' for value in values)}")
    if spacing == "log" and places[0] <= 0:
        raise LandscapeError(f"{setting} = {places[0]:g} has no logarithm: give spacing 'even' or 'linear'")
    if not any(panels.values()):
        raise LandscapeError("no curve to draw")
    arrays: dict[str, NDArray[Any]] = {"values": places}
    names = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    shown = []
    for row, (label, curves) in enumerate(panels.items()):
        shown.append({"label": label, "curves": list(curves)})
        for column, (name, numbers) in enumerate(curves.items()):
            table = np.asarray(numbers, dtype=np.float64)
            table = table[:, None] if table.ndim == 1 else table
            if len(table) != len(places):
                raise LandscapeError(f"'{name}' has {len(table)} values for {len(places)} of {setting}: give one each")
            arrays[f"{row}/{column}/mean"], arrays[f"{row}/{column}/deviation"] = _over_seeds(table)
    return Drawing("setting", arrays, {"setting": setting, "spacing": spacing, "curves": names, "panels": shown})


def _over_seeds(table: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of the seeds that are there; NaN of less than one and two of them."""
    there = np.isfinite(table)
    count = there.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, table, 0.0).sum(axis=1) / count
        squares = np.where(there, (table - mean[:, None]) ** 2, 0.0).sum(axis=1)
        return mean, np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)


@renders("setting")
def _setting(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width = matplotlib.rcParams["figure.figsize"][0]
    panels, names = settings["panels"], settings["curves"]
    looks = {
        name: {**METHOD_LINES[place % len(METHOD_LINES)], "color": color}
        for place, (name, color) in enumerate(zip(names, part_colors(names), strict=True))
    }
    columns = 1 if width < 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    entries = names if len(names) > 1 else []
    figure = new_figure(rows * min(1.9, 0.75 * width / columns) + 0.35 + legend_height(entries), w_pad=0.03)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for empty in grid.flat[len(panels) :]:
        empty.set_axis_off()
    values = arrays["values"]
    places = np.arange(len(values), dtype=np.float64) if settings["spacing"] == "even" else values
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        for column, name in enumerate(panel["curves"]):
            mean, deviation = (arrays[f"{number}/{column}/{key}"] for key in ("mean", "deviation"))
            known = np.isfinite(deviation)
            axes.plot(places, mean, **looks[name], **_LINKED)
            axes.errorbar(places[known], mean[known], deviation[known], linestyle="none", color=looks[name]["color"],
                          elinewidth=0.7, capsize=1.5, capthick=0.7)  # fmt: skip
        low, high = axes.get_ylim()
        axes.set_ylim(0.0 if 0 <= low < 0.35 * high or low < 0 <= _least(arrays, number, panel) else low, high)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_ylabel(panel["label"])
        if number + columns >= len(panels):
            axes.set_xlabel(settings["setting"])
            axes.tick_params(labelbottom=True)
        plain_axes(axes)
    _name_values(grid[0, 0], values, places, settings["spacing"], (width / columns) - 0.65)
    legend_above(figure, [Line2D([], [], **looks[name], **_LINKED) for name in entries], entries, handlelength=2.4)
    figure.align_ylabels()
    return figure


def _least(arrays: Arrays, number: int, panel: Mapping[str, Any]) -> float:
    """The lowest mean of a panel: an axis does not go below 0 for the sake of an error bar or a margin."""
    return min(float(np.nanmin(arrays[f"{number}/{column}/mean"])) for column in range(len(panel["curves"])))


def _name_values(
    axes: Axes, values: NDArray[np.float64], places: NDArray[np.float64], spacing: Spacing, inches: float
) -> None:
    """A tick at every value, and a label at as many as have room beside each other."""
    if spacing == "log":
        axes.set_xscale("log")
    size = matplotlib.rcParams["xtick.labelsize"]
    transformed = np.log(places) if spacing == "log" else places
    length = float(np.ptp(transformed)) * 1.1 or 1.0
    labelled: list[int] = []
    end = -np.inf
    for number, value in enumerate(values):
        middle = (transformed[number] - transformed[0]) / length * inches
        half = text_width(f"{value:g}", size) / 2
        if middle - half > end + 0.04:
            labelled.append(number)
            end = middle + half
    axes.xaxis.set_major_locator(FixedLocator(places[labelled].tolist()))
    axes.xaxis.set_major_formatter(lambda at, _: f"{values[int(np.argmin(np.abs(places - at)))]:g}")
    unlabelled = np.delete(places, labelled)
    axes.xaxis.set_minor_locator(FixedLocator(unlabelled.tolist()) if unlabelled.size else NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
