"""What a training has left behind, for those who draw or tabulate it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from landscape.data.longtailed import class_groups
from landscape.errors import LandscapeError
from landscape.store.history import read_history
from landscape.training.checkpoint import CheckpointInfo, read_info


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, as far as it has come."""

    folder: Path

    @cached_property
    def info(self) -> CheckpointInfo:
        """What its last checkpoint says: class names and counts, recipe, accuracies.

        Raises:
            LandscapeError: there is none.
        """
        path = self.folder / "last.safetensors"
        info = read_info(path) if path.is_file() else None
        if info is None:
            raise LandscapeError(f"no checkpoint at {path}: give the folder of a run of `landscape train`")
        return info

    @cached_property
    def history(self) -> list[dict[str, Any]]:
        """One record an epoch, as ``history.jsonl`` has it.

        Raises:
            LandscapeError: there is none, it is damaged, or no epoch is finished.
        """
        records = read_history(self.folder)
        if not records:
            raise LandscapeError(f"no epoch of the run in '{self.folder}' is finished: there is nothing to show yet")
        return records

    @property
    def groups(self) -> dict[str, tuple[int, ...]]:
        """Head, mid and tail by index: their classes; without those that have none."""
        return {name: members for name, members in class_groups(self.info.class_counts)[0].items() if members}

    @property
    def accuracies(self) -> list[float]:
        """``(C,)`` test accuracy of every class after the last epoch; NaN for one without test images."""
        return [float("nan") if share is None else share for share in self.history[-1]["per_class"]]


def finished_runs(folder: Path) -> list[FinishedRun]:
    """The run in a folder, or those of ``--seeds`` below it, by seed.

    Raises:
        LandscapeError: neither is there.
    """
    if (folder / "history.jsonl").is_file():
        return [FinishedRun(folder)]
    seeds = {
        int(found[1]): path.parent
        for path in folder.glob("seed-*/history.jsonl")
        if (found := re.fullmatch(r"seed-(\d+)", path.parent.name))
    }
    if not seeds:
        raise LandscapeError(f"no run in '{folder}': give the folder that `landscape train -o` named")
    return [FinishedRun(seeds[seed]) for seed in sorted(seeds)]
