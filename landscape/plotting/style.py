"""How every figure looks: sizes, fonts and colours of our own pages and of the venues that print them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import matplotlib
import numpy as np
import seaborn
from cycler import cycler
from matplotlib.cbook import is_math_text
from matplotlib.figure import FigureBase
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.textpath import text_to_path
from tueplots import figsizes, fonts, fontsizes

from landscape.errors import LandscapeError, did_you_mean

Column = Literal["single", "double", "wide"]
Venue = Literal["landscape", "neurips", "iclr", "icml", "aaai", "cvpr", "iccv"]

COLUMN_WIDTHS: dict[str, float] = {"single": 3.35, "double": 6.9, "wide": 10.0}
"""Figure widths in inches without a venue: one and two columns of a journal page, and a slide or poster."""

PALETTE: list[tuple[float, float, float]] = [tuple(color) for color in seaborn.color_palette("colorblind")]
"""Ten colours that people with any common colour-vision deficiency tell apart (seaborn's "colorblind")."""

METHOD_LINES: list[Any] = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))]
"""Line styles of methods by position, so that they also differ in grey."""

METHOD_HATCHES: list[str | None] = [None, "....", "xxxx", "----", "++++", "oo"]
"""Fillings of methods' bars by position; slashes are kept for what is not certified."""

# Sizes and widths of each venue's template: (one column, the whole page) and the sizes of letters. ICCV prints with the
# template of CVPR. A venue of one column has half of it for "single".
_VENUES: dict[str, tuple[Any, Any, Any]] = {
    "neurips": (lambda: figsizes.neurips2024(rel_width=0.5), figsizes.neurips2024, fontsizes.neurips2024),
    "iclr": (lambda: figsizes.iclr2024(rel_width=0.5), figsizes.iclr2024, fontsizes.iclr2024),
    "icml": (figsizes.icml2024_half, figsizes.icml2024_full, fontsizes.icml2024),
    "aaai": (figsizes.aaai2024_half, figsizes.aaai2024_full, fontsizes.aaai2024),
    "cvpr": (figsizes.cvpr2024_half, figsizes.cvpr2024_full, fontsizes.cvpr2024),
    "iccv": (figsizes.cvpr2024_half, figsizes.cvpr2024_full, fontsizes.cvpr2024),
}

FILE_PARAMETERS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "landscape"}
"""Type 42 embeds TrueType fonts: journals reject Type 3, and the text stays searchable. The salt makes the same drawing
the same bytes."""


@dataclass(frozen=True)
class Look:
    """Where a figure will be printed: how wide, and in whose letters."""

    column: Column = "double"
    venue: Venue = "landscape"

    def __post_init__(self) -> None:
        if self.column not in get_args(Column):
            raise LandscapeError(f"no column width '{self.column}': give one of {', '.join(get_args(Column))}")
        if self.venue not in get_args(Venue):
            raise LandscapeError(f"no style '{self.venue}'{did_you_mean(self.venue, get_args(Venue))}")
        if self.column == "wide" and self.venue != "landscape":
            raise LandscapeError(f"a page of {self.venue} has no column 'wide': give single or double")

    @property
    def width(self) -> float:
        """Inches."""
        if self.venue == "landscape":
            return COLUMN_WIDTHS[self.column]
        half, full, _ = _VENUES[self.venue]
        return float((half if self.column == "single" else full)()["figure.figsize"][0])


OUR_PAGES = Look()

# Where DejaVu Sans has no Chinese, Japanese or Korean glyphs, the first of these that is installed helps out.
_EAST_ASIAN_FONTS = [
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans CJK KR",
    "Noto Sans JP",
    "Noto Sans SC",
    "Noto Sans KR",
    "Source Han Sans",
    "IPAexGothic",
    "TakaoGothic",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Hiragino Sans",
    "PingFang SC",
    "Apple SD Gothic Neo",
    "Yu Gothic",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
]
_LEGEND_ROOM = 3.9  # a handle and the gaps beside it, in letter sizes
MISSING_GLYPH = r"Glyph \d+ .* missing from"


@cache
def font_families(venue: Venue = "landscape") -> tuple[str, ...]:
    """The families that letters are taken from, in order.

    DejaVu Sans ships with matplotlib and has every Greek letter we print. The venues set Times: whichever of its kind
    is installed, else STIX, which ships with matplotlib and looks like it. What is here for other scripts comes last.
    """
    installed = set(fontManager.get_font_names())
    times = (*fonts.neurips2024()["font.serif"], "STIXGeneral") if venue != "landscape" else ()
    wanted = (*times, "DejaVu Sans", *_EAST_ASIAN_FONTS)
    return tuple(name for name in wanted if name in installed)


