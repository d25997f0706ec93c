"""What a training run writes down after every epoch: the lines of ``history.jsonl`` (no torch)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from landscape.errors import LandscapeError


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; accuracies are shares of the test split in [0, 1]."""

    epoch: int  # 1-based
    lr: float
    reweighted: bool  # class weights were on
    train_loss: float  # mean over steps of the training objective, penalty included, nats
    accuracy: float
    groups: dict[str, float]  # head, mid, tail by index; NaN for an empty group
    per_class: tuple[float, ...]  # (C,)
    seconds: float
    # With defaults: a resumed run may have been begun by a version that did not record them.
    groups_by_count: dict[str, float] = field(default_factory=dict)  # head, mid, tail by number of training images
    resampled: bool = False  # classes were drawn in balance
    radii: dict[str, float] = field(default_factory=dict)  # perturbation radii by name, e.g. rho; in parameter space
    penalty: float | None = None  # mean over steps of what the regulariser adds, nats; None without one
    trace: float | None = None  # mean over steps of its trace estimate, the unit of an eigenvalue


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``history.jsonl``, named as :class:`EpochRecord` is; ``None`` where an accuracy has no
    samples.

    Raises:
        LandscapeError: there is no history, or a line of it is damaged.
    """
    path = folder / "history.jsonl"
    if not path.is_file():
        raise LandscapeError(f"no history at {path}: give the folder of a run of `landscape train`")
    records = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            raise LandscapeError(
                f"line {number} of {path} is damaged: delete it, and what is left can be read"
            ) from None
    return records
