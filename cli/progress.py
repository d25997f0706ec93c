"""What long commands show while they work."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from landscape.curvature import Part
from landscape.study import Cost
from landscape.training.loop import EpochRecord

console = Console(highlight=False)


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _WithBar:
    def __init__(self, title: str = "") -> None:
        self.title = title
        self.progress = _bar()
        self.task: TaskID | None = None

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()


class TrainingBar(_WithBar):
    """One bar over all steps, one line an epoch."""

    def start(self, *, epochs: int, first_epoch: int, steps_per_epoch: int) -> None:
        self.epochs = epochs
        total = (epochs - first_epoch) * steps_per_epoch
        console.print(
            f"{self.title}{epochs - first_epoch} epochs of {steps_per_epoch} steps"
            + (f", after {first_epoch} already done" if first_epoch else "")
            + "; test accuracy: all (head/mid/tail)"
        )
        self.task = self.progress.add_task("training", total=total, unit="steps")

    def step(self) -> None:
        assert self.task is not None
        self.progress.advance(self.task)

    def epoch(self, record: EpochRecord) -> None:
        # Long runs say a line now and then; a line for each of 200 epochs would push everything else off the screen.
        every = max(1, math.ceil(self.epochs / 20))
        if record.epoch % every and record.epoch not in (1, self.epochs):
            return
        groups = "/".join(f"{100 * share:.0f}" for share in record.groups.values())
        weighted = " reweighted" if record.reweighted else ""
        console.print(
            f"  epoch {record.epoch:>3}  lr {record.lr:<7.2g} loss {record.train_loss:<8.3g} "
            f"test {record.accuracy:.1%} ({groups})  {record.seconds:.1f} s{weighted}"
        )


class StudyBar(_WithBar):
    """The cost beforehand, then one bar over all products."""

    def cost(self, estimate: Cost) -> None:
        each = estimate.matvecs // max(estimate.parts, 1)
        console.print(
            f"{self.title}{estimate.parts} part{'s' if estimate.parts > 1 else ''}, {estimate.images:,} images, "
            f"{each} products each: {_duration(estimate.seconds)}, {estimate.bytes / 1e9:.1f} GB"
        )
        if estimate.seconds > 1800:
            console.print(
                "  long; --max-samples 200 takes a seeded subset of every part, and Ctrl-C keeps what is finished",
                style="yellow",
            )
        self.task = self.progress.add_task("measuring", total=estimate.matvecs, unit="products")

    def part(self, part: Part, number: int, total: int, products: int) -> None:
        assert self.task is not None
        self.progress.update(self.task, description=f"{part.label} ({number + 1}/{total})", completed=number * products)

    def product(self, count: int) -> None:
        assert self.task is not None
        self.progress.advance(self.task, count)

    def skipped(self, part: Part) -> None:
        console.print(f"  {part.label}: already there", style="dim")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
