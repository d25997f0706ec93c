"""`landscape figures`."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import landscape_figures
import rich_click as click
from landscape_figures import NAMES, load_figure, load_figures
from landscape_figures.figure import Figure
from landscape_figures.making import Work, check_outputs, make
from landscape_figures.scales import Scale, open_scale
from landscape_figures.steps import Step, in_order
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from landscape.errors import LandscapeError
from landscape.plotting import Look
from landscape.plotting.style import Column, Venue

from .progress import StudyBar, TrainingBar, WorkBar, console, several
from .surface import SurfaceBar

_DEFAULT_WORK = Path("figures-work")
_STATES = {"there": "[green]there[/]", "begun": "[yellow]goes on[/]", "missing": "to do"}


class _Bars:
    """The steps as progress bars."""

    def training(self, title: str) -> TrainingBar:
        return TrainingBar(f"[bold]{escape(title)}[/]: ")

    def study(self, title: str) -> StudyBar:
        return StudyBar(f"[bold]{escape(title)}[/]: ")

    def surface(self, title: str) -> SurfaceBar:
        console.print(f"[bold]{escape(title)}[/]")
        return SurfaceBar()

    @contextlib.contextmanager
    def work(self, title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        console.print(f"[bold]{escape(title)}[/]: {total:,} {unit}")
        with WorkBar(escape(title), total, unit) as bar:
            yield bar.advance


def _shared(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.option(
        "--data",
        multiple=True,
        metavar="folder:PATH|cifar10:PATH|cifar100:PATH",
        help="images of the paper scale: folder:PATH with `PATH/train/<class>/` and `PATH/test/<class>/`, or "
        "cifar10:PATH, the folder that CIFAR-10's Python version lies in. For the figures over two data sets also "
        "cifar100:PATH or cifar100=folder:PATH",
    )(function)
    return click.option(
        "--work",
        type=click.Path(path_type=Path, file_okay=False),
        default=_DEFAULT_WORK,
        show_default=True,
        help="where trainings and measurements are kept, and looked for",
    )(function)


@click.group(name="figures")
def command() -> None:
    """The figures of the papers, from nothing to the page in one command.

    `landscape figures list` says which there are; `landscape figures make S2` trains what S2 needs, measures it, and
    draws it. Every training and every measurement is kept under a key of its settings, so nothing is computed twice,
    whichever figure asks for it, and a figure in another style costs its drawing alone.
    """


@command.command(name="list")
@_shared
def list_figures(work: Path, data: tuple[str, ...]) -> None:
    """The figures: what each shows, which paper it answers to, and how much of it is there already."""
    # What the images are called is part of every key: without --data those of CIFAR-10 itself are looked for.
    scales = [open_scale("smoke"), open_scale("paper", data)]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("shows", overflow="fold")
    table.add_column("answers to", overflow="fold")
    for scale in scales:
        table.add_column(scale.name, no_wrap=True, justify="right")
    for name in NAMES:
        figure = load_figure(name)
        table.add_row(
            figure.name, escape(figure.title), escape(figure.paper), *(_ready(figure, s, Work(work)) for s in scales)
        )
    console.print(table)
    console.print(f"smoke, paper: steps that are there in {work}/, of those the figure needs", markup=False)
    console.print(
        f"a figure of your own is a copy of a file in {Path(landscape_figures.__file__).parent}",
        markup=False,
        soft_wrap=True,
    )
    console.print("next: [bold]landscape figures make NAME[/] (smoke scale, minutes), or with --scale paper")


def _ready(figure: Figure, scale: Scale, work: Work) -> str:
    steps = in_order(figure.needs(scale).steps)
    there = sum(work.state(step) == "there" for step in steps)
    return "[green]ready[/]" if there == len(steps) else f"{there}/{len(steps)}"


@command.command(name="make")
@click.argument("names", nargs=-1, required=True, metavar="NAME…|all")
@click.option("--scale", "scale_name", type=click.Choice(["smoke", "paper"]), default="smoke", show_default=True,
              help="smoke: digits and a small network, minutes on two cores, to see that everything works; paper: "
                   "CIFAR-10-LT with the recipes that ship, for a GPU")  # fmt: skip
@_shared
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("figures-out"),
              show_default=True, help="folder of NAME.pdf, NAME.png and NAME.h5, the arrays drawn")  # fmt: skip
@click.option("--style", "venue",
              type=click.Choice(["landscape", "neurips", "iclr", "icml", "aaai", "cvpr", "iccv"]), default="landscape",
              show_default=True, help="page and letters of a venue; computes nothing")  # fmt: skip
@click.option("--column", type=click.Choice(["single", "double", "wide"]), default="double", show_default=True,
              help="width of the printed figure")  # fmt: skip
@click.option("--device", default="auto", show_default=True)
@click.option("--dry-run", is_flag=True, help="say what is there and what would be computed, and leave")
def make_figures(
    names: tuple[str, ...],
    scale_name: str,
    data: tuple[str, ...],
    work: Path,
    output: Path,
    venue: Venue,
    column: Column,
    device: str,
    dry_run: bool,
) -> None:
    """Make figures: train what is missing, measure what is missing, draw.

    NAME is one of `landscape figures list`, `all`, or a Python file of your own that declares a FIGURE; the files in
    `figures/` are examples. Steps that figures share are computed once, and a second call computes nothing. Ctrl-C
    keeps what is finished: every epoch of a training, every part of a spectrum.
    """
    scale, look = open_scale(scale_name, data), Look(column, venue)
    figures = load_figures(names)
    if scale_name == "paper" and "cifar10" not in scale.images:
        raise LandscapeError("the paper scale needs images: --data folder:PATH, or cifar10:PATH for CIFAR-10's files")
    store = Work(work)
    for figure in figures:
        check_outputs(figure, output)
    missing = _print_plan(figures, scale, store)
    if dry_run:
        return
    words = shlex.join(["landscape", *sys.argv[1:]])
    started = time.monotonic()
    drawn: list[Path] = []
    try:
        for figure in figures:
            _, paths = make(figure, scale, store, output, look=look, device=device, command=words, reporter=_Bars())
            console.print(f"[bold]{figure.name}[/] {escape(', '.join(map(str, paths)))}", soft_wrap=True)
            drawn += paths
    except KeyboardInterrupt:
        raise click.Abort(f"what is finished is kept in {work}, the same command goes on") from None
    again = shlex.join(["landscape", "plot", str(drawn[-1]), "--style", "neurips", "-o", f"{figures[-1].name}.pdf"])
    what = f"{several(missing, 'step')} computed, {several(len(figures), 'figure')} drawn"
    console.print(
        f"{what} in {time.monotonic() - started:.0f} s; kept in {escape(str(output))}/ and {escape(str(work))}/; "
        f"another page: [bold]{escape(again)}[/]",
        soft_wrap=True,
    )


def _print_plan(figures: Sequence[Figure], scale: Scale, work: Work) -> int:
    """What is there and what is to be done; the number of the latter."""
    users: dict[str, list[str]] = {}
    steps: dict[str, Step] = {}
    for figure in figures:
        for step in in_order(figure.needs(scale).steps):
            steps.setdefault(step.key, step)
            users.setdefault(step.key, []).append(figure.name)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("step", "does", "for", "state"):
        table.add_column(title, overflow="fold")
    states = {key: work.state(step) for key, step in steps.items()}
    for key, step in steps.items():
        table.add_row(
            escape(f"{step.shelf}/{step.file_name}"), escape(step.does), ", ".join(users[key]), _STATES[states[key]]
        )
    console.print(table)
    missing = sum(state != "there" for state in states.values())
    console.print(
        f"{several(len(figures), 'figure')} at {scale.name} scale: {several(len(steps), 'step')}, "
        f"{len(steps) - missing} there, {missing} to do; each says what it costs before it starts",
        soft_wrap=True,
    )
    return missing
