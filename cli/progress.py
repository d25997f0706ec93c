"""What long commands show while they work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from landscape.curvature import Part
from landscape.store import split_epoch
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
        disable=not console.is_terminal,  # a log file gets lines, not bars
    )


class WithBar:
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


class WorkBar(WithBar):
    """One bar over a known amount of work."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        super().__init__(title)
        self.task = self.progress.add_task(title, total=total, unit=unit)

    def advance(self, count: int = 1) -> None:
        assert self.task is not None
        self.progress.advance(self.task, count)


class TrainingBar(WithBar):
    """One bar over all steps, one line an epoch."""

    def start(self, *, epochs: int, first_epoch: int, steps_per_epoch: int) -> None:
        self.epochs = epochs
        left = epochs - first_epoch
        total = left * steps_per_epoch
        if not left:
            console.print(f"{self.title}{several(epochs, 'epoch')} already done, nothing left to train")
        else:
            console.print(
                f"{self.title}{several(left, 'epoch')} of {several(steps_per_epoch, 'step')}"
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
        groups = "/".join("–" if math.isnan(share) else f"{100 * share:.0f}" for share in record.groups.values())
        weighted = " reweighted" * record.reweighted + " resampled" * record.resampled
        console.print(
            f"  epoch {record.epoch:>3}  lr {record.lr:<7.2g} loss {record.train_loss:<8.3g} "
            f"test {record.accuracy:.1%} ({groups})  {record.seconds:.1f} s{weighted}"
        )


class StudyBar(WithBar):
    """The cost beforehand, then one bar over all products."""

    def cost(self, estimate: Cost) -> None:
        where = f" over {several(estimate.checkpoints, 'checkpoint')}" if estimate.checkpoints > 1 else ""
        work = []
        if estimate.parts:
            each = estimate.part_matvecs
            work.append(
                f"{several(estimate.parts, 'part')}{where}, {several(estimate.images, 'image')}, "
                f"about {each} products a part"
            )
        if estimate.batches:
            work.append(f"{several(estimate.batches, 'mini-batch', 'mini-batches')}{'' if estimate.parts else where}")
        # A probe more for every part that has not met its target.
        wide = estimate.parts and estimate.most > 1.05
        more = f", up to {estimate.most:.1f} times as much where intervals stay wide" if wide else ""
        console.print(
            f"{self.title}{', '.join(work)}: {_passes(estimate.passes)}, {duration(estimate.seconds)}, "
            f"{_size(estimate.bytes)} of memory{more}",
            soft_wrap=True,
        )
        if estimate.seconds > 1800:
            console.print(
                "  long; --max-samples 200 takes a seeded subset of every part, --budget 20min says when to stop, and "
                "Ctrl-C keeps what is finished",
                style="yellow",
                soft_wrap=True,
            )
        self.task = self.progress.add_task("measuring", total=estimate.matvecs, unit="products")

    def part(self, part: Part, number: int, total: int, products: int) -> None:
        assert self.task is not None
        title = f"{_title(part)} ({number + 1}/{total})"
        if not console.is_terminal:
            console.print(f"  {title}", markup=False)
        self.progress.update(self.task, description=escape(title), completed=number * products)

    def batches(self, path: str, first: int, total: int) -> None:
        assert self.task is not None
        epoch, _ = split_epoch(path)
        title = ("" if epoch is None else f"epoch {epoch}, ") + f"mini-batches {first + 1} to {total}"
        if not console.is_terminal:
            console.print(f"  {title}", markup=False)
        self.progress.update(self.task, description=escape(title))

    def refine(self, part: Part, width: float) -> None:
        assert self.task is not None
        known = f" ±{width:.0%}" if math.isfinite(width) else ""
        self.progress.update(self.task, description=escape(f"one more probe: {_title(part)}, M₋{known}"))

    def product(self, count: int) -> None:
        assert self.task is not None
        self.progress.advance(self.task, count)
        state = self.progress.tasks[self.task]
        if state.total is not None and state.completed > state.total:
            # More probes than the least that was announced.
            self.progress.update(self.task, total=state.completed)

    def skipped(self, part: Part, remark: str) -> None:
        said = f", {remark}" if remark else ""
        # A remark is a reason to look, so it is not dimmed.
        console.print(
            f"  {_title(part)}: already there{said}", style="" if remark else "dim", markup=False, soft_wrap=True
        )

    def note(self, text: str) -> None:
        console.print(f"  {text}", style="yellow", markup=False, soft_wrap=True)


def _title(part: Part) -> str:
    epoch, _ = split_epoch(part.path)
    return part.label if epoch is None else f"epoch {epoch}, {part.label}"


def group_shares(groups: Mapping[str, float]) -> str:
    """``head 91.0%, tail 52.3%``; a group without classes is left out."""
    return ", ".join(f"{name} {share:.1%}" for name, share in groups.items() if not math.isnan(share))


def several(count: int, noun: str, nouns: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def _passes(count: float) -> str:
    return f"{count:,.0f} data passes" if count >= 10 else f"{count:.2g} data passes"


def _size(count: int) -> str:
    return f"{max(1, round(count / 1e6))} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 5400:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
