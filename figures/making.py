"""From figures to files: what is missing is computed, each step once, and everything is drawn from what is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.lock import writing
from landscape.plotting import Drawing, Look, save_figure, write_drawing
from landscape.plotting.drawing import DRAWING_SCHEMA
from landscape.plotting.style import OUR_PAGES
from landscape.plotting.table import table_text
from landscape.store import schema_of

from .figure import Figure, Results
from .scales import Scale
from .steps import Bench, Reporter, Silent, Step, in_order

_TABLES: dict[str, Literal["markdown", "latex"]] = {".md": "markdown", ".tex": "latex"}

State = Literal["there", "begun", "missing"]


@dataclass(frozen=True)
class Work:
    """The folder where steps are kept: ``runs/NAME-KEY``, ``spectra/NAME-KEY.h5`` and so on.

    What has its name is whole: a step is made under another one, with ``.partial`` in it, and renamed when it is done.
    """

    root: Path

    def place(self, step: Step) -> Path:
        """Where a step lies, or will: found by its key, since what stands before the key is for people."""
        shelf = self.root / step.shelf
        for path in sorted(shelf.glob(f"*-{step.key[:12]}{step.suffix}")):
            return path
        return shelf / f"{step.file_name}{step.suffix}"

    def begun(self, step: Step) -> Path:
        """Where a step is being made, or was when it was stopped."""
        return self.root / step.shelf / f"{step.file_name}.partial{step.suffix}"

    def state(self, step: Step) -> State:
        if self.place(step).exists():
            return "there"
        return "begun" if self.begun(step).exists() else "missing"


def compute(
    steps: Sequence[Step], work: Work, *, device: str = "auto", command: str = "", reporter: Reporter | None = None
) -> dict[str, Path]:
    """Make the steps that are not there yet, and what they need, each once.

    A process that is killed leaves every finished step, and what it was making is gone on with: a training after its
    last epoch, spectra after their last part.

    Args:
        steps: that are wanted.
        work: where they are kept.
        device: to compute on; no part of any key.
        command: stored with what is made.
        reporter: hears how each gets on.

    Returns:
        Key → path, of the steps and of all that they need.

    Raises:
        LandscapeError: what the steps raise, or another process makes one of them right now, or what lies under a key
            is not what it should be.
    """
    places: dict[str, Path] = {}
    for step in in_order(steps):
        if work.state(step) != "there":
            # Outside the lock another process may have finished it, so it is looked for again inside.
            with writing(work.place(step), instead="give another --work"):
                if work.state(step) != "there":
                    step.make(work.begun(step), Bench(places, device, command, reporter or Silent()))
                    os.replace(work.begun(step), work.place(step))
        else:
            step.check(work.place(step))
        places[step.key] = work.place(step)
    return places


def make(
    figure: Figure,
    scale: Scale,
    work: Work,
    output: Path,
    *,
    look: Look = OUR_PAGES,
    device: str = "auto",
    command: str = "",
    reporter: Reporter | None = None,
) -> tuple[Drawing, list[Path]]:
    """Compute what a figure lacks, draw it, and write ``NAME.pdf``, ``NAME.png`` and ``NAME.h5``; tables as text too.

    ``NAME.h5`` holds every array and word drawn, the recipes of all steps and their keys: ``landscape plot NAME.h5``
    draws it again.

    Args:
        figure: what.
        scale: how large.
        work: where steps are kept.
        output: folder of these files.
        look: page that it is drawn for; changing it computes nothing.
        device, command, reporter: see :func:`compute`.

    Returns:
        The drawing and the paths.

    Raises:
        LandscapeError: as :func:`compute`, or results lie where the figure would go.
    """
    check_outputs(figure, output)
    needs = figure.needs(scale)
    places = compute(needs.steps, work, device=device, command=command, reporter=reporter)
    drawing = figure.draw(Results.of(needs, places)).looking(look)
    paths = [save_figure(drawing.figure, output / f"{figure.name}{suffix}") for suffix in (".pdf", ".png")]
    origin = {
        "figure": figure.name,
        "scale": scale.name,
        "caption": figure.caption(scale),
        "command": command,
        "recipe": recipe_text(figure, scale),
    }
    for suffix, form in _TABLES.items() if drawing.kind == "table" else ():
        with atomic_replacement(output / f"{figure.name}{suffix}") as path:
            path.write_text(table_text(drawing, form), encoding="utf-8")
        paths.append(output / f"{figure.name}{suffix}")
    return drawing, [*paths, write_drawing(drawing, output / f"{figure.name}.h5", origin=origin)]


def check_outputs(figure: Figure, output: Path) -> None:
    """A figure replaces nothing but a figure, and what cannot be written is not computed for days first.

    Raises:
        LandscapeError: results lie under the name of its arrays, or nothing can be written there.
    """
    there = next(path for path in (output.absolute(), *output.absolute().parents) if path.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise LandscapeError(
            f"cannot write into '{output}': '{there}' is no folder that you may write: give another -o"
        )
    target = output / f"{figure.name}.h5"
    if schema_of(target) not in (None, DRAWING_SCHEMA):
        raise LandscapeError(f"'{target}' holds results, the figure's arrays would replace it: give another -o")


def recipe_text(figure: Figure, scale: Scale) -> str:
    """Everything that a figure is made of, as JSON: its steps in order, each with its key, settings and inputs."""
    steps = [
        {"kind": step.shelf, "name": step.name, "key": step.key, "inputs": [each.key for each in step.inputs],
         **step.content}
        for step in in_order(figure.needs(scale).steps)
    ]  # fmt: skip
    return json.dumps({"figure": figure.name, "scale": scale.name, "steps": steps}, ensure_ascii=False)
