"""Which colour, line and hatch stands for what, in every figure alike.

Classes take the palette by their index, methods by their position and, so that they differ in grey too, a line style,
a marker or a hatch; head, mid and tail have colours of their own, and in grey markers or places tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from landscape.plotting.style import PALETTE

Color = str | tuple[float, float, float]

GROUP_COLORS: dict[str, Color] = {"head": PALETTE[0], "mid": PALETTE[1], "tail": PALETTE[3]}
WHOLE_COLOR: Color = "0.15"

METHOD_LINES: list[dict[str, Any]] = [
    {"linestyle": "-", "marker": "o"},
    {"linestyle": "--", "marker": "s"},
    {"linestyle": ":", "marker": "^"},
    {"linestyle": "-.", "marker": "D"},
    {"linestyle": (0, (5, 1, 1, 1, 1, 1)), "marker": "v"},
    {"linestyle": (0, (1, 3)), "marker": "P"},
]
"""Lines and markers of methods by position, so that they also differ in grey."""

METHOD_HATCHES: list[str | None] = [None, "....", "xxxx", "----", "++++", "oo"]
"""Fillings of methods' bars by position; slashes are kept for what is not certified."""


def method_color(place: int) -> Color:
    """The colour of the method at ``place`` among those of a figure."""
    return PALETTE[place % len(PALETTE)]


def part_colors(parts: Sequence[str]) -> list[Color]:
    """One colour a part: ``all``, ``group/head``, ``class/3``; any other has that of its place.

    A name without its kind (``head``) is taken for a group.
    """
    colors: list[Color] = []
    for place, part in enumerate(parts):
        kind, _, name = part.rpartition("/")
        if part == "all":
            colors.append(WHOLE_COLOR)
        elif name in GROUP_COLORS and kind in ("", "group"):
            colors.append(GROUP_COLORS[name])
        elif kind == "class" and name.isdecimal():
            colors.append(PALETTE[int(name) % len(PALETTE)])
        else:
            colors.append(PALETTE[place % len(PALETTE)])
    return colors


def class_colors(labels: Sequence[int]) -> dict[int, tuple[float, float, float]]:
    """Class index → its colour, the same in every figure; of classes that would share one, the later take free ones."""
    colors: dict[int, tuple[float, float, float]] = {}
    for label in labels:
        wanted = [PALETTE[(label + shift) % len(PALETTE)] for shift in range(len(PALETTE))]
        colors[label] = next((color for color in wanted if color not in colors.values()), wanted[0])
    return colors
