"""The same recipe from several seeds, and what the spread of their results allows to claim."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.json_text import json_text
from landscape.spread import Spread
from landscape.training.loop import EpochRecord, TrainingProgress, check_vacant, is_started, train
from landscape.training.recipe import Recipe


@dataclass(frozen=True)
class SeedSummary:
    """The last epochs of runs that differ in nothing but their seed."""

    seeds: tuple[int, ...]
    epoch: int  # 1-based, of every run
    accuracy: dict[str, Spread]  # in [0, 1]: all, and head, mid, tail by index; a group without classes is left out
    accuracy_by_count: dict[str, Spread]  # head, mid, tail by number of training images; likewise

    @classmethod
    def of(cls, last: dict[int, EpochRecord]) -> SeedSummary:
        """Summarise the last record of each seed."""
        records = list(last.values())
        return cls(
            seeds=tuple(last),
            epoch=records[0].epoch,
            accuracy=_spreads([{"all": record.accuracy, **record.groups} for record in records]),
            accuracy_by_count=_spreads([record.groups_by_count for record in records]),
        )

    def save(self, path: Path) -> None:
        """Write values, means, standard deviations and standard errors as JSON."""
        content = {
            "seeds": self.seeds,
            "epoch": self.epoch,
            "accuracy": _rows(self.accuracy),
            "accuracy_by_count": _rows(self.accuracy_by_count),
        }
        with atomic_replacement(path) as partial:
            partial.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> SeedSummary:
        """Read what :meth:`save` wrote.

        Raises:
            LandscapeError: there is none.
        """
        if not path.is_file():
            raise LandscapeError(f"no summary of seeds at {path}; `landscape train --seeds 0,1,2` writes one")
        content = json.loads(path.read_text(encoding="utf-8"))
        by_index, by_count = (
            {name: Spread(tuple(row["values"])) for name, row in content[key].items()}
            for key in ("accuracy", "accuracy_by_count")
        )
        return cls(tuple(content["seeds"]), content["epoch"], by_index, by_count)


def _spreads(columns: Sequence[dict[str, float]]) -> dict[str, Spread]:
    """One spread a name that every seed has a number for."""
    return {
        name: Spread(tuple(column[name] for column in columns))
        for name in columns[0]
        if not any(math.isnan(column.get(name, math.nan)) for column in columns)
    }


def _rows(accuracy: dict[str, Spread]) -> dict[str, dict[str, Any]]:
    return {
        name: {"mean": row.mean, "sd": row.standard_deviation, "se": row.standard_error, **asdict(row)}
        for name, row in accuracy.items()
    }


def train_seeds(
    recipe: Recipe,
    folder: Path,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], AbstractContextManager[TrainingProgress]],
) -> SeedSummary:
    """Train ``recipe`` from each seed into ``folder/seed-N`` and write ``folder/seeds.json``.

    Args:
        recipe: the run; its own seed is not used.
        folder: created if need be.
        seeds: distinct; at least three, so that the spread says something.
        resume: go on in every folder that holds a run, and start the others.
        overwrite: start all of them again.
        progress: who hears of the run of a seed.

    Returns:
        The summary that was written.

    Raises:
        LandscapeError: as :func:`train`; at once where one folder is in use, or none has anything to resume.
    """
    folders = {seed: folder / f"seed-{seed}" for seed in seeds}
    if resume and not any(map(is_started, folders.values())):
        raise LandscapeError(f"nothing to resume in {folder}: no run of these seeds. Start them without --resume.")
    if not (resume or overwrite):
        # All of them now: the third would otherwise be refused after the first two had been trained.
        for place in folders.values():
            check_vacant(place)
    last = {}
    for seed, place in folders.items():
        seeded = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})
        with progress(seed) as heard:
            result = train(seeded, place, resume=resume and is_started(place), overwrite=overwrite, progress=heard)
        last[seed] = result.last
    summary = SeedSummary.of(last)
    summary.save(folder / "seeds.json")
    return summary
