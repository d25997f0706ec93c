"""What several figures take from their results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from landscape.curvature.results import PartSpectrum
from landscape.data.longtailed import class_groups
from landscape.plotting import Drawing
from landscape.plotting.accuracy import class_sizes
from landscape.store import SpectrumFile, split_epoch
from landscape_figures.figure import FinishedRun
from landscape_figures.steps import representatives


def spectrum_of(file: SpectrumFile, place: str, label: str | None = None) -> PartSpectrum:
    """The spectrum of the class at a place: ``head``, ``mid`` or ``tail``.

    Args:
        file: of the training's last checkpoint.
        place: the largest class, the one in the middle, the smallest.
        label: what a figure calls it; its name and place if not given.
    """
    spectrum = file.read_part(f"class/{representatives(file.meta['class_counts'])[place]}")
    return replace(spectrum, label=label or f"{place}: {spectrum.label}")


def epochs_of(file: SpectrumFile) -> dict[int, list[PartSpectrum]]:
    """Epoch → its parts, named without it."""
    epochs: dict[int, list[PartSpectrum]] = {}
    for spectrum in file.read_all():
        epoch, part = split_epoch(spectrum.part)
        assert epoch is not None
        epochs.setdefault(epoch, []).append(replace(spectrum, part=part))
    return epochs


def groups_of(run: FinishedRun) -> dict[str, tuple[int, ...]]:
    """Head, mid and tail by index: their classes."""
    return {name: members for name, members in class_groups(run.info.class_counts)[0].items() if members}


def sizes_of(run: FinishedRun, *, rotated: bool = False) -> Drawing:
    """Training images a class, the largest first."""
    counts = run.info.class_counts
    order = sorted(range(len(counts)), key=lambda label: -counts[label])
    groups = {name: [order.index(label) for label in members] for name, members in groups_of(run).items()}
    names = [run.info.class_names[label] for label in order]
    return class_sizes([counts[label] for label in order], names, groups, rotated=rotated)


def accuracies_of(runs: Sequence[FinishedRun]) -> list[list[float]]:
    """Test accuracy of every class after the last epoch, one row a run; NaN for a class without test images."""
    return [[float("nan") if share is None else share for share in run.history[-1]["per_class"]] for run in runs]
