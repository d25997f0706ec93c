"""What parts and methods look like in every figure: a class has the same colour wherever it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import FigureBase

from landscape.plotting.style import PALETTE, text_width

GROUP_COLORS = {"head": PALETTE[0], "mid": PALETTE[2], "tail": PALETTE[3]}
LINE_STYLES: list[Any] = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3))]
"""Of methods by position, so that they also differ in grey."""
MARKERS = "osD^vPX*hp"
"""Of methods by position."""


def part_color(part: str, position: int) -> Any:
    """A class by its index, head, mid and tail in fixed colours, the whole nearly black, anything else by position."""
    kind, _, name = part.partition("/")
    if part == "all":
        return "0.15"
    if kind == "group":
        return GROUP_COLORS.get(name, PALETTE[position % len(PALETTE)])
    return PALETTE[(int(name) if kind == "class" and name.isdecimal() else position) % len(PALETTE)]


def add_legend(figure: FigureBase, entries: Sequence[tuple[Any, str]], *, most: int = 5) -> None:
    """A legend above all axes, in as many columns as the width of the figure holds.

    Args:
        entries: handle and label.
        most: columns at most.
    """
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    widest = max(text_width(words.replace("$", ""), size) for _, words in entries)
    legend = figure.legend(
        [handle for handle, _ in entries],
        [str(number) for number in range(len(entries))],
        loc="outside upper center",
        ncols=min(len(entries), most, max(1, int((width - 0.1) / (widest + 3.4 * size / 72)))),
        columnspacing=1.2,
        handlelength=1.8,
        handletextpad=0.5,
    )
    # Set afterwards, since matplotlib leaves out an entry whose name begins with "_".
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(words)
