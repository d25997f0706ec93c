"""`landscape plot`."""

from __future__ import annotations

import shlex
import sys
import tomllib
import warnings
from dataclasses import replace
from pathlib import Path
from typing import get_args

import rich_click as click
from rich.console import Console

from landscape.anomaly.results import GridResults
from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting import (
    Drawing,
    Look,
    check_drawing_paths,
    class_bars,
    density_cumulative,
    density_grid,
    density_overlay,
    detection_panels,
    layer_densities,
    layer_distance,
    layer_training,
    read_drawing,
    save_drawing,
)
from landscape.plotting.classes import QUANTITIES
from landscape.plotting.drawing import DRAWING_SCHEMA, read_origin
from landscape.plotting.features import CALIBRATION_KINDS, draw_calibration
from landscape.plotting.style import Column, Venue
from landscape.store import SpectrumFile, schema_of, split_epoch

from .tables import batches_of

_ONE_EPOCH = {
    "density": "one panel a part: eigenvalues per decade against λ, outliers, λ_min, M₋, ν",
    "density-overlay": "the same of several files in one frame, a curve a file; a panel a part",
    "density-cumulative": "one panel a part: how many eigenvalues lie below λ < 0 and above λ > 0, with their bounds",
    "classes": "class by class, several files side by side: λ_max and |λ_min|, M₋, ν, trace, gradient, accuracy, size; "
    "--quantities chooses",
}
_LAYERS = {
    "layer-densities": "one panel a layer: its density over that of the whole network, each in units of its mean |λ|; "
    "of a sweep the first, the middle and the last epoch",
    "layer-distance": "Wasserstein-1 distance of each layer's normalised spectrum to the whole one, by depth; a colour "
    "an epoch",
    "layer-training": "λ_max and trace over the epochs of a sweep, the whole and every layer",
}
_ANOMALY = {
    "anomaly": "of a results.json of `landscape anomaly`: AUC-PR data set by data set, and its difference to SGD",
}
KINDS = {**_ONE_EPOCH, **_LAYERS, **CALIBRATION_KINDS, **_ANOMALY}
_OF_LAYERS = (
    "the kinds of layers need a file of `landscape spectrum … --whole --per-layer`, of one checkpoint or, to see "
    "them change, of `RUN/epoch-*.safetensors`"
)


_HELP = "\n\n".join(
    [
        "Draw a results file, or draw a figure again from the arrays kept beside it; only a first t-SNE is computed.",
        "Kinds:",
        *(f"- **{name}**: {text}" for name, text in KINDS.items()),
        f"{_OF_LAYERS[0].upper()}{_OF_LAYERS[1:]}.",
        "FIGURE.pdf.h5 holds all that FIGURE.pdf shows: `landscape plot FIGURE.pdf.h5 -o FIGURE.png` draws the same, "
        "with `--style neurips --column single` for another page.",
    ]
)


@click.command(name="plot", help=_HELP)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--kind", type=click.Choice(list(KINDS)), help="what to draw of results [default: density]")
@click.option("--parts", metavar="GLOB",
              help="only parts whose path matches, for example 'class/\\*', 'group/tail' or 'class/3/layer/\\*'; "
                   "a \\* stays within one level of the path")  # fmt: skip
