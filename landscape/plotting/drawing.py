"""What a figure shows, apart from how it is drawn: so that a file of it can be drawn again, the same or otherwise.

A kind of figure is two functions. One takes results and returns a :class:`Drawing`: every number and every word that
will be seen, as arrays. The other, its *renderer*, makes a figure of these arrays and of nothing else, at whatever
width the style says. What the arrays file holds is therefore what is drawn.
"""

from __future__ import annotations

import io
import json
import os
import re
import string
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

import landscape
from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.plotting.style import FILE_PARAMETERS, MISSING_GLYPH, Look, style
from landscape.store.hdf5 import open_results, schema_of, short

DRAWING_SCHEMA = "landscape-drawing"
DRAWING_VERSION = 2

Canvas = Figure | SubFigure
Arrays = Mapping[str, NDArray[Any]]
Renderer = Callable[[Arrays, Mapping[str, Any]], Canvas]
"""(arrays, settings) → what :func:`new_figure` gave it, drawn upon."""

_RENDERERS: dict[str, Renderer] = {}
_COMPOSITE = "composite"
_NARROWEST = 1.2  # inches of a panel; where one would be narrower, each has a row of its own
_OWN = ("schema", "schema_version", "kind", "look", "landscape_version", "matplotlib_version")
_METADATA: dict[str, dict[str, None]] = {".pdf": {"CreationDate": None}, ".png": {}, ".svg": {"Date": None}}

# The part of a page that the renderer of a panel draws on; None where it makes a figure of its own.
_PANEL: ContextVar[SubFigure | None] = ContextVar("panel", default=None)


def renders(kind: str) -> Callable[[Renderer], Renderer]:
    """Register the renderer of a kind of figure; it runs inside the style, and draws on :func:`new_figure`."""

    def register(renderer: Renderer) -> Renderer:
        _RENDERERS[kind] = renderer
        return renderer

    return register


def new_figure(height: float, **pads: float) -> Canvas:
    """An empty figure as wide as the style says and ``height`` inches high, known to no pyplot.

    Within :func:`compose` it is the panel's part of the page instead, whose width ``figure.figsize`` states too.

    Args:
        height: inches.
        pads: of matplotlib's constrained layout (``w_pad``, ``h_pad``, ``wspace``, ``hspace``).
    """
    panel = _PANEL.get()
    if panel is not None:
        return panel
    figure = Figure(figsize=(matplotlib.rcParams["figure.figsize"][0], height))
    FigureCanvasAgg(figure)
    if pads:
        figure.set_layout_engine("constrained", **pads)
    return figure


@dataclass(frozen=True)
class Drawing:
    """Everything that a figure shows; the same arrays, settings and look give the same figure, byte for byte.

    Raises:
        LandscapeError: no renderer of this ``kind``.
        TypeError: a setting that JSON has no word for.
    """

    kind: str  # of its renderer
    arrays: dict[str, NDArray[Any]]  # name → values drawn, numbers or words; a name with slashes makes HDF5 groups
    settings: dict[str, Any] = field(default_factory=dict)  # what else the renderer is told: words, numbers, lists
    look: Look = field(default_factory=Look)

    def __post_init__(self) -> None:
        if self.kind not in _RENDERERS:
            raise LandscapeError(f"no figure of kind '{self.kind}': this landscape draws {', '.join(_RENDERERS)}")
        # As they will be read from a file: a list for a tuple, words for the keys of a mapping.
        object.__setattr__(self, "settings", json.loads(json.dumps(self.settings)))
        object.__setattr__(self, "arrays", {name: np.asarray(values) for name, values in self.arrays.items()})

    @cached_property
    def figure(self) -> Figure:
        """The figure, laid out.

        Raises:
            LandscapeError: an array or a setting that its renderer looks for is not there.
        """
        with style(self.look):
            try:
                figure = _RENDERERS[self.kind](self.arrays, self.settings)
            except KeyError as error:
                raise LandscapeError(
                    f"a figure of kind '{self.kind}' without {error}, as another version of landscape may have written "
                    "it: make it again from its results"
                ) from error
            assert isinstance(figure, Figure)
            # Ticks take their style when they are made, which is when they are first laid out.
            figure.draw_without_rendering()
            _settle(figure)
        return figure

    def looking(self, look: Look) -> Drawing:
        """The same content for another page."""
        return replace(self, look=look)


def _settle(figure: Figure) -> None:
    """Keep the layout as it is, rounded.

    Its solver adds in no fixed order, and its last digits would show in files; and a figure that is saved a second time
    would be laid out from where the first ended.
    """
    figure.set_layout_engine("none")
    parts = list(figure.subfigs)
    for part in parts:
        parts += part.subfigs
        part.bbox_relative.set_points(np.round(part.bbox_relative.get_points(), 6))
    for axes in figure.axes:
        axes.set_position(Bbox(np.round(axes.get_position(original=True).get_points(), 6)))
    figure.draw_without_rendering()  # axes whose aspect is fixed find their place within the position given


