"""`landscape train`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape

from landscape.training.loop import train
from landscape.training.recipe import Recipe, parse_assignment, set_value

from .progress import TrainingBar, console, group_shares
from .recipe_options import given_values, recipe_options


@click.command(name="train")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE.toml]")
@recipe_options("train", "data", "model", "loss", "optimizer", "schedule", "run")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="set any key; may be repeated")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="folder of the run")
@click.option("--resume", is_flag=True, help="go on where the run in the folder stopped")
@click.option("--overwrite", is_flag=True, help="replace the run in the folder")
def command(
    recipe: Path | None, assignments: tuple[str, ...], output: Path, resume: bool, overwrite: bool, **fields: Any
) -> None:
    """Train a classifier on long-tailed data and keep its checkpoints.

    What to train is a TOML recipe, flags, or both; flags win over the file and `--set` over flags. `--resume` alone
    takes the recipe of the folder.

    The folder gets `recipe.toml`, `history.jsonl`, `last.safetensors` (the result), `best.safetensors` and `resume.pt`.
    A class is *tail* for ImbSAM and SSE-SAM when it has fewer than `--eta` images.
    """
    source = recipe or (output / "recipe.toml" if resume and (output / "recipe.toml").is_file() else None)
    values = Recipe.load(source) if source is not None else {}
    for section, given in given_values(fields).items():
        for name, value in given.items():
            set_value(values, f"{section}.{name}", value)
    for text in assignments:
        set_value(values, *parse_assignment(text))
    parsed = Recipe.parse(values, where=str(source) if source else "recipe")
    try:
        with TrainingBar() as bar:
            result = train(parsed, output, resume=resume, overwrite=overwrite, progress=bar)
    except KeyboardInterrupt:
        if not (output / "resume.pt").is_file():
            raise
        raise click.Abort("every finished epoch is kept, the same command with --resume goes on") from None
    last, best = result.last, result.best
    console.print(f"last epoch {last.epoch}: accuracy {last.accuracy:.1%} ({group_shares(last.groups)})")
    console.print(f"best epoch {best.epoch}: accuracy {best.accuracy:.1%}, selected on the test split")
    following = shlex.join(["landscape", "spectrum", str(output), "--per-class", "-o", str(output / "classes.h5")])
    console.print(f"kept in {escape(str(output))}/; next: [bold]{escape(following)}[/]", soft_wrap=True)
