"""Entry point: the command group, and how errors become lines and exit codes.

Commands are imported when they are called, so that `landscape --help` and `landscape plot` do not wait for torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import rich_click as click
from click import exceptions as click_exceptions
from rich.console import Console

import landscape
from landscape.errors import LandscapeError

click.rich_click.TEXT_MARKUP = "markdown"
click.rich_click.SHOW_ARGUMENTS = True
click.rich_click.MAX_WIDTH = 110

_COMMANDS = {
    "demo": "two short trainings, spectra, verdicts and figures on embedded data",
    "train": "train on long-tailed data",
    "evaluate": "accuracy of a checkpoint: all, groups, classes",
    "spectrum": "measure the Hessian of a checkpoint: whole, class by class, layer by layer",
    "saddle": "the verdicts of a spectrum file as a table",
    "plot": "draw a spectrum file",
    "info": "what a checkpoint or a results file holds",
}


class _LazyGroup(click.RichGroup):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        return importlib.import_module(f"{__package__}.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: Any) -> None:
        # Short texts from the table above: asking the commands themselves would import them all.
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(landscape.__version__, prog_name="landscape")
@click.option("--debug", is_flag=True, help="show the traceback of an error")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
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
    ctx.obj = {"debug": debug}


def main() -> None:
    """Run the command; exit 0 when done, 1 when it failed, 2 for a wrong call."""
    errors = Console(stderr=True, highlight=False)
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click_exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        errors.print(
            "stopped; what was finished is kept, the same command (train: with --resume) goes on", style="yellow"
        )
        sys.exit(1)
    except (LandscapeError, OSError, MemoryError) as error:
        if "--debug" in sys.argv:
            raise
        errors.print(f"[bold red]error:[/] {_plain(error)}", soft_wrap=True)
        sys.exit(1)


def _plain(error: BaseException) -> str:
    from rich.markup import escape

    if isinstance(error, MemoryError):
        return "out of memory; lower --chunk-size or the batch size"
    return escape(str(error) or type(error).__name__)
