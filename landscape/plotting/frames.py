"""What stands around the data: plain axes, and a legend above them whatever the width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from landscape.plotting.drawing import Canvas
from landscape.plotting.style import literal, shorten, text_width

_HANDLE = 0.5  # inches that a handle and the gap behind its name take


def plain_axes(axes: Axes, *, grid: str = "y") -> None:
    """No frame but two lines, and a pale grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, linewidth=0.3, color="0.88")  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend_rows(names: Sequence[str]) -> int:
    """Rows that :func:`legend_above` needs."""
    return -(-len(names) // _columns(_fitting(names))) if names else 0


def legend_height(names: Sequence[str]) -> float:
    """Inches that :func:`legend_above` needs."""
    return (1.45 * legend_rows(names) + 0.9 * bool(names)) * matplotlib.rcParams["legend.fontsize"] / 72


def legend_above(figure: Canvas, handles: Sequence[Any], names: Sequence[str], **options: Any) -> None:
    """A legend above all axes, in as many columns as fit the width; names too long for it are shortened.

    Args:
        figure: drawn upon.
        handles: one an entry.
        names: likewise, shown as they are but for formulas between ``$_{`` and ``}$``.
        options: of matplotlib's legend.
    """
    if not names:
        return
    shown = _fitting(names)
    legend = figure.legend(
        list(handles),
        [str(number) for number in range(len(shown))],
        loc="outside upper center",
        ncols=_columns(shown),
        columnspacing=1.2,
        handletextpad=0.5,
        **{"handlelength": 1.8, **options},
    )
    # Set afterwards, since matplotlib leaves out an entry whose name begins with "_".
    for text, name in zip(legend.get_texts(), shown, strict=True):
        text.set_text(name if "$_{" in name else literal(name))


def bare(text: str) -> str:
    """``text`` as wide as it is drawn, its subscripts without their markup."""
    return text.replace("$_{", "").replace("}$", "")


def _fitting(names: Sequence[str]) -> list[str]:
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    return [name if "$_{" in name else shorten(name, size, width - 0.2 - _HANDLE) for name in names]


def _columns(names: Sequence[str]) -> int:
    """The most columns that fit: matplotlib fills them one after the other, each as wide as its widest name."""
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    widths = [text_width(bare(name), size) + _HANDLE for name in names]
    for columns in range(len(names), 1, -1):
        chunks = np.array_split(widths, columns)
        if sum(chunk.max() for chunk in chunks) <= width - 0.1:
            return columns
    return 1
