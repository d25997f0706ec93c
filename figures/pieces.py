"""What several figures take from their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.plotting import Drawing
from landscape.plotting.accuracy import class_sizes
from landscape.plotting.layers import Epochs
from landscape.plotting.table import result_table
from landscape.store import SpectrumFile, split_epoch
from landscape.training.finished import FinishedRun

from .steps import representatives


def spectrum_of(file: SpectrumFile, place: str, panel: str | None = None) -> PartSpectrum:
    """The spectrum of the class at a place: ``head``, ``mid`` or ``tail``.

    Args:
        file: of the training's last checkpoint.
        place: the largest class, the one in the middle, the smallest.
        panel: what a figure calls it, where the class does not tell panels apart; else it has its place and its name.
    """
    spectrum = file.read_part(f"class/{representatives(file.meta['class_counts'])[place]}")
    if panel is None:
        return replace(spectrum, label=f"{place}: {spectrum.label}")
    return replace(spectrum, label=panel, part=panel)


def epochs_of(file: SpectrumFile) -> dict[int, list[PartSpectrum]]:
    """Epoch → its parts, named without it; classes by their place too."""
    places = {f"class/{label}": place for place, label in representatives(file.meta["class_counts"]).items()}
    epochs: dict[int, list[PartSpectrum]] = {}
    for spectrum in file.read_all():
        epoch, part = split_epoch(spectrum.part)
        assert epoch is not None
        label = f"{places[part]}: {spectrum.label}" if part in places else spectrum.label
        epochs.setdefault(epoch, []).append(replace(spectrum, part=part, label=label))
    return epochs


def layers_of(file: SpectrumFile) -> Epochs:
    """The same, as figures of layers take it: there a single checkpoint has no epoch."""
    return cast(Epochs, epochs_of(file))


def sizes_of(run: FinishedRun, *, rotated: bool = False) -> Drawing:
    """Training images a class, the largest first."""
    counts = run.info.class_counts
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    groups = {name: [order.index(label) for label in members] for name, members in run.groups.items()}
    names = [run.info.class_names[label] for label in order]
    return class_sizes([counts[label] for label in order], names, groups, rotated=rotated)


def seeds_of(runs: Mapping[str, FinishedRun], title: str) -> list[FinishedRun]:
    """The runs that :func:`landscape_figures.methods.train_seeds` named."""
    return [run for name, run in runs.items() if name.rpartition(", seed ")[0] == title]


def shares_of(runs: Sequence[FinishedRun]) -> NDArray[np.float64]:
    """Test accuracy after the last epoch, ``(4, seeds)``: all, head, mid and tail by index."""
    last = [run.history[-1] for run in runs]
    rows = [[line["accuracy"], *(line["groups"][group] for group in ("head", "mid", "tail"))] for line in last]
    return np.array(rows, dtype=np.float64).T


def accuracy_table(data_sets: Mapping[str, Mapping[str, Sequence[FinishedRun]]]) -> Drawing:
    """Test accuracy by method: all, head, mid, tail; of several seeds the mean and one standard deviation.

    Args:
        data_sets: data set → method → its runs; each is a section of the table, a single one needs no name.
    """
    rows = [(method, 100 * shares_of(runs)) for methods in data_sets.values() for method, runs in methods.items()]
    errors = [each.std(axis=1, ddof=1) if each.shape[1] > 1 else np.full(4, np.nan) for _, each in rows]
    return result_table(
        [method for method, _ in rows],
        ["all", "head", "mid", "tail"],
        [each.mean(axis=1) for _, each in rows],
        errors,
        spans=[("test accuracy, %", 4)],
        sections=[(name, len(methods)) for name, methods in data_sets.items()] if len(data_sets) > 1 else None,
    )
