"""`landscape anomaly`."""

from __future__ import annotations

import itertools
import shlex
import statistics
import sys
from pathlib import Path

import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from landscape.anomaly.grid import Grid, run_grid
from landscape.anomaly.methods import METHODS
from landscape.anomaly.results import FILE_NAME, METRICS, TITLES, GridResults, Metric, RunResult, Sample
from landscape.anomaly.training import OPTIMIZERS, DetectorRecipe
from landscape.training.recipe import resolve_device

from .checks import finite, seed_list
from .progress import WithBar, console, duration, several

_DEFAULT = Grid(data=(), methods=(), optimizers=(), seeds=())


@click.command(name="anomaly")
@click.option(
    "--data",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE.npz|FOLDER",
    help="a table with arrays X (n, d) and y (n,), 1 = anomaly, as ADBench has them; or a folder of tables; may be "
    "repeated",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice([*METHODS, "all"]),
    default=("all",),
    show_default=True,
    help="devnet: a score 5 deviations above a reference; deepsad: a distance from a centre; prenet: relations of "
    "pairs; may be repeated",
)
@click.option(
    "--optimizer",
    "optimizers",
    multiple=True,
    type=click.Choice(OPTIMIZERS),
    default=OPTIMIZERS,
    show_default=True,
    help="sgd perturbs nothing, sam the whole loss, imbsam that of the labelled anomalies; may be repeated",
)
@click.option(
    "--labelled",
    type=click.FloatRange(0, 1, min_open=True),
    callback=finite,
    default=_DEFAULT.labelled,
    show_default=True,
    metavar="SHARE",
    help="of the training anomalies that keep their label, at least one; the others stay among the unlabelled rows",
)
@click.option(
    "--rho",
    type=click.FloatRange(0),
    callback=finite,
    default=_DEFAULT.rho,
    show_default=True,
    help="radius of the perturbation",
)
@click.option(
    "--seeds",
    callback=seed_list,
    default="0,1,2,3,4",
    show_default=True,
    metavar="N,N,…",
    help="a run for each; the seed decides split, labels, initial weights and batches, the same for every optimiser",
)
@click.option("--epochs", type=click.IntRange(1), default=_DEFAULT.epochs, show_default=True, help="of 20 steps")
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    help="of every optimiser [default: " + ", ".join(f"{kind.lr:g} {name}" for name, kind in METHODS.items()) + "]",
)
@click.option("--device", default="cpu", show_default=True, help="the networks are too small to gain from a GPU")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="folder of the results")
@click.option("--overwrite", is_flag=True, help="train again what the folder holds")
def command(
    data: tuple[Path, ...],
    methods: tuple[str, ...],
    optimizers: tuple[str, ...],
    labelled: float,
    rho: float,
    seeds: tuple[int, ...],
    epochs: int,
    lr: float | None,
    device: str,
    output: Path,
    overwrite: bool,
) -> None:
    """Semi-supervised anomaly detection, with and without ImbSAM.

    The training rows have no label but for a few labelled anomalies: a long tail of two classes. The protocol is
    ADBench's: 70 % of the rows train and 30 % test, stratified, features scaled by the training rows. Batches are half
    unlabelled, half labelled anomalies, and the loss is the sum of both halves' means; ImbSAM perturbs the second one.

    Every run ends with the model of its last epoch: nothing is chosen on the test split. AUC-ROC and AUC-PR are those
    of scikit-learn; AUC-PR of random scores is the share of anomalies.

    The folder gets `DATA/METHOD-OPTIMIZER/seed-N.safetensors`, a checkpoint a run, and `results.json`, the table of all
    that this command names. The same command goes on with the runs that are missing; one that names more trains only
    what is new. `landscape spectrum CHECKPOINT --per-class` measures what the losses of normal rows and anomalies look
    like at the end.
    """
    chosen = tuple(METHODS) if "all" in methods else tuple(dict.fromkeys(methods))
    grid = Grid(
        data=data,
        methods=chosen,
        optimizers=tuple(dict.fromkeys(optimizers)),
        seeds=seeds,
        labelled=labelled,
        rho=rho,
        lr=lr,
        epochs=epochs,
    )
    try:
        with _GridBar() as bar:
            results = run_grid(
                grid,
                output,
                device=resolve_device(device),
                overwrite=overwrite,
                command=shlex.join(["landscape", *sys.argv[1:]]),
                progress=bar,
            )
    except KeyboardInterrupt:
        if not any(output.glob("*/*/seed-*.safetensors")):
            raise
        raise click.Abort("every finished run is kept, the same command (without --overwrite) goes on") from None
    for method, metric in itertools.product(chosen, METRICS):
        _print_method(results, method, metric, console)
    _print_contrasts(results, console)
    path = output / FILE_NAME
    others = len(set(output.glob("*/*/seed-*.safetensors")) - {output / run.checkpoint for run in results.runs})
    if others:
        verb = "was" if others == 1 else "were"
        console.print(
            f"{several(others, 'run')} of the folder {verb} not asked for and not in {FILE_NAME}: a command that names "
            "all data sets, methods, optimisers and seeds tabulates all, without training again",
            soft_wrap=True,
        )
    following = shlex.join(["landscape", "plot", str(path), "--kind", "anomaly", "-o", str(output / "anomaly.pdf")])
    console.print(f"kept in {escape(str(path))}; next: [bold]{escape(following)}[/]", soft_wrap=True)


