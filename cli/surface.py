"""`landscape surface`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click
from rich.markup import escape
from rich.table import Table

from landscape.errors import LandscapeError
from landscape.store.surface_file import SurfaceFile, check_goldstein_output, write_goldstein
from landscape.study.surface import POINTS, SurfaceCost, SurfacePlan, run_surface
from landscape.surface.results import Surface

from .checks import int64
from .progress import WithBar, console, duration, several
from .recipe_options import given_values
from .subject_options import logit_scale_option, subject_options
from .tables import wanted_width


def _parse_range(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    low, _, high = text.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        raise click.BadParameter(f"'{text}': write both ends, as in -1:1", context, parameter) from None
    if not (np.isfinite(ends).all() and ends[0] < ends[1]):
        raise click.BadParameter(f"'{text}': write the smaller end first, as in -1:1", context, parameter)
    return ends


def _parse_points(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    words = [] if text is None else text.split("x")
    if len(words) > 2 or not all(word.isdecimal() and int(word) >= 2 for word in words):
        raise click.BadParameter(f"'{text}': write 51, or 51x31 for two axes; 2 at least", context, parameter)
    return tuple(map(int, words))


click.rich_click.OPTION_GROUPS["* surface"] = [
    {
        "name": "Directions",
        "options": [
            "--along", "--dims", "--norm", "--keep-1d", "--of", "--end", "--spectrum", "--interpolate-buffers",
        ],
    },
    {"name": "Grid", "options": ["--points", "--range", "--y-range"]},
    {"name": "Losses", "options": ["--whole", "--per-class", "--classes", "--per-group", "--split", "--loss"]},
    {"name": "Cost", "options": ["--max-samples", "--seed", "--device"]},
    {"name": "Results", "options": ["--output", "--overwrite", "--export"]},
]  # fmt: skip


@click.command(name="surface")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CHECKPOINT…")
@click.option(
    "--along",
    type=click.Choice(["random", "eigen", "checkpoints", "trajectory"]),
    default="random",
    show_default=True,
    help="random: filter-normalised, how rough it is around; eigen: v_max and v_min, is it a saddle; checkpoints: "
    "through two, or the plane of three; trajectory: principal components of a training",
)
@click.option("--dims", type=click.IntRange(1, 2), default=2, show_default=True, help="a line, or a plane")
@click.option(
    "--norm",
    "normalize_directions",
    type=click.Choice(["filter", "layer", "none"]),
    default="filter",
    show_default=True,
    help="random directions get the norm of every filter of the network, of every tensor, or stay Gaussian",
)
@click.option("--keep-1d", is_flag=True, help="random directions move biases and batch normalisation too")
@click.option("--of", default="all", show_default=True, metavar="PART",
              help="whose eigenvectors: all, head, mid, tail, or a class by number or name")  # fmt: skip
@click.option(
    "--end",
    type=click.Choice(["min", "max"]),
    default="min",
    show_default=True,
    help="the line (--dims 1) along v_min or along v_max; a plane has both",
)
@click.option(
    "--spectrum",
    type=click.Path(path_type=Path),
    metavar="FILE.h5",
    help="take the eigenvectors from this file of `landscape spectrum --vectors`; searched without it, which takes 90 "
    "to 300 Hessian products over the images of the part",
)
@click.option(
    "--interpolate-buffers",
    is_flag=True,
    help="running statistics of batch normalisation move along between checkpoints; without it they stay those of the "
    "origin, and another checkpoint's mark does not have the loss it was trained to",
)
@click.option(
    "--points",
    callback=_parse_points,
    metavar="N|NxM",
    help=f"points an axis, or of each [default: {POINTS}; 41 on a line between checkpoints, both of which are points]",
)
@click.option(
    "--range",
    "x_range",
    callback=_parse_range,
    metavar="LOW:HIGH",
    help="of the first coordinate [default: -1:1; -0.5:1.5 on a line between checkpoints, 0:1 with "
    "--interpolate-buffers; all checkpoints of a plane or trajectory with a margin]",
)
@click.option("--y-range", callback=_parse_range, metavar="LOW:HIGH", help="of the second")
@click.option("--whole", is_flag=True, help="the loss of all samples; the default when no other part is named")
@click.option("--per-class", is_flag=True, help="the loss of every class, from the same forward passes")
@click.option("--classes", metavar="0,3,truck", help="only these classes, by number or name")
@click.option("--per-group", is_flag=True, help="the loss of head, mid and tail, by index")
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option("--loss", type=click.Choice(["ce", "training"]), default="ce", show_default=True,
              help="plain cross-entropy, or the training loss with its last class weights")  # fmt: skip
@click.option("--max-samples", type=click.IntRange(1), help="at most so many images a part, drawn with the seed")
@click.option("--seed", type=click.IntRange(0), callback=int64, default=0, show_default=True,
              help="of directions and samples")  # fmt: skip
@click.option("--device", default="auto", show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="surface file, FILE.h5")
@click.option("--overwrite", is_flag=True, help="start the file again; nothing but a surface is ever replaced")
@click.option("--export", type=click.Path(path_type=Path), metavar="FILE.h5",
              help="write the whole loss with the keys of tomgoldstein/loss-landscape too")  # fmt: skip
@logit_scale_option
@subject_options("surface")
def command(
    checkpoints: tuple[Path, ...],
    factory: str | None,
    allow_pickle: bool,
    logit_scale: float | None,
    normalize_directions: Any,
    x_range: tuple[float, float] | None,
    y_range: tuple[float, float] | None,
    output: Path,
    overwrite: bool,
    export: Path | None,
    **rest: Any,
) -> None:
    """Walk through the loss landscape: the loss at every point of a line or a plane through a checkpoint, for all
    images, every class and every group at once.

    CHECKPOINT is a run's folder, a checkpoint file, or any PyTorch state dict with `--model`, `--data` and
    `--normalize`; one for `random` and `eigen`, two or three for `checkpoints`, and for `trajectory` the folder of a
    run that kept its epochs (`--save-every`) or their files. Images are never augmented, batch normalisation is that of
    evaluation, and the checkpoint (of a trajectory the last) is point 0 of the axes.

    ```
    landscape surface runs/x --per-class --max-samples 100 -o x.h5
    landscape surface runs/x --along eigen --of truck --classes truck -o x.h5
    landscape surface runs/x runs/y --along checkpoints --dims 1 -o xy.h5
    landscape surface runs/x --along trajectory -o x.h5
    ```

    A loss that is not finite stays as it is: a hole in the figure. What is computed is written every 20 seconds and
    when stopped, and the same command goes on from there.
    """
    fields = {key: value for key, value in rest.items() if "__" in key}
    options = {key: value for key, value in rest.items() if "__" not in key}
    plan = SurfacePlan(**options, normalize=normalize_directions, ranges=(x_range, y_range))
    if export is not None:
        check_goldstein_output(export)
        if export.absolute() == output.absolute():
            raise LandscapeError(f"--export and -o are both '{output}': the export is a file of its own")
        if not plan.whole and (plan.per_class or plan.per_group or "," in (plan.classes or "")):
            raise LandscapeError("--export takes one loss: add --whole for that of all samples together")
    before = output.stat().st_mtime_ns if output.exists() else None
    try:
        with SurfaceBar() as bar:
            file = run_surface(
                checkpoints,
                plan,
                output,
                model=factory,
                data=given_values(fields).get("data", {}),
                allow_pickle=allow_pickle,
                logit_scale=logit_scale,
                overwrite=overwrite,
                command=shlex.join(["landscape", *sys.argv[1:]]),
                progress=bar,
            )
    except KeyboardInterrupt:
        if not output.exists() or output.stat().st_mtime_ns == before:
            raise
        kept = int(SurfaceFile.open(output).surface.done.sum())
        there = several(kept, "point") if kept else "the eigenvectors are"
        raise click.Abort(f"{there} kept, the same command (without --overwrite) goes on") from None
    _print_table(file.surface)
    if export is not None:
        write_goldstein(export, file.surface, split=plan.split, source=str(output))
        console.print(f"exported to {export}", markup=False, soft_wrap=True)
    kind = "surface-line" if file.surface.y is None else "surface"
    words = ["plot", str(output), "--kind", kind, "-o", str(output.with_suffix(".pdf"))]
    following = shlex.join(["landscape", *words])
    console.print(f"kept in {escape(str(output))}; next: [bold]{escape(following)}[/]", soft_wrap=True)


class SurfaceBar(WithBar):
    """What a walk costs once a pass was timed, then one bar over its points; before it one over a search's products."""

    def search(self, label: str, products: int) -> None:
        console.print(
            f"searching the eigenvectors of {label}: about {products} Hessian products, 300 at most",
            markup=False,
            soft_wrap=True,
        )
        self.task = self.progress.add_task("eigenvectors", total=products, unit="products")

    def product(self, count: int) -> None:
        assert self.task is not None
        self.progress.advance(self.task, count)

    def start(self, points: int, there: int) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
        if there:
            console.print(f"{there:,} of {several(points, 'point')} are there already")
        self.task = self.progress.add_task("walking", total=points, completed=there, unit="points")

    def cost(self, estimate: SurfaceCost) -> None:
        console.print(
            f"{several(estimate.points, 'point')}, {several(estimate.parts, 'part')} from the same forward passes: "
            f"{duration(estimate.seconds)}; {estimate.how}",
            markup=False,
            soft_wrap=True,
        )
        if estimate.seconds > 1800:
            console.print(
                "  long; --max-samples 100 takes a seeded subset of every part, --points 25 a coarser grid, and Ctrl-C "
                "keeps what is finished",
                style="yellow",
                soft_wrap=True,
            )

    def points(self, count: int) -> None:
        assert self.task is not None
        self.progress.advance(self.task, count)

    def note(self, text: str) -> None:
        console.print(f"  {text}", style="yellow", markup=False, soft_wrap=True)


