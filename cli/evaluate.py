"""`landscape evaluate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from landscape.data import ClassGroups
from landscape.data.longtailed import class_groups
from landscape.json_text import json_text
from landscape.study import Subject
from landscape.training.checkpoint import load_checkpoint
from landscape.training.evaluation import Evaluation, evaluate_with_flips
from landscape.training.recipe import resolve_device

from .progress import console
from .subject_options import subject_of, subject_options

# More than CIFAR-100 has would push the groups, which are the result, off any screen.
_MOST_ROWS = 100


@dataclass(frozen=True)
class _Cell:
    """One of the accuracies that papers quote."""

    checkpoint: Path
    which: str | None  # "last" or "best" of a run's folder; None for a checkpoint that was named itself
    epoch: int | None
    epochs: int | None  # of the whole training
    flips: bool
    result: Evaluation

    @property
    def primary(self) -> bool:
        """The last epoch of a training that came to its end, without flips."""
        return self.which != "best" and self.epoch is not None and self.epoch == self.epochs and not self.flips

    @property
    def title(self) -> str:
        if self.epoch is None:
            return "–"
        return f"{self.which + ', ' if self.which else ''}{self.epoch} of {self.epochs}"


@click.command(name="evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="RUN_FOLDER|CHECKPOINT")
@subject_options("evaluate")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--by-class/--no-by-class",
    default=None,
    help=f"a row for every class; by default for at most {_MOST_ROWS} of them",
)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of tables; it always has every class")
def command(
    checkpoint: Path,
    factory: str | None,
    allow_pickle: bool,
    split: Any,
    device: str,
    by_class: bool | None,
    as_json: bool,
    **fields: Any,
) -> None:
    """Accuracy of a run, or of one checkpoint: all, by group under both conventions, by class.

    Of a run's folder the last epoch and the best one, each by the logits of every image and by their mean with those of
    its mirror image: the four numbers that papers quote, mostly without saying which. The one marked ★ is the result:
    the last epoch, without flips. The best epoch was chosen on the test split, which flatters it.

    Head, mid and tail: *index* cuts the classes by rank, the same for every imbalance; *count* by the number of images
    that a class was trained on.
    """
    subject = subject_of(checkpoint, factory, allow_pickle, fields)
    with console.status("evaluating"):
        cells = _evaluate(subject, checkpoint.is_dir(), split, device)
    shown = next((cell for cell in cells if cell.primary), cells[0])
    if as_json:
        report = {
            "checkpoint": str(shown.checkpoint),
            "split": split,
            **_numbers(shown.result, subject),
            "cells": [
                {
                    "checkpoint": str(cell.checkpoint),
                    "which": cell.which,
                    "epoch": cell.epoch,
                    "flips": cell.flips,
                    "primary": cell.primary,
                    **_numbers(cell.result, subject),
                }
                for cell in cells
            ],
        }
        click.echo(json_text(report, indent=2))
        return
    console.print(f"{checkpoint}, {split} split", markup=False, soft_wrap=True)
    for groups in class_groups(subject.training_counts):
        console.print(_group_table(cells, groups))
    notes = ["flips: mean of the logits of an image and its mirror image"]
    if any(cell.primary for cell in cells):
        notes.insert(0, "★ the result: last epoch, no flips")
    elif cells[0].which == "last" and cells[0].epoch is not None:
        notes.insert(0, f"no result yet: the training stopped after {cells[0].epoch} of {cells[0].epochs} epochs")
    if any(cell.which == "best" for cell in cells):
        notes.append("best: chosen on the test split")
    if by_class is None:
        by_class = subject.data.num_classes <= _MOST_ROWS
        if not by_class:
            notes.append(f"{subject.data.num_classes} classes: --by-class shows them")
    console.print("; ".join(notes), style="dim", soft_wrap=True)
    if by_class:
        console.print(_class_table(shown, subject))


def _evaluate(subject: Subject, is_folder: bool, split: Any, device: str) -> list[_Cell]:
    """The cells of one checkpoint, or those of the last and of the best one of a folder."""
    where, data = resolve_device(device), subject.data.labelled(split)
    epochs = None if subject.recipe is None else subject.recipe.schedule.epochs

    def cells(which: str | None, path: Path, epoch: int | None, results: Sequence[Evaluation]) -> list[_Cell]:
        return [_Cell(path, which, epoch, epochs, bool(flips), result) for flips, result in enumerate(results)]

    results = evaluate_with_flips(subject.model.to(where), data, subject.normalization)
    found = cells("last" if is_folder else None, subject.path, subject.epoch, results)
    best = subject.path.parent / "best.safetensors"
    if is_folder and subject.recipe is not None and best.is_file():
        other = load_checkpoint(best)
        if other.info.epoch != subject.epoch:
            results = evaluate_with_flips(other.build_model().to(where), data, subject.normalization)
        found += cells("best", other.path, other.info.epoch, results)
    return found


def _numbers(result: Evaluation, subject: Subject) -> dict[str, Any]:
    return {
        "accuracy": result.accuracy,
        "groups": {groups.convention: result.per_group(groups) for groups in class_groups(subject.training_counts)},
        "classes": dict(zip(subject.data.class_names, result.per_class, strict=True)),
    }


def _group_table(cells: Sequence[_Cell], groups: ClassGroups) -> Table:
    table = Table(title=f"groups by {groups.convention}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("", "epoch", "logits of"):
        table.add_column(name, no_wrap=True)
    for name in ("all", *(f"{name} ({len(classes)})" for name, classes in groups.items())):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        shares = cell.result.per_group(groups).values()
        table.add_row(
            "★" if cell.primary else "",
            cell.title,
            "image + flip" if cell.flips else "image",
            *(_percent(share) for share in (cell.result.accuracy, *shares)),
            style="bold" if cell.primary else None,
        )
    return table


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.1%}"


def _class_table(cell: _Cell, subject: Subject) -> Table:
    title = "by class" if cell.epoch is None else f"by class, epoch {cell.title}"
    table = Table(title=title, title_justify="left")
    for name in ("class", "training images", "accuracy"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for name, count, share in zip(
        subject.data.class_names, subject.training_counts, cell.result.per_class, strict=True
    ):
        table.add_row(escape(name), str(count), _percent(share))
    return table