class _GridBar(WithBar):
    """One bar over all runs."""

    def cost(self, missing: int, there: int, seconds: float) -> None:
        known = f", {there:,} already there" if there else ""
        length = f", {duration(seconds)}" if missing else ""
        console.print(f"{several(missing, 'run')} to train{length}{known}")
        self.task = self.progress.add_task("training", total=missing, unit="runs")

    def run(self, table: str, recipe: DetectorRecipe) -> None:
        assert self.task is not None
        title = f"{table}, {recipe.method} {recipe.optimizer}, seed {recipe.seed}"
        self.progress.update(self.task, description=escape(title))

    def done(self, result: RunResult) -> None:
        assert self.task is not None
        self.progress.advance(self.task)
        if not console.is_terminal:
            console.print(
                f"  {result.data} {result.method} {result.optimizer} seed {result.seed}: AUC-ROC {result.auc_roc:.3f}, "
                f"AUC-PR {result.auc_pr:.3f}",
                markup=False,
                soft_wrap=True,
            )


def _print_method(results: GridResults, method: str, metric: Metric, console: Console) -> None:
    """A row a data set, a column an optimiser: mean ± s.d. over seeds, in percent."""
    optimizers = results.names("optimizer")
    # A table a metric: beside each other they are wider than a terminal, which would cut off the marks.
    title = f"{method}, {TITLES[metric]}"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title, title_justify="left")
    table.add_column("")
    table.add_column("random", justify="right", no_wrap=True)
    for optimizer in optimizers:
        table.add_column(TITLES[optimizer], justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    samples: dict[str, list[Sample]] = {optimizer: [] for optimizer in optimizers}
    for data in results.names("data"):
        cells = []
        for optimizer, found in samples.items():
            sample = results.sample(data, method, optimizer, metric)
            assert sample is not None  # a grid has every cell
            found.append(sample)
            cells += [_percent(sample), _mark(results, data, method, optimizer, metric)]
        random = results.prevalence(data) if metric == "auc_pr" else 0.5
        table.add_row(escape(data), f"{100 * random:.1f}", *cells)
    table.add_section()
    means = [statistics.fmean(sample.mean for sample in found) for found in samples.values()]
    table.add_row("mean", "", *(cell for mean in means for cell in (f"{100 * mean:.1f}", "")))
    console.print(table, crop=False)


def _mark(results: GridResults, data: str, method: str, optimizer: str, metric: Metric) -> str:
    """▲ or ▼ where a cell differs from that of SGD by more than two standard errors of the paired difference."""
    contrast = results.contrast(method, optimizer, metric)
    claim = contrast.differences[data].claim if contrast is not None else ""
    return {"higher": "▲", "lower": "▼", "": ""}[claim]


def _percent(sample: Sample) -> str:
    """``91.2±0.4``, mean and standard deviation in percent."""
    spread = f"±{100 * sample.standard_deviation:.1f}" if len(sample.values) > 1 else ""
    return f"{100 * sample.mean:.1f}{spread}"


def _print_contrasts(results: GridResults, console: Console) -> None:
    contrasts = results.contrasts()
    if not contrasts:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in ("method", "difference", "of", "mean ± s.e.", "sets ▲/▼", "Wilcoxon p"):
        table.add_column(title, justify="left" if title in ("method", "difference", "of") else "right", no_wrap=True)
    for contrast in contrasts:
        claims = [sample.claim for sample in contrast.differences.values()]
        error = "" if len(contrast.differences) < 2 else f" ± {100 * contrast.standard_error:.2f}"
        table.add_row(
            contrast.method,
            f"{TITLES[contrast.optimizer]} − {TITLES[contrast.baseline]}",
            TITLES[contrast.metric],
            f"{100 * contrast.mean:+.2f}{error}",
            f"{claims.count('higher')}/{claims.count('lower')} of {len(claims)}",
            "–" if contrast.p_value != contrast.p_value else f"{contrast.p_value:.2g}",
        )
    console.print(table, crop=False)
    console.print(
        "percent; ± over seeds above, over data sets below. ▲▼: the difference to SGD, seed by seed, is more than two "
        "standard errors, of three seeds or more; any other difference is none. p: signed ranks of the data sets, "
        f"two-sided, exact, for each of the {len(contrasts)} tests by itself.",
        style="dim",
        soft_wrap=True,
    )