@contextmanager
def style(look: Look = Look()) -> Iterator[None]:
    """The look of our figures for the code inside the ``with``: seaborn's ticks theme at sizes legible in print."""
    width = look.width
    if look.venue == "landscape":
        scale = 1.25 if look.column == "wide" else 1.0
        label, title, small = 8 * scale, 7.5 * scale, 7 * scale
    else:
        sizes = _VENUES[look.venue][2](default_smaller=2)
        label = title = float(sizes["axes.labelsize"])
        small = label - 1
    parameters = {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("paper"),
        **FILE_PARAMETERS,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.linewidth": 0.6,
        "axes.labelsize": label,
        "axes.titlesize": title,
        "axes.titlepad": 3.0,
        "figure.figsize": (width, 0.62 * width),
        "figure.constrained_layout.use": True,
        "figure.labelsize": label,
        "figure.titlesize": label,
        "font.size": small,
        "font.family": list(font_families(look.venue)),
        "mathtext.fontset": "dejavusans" if look.venue == "landscape" else "stix",
        "legend.fontsize": small,
        "legend.frameon": False,
        "lines.linewidth": 1.0,
        "hatch.linewidth": 0.5,
        "patch.linewidth": 0.6,
    }
    for axis in ("xtick", "ytick"):
        parameters |= {
            f"{axis}.labelsize": small,
            f"{axis}.major.size": 2.5,
            f"{axis}.major.width": 0.6,
            f"{axis}.major.pad": 2.0,
            f"{axis}.minor.size": 1.5,
            f"{axis}.minor.width": 0.4,
        }
    with matplotlib.rc_context(parameters), warnings.catch_warnings():
        # A name is laid out many times; which of its glyphs no font has is told once, when the figure is saved.
        warnings.filterwarnings("ignore", MISSING_GLYPH)
        yield


def literal(text: str) -> str:
    """``text`` as matplotlib must be given it to show it as it is: no ``$…$`` in a name is a formula."""
    return text.replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """Width in inches of ``text`` set in the font of the style at ``size`` points."""
    font = FontProperties(family=matplotlib.rcParams["font.family"], size=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING_GLYPH)
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def label_width(label: str, size: float) -> float:
    """Width in inches of a label as matplotlib shows it: mathtext between dollars, else what :func:`literal` made."""
    if not is_math_text(label):
        return text_width(label.replace(r"\$", "$"), size)
    font = FontProperties(family=matplotlib.rcParams["font.family"], size=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", MISSING_GLYPH)
        width, _, _ = text_to_path.get_text_width_height_descent(label, font, ismath=True)
    return float(width) / 72


def shorten(text: str, size: float, width: float) -> str:
    """``text`` cut in the middle with an ellipsis so that it is at most ``width`` inches wide at ``size`` points.

    The middle goes, because long class names differ at either end.
    """
    if text_width(text, size) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        candidate = f"{text[: math.ceil(kept / 2)].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
        if text_width(candidate, size) <= width:
            return candidate
    return text[:1] + "…"


def class_colors(labels: Sequence[int]) -> dict[int, tuple[float, float, float]]:
    """Class index → its colour, the same in every figure; of classes that would share one, the later take free ones."""
    colors: dict[int, tuple[float, float, float]] = {}
    for label in labels:
        wanted = [PALETTE[(label + shift) % len(PALETTE)] for shift in range(len(PALETTE))]
        colors[label] = next((color for color in wanted if color not in colors.values()), wanted[0])
    return colors


def add_legend(
    figure: FigureBase, entries: Sequence[tuple[Any, str]], *, most: int = 5, side_by_side: tuple[Any, ...] = ()
) -> Legend:
    """A legend above all axes, in as many columns as the width of the figure holds.

    Args:
        figure: or the panel of one.
        entries: handle and label; handles in a tuple lie upon each other.
        most: columns at most.
        side_by_side: the one tuple of handles that do not lie upon each other.
    """
    size, width = matplotlib.rcParams["legend.fontsize"], matplotlib.rcParams["figure.figsize"][0]
    texts = [label_width(text, size) + _LEGEND_ROOM * size / 72 for _, text in entries]

    def inches(columns: int) -> float:
        # Matplotlib fills the columns one after another; each is as wide as its widest entry.
        return sum(max(column) for column in np.array_split(texts, columns))

    columns = max([n for n in range(1, min(most, len(entries)) + 1) if inches(n) < width - 0.1], default=1)
    legend = figure.legend(
        [handle for handle, _ in entries],
        [str(number) for number in range(len(entries))],
        handler_map={tuple: HandlerTuple(ndivide=1), side_by_side: HandlerTuple(ndivide=None, pad=0.1)},
        loc="outside upper center",
        ncols=columns,
        columnspacing=1.2,
        handlelength=2.0,
        handletextpad=0.5,
    )
    # Set afterwards, since matplotlib leaves out an entry whose name begins with "_".
    for text, (_, words) in zip(legend.get_texts(), entries, strict=True):
        text.set_text(words)
    return legend
