"""`landscape plot`."""

from __future__ import annotations

import shlex
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import rich_click as click
from rich.console import Console

from landscape.errors import LandscapeError
from landscape.plotting import check_drawing_paths, read_drawing, save_drawing
from landscape.plotting.classes import QUANTITIES as PANELS
from landscape.plotting.curves import HISTORY_QUANTITIES
from landscape.plotting.drawing import DRAWING_SCHEMA, read_origin
from landscape.plotting.quantities import QUANTITIES
from landscape.plotting.style import Column, Venue
from landscape.store import SpectrumFile, schema_of

from .plot_kinds import KINDS, Request, default_kind, draw, kinds_help

_HELP = "\n\n".join(
    [
        "Draw results, or draw a figure again from the arrays kept beside it; only a first t-SNE is computed.",
        "Without --kind: density for one spectrum file, classes for several; surface, training, nearest-class or "
        "anomaly for what else there is.",
        kinds_help(),
        "The kinds of layers need a file of `landscape spectrum … --whole --per-layer`, of one checkpoint or, to see "
        "them change, of `RUN/epoch-*.safetensors`.",
        "FIGURE.pdf.h5 holds all that FIGURE.pdf shows: `landscape plot FIGURE.pdf.h5 -o FIGURE.png` draws the same, "
        "with `--style neurips --column single` for another page.",
    ]
)

click.rich_click.OPTION_GROUPS["* plot"] = [
    {"name": "What is drawn", "options": ["--kind", "--parts", "--epoch", "--quantities", "--by", "--names"]},
    {"name": "How and where", "options": ["--style", "--column", "--output"]},
]


@click.command(name="plot", help=_HELP)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--kind", type=click.Choice(list(KINDS)), help="what to draw of results")
@click.option("--parts", metavar="GLOB",
              help="only parts whose path matches, for example 'class/\\*', 'group/tail' or 'class/3/layer/\\*'; "
                   "a \\* stays within one level of the path")  # fmt: skip
@click.option(
    "--epoch",
    type=click.IntRange(0),
    help="of a sweep over checkpoints [default: the last that is there; for layers: all]",
)
@click.option("--quantities", metavar="A,B",
              help=f"classes: the panels, of {', '.join(PANELS)} [default: all]. training, heat-map and saddle-scatter "
                   f"(horizontal,vertical): of {', '.join(QUANTITIES)}; training of runs: of "
                   f"{', '.join(HISTORY_QUANTITIES)}")  # fmt: skip
@click.option("--by", type=click.Choice(["method", "class"]), help="a point of a scatter [default: method]")
@click.option("--names", metavar="A,B", help="what the files are called in the legend [default: file names]")
@click.option("--style", "venue", type=click.Choice(get_args(Venue)),
              help="width and letters of this venue's pages [default: landscape, or as the figure was]")  # fmt: skip
@click.option("--column", type=click.Choice(get_args(Column)),
              help="one column of the page, or the whole width; wide is a slide, of the style landscape only "
                   "[default: double, or as the figure was]")  # fmt: skip
@click.option("-o", "--output", "outputs", multiple=True, required=True, type=click.Path(path_type=Path),
              help="FIGURE.pdf, .png or .svg; may be repeated. The arrays drawn are kept in FIGURE.pdf.h5")  # fmt: skip
def command(
    files: tuple[Path, ...],
    kind: str | None,
    parts: str | None,
    epoch: int | None,
    quantities: str | None,
    by: Literal["method", "class"] | None,
    names: str | None,
    venue: Venue | None,
    column: Column | None,
    outputs: tuple[Path, ...],
) -> None:
    for output in outputs:
        check_drawing_paths(output)
    request = Request(files, _words(names), parts, epoch, _words(quantities), by)
    redrawn = any(schema_of(file) == DRAWING_SCHEMA for file in files)
    if redrawn and (kind is not None or request != Request(files[:1])):
        raise LandscapeError(
            "a figure's own arrays are drawn again as they are: give that one file, with --style and --column only; "
            "for --kind, --parts and the like give the results it was made from"
        )
    console, problems = Console(highlight=False), Console(stderr=True, highlight=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with console.status("drawing"):
            drawing = read_drawing(files[0]) if redrawn else draw(request, kind)
            look = replace(drawing.look, column=column or drawing.look.column, venue=venue or drawing.look.venue)
            drawing = drawing.looking(look)
        typed = shlex.join(["landscape", *sys.argv[1:]])
        origin = {**read_origin(files[0]), "redrawn": typed} if redrawn else {"command": typed}
        for output in outputs:
            figure, arrays = save_drawing(drawing, output, origin=origin)
            console.print(f"{figure} (arrays: {arrays})", markup=False, soft_wrap=True)
    if not redrawn and epoch is None and "epoch" in KINDS[kind or default_kind(files)].options:
        for file in files:
            drawn = SpectrumFile.open(file).latest_epoch()
            if drawn is not None and not drawing.kind.startswith("layer-"):
                console.print(f"{file} is a sweep: drawn is epoch {drawn}, --epoch N takes another", markup=False)
    for message in dict.fromkeys(str(warning.message) for warning in caught):  # the same for every output
        problems.print(f"warning: {message}", markup=False, soft_wrap=True)


def _words(text: str | None) -> list[str] | None:
    return None if text is None else [word.strip() for word in text.split(",")]
