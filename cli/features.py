"""`landscape features`."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape

from landscape.errors import LandscapeError
from landscape.store import check_replaceable
from landscape.store.features_file import FEATURES_SCHEMA, SPLITS, SplitName
from landscape.training.recipe import resolve_device
from landscape.twostage.features import find_feature_layer
from landscape.twostage.record import record_features

from .checks import int64
from .progress import WorkBar, console
from .subject_options import subject_of, subject_options


@click.command(name="features")
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="CHECKPOINT")
@subject_options("features")
@click.option("--split", type=click.Choice(["train", "test", "both"]), default="both", show_default=True)
@click.option("--layer", metavar="NAME",
              help="take what this module receives, for example 'fc' [default: the linear or cosine layer whose output "
                   "are the logits]")  # fmt: skip
@click.option("--augment", is_flag=True,
              help="see the training images through the augmentation of the training, drawn once, as TailCalibX's code "
                   "does")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), callback=int64, default=0, show_default=True,
              help="of --augment")  # fmt: skip
@click.option("--logit-scale", type=click.FloatRange(0, min_open=True), metavar="S",
              help="of a foreign checkpoint with a cosine head: its loss took S·z [default: 1]")  # fmt: skip
@click.option("--device", default="auto", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="FEATURES.h5")
@click.option("--overwrite", is_flag=True, help="replace a features file that is there")
def command(
    checkpoint: Path,
    factory: str | None,
    allow_pickle: bool,
    split: str,
    layer: str | None,
    augment: bool,
    seed: int,
    logit_scale: float | None,
    device: str,
    output: Path,
    overwrite: bool,
    **fields: Any,
) -> None:
    """Write down what the last layer of a checkpoint sees of every image: one vector an image.

    The file also has the labels, what the checkpoint predicts, and the weights of its last layer, so that second stages
    (`landscape calibrate`) need neither images nor network. Features are kept as the layer receives them, in float32,
    without normalisation. Images go through in eval mode, unaugmented unless `--augment` is given, a batch at a time.
    """
    if augment and split == "test":
        raise click.UsageError("--augment is of training images, and --split test leaves them out")
    check_replaceable(output, FEATURES_SCHEMA, overwrite=overwrite)
    subject = subject_of(checkpoint, factory, allow_pickle, fields, logit_scale=logit_scale)
    augmentation = subject.data_recipe.augmentation if augment else "none"
    if augment and augmentation == "none":
        raise LandscapeError(f"images of {subject.source} are not augmented in training: leave --augment out")
    where = resolve_device(device)
    model = subject.model.to(where).eval()
    found = find_feature_layer(model, subject.normalization(subject.data.first_images(2).to(where)), layer)
    splits: tuple[SplitName, ...] = tuple(name for name in SPLITS if split in (name, "both"))
    counts = {name: len(subject.data.labelled(name).labels) for name in splits}
    size = sum(counts.values()) * found.width * 4
    words = " and ".join(f"{count:,} {name}" for name, count in counts.items())
    console.print(
        f"{words} images, one forward pass each: {found.width} features, the input of '{found.name}' ({found.kind} "
        f"head); {max(1, round(size / 1e6))} MB on disk",
        markup=False,
        soft_wrap=True,
    )
    started = time.monotonic()
    with WorkBar("reading images", sum(counts.values()), "images") as bar:
        record_features(
            subject,
            found,
            output,
            splits=splits,
            augmentation=augmentation,
            seed=seed,
            device=where,
            command=shlex.join(["landscape", *sys.argv[1:]]),
            on_images=bar.advance,
        )
    # A second stage needs both splits.
    stage = ["calibrate", str(output), "--method", "tailcalibx", "-o", "calibrated.h5"]
    following = shlex.join(["landscape", *(stage if split == "both" else ["info", str(output)])])
    console.print(
        f"{time.monotonic() - started:.0f} s; kept in {escape(str(output))}; next: [bold]{escape(following)}[/]",
        soft_wrap=True,
    )
