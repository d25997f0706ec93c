"""`landscape train`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape
from rich.table import Table

from landscape.training.library import TAGS, PaperRow, RecipeFile, read_recipe, shipped_recipes
from landscape.training.loop import train
from landscape.training.recipe import Recipe, parse_assignment, set_value
from landscape.training.seeds import SeedSummary, train_seeds

from .checks import seed_list
from .progress import TrainingBar, console, group_shares
from .recipe_options import given_values, recipe_options


def _list_recipes(context: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if not wanted:
        return
    # Lines, not a table: a name cut off at the edge of a narrow terminal could not be typed.
    for recipe in shipped_recipes():
        console.print(f"[bold]{escape(recipe.name)}[/]", soft_wrap=True)
        for row in recipe.paper:
            console.print(
                f"  {escape(row.row)}: {escape(row.numbers)}  [dim]{escape(row.reference)}[/]", soft_wrap=True
            )
    console.print("numbers: all % \\[source] (head/mid/tail)")
    console.print("source: " + "; ".join(f"{tag} {meaning}" for tag, meaning in TAGS.items()), soft_wrap=True)
    console.print("next: [bold]landscape train NAME --root FOLDER -o runs/x[/], or --data folder:PATH for your images")
    context.exit()


@click.command(name="train")
@click.argument("recipe", required=False, metavar="[RECIPE]")
@recipe_options("train", "data", "model", "loss", "optimizer", "regularizer", "schedule", "run")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="set any key; may be repeated")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="folder of the run")
@click.option(
    "--seeds",
    callback=seed_list,
    metavar="N,N,…",
    help="a run for each seed, into `seed-N` of the folder; prints mean ± s.d. of the last epochs and keeps them in "
    "`seeds.json`. At least three, to claim anything",
)
@click.option("--resume", is_flag=True, help="go on where the run in the folder stopped, however it stopped")
@click.option("--overwrite", is_flag=True, help="replace the run in the folder")
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_recipes,
    help="the recipes that ship, with the published numbers that each answers to, and leave",
)
def command(
    recipe: str | None,
    assignments: tuple[str, ...],
    output: Path,
    seeds: tuple[int, ...],
    resume: bool,
    overwrite: bool,
    **fields: Any,
) -> None:
    """Train a classifier on long-tailed data and keep its checkpoints.

    What to train is a recipe, flags, or both; flags win over the recipe and `--set` over flags. A recipe is a TOML file
    or the name of one that ships (`--list`), such as `cifar10-lt/ldam-drw-sam`; a file may begin with
    `extends = "NAME"` or `extends = "other.toml"` and then says only what differs. `--resume` alone takes the recipe of
    the folder.

    The folder gets `recipe.toml`, `history.jsonl`, `last.safetensors` (the result), `best.safetensors` and `resume.pt`.
    A run that was killed, at whatever moment, goes on with `--resume`.
    A class is *tail* for ImbSAM and SSE-SAM when it has fewer than `--eta` images.
    """
    if resume and overwrite:
        raise click.UsageError("--resume goes on with a run and --overwrite replaces it; say one of them")
    file = _recipe_file(recipe, output, seeds, resume)
    values = file.values if file is not None else {}
    said = [(f"{section}.{name}", value) for section, given in given_values(fields).items()
            for name, value in given.items()]  # fmt: skip
    said += map(parse_assignment, assignments)
    if seeds and any(key == "run.seed" for key, _ in said):
        raise click.UsageError("--seeds says every run's seed; leave --seed out")
    before = {key: _value(values, key) for key, _ in said}
    for key, value in said:
        set_value(values, key, value)
    parsed = Recipe.parse(values, where=file.name if file is not None else "recipe")
    if file is not None:
        after = parsed.dump()
        changed = {key: (old, new) for key, old in before.items() if (new := _value(after, key)) != old}
        _say_paper(file.paper, changed)
    try:
        if seeds:
            _train_seeds(parsed, output, seeds, resume, overwrite)
        else:
            _train_one(parsed, output, resume, overwrite)
    except KeyboardInterrupt:
        if not any(output.glob("seed-*/resume.pt" if seeds else "resume.pt")):
            raise
        raise click.Abort("every finished epoch is kept, the same command with --resume goes on") from None


def _recipe_file(recipe: str | None, output: Path, seeds: Sequence[int], resume: bool) -> RecipeFile | None:
    if recipe is not None:
        return read_recipe(recipe)
    runs = [output / f"seed-{seed}" for seed in seeds] or [output]
    kept = [run / "recipe.toml" for run in runs if (run / "recipe.toml").is_file()]
    return read_recipe(kept[0]) if resume and kept else None


def _value(values: Mapping[str, Any], key: str) -> Any:
    """What nested values say of ``section.name``; ``None`` if nothing."""
    section, _, name = key.partition(".")
    inside = values.get(section)
    return inside.get(name) if isinstance(inside, dict) else None


def _is_another_setting(key: str, old: Any, new: Any) -> bool:
    """Whether a change makes numbers another experiment's: not where the same images or lists lie, nor the machine."""
    if key in ("data.root", "data.download", "data.workers") or key.startswith("run."):
        return False
    return not (key == "data.source" and all(str(source).startswith("list:") for source in (old, new)))


