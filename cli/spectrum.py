"""`landscape spectrum`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape

from landscape.curvature import MeasureSettings
from landscape.study import StudyPlan, run_study

from .progress import StudyBar, console
from .saddle import print_saddle_table
from .subject_options import subject_of, subject_options

_DEFAULT = MeasureSettings()
click.rich_click.OPTION_GROUPS["* spectrum"] = [
    {
        "name": "Parts",
        "options": [
            "--whole", "--per-class", "--classes", "--per-group", "--per-layer", "--layers", "--split", "--loss",
        ],
    },
    {
        "name": "Precision and cost",
        "options": [
            "--max-samples", "--pairs", "--tol", "--max-matvecs", "--probes", "--steps", "--seed", "--dtype",
            "--batch-norm", "--chunk-size", "--device",
        ],
    },
]  # fmt: skip


@click.command(name="spectrum")
@click.argument("checkpoint", type=click.Path(path_type=Path))
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
@click.option("--split", type=click.Choice(["train", "test"]), default="train", show_default=True)
@click.option(
    "--loss",
    type=click.Choice(["ce", "training"]),
    default="ce",
    show_default=True,
    help="plain cross-entropy (on s·z for a cosine head), or the training loss with its last class weights",
)
@click.option("--max-samples", type=click.IntRange(1), help="at most so many images a part, drawn with the seed")
@click.option(
    "--pairs", type=click.IntRange(1), default=_DEFAULT.num_pairs, show_default=True, help="eigenpairs an end"
)
@click.option(
    "--tol",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULT.tol,
    show_default=True,
    help="residual of a pair over the largest |λ|",
)
@click.option("--max-matvecs", type=click.IntRange(2), default=_DEFAULT.max_matvecs, show_default=True,
              help="products for the pairs, at most")  # fmt: skip
@click.option("--probes", type=click.IntRange(1), default=_DEFAULT.num_probes, show_default=True,
              help="probes of the density; the error bars come from them")  # fmt: skip
@click.option(
    "--steps", type=click.IntRange(2), default=_DEFAULT.num_steps, show_default=True, help="Lanczos steps a probe"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--batch-norm", type=click.Choice(["eval", "batch"]), default="eval", show_default=True,
              help="running statistics, or those of the part, which must then fit one chunk")  # fmt: skip
@click.option(
    "--chunk-size", type=click.IntRange(1), help="images a forward pass [default: 128 on a CPU, 1024 on a GPU]"
)
@click.option("--device", default="auto", show_default=True)
@click.option("--vectors", "keep_vectors", is_flag=True, help="store the eigenvectors; each is as large as the model")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="results file, FILE.h5")
@click.option("--overwrite", is_flag=True, help="start the file again")
@click.option(
    "--logit-scale",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="of a foreign checkpoint with a cosine head: the loss is taken of S times its outputs [default: 1]",
)
@subject_options("spectrum")
def command(
    checkpoint: Path,
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
    steps: int,
    seed: int,
    **rest: Any,
) -> None:
    """Measure the Hessian of a checkpoint on fixed images: both ends of its spectrum with residuals, its density, its
    trace, the gradient, and a verdict.

    CHECKPOINT is a run's folder, a checkpoint file, or any PyTorch state dict with `--model`, `--data` and
    `--normalize`. Images are never augmented and batch normalisation is fixed, so the matrix stays the same at every
    product; a model that moves all the same is refused.

    Every part is written as soon as it is done. The same command again goes on with the parts that are missing.
    """
    fields = {key: value for key, value in rest.items() if "__" in key}
    options = {key: value for key, value in rest.items() if "__" not in key}
    subject = subject_of(checkpoint, factory, allow_pickle, fields, logit_scale=logit_scale)
    settings = MeasureSettings(
        num_pairs=pairs, tol=tol, max_matvecs=max_matvecs, num_probes=probes, num_steps=steps, seed=seed
    )
    plan = StudyPlan(**options, layers=layers or None, settings=settings)
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
    print_saddle_table(file.read_all(), console)
    following = shlex.join(["landscape", "plot", str(output), "-o", str(output.with_suffix(".pdf"))])
    console.print(f"kept in {escape(str(output))}; next: [bold]{escape(following)}[/]", soft_wrap=True)
