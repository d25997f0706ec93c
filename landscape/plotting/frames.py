"""What stands around the data: plain axes, and a legend above them whatever the width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple

from landscape.plotting.style import label_width, literal, shorten, text_width

Entries = Sequence[tuple[Any, str]]
"""Handle and label of each line of a legend; handles in a tuple lie upon each other."""

_SWITCH: dict[str, Any] = {"color": "0.35", "linewidth": 0.8, "linestyle": (0, (4, 2)), "zorder": 1.5}
_ROOM = 3.9  # letter sizes that a handle and the gaps around it take


def plain_axes(axes: Axes, *, grid: str = "y") -> None:
    """No frame but two lines, and a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, linewidth=0.3, color="0.88")  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def bare(text: str) -> str:
    """``text`` as wide as it is drawn, its subscripts without their markup."""
    return text.replace("$_{", "").replace("}$", "")


def legend_entries(handles: Sequence[Any], names: Sequence[str]) -> list[tuple[Any, str]]:
    """Entries of a legend whose names may be the user's own: shown as they are, shortened where they are too long.

    Only what stands between ``$_{`` and ``}$`` is a formula.
    """
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    room = width - 0.2 - _ROOM * size / 72
    labels = [name if "$_{" in name else literal(shorten(name, size, room)) for name in names]
    return list(zip(handles, labels, strict=True))


def legend_height(entries: Entries, *, most: int = 5) -> float:
    """Inches that :func:`add_legend` needs."""
    rows = -(-len(entries) // _columns(entries, most)) if entries else 0
    return (1.45 * rows + 0.9 * bool(rows)) * matplotlib.rcParams["legend.fontsize"] / 72


def add_legend(
    figure: FigureBase, entries: Entries, *, most: int = 5, side_by_side: tuple[Any, ...] = (), handle: float = 2.0
) -> Legend | None:
    """A legend above all axes, in as many columns as the width of the figure holds; none without entries.

    Args:
        figure: or the panel of one.
        entries: in their order.
        most: columns at most.
        side_by_side: the one tuple of handles that do not lie upon each other.
        handle: length of a handle, letter sizes.
    """
    if not entries:
        return None
    legend = figure.legend(
        [handle for handle, _ in entries],
        [str(number) for number in range(len(entries))],
        handler_map={tuple: HandlerTuple(ndivide=1), side_by_side: HandlerTuple(ndivide=None, pad=0.1)},
        loc="outside upper center",
        ncols=_columns(entries, most),
        columnspacing=1.2,
        handlelength=handle,
        handletextpad=0.5,
    )
    # Set afterwards, since matplotlib leaves out an entry whose name begins with "_".
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(words)
    return legend


def _columns(entries: Entries, most: int) -> int:
    """The most columns that fit: matplotlib fills them one after the other, each as wide as its widest entry."""
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    widths = [label_width(words, size) + _ROOM * size / 72 for _, words in entries]
    for columns in range(min(most, len(entries)), 1, -1):
        if sum(max(column) for column in np.array_split(widths, columns)) < width - 0.1:
            return columns
    return 1


def mark_switches(panels: Iterable[Axes], switches: Sequence[tuple[str, float]], inches: float) -> None:
    """Dashed lines with their names above the axes; of two that are close the names lean away from each other.

    Args:
        panels: with the epoch as abscissa, all alike.
        switches: name → epochs completed by then.
        inches: width of a panel.
    """
    at: dict[float, list[str]] = {}
    for name, epoch in switches:
        at.setdefault(epoch, []).append(name)
    marks = [(epoch, literal(", ".join(names))) for epoch, names in sorted(at.items())]
    size = matplotlib.rcParams["font.size"]
    for axes in panels:
        low, high = axes.get_xlim()
        for place, (epoch, name) in enumerate(marks):
            axes.axvline(epoch, **_SWITCH)
            half = 0.55 * text_width(name, size) * (high - low) / inches
            beside = [other for other in (place - 1, place + 1) if 0 <= other < len(marks)]
            crowded = [o for o in beside if abs(marks[o][0] - epoch) < half + 0.55 * text_width(marks[o][1], size)
                       * (high - low) / inches]  # fmt: skip
            lean = "center" if not crowded else "right" if crowded[0] > place else "left"
            if epoch + half > high:
                lean = "right"
            elif epoch - half < low:
                lean = "left"
            axes.annotate(name, xy=(epoch, 1), xycoords=("data", "axes fraction"), xytext=(0, 1.5),
                          textcoords="offset points", ha=lean, va="bottom", fontsize=size, color="0.25")  # fmt: skip
        axes.set_xlim(low, high)


def label_numbers(axis: Axis, names: Sequence[str]) -> None:
    """Say that the numbers on an axis are classes; names say so themselves."""
    if all(name.isdecimal() for name in names):
        axis.set_label_text("class")
