"""`landscape calibrate`."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from landscape.data import ClassGroups
from landscape.data.longtailed import class_groups
from landscape.json_text import json_text
from landscape.spread import Spread
from landscape.store import check_replaceable
from landscape.store.calibration_file import CALIBRATION_SCHEMA, CalibrationFile
from landscape.store.features_file import FeaturesFile
from landscape.training.evaluation import Evaluation
from landscape.training.recipe import resolve_device
from landscape.twostage.record import record_outcomes
from landscape.twostage.second_stage import SecondStage, SeedOutcome
from landscape.twostage.settings import METHODS, TABLES, TRAINED, Method, two_stage_settings

from .checks import finite, seed_list
from .progress import WorkBar, console, several

click.rich_click.OPTION_GROUPS["* calibrate"] = [
    {"name": "Method", "options": ["--method", "--seeds", "--legacy"]},
    {"name": "Class distributions", "options": ["--imbalance-table", "--lam", "--alpha", "--neighbors", "--noise"]},
    {"name": "Training of the classifier",
     "options": ["--epochs", "--lr", "--momentum", "--weight-decay", "--batch-size"]},
    {"name": "Without training", "options": ["--tau", "--holdout", "--distance"]},
    {"name": "Results", "options": ["--output", "--overwrite", "--json", "--device"]},
]  # fmt: skip


_SYMBOLS = {"power": "λ", "alpha": "α", "neighbors": "K", "tau": "τ"}
_METHODS = "\n\n".join(f"- **{name}**: {text}" for name, text in METHODS.items())
_HELP = f"""Make a new classifier from the features of a checkpoint; say what it does for head, mid and tail.

Works from the file of `landscape features` alone: no image is read. Methods:

{_METHODS}

