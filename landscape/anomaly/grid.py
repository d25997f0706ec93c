"""Data sets × methods × optimisers × seeds: what is there is read, what is missing is trained."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from landscape.anomaly.checkpoint import DetectorFile, read_detector, save_detector
from landscape.anomaly.methods import method_of
from landscape.anomaly.protocol import Table, draw, find_tables, read_table
from landscape.anomaly.results import FILE_NAME, GridResults, RunResult
from landscape.anomaly.training import OPTIMIZERS, DetectorRecipe, train_detector
from landscape.errors import LandscapeError
from landscape.lock import writing


@dataclass(frozen=True)
class Grid:
    """What is to be run."""

    data: tuple[Path, ...]  # tables, or folders of them
    methods: tuple[str, ...]
    optimizers: tuple[str, ...]
    seeds: tuple[int, ...]
    labelled: float = 0.1
    rho: float = 0.05
    lr: float | None = None  # None: that of the method
    epochs: int = 50

    def recipe(self, method: str, optimizer: str, seed: int) -> DetectorRecipe:
        """The recipe of one cell."""
        return DetectorRecipe.of(
            method, optimizer, rho=self.rho, labelled=self.labelled, seed=seed, lr=self.lr, epochs=self.epochs
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What all runs share."""
        rates = {method: method_of(method).lr if self.lr is None else self.lr for method in self.methods}
        decays = {method: method_of(method).weight_decay for method in self.methods}
        return {"labelled": self.labelled, "rho": self.rho, "epochs": self.epochs, "lr": rates, "weight_decay": decays}


class GridProgress(Protocol):
    """What a front end hears while a grid goes on."""

    def cost(self, missing: int, there: int, seconds: float) -> None: ...
    def run(self, table: str, recipe: DetectorRecipe) -> None: ...
    def done(self, result: RunResult) -> None: ...


def run_grid(
    grid: Grid,
    folder: Path,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    command: str = "",
    progress: GridProgress | None = None,
) -> GridResults:
    """Train every run that ``folder`` does not hold yet, and write the results of all that were asked for.

    A run is its checkpoint, ``FOLDER/DATA/METHOD-OPTIMIZER/seed-N.safetensors``, which holds recipe and AUCs: a killed
    grid goes on with what is missing. ``results.json`` is made from the checkpoints alone.

    Args:
        grid: what is to be run.
        folder: created if need be.
        device: where to train; the networks are so small that a GPU gains nothing.
        overwrite: train everything again.
        command: kept in the results.
        progress: hears of everything.

    Returns:
        The results of this grid, as written.

    Raises:
        LandscapeError: bad data; a name that is not known; a run in the folder of another recipe or table; another
            process writes there.
    """
    for name in grid.optimizers:
        if name not in OPTIMIZERS:
            raise LandscapeError(f"unknown optimizer '{name}'; anomaly detection knows {', '.join(OPTIMIZERS)}")
    paths = find_tables(grid.data)
    with writing(folder / FILE_NAME):
        known: dict[Path, DetectorFile] = {}
        missing: dict[Path, list[tuple[Path, DetectorRecipe]]] = {}
        order: list[tuple[str, Path]] = []
        for table_path in paths:
            for place, recipe in _cells(grid, folder, table_path.stem):
                order.append((table_path.stem, place))
                if place.is_file() and not overwrite:
                    known[place] = _checked(read_detector(place), recipe)
                else:
                    missing.setdefault(table_path, []).append((place, recipe))
        if progress is not None:
            count = sum(map(len, missing.values()))
            progress.cost(count, len(order) - count, _estimate(missing, device))
        for table_path in paths:
            table = read_table(table_path)
            _check_same_table(table, [known[place] for name, place in order if name == table.name and place in known])
            for place, recipe in missing.get(table_path, []):
                if progress is not None:
                    progress.run(table.name, recipe)
                data = draw(table, labelled=recipe.labelled, seed=recipe.seed)
                save_detector(place, train_detector(data, recipe, device=device), recipe, table, data)
                known[place] = read_detector(place)
                if progress is not None:
                    progress.done(_result(table.name, known[place], folder))
        runs = tuple(_result(name, known[place], folder) for name, place in order)
        results = GridResults(runs, grid.settings, command)
        results.save(folder / FILE_NAME)
    return results


def _cells(grid: Grid, folder: Path, name: str) -> list[tuple[Path, DetectorRecipe]]:
    """The runs on one data set and where each is kept."""
    return [
        (
            folder / name / f"{method}-{optimizer}" / f"seed-{seed}.safetensors",
            grid.recipe(method, optimizer, seed),
        )
        for seed in grid.seeds
        for method in grid.methods
        for optimizer in grid.optimizers
    ]


def _result(name: str, file: DetectorFile, folder: Path) -> RunResult:
    return RunResult(
        data=name,
        method=file.recipe.method,
        optimizer=file.recipe.optimizer,
        seed=file.recipe.seed,
        checkpoint=str(file.path.relative_to(folder)),
        **file.metrics,
    )


def _checked(file: DetectorFile, wanted: DetectorRecipe) -> DetectorFile:
    found = file.recipe.dump()
    for key, value in wanted.dump().items():
        if found[key] != value:
            raise LandscapeError(
                f"{file.path} was trained with {key} = {found[key]}, not {value}: give another -o, or --overwrite to "
                "train everything again"
            )
    return file


def _check_same_table(table: Table, files: Sequence[DetectorFile]) -> None:
    for file in files:
        if file.fingerprint != table.fingerprint:
            raise LandscapeError(
                f"{file.path} was trained on other values than those of {table.path}: give another -o, or --overwrite"
            )


def _estimate(missing: dict[Path, list[tuple[Path, DetectorRecipe]]], device: str) -> float:
    """Seconds that the missing runs will take, by one epoch of each kind of step on the first data set."""
    if not missing:
        return 0.0
    table = read_table(next(iter(missing)))
    seconds: dict[tuple[str, str], float] = {}
    total = 0.0
    for _, recipe in (cell for cells in missing.values() for cell in cells):
        kind = recipe.method, recipe.optimizer
        if kind not in seconds:
            seconds[kind] = _epoch_seconds(table, recipe, torch.device(device))
        total += seconds[kind] * recipe.epochs
    return total


def _epoch_seconds(table: Table, recipe: DetectorRecipe, device: torch.device) -> float:
    data = draw(table, labelled=recipe.labelled, seed=recipe.seed)
    ends: list[float] = []
    short = DetectorRecipe(**{**recipe.dump(), "epochs": 3})
    train_detector(data, short, device=device, on_epoch=lambda: ends.append(time.monotonic()))
    return min(after - before for before, after in itertools.pairwise(ends))
