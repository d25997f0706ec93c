"""Results as a table, drawn to the width of a page or written for a paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from landscape.errors import LandscapeError
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import bare
from landscape.plotting.style import literal, shorten, text_width

Best = Literal["max", "min", "none"]
Array = NDArray[np.float64]

_LINE = 1.7  # from one line to the next, in units of the letter size
_GAP, _NARROW_GAP = 0.14, 0.09  # inches between two columns, at least; where they are too many
_HEAVY, _LIGHT = 0.9, 0.5  # points: rules at the ends, and within
_SMALLEST = 5.0  # points
_MARGIN = 0.09  # inches that the layout leaves free at both sides together
_LEAST_NAME = 0.18  # of the width that the names of the rows keep when they are shortened
_ABSENT = "–"
_LATEX = {
    "–": "--",
    **{sign: f"${command}$" for sign, command in {
        "−": "-", "±": r"\pm", "‖": r"\|", "∇": r"\nabla ", "∞": r"\infty ", "×": r"\times ",
        "γ": r"\gamma", "η": r"\eta", "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda", "ν": r"\nu", "ρ": r"\rho",
        "σ": r"\sigma", "τ": r"\tau",
    }.items()},
}  # fmt: skip

_ESCAPED = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "~": r"\textasciitilde ", "^": r"\textasciicircum ", "\\": r"\textbackslash ",
    }
)  # fmt: skip


def result_table(
    rows: Sequence[str],
    columns: Sequence[str],
    values: ArrayLike,
    errors: ArrayLike | None = None,
    *,
    best: Best | Sequence[Best] = "max",
    digits: int | Sequence[int] = 1,
    spans: Sequence[tuple[str, int]] | None = None,
    sections: Sequence[tuple[str, int]] | None = None,
    corner: str = "",
) -> Drawing:
    """A table of numbers with the best of every column in bold, in every section of its own.

    Numbers that are printed alike are equally good. A missing one (NaN) is a dash.

    Args:
        rows: what is compared, for example methods.
        columns: heads of the columns, with their units.
        values: ``(r, c)``.
        errors: likewise, printed as ``value ± error``; NaN for none.
        best: what is best, of all columns or column by column; ``none`` prints nothing in bold.
        digits: behind the point, of all columns or column by column.
        spans: heads over several columns, (words, number of columns), from the left; together as many as ``columns``.
        sections: heads over several rows, (words, number of rows), from the top; together as many as ``rows``.
        corner: the head over the rows.

    Returns:
        The drawing; its arrays are ``rows`` (r,), ``columns`` (c,), ``values`` (r, c) and ``errors`` (r, c), NaN where
        there is none.

    Raises:
        LandscapeError: shapes, spans, sections or settings that do not fit ``rows`` and ``columns``.
    """
    shape = (len(rows), len(columns))
    table = np.asarray(values, dtype=np.float64)
    spread = np.full(shape, np.nan) if errors is None else np.asarray(errors, dtype=np.float64)
    if 0 in shape or table.shape != shape or spread.shape != shape:
        raise LandscapeError(
            f"a table of {shape[0]} rows and {shape[1]} columns needs as many values and errors, got {table.shape} and "
            f"{spread.shape}"
        )
    bests = [best] * shape[1] if isinstance(best, str) else list(best)
    places = [digits] * shape[1] if isinstance(digits, int) else list(digits)
    if len(bests) != shape[1] or len(places) != shape[1] or not set(bests) <= {"max", "min", "none"}:
        raise LandscapeError(f"{shape[1]} columns need a 'best' (max, min or none) and digits each, or one for all")
    for heads, count, what in ((spans, shape[1], "columns"), (sections, shape[0], "rows")):
        if heads is not None and sum(number for _, number in heads) != count:
            raise LandscapeError(f"heads over {sum(n for _, n in heads)} {what} do not fit a table of {count} {what}")
        if heads is not None and min(number for _, number in heads) < 1:
            raise LandscapeError(f"a head stands over one of the {what} or more: leave out those over none")
    arrays: dict[str, NDArray[Any]] = {
        "rows": np.array(list(rows)),
        "columns": np.array(list(columns)),
        "values": table,
        "errors": spread,
    }
    settings = {
        "best": bests,
        "digits": places,
        "spans": spans or [],
        "sections": sections or [],
        "corner": corner,
    }
    return Drawing("table", arrays, settings)


def table_text(drawing: Drawing, form: Literal["markdown", "latex"]) -> str:
    """The same table as text: for a README, or for a paper whose preamble loads ``booktabs``.

    Raises:
        LandscapeError: the drawing is no table, or there is no such form.
    """
    if drawing.kind != "table":
        raise LandscapeError(f"a drawing of kind '{drawing.kind}' is no table")
    if form not in ("markdown", "latex"):
        raise LandscapeError(f"a table is written as markdown or latex, not as '{form}'")
    lines = _lines(drawing.arrays, drawing.settings)
    return _markdown(drawing, lines) if form == "markdown" else _latex(drawing, lines)


class _Line(NamedTuple):
    """One line of a table below its heads."""

    name: str
    cells: list[str]
    bold: list[bool]
    is_head: bool = False  # of a section: its cells are empty


def _lines(arrays: Arrays, settings: Mapping[str, Any]) -> list[_Line]:
    names = arrays["rows"].tolist()
    lines, at = [], 0
    for words, number in settings["sections"] or [("", len(names))]:
        rows = slice(at, at + number)
        cells, bold = _cells({name: arrays[name][rows] for name in ("values", "errors")}, settings)
        if settings["sections"]:
            lines.append(_Line(words, [""] * len(arrays["columns"]), [False] * len(arrays["columns"]), is_head=True))
        lines += [_Line(*line) for line in zip(names[rows], cells, bold.tolist(), strict=True)]
        at += number
    return lines


def _cells(arrays: Arrays, settings: Mapping[str, Any]) -> tuple[list[list[str]], NDArray[np.bool_]]:
    """The words of every cell, and which of them are the best of their column."""
    values, errors = arrays["values"], arrays["errors"]
    words = [[_ABSENT] * values.shape[1] for _ in range(len(values))]
    bold = np.zeros(values.shape, dtype=bool)
    for column, (best, digits) in enumerate(zip(settings["best"], settings["digits"], strict=True)):
        printed = np.round(values[:, column], digits) + 0.0  # of what rounds to −0 no sign stays
        for row, (value, error) in enumerate(zip(printed, errors[:, column], strict=True)):
            if math.isfinite(value):
                spread = f" ± {error:.{digits}f}" if math.isfinite(error) else ""
                words[row][column] = f"{value:.{digits}f}{spread}".replace("-", "−")
        if best != "none" and np.isfinite(printed).any():
            bold[:, column] = printed == (np.nanmax(printed) if best == "max" else np.nanmin(printed))
    return words, bold


def _heads(arrays: Arrays, settings: Mapping[str, Any]) -> list[str]:
    """Heads of the columns, each with that of its span, for a table of one line of heads."""
    above = [words for words, number in settings["spans"] for _ in range(number)]
    columns = arrays["columns"].tolist()
    return [f"{span} {column}".strip() for span, column in zip(above, columns, strict=True)] if above else columns


def _markdown(drawing: Drawing, lines: Sequence[_Line]) -> str:
    def written(words: Sequence[str]) -> str:
        return "| " + " | ".join(word.replace("|", "\\|") for word in words) + " |"

    text = [written([drawing.settings["corner"], *_heads(drawing.arrays, drawing.settings)])]
    text.append("|---|" + "---:|" * len(lines[0].cells))
    for line in lines:
        cells = [f"**{word}**" if mark else word for word, mark in zip(line.cells, line.bold, strict=True)]
        text.append(written([f"*{line.name}*" if line.is_head else line.name, *cells]))
    return "\n".join(text) + "\n"


def _latex(drawing: Drawing, lines: Sequence[_Line]) -> str:
    import pandas

    columns = drawing.arrays["columns"].tolist()
    above = [words for words, number in drawing.settings["spans"] for _ in range(number)]
    # Rows and columns may well be called alike; a hidden number tells them apart.
    heads = pandas.MultiIndex.from_arrays([*([above] if above else []), range(len(columns)), columns])
    index = pandas.MultiIndex.from_arrays([range(len(lines)), [line.name for line in lines]])
    frame = pandas.DataFrame([line.cells for line in lines], index=index, columns=heads)
    # pandas escapes the names of levels from version 3 on alone.
    corner = _symbols(drawing.settings["corner"].translate(_ESCAPED))
    frame.columns.names = [*[None] * (heads.nlevels - 1), corner or None]
    marks = np.where([line.bold for line in lines], "textbf:--rwrap;", "")
    slanted = np.where([line.is_head for line in lines], "textit:--rwrap;", "")
    styled = frame.style.hide(axis=0, level=0).hide(axis=1, level=heads.nlevels - 2)
    styled = styled.format(_symbols).apply(lambda _: marks, axis=None)
    styled = styled.apply_index(lambda _: slanted, axis=0, level=1)
    styled = styled.format_index(_symbols, escape="latex", axis=0, level=1)
    styled = styled.format_index(_symbols, escape="latex-math", axis=1)  # their $_{…}$ are formulas in the figure too
    text = str(styled.to_latex(hrules=True, multicol_align="c", column_format="l" + "r" * frame.shape[1]))
    # A rule above every section; the first has that below the heads.
    return text.replace("\n\\textit{", "\n\\midrule\n\\textit{").replace("\\midrule\n\\midrule", "\\midrule")


def _symbols(words: str) -> str:
    """In the letters that every LaTeX has."""
    for symbol, command in _LATEX.items():
        words = words.replace(symbol, command)
    return words.replace("$$", "")


# ---------------------------------------------------------------------- drawing


@renders("table")
def _table(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width = matplotlib.rcParams["figure.figsize"][0] - _MARGIN
    lines = _lines(arrays, settings)
    heads, names, spans = arrays["columns"].tolist(), [each.name for each in lines], settings["spans"]
    size = matplotlib.rcParams["font.size"]
    content = ([each.cells for each in lines], heads, names, spans, settings["corner"])
    gap, widths = _GAP, _widths(*content, size, _GAP)
    if sum(widths) > width:
        # Letters shrink with everything that is as wide as they are, the gaps do not.
        gap, gaps = _NARROW_GAP, _NARROW_GAP * len(heads)
        natural = sum(_widths(*content, size, gap)) - gaps
        size = min(size, max(_SMALLEST, 0.98 * size * (width - gaps) / natural))
        widths = _widths(*content, size, gap)
    first = min(widths[0], max(width - sum(widths[1:]), _LEAST_NAME * width))
    if first + sum(widths[1:]) > width + 1e-6:
        raise LandscapeError(
            f"a table of {len(heads)} columns does not fit {width:.2f} inches in letters of {_SMALLEST:g} "
            "points: draw it wider (--column double), or as two tables"
        )
    room = (width - first - sum(widths[1:])) / len(heads)
    names = [shorten(name, size, first) for name in names]
    ends = first + np.cumsum([each + room for each in widths[1:]])  # right ends of the columns, inches

    line = _LINE * size / 72
    end = (len(names) + 1 + bool(spans)) * line
    first_row = end - len(names) * line
    figure = new_figure(end + 0.5 * line + _MARGIN)
    axes = figure.subplots()
    axes.set_xlim(0, width)
    axes.set_ylim(end + 0.25 * line, -0.25 * line)
    axes.set_aspect("equal", anchor="N")  # inches both, so that a panel higher than the table does not stretch it
    axes.set_axis_off()
    for height, thickness in ((0.0, _HEAVY), (first_row, _LIGHT), (end, _HEAVY)):
        axes.plot([0, width], [height, height], color="black", linewidth=thickness, clip_on=False)
    look: dict[str, Any] = {"va": "center", "fontsize": size}
    at = 0
    for words, number in spans:
        left = float(ends[at]) - widths[at + 1] + 0.5 * gap
        right = float(ends[at + number - 1])
        axes.text((left + right) / 2, 0.5 * line, literal(words), ha="center", **look)
        axes.plot([left, right], [line, line], color="black", linewidth=_LIGHT)
        at += number
    axes.text(0, first_row - 0.5 * line, literal(settings["corner"]), ha="left", **look)
    for column, words in enumerate(heads):
        shown = words if "$_{" in words else literal(words)
        axes.text(ends[column], first_row - 0.5 * line, shown, ha="right", **look)
    for row, (name, each) in enumerate(zip(names, lines, strict=True)):
        below = first_row + (row + 0.5) * line
        slant = "italic" if each.is_head else "normal"
        axes.text(0, below, literal(name), ha="left", fontstyle=slant, **look)
        if each.is_head and row:
            axes.plot([0, width], [below - 0.5 * line] * 2, color="black", linewidth=_LIGHT, clip_on=False)
        for column, (words, bold) in enumerate(zip(each.cells, each.bold, strict=True)):
            if words:
                axes.text(ends[column], below, words, ha="right", fontweight="bold" if bold else "normal", **look)
    return figure


def _widths(
    cells: list[list[str]], heads: Sequence[str], names: Sequence[str], spans: Sequence[tuple[str, int]], corner: str,
    size: float, gap: float,
) -> list[float]:  # fmt: skip
    """Least widths of all columns in inches, that of the names first; bold letters are about a tenth wider."""
    widths = [max(text_width(words, size) for words in (*names, corner))]
    for column, head in enumerate(heads):
        widest = max(1.1 * max(text_width(row[column], size) for row in cells), text_width(bare(head), size))
        widths.append(widest + gap)
    at = 1
    for words, number in spans:
        lacking = text_width(words, size) + gap - sum(widths[at : at + number])
        for column in range(at, at + number):
            widths[column] += max(0.0, lacking) / number
        at += number
    return widths