λ, α, K and momentum of TailCalib(X) were published for imbalance 100, 50 and 10 and for mini-ImageNet-LT; the nearest
table is taken, and said. Seeds draw the points and start the classifier; the checkpoint under it stays one. Ctrl-C
keeps the seeds that are finished."""


@click.command(name="calibrate", help=_HELP)
@click.argument("features", type=click.Path(path_type=Path), metavar="FEATURES.h5")
@click.option("--method", type=click.Choice(list(METHODS)), default="tailcalibx", show_default=True)
@click.option("--seeds", default="0,1,2", callback=seed_list, metavar="N,N,…", show_default=True,
              help="one classifier each; mean ± s.d. over them")  # fmt: skip
@click.option("--legacy", is_flag=True,
              help="as TailCalibX's code: weights normalised over the classes, constant rate, last batch dropped, "
                   "class statistics of features before λ")  # fmt: skip
@click.option("--imbalance-table", "table", type=click.Choice(["auto", *TABLES]), default="auto", show_default=True,
              help="published λ, α, K and momentum: by imbalance, or of mini-ImageNet-LT")  # fmt: skip
@click.option("--lam", "power", type=click.FloatRange(0), callback=finite, metavar="λ",
              help="of Tukey's ladder f^λ; 0 is the logarithm, 1 changes nothing")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0), callback=finite, metavar="α",
              help="added to every entry of a covariance: spreads all features together")  # fmt: skip
@click.option("--neighbors", type=click.IntRange(1), metavar="K",
              help="classes whose means and covariances a seed borrows")  # fmt: skip
@click.option("--noise", type=click.FloatRange(0), callback=finite, metavar="SHARE",
              help="of MODALS, in standard deviations of the class [default: 0.01]")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1),
              help="[default: as many as the first stage; cRT 10, LWS 5]")  # fmt: skip
@click.option("--lr", type=click.FloatRange(0, min_open=True), callback=finite,
              help="[default: 0.01; cRT and LWS 0.2]")  # fmt: skip
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), callback=finite,
              help="[default: by table; cRT and LWS 0.9]")  # fmt: skip
@click.option("--weight-decay", type=click.FloatRange(0), callback=finite, help="[default: 0.0005]")
@click.option("--batch-size", type=click.IntRange(1), help="[default: 128; cRT and LWS 512]")
@click.option("--tau", type=click.FloatRange(0), callback=finite, metavar="τ",
              help="of tau-norm [default: the best of 0, 0.1, …, 2 on a share of the training images]")  # fmt: skip
@click.option("--holdout", type=click.FloatRange(0, 1, min_open=True),
              help="that share, of every class [default: 0.2]")  # fmt: skip
@click.option("--distance", type=click.Choice(["cosine", "l2"]), help="of ncm [default: cosine]")
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of tables")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="RESULTS.h5")
@click.option("--overwrite", is_flag=True, help="replace a results file that is there")
def command(
    features: Path,
    method: Method,
    seeds: tuple[int, ...],
    table: str,
    legacy: bool,
    device: str,
    as_json: bool,
    output: Path,
    overwrite: bool,
    **given: Any,
) -> None:
    check_replaceable(output, CALIBRATION_SCHEMA, overwrite=overwrite)
    file = FeaturesFile.open(features)
    settings = two_stage_settings(
        method,
        file.class_counts,
        source=file.meta["source"],
        table=table,
        first_epochs=max(0, file.meta["epoch"]),
        legacy=legacy or None,
        **given,
    )
    stage = SecondStage(file, settings, resolve_device(device))
    seeds = seeds if stage.is_seeded else seeds[:1]
    if not as_json:
        _announce(stage, seeds, chosen=table != "auto")
    outcomes: list[SeedOutcome] = []
    started = time.monotonic()
    epochs = settings.epochs if method in TRAINED else 0
    try:
        with WorkBar(method, epochs * len(seeds), "epochs") as bar:
            for seed in seeds:
                outcomes.append(stage.run(seed, bar.advance))
    except KeyboardInterrupt:
        if not outcomes:
            raise
    kept = record_outcomes(file, stage, outcomes, output, command=shlex.join(["landscape", *sys.argv[1:]]))
    if as_json:
        click.echo(json_text(_report(kept, stage, outcomes), indent=2))
    else:
        _show(kept, stage, outcomes, seconds=time.monotonic() - started)
    if len(outcomes) < len(seeds):
        raise click.Abort(f"{len(outcomes)} of {several(len(seeds), 'seed')} finished and kept in {output}")


def _show(kept: CalibrationFile, stage: SecondStage, outcomes: Sequence[SeedOutcome], *, seconds: float) -> None:
    for groups in class_groups(stage.class_counts):
        console.print(_table(stage.before, outcomes, groups, stage.settings.method))
    if any(outcome.tau is not None for outcome in outcomes):
        console.print("τ = " + ", ".join(f"{outcome.tau:g}" for outcome in outcomes))
    if not stage.is_seeded:
        console.print("nothing is drawn: every seed gives the same", style="dim")
    if "generated" in kept.points:
        _print_nearest(kept)
    words = ["info", str(kept.path)]
    if "generated" in kept.points and len(kept.points["generated"]["labels"]):
        words = ["plot", str(kept.path), "--kind", "tsne", "-o", str(kept.path.with_suffix(".pdf"))]
    following = shlex.join(["landscape", *words])
    console.print(
        f"{seconds:.0f} s; kept in {escape(str(kept.path))}; next: [bold]{escape(following)}[/]", soft_wrap=True
    )


def _announce(stage: SecondStage, seeds: Sequence[int], *, chosen: bool) -> None:
    settings = stage.settings
    own = settings.own()
    if "table" in own and not chosen:
        console.print(
            f"published constants for {settings.table} are the nearest; --imbalance-table takes others", markup=False
        )
    said = ", ".join(
        name if value is True else f"{_SYMBOLS.get(name, name.replace('_', ' '))} = {value}"
        for name, value in own.items()
        if value is not None and value is not False
    )
    console.print(f"{settings.method}: {said}", markup=False, soft_wrap=True)
    if settings.method in TRAINED:
        steps = len(seeds) * settings.epochs * stage.steps_per_epoch
        console.print(
            f"{several(len(seeds), 'seed')} × {several(settings.epochs, 'epoch')} of {stage.points_per_epoch:,} "
            f"features: {several(steps, 'step')} of {settings.batch_size}",
            soft_wrap=True,
        )
    if settings.method == "tau-norm" and settings.tau is None:
        console.print(
            f"τ is chosen on {settings.holdout:.0%} of the training images, which the checkpoint was trained on and "
            "fits better than new ones; no test image is used; --tau gives one",
            soft_wrap=True,
        )
    if "neighbors" in settings.own():
        single = int((stage.distributions.counts == 1).sum())
        if single:
            console.print(
                f"{several(single, 'class', 'classes')} of one image, without a covariance: the covariances of "
                "neighbours stand in"
            )


def _spreads(results: Sequence[Evaluation], groups: ClassGroups) -> dict[str, Spread]:
    rows = [{"all": result.accuracy, **result.per_group(groups)} for result in results]
    return {name: Spread(tuple(row[name] for row in rows)) for name in rows[0]}


def _table(before: Evaluation, outcomes: Sequence[SeedOutcome], groups: ClassGroups, method: str) -> Table:
    table = Table(title=f"groups by {groups.convention}", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    # On a narrow terminal lines are broken: a number cut short would be another number.
    table.add_column("", overflow="fold")
    for name in ("all", *(f"{name} ({len(classes)})" for name, classes in groups.items())):
        table.add_column(name, justify="right", overflow="fold")
    rows = {
        "before: the checkpoint": [before],
        f"{method}, {several(len(outcomes), 'seed')}": [each.result for each in outcomes],
    }
    for title, results in rows.items():
        table.add_row(title, *(_percent(spread) for spread in _spreads(results, groups).values()))
    return table


def _percent(spread: Spread) -> str:
    if math.isnan(spread.mean):
        return "–"
    deviation = spread.standard_deviation
    return f"{100 * spread.mean:.1f}%" if math.isnan(deviation) else f"{100 * spread.mean:.1f} ± {100 * deviation:.1f}%"


def _print_nearest(kept: CalibrationFile) -> None:
    made, real = kept.points["generated"], kept.points["real"]
    if not len(made["labels"]):
        console.print("all classes are equally large: nothing was generated")
        return
    shares = {
        kind: (points["nearest_sample"] == points["labels"])[np.isin(points["labels"], made["labels"])].mean()
        for kind, points in {"generated": made, "real": real}.items()
    }
    mean = (made["nearest_mean"] == made["labels"]).mean()
    console.print(
        f"of {len(made['labels']):,} generated features {shares['generated']:.0%} have the nearest training feature in "
        f"their own class (real ones, themselves left out: {shares['real']:.0%}); {mean:.0%} the nearest class mean",
        soft_wrap=True,
    )


def _report(kept: CalibrationFile, stage: SecondStage, outcomes: Sequence[SeedOutcome]) -> dict[str, Any]:
    def rows(results: Sequence[Evaluation]) -> dict[str, Any]:
        return {
            groups.convention: {
                name: {"mean": spread.mean, "sd": spread.standard_deviation, "values": spread.values}
                for name, spread in _spreads(results, groups).items()
            }
            for groups in class_groups(stage.class_counts)
        }

    return {
        "file": str(kept.path),
        "method": stage.settings.method,
        "settings": stage.settings.own(),
        "seeds": [outcome.seed for outcome in outcomes],
        "before": rows([stage.before]),
        "after": rows([outcome.result for outcome in outcomes]),
    }