@click.option(
    "--epoch",
    type=click.IntRange(0),
    help="of a sweep over checkpoints [default: the last that is there; for layers: all]",
)
@click.option("--names", metavar="A,B", help="what the files are called in the legend [default: file names]")
@click.option("--quantities", metavar="A,B",
              help=f"of --kind classes: the panels, from above [default: {', '.join(QUANTITIES)}]")  # fmt: skip
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
    names: str | None,
    quantities: str | None,
    venue: Venue | None,
    column: Column | None,
    outputs: tuple[Path, ...],
) -> None:
    for output in outputs:
        check_drawing_paths(output)
    redrawn = any(schema_of(file) == DRAWING_SCHEMA for file in files)
    if redrawn and (len(files) > 1 or (kind, parts, epoch, names, quantities) != (None,) * 5):
        raise LandscapeError(
            "a figure's own arrays are drawn again as they are: give that one file, with --style and --column only; "
            "for --kind, --parts, --epoch, --names and --quantities give the results it was made from"
        )
    kind = kind or "density"
    console, problems = Console(highlight=False), Console(stderr=True, highlight=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with console.status("drawing"):
            typed = shlex.join(["landscape", *sys.argv[1:]])
            if redrawn:
                drawing = read_drawing(files[0])
                origin = {**read_origin(files[0]), "redrawn": typed}
            else:
                origin = {"command": typed}
                drawing = draw(
                    files, kind, parts=parts, epoch=epoch, names=_split(names), quantities=_split(quantities)
                )
            drawing = drawing.looking(Look(column or drawing.look.column, venue or drawing.look.venue))
        for output in outputs:
            figure, arrays = save_drawing(drawing, output, origin=origin)
            console.print(f"{figure} (arrays: {arrays})", markup=False, soft_wrap=True)
    for file in files if epoch is None and kind in _ONE_EPOCH and not redrawn else ():
        drawn = SpectrumFile.open(file).latest_epoch()
        if drawn is not None:
            console.print(f"{file} is a sweep: drawn is epoch {drawn}, --epoch N takes another", markup=False)
    for message in dict.fromkeys(str(warning.message) for warning in caught):  # the same for every output
        problems.print(f"warning: {message}", markup=False, soft_wrap=True)


def _split(words: str | None) -> list[str] | None:
    return [word.strip() for word in words.split(",")] if words else None


def matches(part: str, glob: str) -> bool:
    """Whether the path of a part matches level by level: ``class/*`` takes ``class/3``, not ``class/3/layer/fc``."""
    import fnmatch

    names, patterns = part.split("/"), glob.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


def draw(
    files: tuple[Path, ...],
    kind: str,
    *,
    parts: str | None = None,
    epoch: int | None = None,
    names: list[str] | None = None,
    quantities: list[str] | None = None,
) -> Drawing:
    """The figure of ``kind`` for these files; of a sweep one epoch is drawn, the last by default.

    Raises:
        LandscapeError: nothing to draw, an epoch that is not there, or more files than the kind can show.
    """
    if quantities is not None and kind != "classes":
        raise LandscapeError(f"--quantities chooses the panels of --kind classes, not of {kind}")
    if kind in CALIBRATION_KINDS:
        if len(files) > 1 or parts is not None or epoch is not None or names is not None:
            raise LandscapeError(
                f"--kind {kind} draws one file of `landscape calibrate` as a whole; give that alone, without --parts, "
                "--epoch and --names"
            )
        return draw_calibration(files[0], kind)
    if kind in _LAYERS:
        if len(files) > 1:
            raise LandscapeError(f"--kind {kind} draws one file; give one")
        return _draw_layers(SpectrumFile.open(files[0]), kind, parts=parts, epoch=epoch)
    if kind in _ANOMALY:
        if len(files) > 1 or parts is not None or epoch is not None or names is not None:
            raise LandscapeError("--kind anomaly draws one results.json as a whole; give that alone")
        return detection_panels(GridResults.load(files[0]))
    methods: dict[str, list[PartSpectrum]] = {}
    groups: dict[str, list[str]] = {}
    labels = names or [file.stem for file in files]
    if len(labels) != len(files) or len(set(labels)) != len(labels):
        raise LandscapeError(
            f"{len(files)} files need {len(files)} different names, got {', '.join(labels)}; use --names"
        )
    for label, file in zip(labels, files, strict=True):
        opened = SpectrumFile.open(file)
        spectra = opened.read_epoch(epoch)
        chosen = [s for s in spectra if parts is None or matches(s.part, parts)]
        if not spectra and batches_of(opened, epoch):
            raise LandscapeError(
                f"{file} holds mini-batches only, which have no density to draw: `landscape saddle {file}` prints "
                f"them, `landscape spectrum CHECKPOINT --per-class -o {file}` adds classes"
            )
        if not chosen:
            held = ", ".join(s.part for s in spectra[:8]) or "none yet"
            raise LandscapeError(
                f"{file} has no complete part{f' that matches {parts!r}' if parts else ''}; it holds: {held}"
            )
        methods[label] = chosen
        for number, group in enumerate(opened.meta.get("class_groups", [])):
            members = groups.setdefault(group, [])
            part = f"class/{number}"
            if part not in members and any(s.part == part for s in chosen):
                members.append(part)
    if kind == "density-overlay":
        return density_overlay(methods)
    if kind == "classes":
        banded = {group: members for group, members in groups.items() if members}
        return class_bars(
            methods if len(methods) > 1 else next(iter(methods.values())), groups=banded, quantities=quantities
        )
    if len(files) > 1:
        raise LandscapeError(
            f"--kind {kind} draws one file; give one, or compare several with --kind density-overlay or --kind classes"
        )
    (spectra,) = methods.values()
    return density_cumulative(spectra) if kind == "density-cumulative" else density_grid(spectra)


def _draw_layers(file: SpectrumFile, kind: str, *, parts: str | None, epoch: int | None) -> Drawing:
    """The whole network, which is always kept, and its layers at the epochs of a sweep."""
    epochs: dict[int | None, list[PartSpectrum]] = {}
    for spectrum in file.read_all(epoch):
        at, part = split_epoch(spectrum.part)
        if part == "all" or (part.startswith("layer/") and (parts is None or matches(part, parts))):
            epochs.setdefault(at, []).append(replace(spectrum, part=part))
    if kind == "layer-densities":
        return layer_densities(epochs)
    if kind == "layer-distance":
        return layer_distance(epochs)
    return layer_training(epochs, switch=_switch(file))


def _switch(file: SpectrumFile) -> float | None:
    """Epochs completed when a sweep's training switched its deferred class weights on; ``None`` if it never did."""
    # Here, since they load PyTorch, which no other figure needs.
    from landscape.training.recipe import Recipe
    from landscape.training.schedules import milestone

    recipe = Recipe.parse(tomllib.loads(str(file.meta.get("recipe", ""))), where=f"the recipe in {file.path}")
    epochs = recipe.schedule.epochs
    if recipe.loss.reweight != "drw" or recipe.loss.defer >= 1:
        return None
    return milestone(recipe.loss.defer, epochs)
