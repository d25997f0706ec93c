"""Entry point: the command group, and how errors become lines and exit codes.

Commands are imported when they are called, so that `landscape --help` and `landscape plot` do not wait for torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import rich_click as click
from click import exceptions as click_exceptions
from rich.console import Console
from rich.markup import escape

import landscape
from landscape.errors import LandscapeError, did_you_mean

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.SHOW_ARGUMENTS = True
click.rich_click.MAX_WIDTH = 110

_COMMANDS = {
    "demo": "two short trainings, spectra, verdicts and figures on embedded data",
    "train": "train on long-tailed data",
    "evaluate": "accuracy of a checkpoint: all, groups, classes",
    "spectrum": "measure the Hessian of a checkpoint: whole, class by class, layer by layer",
    "saddle": "the verdicts of a spectrum file as a table",
    "surface": "the loss along lines and planes through a checkpoint, class by class",
    "plot": "draw a results file",
    "features": "write down what the last layer of a checkpoint sees of every image",
    "calibrate": "second stages on features: TailCalibX, cRT, LWS, τ-norm, NCM, MODALS",
    "figures": "the figures of the papers: train, measure and draw what is missing",
    "anomaly": "semi-supervised anomaly detection, with and without ImbSAM",
    "info": "what a checkpoint or a results file holds",
}


class _LazyGroup(click.RichGroup):
    _writing_help = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        if self._writing_help:
            # The short text from the table above: asking the commands for theirs would import them all, and torch.
            return click.RichCommand(name=cmd_name, help=_COMMANDS[cmd_name])
        return importlib.import_module(f"{__package__}.{cmd_name}").command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        name = args[0]
        if name not in _COMMANDS and not name.startswith("-"):
            ctx.fail(f"No such command '{name}'{did_you_mean(name, _COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._writing_help = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._writing_help = False


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(landscape.__version__, prog_name="landscape")
@click.option("--debug", is_flag=True, expose_value=False, help="show the traceback of an error")
def cli() -> None:
    """Loss landscapes of classifiers trained on long-tailed data: train, measure every class's Hessian, say whether it
    sits at a saddle, draw it.

    A first look: `landscape demo`. The four steps on your own images:

    ```
    landscape train --data folder:PATH --imbalance exp:100 --reweight drw --optimizer sam --rho 0.5 -o runs/x
    landscape spectrum runs/x --per-class -o x.h5
    landscape saddle x.h5
    landscape plot x.h5 -o x.pdf
    ```
    """


def main() -> None:
    """Run the command; exit 0 when done, 1 when it failed, 2 for a wrong call."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    # Taken out here, since people add it at the end of the line that failed, where it would belong to the command.
    debug = "--debug" in sys.argv
    try:
        status = cli.main([word for word in sys.argv[1:] if word != "--debug"], standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough; Python must not flush into the closed pipe once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except click_exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort) as stop:
        # A command that has kept something raises Abort with words about it.
        errors.print(f"stopped; {stop}" if str(stop) else "stopped", style="yellow")
        sys.exit(1)
    except Exception as error:
        message = _for_users(error)
        if message is None or debug:
            raise
        errors.print(f"[bold red]error:[/] {escape(message)}")
        sys.exit(1)


def _for_users(error: Exception) -> str | None:
    """What to say instead of a traceback; ``None`` for a defect of ours, which deserves one."""
    # By name, because torch is not imported here: its error of a full GPU is a RuntimeError.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; lower --chunk-size (spectrum) or --batch-size (train, calibrate)"
    if isinstance(error, LandscapeError | OSError):
        return str(error) or type(error).__name__
    return None
