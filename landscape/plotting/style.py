"""How every figure looks and how it reaches the disk."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import h5py
import matplotlib
import seaborn
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.store import schema_of

Column = Literal["single", "double", "wide"]

DRAWING_SCHEMA = "landscape-drawing"

COLUMN_WIDTHS: dict[str, float] = {"single": 3.35, "double": 6.9, "wide": 10.0}
"""Figure widths in inches: one and two columns of a journal page, and a slide or poster."""

PALETTE: list[tuple[float, float, float]] = [tuple(color) for color in seaborn.color_palette("colorblind")]
"""Ten colours that people with any common colour-vision deficiency tell apart (seaborn's "colorblind")."""

# Type 42 embeds TrueType fonts: journals reject Type 3, and the text stays searchable. The salt and the missing dates
# make the same drawing the same bytes.
_FILE_PARAMETERS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.hashsalt": "landscape"}
_METADATA: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}


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
_MISSING_GLYPH = r"Glyph \d+ .* missing from"


@cache
def font_families() -> tuple[str, ...]:
    """DejaVu Sans, which ships with matplotlib and has every Greek letter we print, then what is here for the rest."""
    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _EAST_ASIAN_FONTS if name in installed))


@contextmanager
def style(column: Column = "double") -> Iterator[None]:
    """The look of our figures for the code inside the ``with``: seaborn's ticks theme at sizes legible in print.

    Args:
        column: how wide a new figure is, see :data:`COLUMN_WIDTHS`.

    Raises:
        LandscapeError: unknown ``column``.
    """
    if column not in COLUMN_WIDTHS:
        raise LandscapeError(f"no column width '{column}': give one of {', '.join(COLUMN_WIDTHS)}")
    width = COLUMN_WIDTHS[column]
    scale = 1.25 if column == "wide" else 1.0
    parameters = {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("paper"),
        **_FILE_PARAMETERS,
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.linewidth": 0.6,
        "axes.labelsize": 8 * scale,
        "axes.titlesize": 7.5 * scale,
        "axes.titlepad": 3.0,
        "figure.figsize": (width, 0.62 * width),
        "figure.constrained_layout.use": True,
        "figure.labelsize": 8 * scale,
        "font.size": 7 * scale,
        "font.family": list(font_families()),
        "legend.fontsize": 7 * scale,
        "legend.frameon": False,
        "lines.linewidth": 1.0,
        "hatch.linewidth": 0.5,
        "patch.linewidth": 0.6,
    }
    for axis in ("xtick", "ytick"):
        parameters |= {
            f"{axis}.labelsize": 7 * scale,
            f"{axis}.major.size": 2.5,
            f"{axis}.major.width": 0.6,
            f"{axis}.major.pad": 2.0,
            f"{axis}.minor.size": 1.5,
            f"{axis}.minor.width": 0.4,
        }
    with matplotlib.rc_context(parameters), warnings.catch_warnings():
        # A name is laid out many times; which of its glyphs no font has is told once, when the figure is saved.
        warnings.filterwarnings("ignore", _MISSING_GLYPH)
        yield


def new_figure(height: float) -> Figure:
    """An empty figure as wide as the style says and ``height`` inches high, known to no pyplot."""
    figure = Figure(figsize=(matplotlib.rcParams["figure.figsize"][0], height))
    FigureCanvasAgg(figure)
    return figure


@dataclass(frozen=True)
class Drawing:
    """A figure with the numbers it shows."""

    figure: Figure
    arrays: dict[str, NDArray[Any]]  # name → drawn values; a name with slashes makes HDF5 groups


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PDF or SVG (vectors) or PNG (300 dots an inch), atomically; same figure, same bytes.

    One warning names all the characters that no installed font can show.

    Raises:
        LandscapeError: another suffix, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _METADATA:
        raise LandscapeError(f"cannot draw into '{path}': its suffix must be one of {', '.join(_METADATA)}")
    with (
        atomic_replacement(path) as temporary,
        matplotlib.rc_context(_FILE_PARAMETERS),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        figure.savefig(temporary, format=suffix[1:], dpi=300, metadata=_METADATA[suffix])
    missing: dict[str, None] = {}  # a set that keeps its order
    for warning in caught:
        if re.match(_MISSING_GLYPH, str(warning.message)):
            missing[chr(int(str(warning.message).split()[1]))] = None
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if missing:
        warnings.warn(
            f"no installed font shows {' '.join(missing)}: boxes are drawn instead; install one, e.g. Noto Sans CJK",
            stacklevel=2,
        )
    return path


def _array_path(figure_path: Path) -> Path:
    return figure_path.with_name(figure_path.name + ".h5")


def check_drawing_paths(path: str | os.PathLike[str]) -> None:
    """A drawing never replaces results, only an older drawing.

    Raises:
        LandscapeError: results lie where the figure or its arrays would go.
    """
    for target in (Path(path), _array_path(Path(path))):
        if schema_of(target) not in (None, DRAWING_SCHEMA):
            raise LandscapeError(f"'{target}' holds results, the drawing of '{path}' would replace it: give another -o")


def save_drawing(drawing: Drawing, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write the figure and, beside it, ``PATH.h5`` with the arrays it shows; returns both paths.

    The suffix is added to the whole name (``grid.pdf.h5``), since ``grid.h5`` may well be the file of the spectra.

    Raises:
        LandscapeError: as :func:`save_figure` and :func:`check_drawing_paths`.
    """
    check_drawing_paths(path)
    figure_path = save_figure(drawing.figure, path)
    array_path = _array_path(figure_path)
    with atomic_replacement(array_path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["schema"] = DRAWING_SCHEMA
        file.attrs["schema_version"] = 1
        for name, values in drawing.arrays.items():
            if values.dtype.kind == "U":
                file.create_dataset(name, data=values.tolist(), dtype=h5py.string_dtype())
            else:
                file.create_dataset(name, data=values)
    return figure_path, array_path


def literal(text: str) -> str:
    """``text`` as matplotlib must be given it to show it as it is: no ``$…$`` in a name is a formula."""
    return text.replace("$", r"\$")


def text_width(text: str, size: float) -> float:
    """Width in inches of ``text`` set in the figure font at ``size`` points."""
    font = FontProperties(family=list(font_families()), size=size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _MISSING_GLYPH)
        width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
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
