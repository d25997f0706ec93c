"""`landscape spectrum`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape

from landscape.anomaly.checkpoint import is_detector
from landscape.anomaly.subject import DetectorSubject, open_detector
from landscape.curvature import MeasureSettings
from landscape.errors import LandscapeError
from landscape.store import SpectrumFile, check_output
from landscape.study import Budget, Measured, StudyPlan, Sweep, run_study
from landscape.study.plan import BATCH_SIZE

from .checks import finite, int64
from .progress import StudyBar, console
from .recipe_options import given_values
from .subject_options import logit_scale_option, subject_of, subject_options, sweep_of
from .tables import print_batch_table, print_saddle_table

_DEFAULT = MeasureSettings()


def _parse_budget(context: click.Context, parameter: click.Parameter, text: str | None) -> Budget | None:
    try:
        return None if text is None else Budget.parse(text)
    except LandscapeError as error:
        raise click.BadParameter(str(error)) from None


click.rich_click.OPTION_GROUPS["* spectrum"] = [
    {
        "name": "Parts",
        "options": [
            "--whole", "--per-class", "--classes", "--per-group", "--per-layer", "--layers", "--layer-unit", "--split",
            "--loss",
        ],
    },
    {"name": "Mini-batches", "options": ["--per-batch", "--batch-size", "--weight-decay"]},
    {
        "name": "Precision and cost",
        "options": [
            "--max-samples", "--budget", "--target", "--pairs", "--tol", "--max-matvecs", "--probes", "--max-probes",
            "--steps", "--seed", "--dtype", "--batch-norm", "--chunk-size", "--device",
        ],
    },
    {"name": "Results", "options": ["--output", "--overwrite", "--vectors"]},
]  # fmt: skip


@click.command(name="spectrum")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="CHECKPOINT…")
@click.option(
    "--whole", is_flag=True, help="all samples and parameters together; the default when no other part is named"
)
@click.option("--per-class", is_flag=True, help="one part a class")
@click.option("--classes", metavar="0,3,truck", help="only these classes, by number or name")
@click.option("--per-group", is_flag=True, help="one part a group of classes: head, mid, tail by index")
@click.option("--per-layer", is_flag=True, help="one part a layer; with classes or groups, one a class and layer")
@click.option(
    "--layers", multiple=True, metavar="GLOB", help="only these layers, for example 'layer3.*'; may be repeated"
)
@click.option(
    "--layer-unit",
    type=click.Choice(["tensor", "module", "stage"]),
    default="module",
    show_default=True,
    help="what a layer is: a parameter tensor; a convolution or linear map with its bias, or a normalisation; or all "
    "below one name of the network (conv1, layer1, fc)",
)
@click.option(
    "--per-batch",
    "num_batches",
    type=click.IntRange(1),
    metavar="N",
    help="the ends of the spectrum on N mini-batches of the split, drawn with the seed; no density",
)
@click.option("--batch-size", type=click.IntRange(1), default=BATCH_SIZE, show_default=True, help="images a mini-batch")
@click.option(
    "--weight-decay",
    type=click.FloatRange(0),
    callback=finite,
    default=0.0,
    show_default=True,
    metavar="WD",
    help="of mini-batches: adds the penalty ½·WD·‖θ‖² to their loss, which shifts every eigenvalue by WD",
)
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option(
    "--loss",
    type=click.Choice(["ce", "training"]),
    help="plain cross-entropy (on s·z for a cosine head), or the training loss with its last class weights [default: "
    "ce; an anomaly detector has its training loss alone]",
)
@click.option("--max-samples", type=click.IntRange(1), help="at most so many images a part, drawn with the seed")
@click.option(
    "--budget",
    metavar="10min|500passes",
    callback=_parse_budget,
    help="spend so much in all: first the least for every part, then probes where M₋ is known worst. Seconds (90s), "
    "minutes, hours (2h), or data passes: a pass is one product over as many images as the split has",
)
@click.option(
    "--target",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    default=_DEFAULT.target,
    show_default=True,
    help="stop adding probes to a part when the 95 % interval of its negative mass M₋ is this share of it, either way",
)
@click.option(
    "--pairs", type=click.IntRange(1), default=_DEFAULT.num_pairs, show_default=True, help="eigenpairs an end"
)
@click.option(
    "--tol",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    default=_DEFAULT.tol,
    show_default=True,
    help="residual of a pair over the largest |λ|",
)
@click.option("--max-matvecs", type=click.IntRange(2), default=_DEFAULT.max_matvecs, show_default=True,
              help="products for the pairs, at most")  # fmt: skip
@click.option("--probes", type=click.IntRange(1), default=_DEFAULT.num_probes, show_default=True,
              help="probes of the density, at least; the error bars come from them")  # fmt: skip
@click.option("--max-probes", type=click.IntRange(1),
              help=f"and at most [default: {_DEFAULT.max_probes}, or --probes where that is more]")  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(2), default=_DEFAULT.num_steps, show_default=True, help="Lanczos steps a probe"
)
@click.option("--seed", type=click.IntRange(0), callback=int64, default=0, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--batch-norm", type=click.Choice(["eval", "batch"]), default="eval", show_default=True,
              help="running statistics, or those of the part, which must then fit one chunk")  # fmt: skip
@click.option(
    "--chunk-size", type=click.IntRange(1), help="images a forward pass [default: 128 on a CPU, 1024 on a GPU]"
)
@click.option("--device", default="auto", show_default=True)
@click.option("--vectors", "keep_vectors", is_flag=True, help="store the eigenvectors; each is as large as the model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="results file, FILE.h5")
@click.option("--overwrite", is_flag=True, help="start the file again; nothing but spectra is ever replaced")
@logit_scale_option
@subject_options("spectrum")
def command(
    checkpoints: tuple[Path, ...],
    factory: str | None,
    allow_pickle: bool,
    logit_scale: float | None,
    output: Path,
    overwrite: bool,
    layers: tuple[str, ...],
    pairs: int,
    tol: float,
    max_matvecs: int,
    probes: int,
    max_probes: int | None,
    target: float,
    num_batches: int | None,
    steps: int,
    seed: int,
    **rest: Any,
) -> None:
    """Measure the Hessian of a checkpoint on fixed images: both ends of its spectrum with residuals, its density, its
    trace, the gradient, and a verdict.

    CHECKPOINT is a run's folder, a checkpoint file, or any PyTorch state dict with `--model`, `--data` and
    `--normalize`. Images are never augmented and batch normalisation is fixed, so the matrix stays the same at every
    product; a model that moves all the same is refused.

    A detector of `landscape anomaly` has two classes: `normal`, its unlabelled training rows, and `anomaly`, the
    labelled ones; `--per-class` measures the loss of each. For PReNet they are frozen pairs of rows, without and with a
    labelled anomaly.

    Several CHECKPOINTs of one training (`runs/x/epoch-*.safetensors`) make a sweep: one file, parts by epoch, each
    search started from the eigenvectors of the epoch before. Foreign checkpoints have the last number in their file's
    name as epoch. The same command adds the epochs that have come since; the file of one checkpoint becomes a sweep
    when that checkpoint is named among several. After an interruption the first missing epoch starts cold unless
    `--vectors` kept the vectors of the one before, so its numbers then agree within `--tol` only.

    Every part is written as soon as it is done. The same command again goes on with the parts that are missing. Without
    `--budget` a part gets probes until `--target` or `--max-probes`.
    """
    fields = {key: value for key, value in rest.items() if "__" in key}
    options = {key: value for key, value in rest.items() if "__" not in key}
    settings = MeasureSettings(
        num_pairs=pairs,
        tol=tol,
        max_matvecs=max_matvecs,
        num_probes=probes,
        max_probes=max(_DEFAULT.max_probes, probes) if max_probes is None else max_probes,
        target=target,
        num_steps=steps,
        seed=seed,
    )
    if settings.max_probes < probes:
        raise click.UsageError(f"--max-probes {settings.max_probes} is less than --probes {probes}")
    check_output(output)
    # One more checkpoint for a sweep that is there already is a sweep too.
    goes_on = output.exists() and not overwrite and SpectrumFile.open(output).is_sweep
    subject: Measured | Sweep
    if factory is None and any(map(is_detector, checkpoints)):
        subject = _detector(checkpoints, fields)
    elif len(checkpoints) > 1 or goes_on:
        subject = sweep_of(checkpoints, factory, allow_pickle, fields, logit_scale=logit_scale)
    else:
        subject = subject_of(checkpoints[0], factory, allow_pickle, fields, logit_scale=logit_scale)
    if options["loss"] is None:
        options["loss"] = (subject.first if isinstance(subject, Sweep) else subject).default_loss
    plan = StudyPlan(**options, layers=layers or None, num_batches=num_batches or 0, settings=settings)
    try:
        with StudyBar() as bar:
            file = run_study(
                subject,
                plan,
                output,
                overwrite=overwrite,
                command=shlex.join(["landscape", *sys.argv[1:]]),
                progress=bar,
            )
    except KeyboardInterrupt:
        if not output.exists():
            raise
        raise click.Abort("every finished part is kept, the same command (without --overwrite) goes on") from None
    epochs = file.measured_epochs()
    last = epochs[-1] if epochs else None
    spectra = file.read_all(last)
    if spectra:
        print_saddle_table(spectra, console)
    print_batch_table(file, last, console)
    if len(epochs) > 1:
        console.print(f"epoch {last} of {len(epochs)}; all of them: landscape saddle {output}", markup=False)
    words = ["plot", str(output), "-o", str(output.with_suffix(".pdf"))] if spectra else ["info", str(output)]
    following = shlex.join(["landscape", *words])
    console.print(f"kept in {escape(str(output))}; next: [bold]{escape(following)}[/]", soft_wrap=True)


def _detector(checkpoints: tuple[Path, ...], fields: dict[str, Any]) -> DetectorSubject:
    """The one anomaly detector that was named, with its table where that has moved."""
    if len(checkpoints) > 1:
        raise LandscapeError("an anomaly detector is measured by itself: give one checkpoint and one -o each")
    given = given_values(fields).get("data", {})
    source = given.pop("source", None)
    if given:
        raise LandscapeError(
            f"{checkpoints[0]} is an anomaly detector, data.{next(iter(given))} means nothing to it: of the data it "
            "takes --data FILE.npz alone"
        )
    return open_detector(checkpoints[0], data=None if source is None else Path(source))
