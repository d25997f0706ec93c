"""`landscape evaluate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape
from rich.table import Table

from landscape.json_text import json_text
from landscape.training.evaluation import evaluate
from landscape.training.recipe import resolve_device

from .progress import console
from .subject_options import subject_of, subject_options


@click.command(name="evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@subject_options("evaluate")
@click.option("--split", type=click.Choice(["train", "test"]), default="test", show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of tables")
def command(
    checkpoint: Path, factory: str | None, allow_pickle: bool, split: Any, device: str, as_json: bool, **fields: Any
) -> None:
    """Accuracy of a checkpoint: all, by group under both conventions, by class.

    *index* cuts the classes by rank, the same for every imbalance; *count* by their number of training images.
    """
    subject = subject_of(checkpoint, factory, allow_pickle, fields)
    model = subject.model.to(resolve_device(device))
    result = evaluate(model, subject.data.split(split), subject.normalization)
    by_convention = {groups.convention: result.per_group(groups) for groups in subject.data.groups}
    names = subject.data.class_names
    if as_json:
        report = {
            "checkpoint": str(subject.path),
            "split": split,
            "accuracy": result.accuracy,
            "groups": by_convention,
            "classes": dict(zip(names, result.per_class, strict=True)),
        }
        click.echo(json_text(report, indent=2))
        return
    table = Table(title=escape(f"{subject.path}, {split} split"), title_justify="left")
    table.add_column("groups by")
    for name in ("all", "head", "mid", "tail"):
        table.add_column(name, justify="right")
    for groups in subject.data.groups:
        shares = by_convention[groups.convention]
        sizes = {name: len(classes) for name, classes in groups.items()}
        cells = [f"{shares[name]:.1%} ({sizes[name]})" if sizes[name] else "–" for name in ("head", "mid", "tail")]
        table.add_row(groups.convention, f"{result.accuracy:.1%}", *cells)
    console.print(table)
    classes = Table(title="by class", title_justify="left")
    for name in ("class", "training images", "accuracy"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    for name, count, share in zip(names, subject.data.counts, result.per_class, strict=True):
        classes.add_row(escape(name), str(count), "–" if math.isnan(share) else f"{share:.1%}")
    console.print(classes)