def _say_paper(rows: Sequence[PaperRow], changed: Mapping[str, tuple[Any, Any]]) -> None:
    for row in rows:
        console.print(f"answers to {row.row} ({row.reference}): {row.numbers}", markup=False, soft_wrap=True)
        if row.note:
            console.print(f"  {row.note}", markup=False, soft_wrap=True, style="dim")
    other = [key for key, (old, new) in changed.items() if _is_another_setting(key, old, new)]
    if rows and other:
        console.print(
            f"  with another {', '.join(other)}, so not the published setting", style="yellow", soft_wrap=True
        )


def _train_one(recipe: Recipe, output: Path, resume: bool, overwrite: bool) -> None:
    with TrainingBar() as bar:
        result = train(recipe, output, resume=resume, overwrite=overwrite, progress=bar)
    last, best = result.last, result.best
    console.print(f"last epoch {last.epoch}: accuracy {last.accuracy:.1%} ({group_shares(last.groups)})")
    console.print(f"best epoch {best.epoch}: accuracy {best.accuracy:.1%}, selected on the test split")
    following = shlex.join(["landscape", "spectrum", str(output), "--per-class", "-o", str(output / "classes.h5")])
    console.print(f"kept in {escape(str(output))}/; next: [bold]{escape(following)}[/]", soft_wrap=True)


def _train_seeds(recipe: Recipe, output: Path, seeds: Sequence[int], resume: bool, overwrite: bool) -> None:
    summary = train_seeds(
        recipe,
        output,
        seeds,
        resume=resume,
        overwrite=overwrite,
        progress=lambda seed: TrainingBar(f"[bold]seed {seed}[/]: "),
    )
    _print_summary(summary)
    following = shlex.join(["landscape", "evaluate", str(output / f"seed-{seeds[0]}")])
    console.print(
        f"kept in {escape(str(output / 'seeds.json'))} and the folders beside it; next: [bold]{escape(following)}[/]",
        soft_wrap=True,
    )


def _print_summary(summary: SeedSummary) -> None:
    count = len(summary.seeds)
    table = Table(
        "accuracy %", "mean ± s.d.", "s.e.", "2 s.e.", box=None, pad_edge=False, title_justify="left",
        title=f"last epoch {summary.epoch}, {count} seed{'s' if count > 1 else ''}",
    )  # fmt: skip
    by_count = {f"{name} by count": row for name, row in summary.accuracy_by_count.items()}
    for name, row in {**summary.accuracy, **by_count}.items():
        mean, deviation, error = (100 * v for v in (row.mean, row.standard_deviation, row.standard_error))
        if count > 1:
            table.add_row(name, f"{mean:.2f} ± {deviation:.2f}", f"{error:.2f}", f"{2 * error:.2f}")
        else:
            table.add_row(name, f"{mean:.2f}", "–", "–")
    console.print(table)
    console.print(
        "a gain smaller than 2 s.e. is nothing to claim; the s.e. of a difference is the root of both squares' sum"
        + ("" if count > 2 else "; fewer than three seeds do not tell the spread"),
        style="dim",
    )