def _print_table(surface: Surface) -> None:
    """Of every part the loss at the origin, if that is on the grid, the least and the most; what is not finite.

    A narrow terminal gets the columns that matter most: a number cut short would be another number.
    """
    rows = _rows(surface)
    titles = ["", "at 0", "least", "where", "most", "images"]
    if any(row["not finite"] for row in rows):
        titles.insert(1, "not finite")
    for count in range(len(titles), 1, -1):
        table = Table(title="loss, nats", title_justify="left")
        shown = [title for title in _TITLES if title in titles[:count]]
        for title in shown:
            table.add_column(title, justify="right" if title else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(escape(row[title]) for title in shown))
        if wanted_width(table, console) <= console.width:
            break
    console.print(table, crop=False, soft_wrap=False)


_TITLES = ("", "images", "at 0", "least", "where", "most", "not finite")


def _rows(surface: Surface) -> list[dict[str, str]]:
    origin = _origin(surface)
    axes = (surface.x,) if surface.y is None else (surface.x, surface.y)
    rows = []
    for label, count, losses in zip(surface.labels, surface.num_samples, surface.losses, strict=True):
        finite_ones = np.where(np.isfinite(losses), losses, np.nan)
        odd = int(np.sum(~np.isfinite(losses)))
        row = dict.fromkeys(_TITLES, "–") | {"": label, "images": f"{count:,}", "not finite": str(odd) if odd else ""}
        if origin is not None:
            row["at 0"] = f"{losses[origin]:.4g}"
        if odd < losses.size:
            place = np.unravel_index(int(np.nanargmin(finite_ones)), losses.shape)
            row["least"], row["most"] = f"{finite_ones[place]:.4g}", f"{np.nanmax(finite_ones):.4g}"
            row["where"] = ", ".join(f"{values[i]:.3g}" for values, i in zip(axes, reversed(place), strict=True))
        rows.append(row)
    return rows


def _origin(surface: Surface) -> tuple[int, ...] | None:
    """Index of the point 0 in the arrays; ``None`` where the grid passes it by."""
    axes = (surface.x,) if surface.y is None else (surface.y, surface.x)
    places = [np.flatnonzero(values == 0) for values in axes]
    return tuple(int(found[0]) for found in places) if all(map(len, places)) else None