# ---------------------------------------------------------------------- several on one page


def compose(rows: Sequence[Sequence[Drawing]], *, widths: Sequence[Sequence[float]] | None = None,
            heights: Sequence[float] | None = None, letters: bool = True) -> Drawing:  # fmt: skip
    """Several drawings as the panels of one figure, row by row.

    Args:
        rows: panels from the top left.
        widths: shares of the width, a row of them for each row; equal if not given. On a page where a panel would be
            narrower than 1.2 inches, as in a single column, they stand one above the other instead.
        heights: of the rows in inches; as high as the highest of its panels wants to be if not given.
        letters: whether (a), (b), … stand above the panels.

    Raises:
        LandscapeError: a panel that is itself composed, or widths or heights of another shape than ``rows``.
    """
    panels = [panel for row in rows for panel in row]
    if any(panel.kind == _COMPOSITE for panel in panels):
        raise LandscapeError("a panel that is composed of panels cannot be composed again: give all panels at once")
    widths = widths or [[1.0] * len(row) for row in rows]
    if [len(row) for row in widths] != [len(row) for row in rows] or (heights and len(heights) != len(rows)):
        raise LandscapeError(f"rows of {[len(row) for row in rows]} panels need a width for each, and a height a row")
    names = iter(string.ascii_lowercase)
    placed = [[next(names) for _ in row] for row in rows]
    arrays: dict[str, NDArray[Any]] = {}
    content = {}
    for letter, panel in zip([letter for row in placed for letter in row], panels, strict=True):
        arrays |= {f"{letter}/{name}": values for name, values in panel.arrays.items()}
        content[letter] = {"kind": panel.kind, "settings": panel.settings}
    settings = {"rows": placed, "widths": widths, "heights": heights, "letters": letters, "panels": content}
    return Drawing(_COMPOSITE, arrays, settings)


