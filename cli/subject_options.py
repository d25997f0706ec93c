"""Which model on which data: options shared by every command that reads a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rich_click as click

from landscape.study import Subject, Sweep, open_subject, open_sweep

from .checks import finite
from .recipe_options import given_values, recipe_options


def subject_options(command: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``--model``, ``--allow-pickle`` and the data section; :func:`subject_of` turns them into a subject.

    What is not said of the data is what the checkpoint was trained on, so no defaults are shown.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(
            "--allow-pickle", is_flag=True, help="unpickle a foreign checkpoint, which runs the code it holds"
        )(function)
        function = click.option(
            "--model",
            "factory",
            metavar="PACKAGE.MODULE:FACTORY",
            help="the network of a foreign checkpoint; the factory is called without arguments",
        )(function)
        # Images are never augmented where a model is only looked at.
        training_only = ("data.augment", "data.resample")
        return recipe_options(command, "data", show_defaults=False, leave_out=training_only)(function)

    return decorate


logit_scale_option = click.option(
    "--logit-scale",
    type=click.FloatRange(0, min_open=True),
    callback=finite,
    metavar="S",
    help="of a foreign checkpoint with a cosine head: the loss is taken of S times its outputs [default: 1]",
)
"""For the commands that take a loss."""


def subject_of(
    checkpoint: Path,
    factory: str | None,
    allow_pickle: bool,
    fields: dict[str, Any],
    *,
    logit_scale: float | None = None,
) -> Subject:
    """Open what the options of :func:`subject_options` name; only a command with a loss has a logit scale."""
    data = given_values(fields).get("data", {})
    return open_subject(checkpoint, model=factory, data=data, allow_pickle=allow_pickle, logit_scale=logit_scale)


def sweep_of(
    checkpoints: Sequence[Path],
    factory: str | None,
    allow_pickle: bool,
    fields: dict[str, Any],
    *,
    logit_scale: float | None = None,
) -> Sweep:
    """The same for several checkpoints of one training."""
    data = given_values(fields).get("data", {})
    return open_sweep(checkpoints, model=factory, data=data, allow_pickle=allow_pickle, logit_scale=logit_scale)