@renders(_COMPOSITE)
def _composite(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    total = matplotlib.rcParams["figure.figsize"][0]

    def render(letter: str, width: float) -> Canvas:
        panel = settings["panels"][letter]
        own = {name.split("/", 1)[1]: values for name, values in arrays.items() if name.startswith(f"{letter}/")}
        with matplotlib.rc_context({"figure.figsize": (width, 0.62 * width)}):
            return _RENDERERS[panel["kind"]](own, panel["settings"])

    rows, heights = settings["rows"], settings["heights"]
    inches = [[total * share / sum(row) for share in row] for row in settings["widths"]]
    if min(width for row in inches for width in row) < _NARROWEST:
        rows, heights = [[letter] for row in rows for letter in row], None
        inches = [[total] for _ in rows]
    above = 1.6 * matplotlib.rcParams["figure.titlesize"] / 72 * bool(settings["letters"])
    if heights is None:
        heights = [
            max(_height(render(letter, width)) for letter, width in zip(row, wide, strict=True)) + above
            for row, wide in zip(rows, inches, strict=True)
        ]
    page = new_figure(sum(heights))
    # Letters have a strip of their own above each row: a legend above the axes of a panel would lie upon them.
    shares = [share for height in heights for share in ([above, height - above] if above else [height])]
    strips = list(page.subfigures(len(shares), 1, height_ratios=shares, squeeze=False)[:, 0])
    for row, wide in zip(rows, inches, strict=True):
        if above:
            head, starts = strips.pop(0), np.cumsum([0.0, *wide[:-1]]) / total
            for letter, start in zip(row, starts, strict=True):
                head.text(start + 0.07 / total, 0.5, f"({letter})", va="center", fontweight="bold",
                          fontsize=matplotlib.rcParams["figure.titlesize"])  # fmt: skip
        places = strips.pop(0).subfigures(1, len(row), width_ratios=wide, squeeze=False)[0]
        for place, letter, width in zip(places, row, wide, strict=True):
            with _drawing_on(place):
                render(letter, width)
    return page


def _height(canvas: Canvas) -> float:
    assert isinstance(canvas, Figure)
    return float(canvas.get_figheight())


@contextmanager
def _drawing_on(panel: SubFigure) -> Iterator[None]:
    token = _PANEL.set(panel)
    try:
        yield
    finally:
        _PANEL.reset(token)


# ---------------------------------------------------------------------- on disk


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
        matplotlib.rc_context(FILE_PARAMETERS),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        # Through memory: on a full disk the PDF writer fails once more while it closes, with another error.
        content = io.BytesIO()
        figure.savefig(content, format=suffix[1:], dpi=300, metadata=_METADATA[suffix])
        temporary.write_bytes(content.getbuffer())
    missing: dict[str, None] = {}  # a set that keeps its order
    for warning in caught:
        if re.match(MISSING_GLYPH, str(warning.message)):
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


def save_drawing(
    drawing: Drawing, path: str | os.PathLike[str], *, origin: Mapping[str, str] | None = None
) -> tuple[Path, Path]:
    """Write the figure and, beside it, ``PATH.h5`` with the arrays it shows; returns both paths.

    The suffix is added to the whole name (``grid.pdf.h5``), since ``grid.h5`` may well be the file of the spectra.

    Args:
        origin: see :func:`write_drawing`.

    Raises:
        LandscapeError: as :func:`save_figure` and :func:`check_drawing_paths`.
    """
    check_drawing_paths(path)
    figure_path = save_figure(drawing.figure, path)
    return figure_path, write_drawing(drawing, _array_path(figure_path), origin=origin)


def write_drawing(drawing: Drawing, path: str | os.PathLike[str], *, origin: Mapping[str, str] | None = None) -> Path:
    """Write all that a drawing shows into an HDF5 file, from which :func:`read_drawing` has it again.

    Args:
        origin: name → where it comes from (``command``, ``recipe``); become attributes of the file.
    """
    path = Path(path)
    with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
        own = {
            "schema": DRAWING_SCHEMA,
            "schema_version": DRAWING_VERSION,
            "kind": drawing.kind,
            "look": json.dumps(asdict(drawing.look)),
            "landscape_version": landscape.__version__,
            "matplotlib_version": matplotlib.__version__,
        }
        file.attrs.update({**(origin or {}), **own})
        # A dataset: an attribute is limited to 64 KiB, and thousands of class names are longer.
        file.create_dataset("settings", data=json.dumps(drawing.settings), dtype=h5py.string_dtype())
        for name, values in drawing.arrays.items():
            if values.dtype.kind == "U":
                words = np.array(values.tolist(), dtype=object)
                file.create_dataset(f"arrays/{name}", data=words, dtype=h5py.string_dtype())
            else:
                file.create_dataset(f"arrays/{name}", data=values)
    return path


def read_drawing(path: str | os.PathLike[str]) -> Drawing:
    """The drawing that :func:`write_drawing` wrote; its figure is the same, byte for byte with the same matplotlib.

    Raises:
        LandscapeError: missing, of another schema, or of version 1, which held the arrays and not what they are of.
    """
    path = Path(path)
    with open_results(path, DRAWING_SCHEMA, DRAWING_VERSION, "landscape plot") as file:
        if "kind" not in file.attrs:
            raise LandscapeError(f"'{path}' does not say how its arrays are drawn: make it again from its results")
        arrays: dict[str, NDArray[Any]] = {}

        def read(name: str, node: Any) -> None:
            if isinstance(node, h5py.Dataset):
                is_words = h5py.check_string_dtype(node.dtype) is not None
                arrays[name] = np.array(node.asstr()[...], dtype=str) if is_words else node[...]

        file["arrays"].visititems(read)
        settings = json.loads(file["settings"].asstr()[()])
        look = Look(**json.loads(file.attrs["look"]))
        return Drawing(str(file.attrs["kind"]), arrays, settings, look)


def read_origin(path: str | os.PathLike[str]) -> dict[str, str]:
    """What :func:`write_drawing` was told of where a drawing comes from.

    Raises:
        LandscapeError: as :func:`read_drawing`.
    """
    return {name: value for name, value in _attributes(path).items() if name not in _OWN}


def _attributes(path: str | os.PathLike[str]) -> dict[str, str]:
    with open_results(Path(path), DRAWING_SCHEMA, DRAWING_VERSION, "landscape plot") as file:
        return {name: str(value) for name, value in file.attrs.items()}


def describe_drawing(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a drawing's file holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :func:`read_drawing`.
    """
    path, drawing = Path(path), read_drawing(path)
    attributes = _attributes(path)
    panels = drawing.settings["panels"].items() if drawing.kind == _COMPOSITE else ()
    rows = [
        ("file", f"{path} ({path.stat().st_size / 1e6:.2f} MB)"),
        ("schema", f"{DRAWING_SCHEMA} {attributes['schema_version']}"),
        ("kind", drawing.kind),
        *((f"  ({letter})", panel["kind"]) for letter, panel in panels),
        ("look", f"{drawing.look.column} column of {drawing.look.venue}, {drawing.look.width:.2f} inches"),
    ]
    versions = ("landscape", "matplotlib")
    rows.append(("drawn by", ", ".join(f"{name} {attributes[f'{name}_version']}" for name in versions)))
    rows += list(read_origin(path).items())
    for name, values in drawing.arrays.items():
        if values.dtype.kind == "U" and values.ndim == 1:
            rows.append((name, short(values.tolist(), quote=False)))
    numbers = [name for name, values in drawing.arrays.items() if values.dtype.kind != "U"]
    size = sum(drawing.arrays[name].size for name in numbers)
    rows.append(("numbers", f"{size:,} in {len(numbers)} arrays: {short(numbers, quote=False)}"))
    return rows
