"""How large the trainings behind the figures are: some minutes on two cores, or as the papers have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from landscape.curvature import MeasureSettings
from landscape.errors import LandscapeError, did_you_mean
from landscape.study import StudyPlan
from landscape.study.surface import SurfacePlan
from landscape.training.library import read_recipe
from landscape.training.recipe import Recipe, set_value

from .steps import Spectra, Training, Walk

ScaleName = Literal["smoke", "paper"]

_Values = Mapping[str, Any]

_DATA_SETS = {"cifar10": "CIFAR-10-LT", "cifar100": "CIFAR-100-LT"}


@dataclass(frozen=True)
class Scale:
    """What turns the recipes that ship, and what is measured of them, into steps of one size."""

    name: ScaleName
    over: _Values  # section.key → value, laid over every recipe
    images: Mapping[str, _Values]  # data set that a recipe names → what is laid over its recipes besides
    data_sets: Mapping[str, str]  # those that figures over several data sets show → what they are called there
    seeds: tuple[int, ...]  # of figures that show a spread
    density: MeasureSettings  # of spectra that are drawn
    ends: MeasureSettings  # of spectra whose ends alone are drawn, over a training
    sweep_points: int  # checkpoints of a sweep, the last among them
    points: int  # along a side of a surface
    samples: int  # images that layers, and surfaces of head and tail, are measured on, at most

    def train(
        self,
        title: str,
        recipe: str,
        *,
        seed: int = 0,
        changes: _Values | None = None,
        smoke: _Values | None = None,
    ) -> Training:
        """A training by a recipe that ships.

        Args:
            title: what the figure calls it.
            recipe: its name.
            seed: of the run.
            changes: ``section.key`` → value, at both scales, over what the scale says.
            smoke: the same at the smoke scale alone, over ``changes``.
        """
        values = read_recipe(recipe).values
        laid = {**self.over, **self.images.get(values["data"]["source"], {}), **(changes or {}), "run.seed": seed}
        if self.name == "smoke":
            laid |= smoke or {}
        for key, value in laid.items():
            set_value(values, key, value)
        return Training(title, Recipe.parse(values, where=f"{recipe} at {self.name} scale"))

    def spectra(self, training: Training, *of: str) -> Spectra:
        """Spectra with densities of the last checkpoint: of the largest class, the middle one, the smallest.

        Args:
            training: whose checkpoint.
            of: which of ``head``, ``mid``, ``tail``; all three if none is named.
        """
        return Spectra(training, StudyPlan(settings=self.density), of=of or ("head", "mid", "tail"))

    def sweep(self, training: Training, *of: str) -> Spectra:
        """The ends of the same classes' spectra over the training."""
        plan = StudyPlan(settings=self.ends)
        return Spectra(training, plan, of=of or ("head", "mid", "tail"), epochs=self.sweep_epochs(training))

    def layers(self, training: Training) -> Spectra:
        """The whole network and every layer with densities, early, in the middle and at the end of the training."""
        plan = StudyPlan(whole=True, per_layer=True, max_samples=self.samples, settings=self.density)
        epochs = self.sweep_epochs(training)
        return Spectra(training, plan, epochs=(epochs[0], epochs[len(epochs) // 2], epochs[-1]))

    def layer_sweep(self, training: Training) -> Spectra:
        """The ends and the trace of the whole network and of every layer over the training."""
        plan = StudyPlan(whole=True, per_layer=True, max_samples=self.samples, settings=self.ends)
        return Spectra(training, plan, epochs=self.sweep_epochs(training))

    def relief(self, training: Training) -> Walk:
        """Losses of head and tail in a plane of two filter-normalised random directions."""
        plan = SurfacePlan(points=(self.points,), per_group=True, max_samples=self.samples)
        return Walk(training, plan)

    def saddle(self, training: Training, of: str) -> Walk:
        """The loss of one class in the plane of its own v_min and v_max, on all the images of its spectrum."""
        return Walk(training, SurfacePlan(along="eigen", points=(self.points,)), of=of)

    def sweep_epochs(self, training: Training) -> tuple[int, ...]:
        """Checkpoints of a run, evenly over its length."""
        kept = training.kept_epochs
        every = max(1, len(kept) // self.sweep_points)
        return kept[::-1][::every][::-1]


SMOKE = Scale(
    name="smoke",
    over={
        "data.source": "digits",
        "data.imbalance": "exp:20",
        "data.normalize": "0.5/0.5",
        "data.augment": "none",
        "model.name": "convnet",
        "optimizer.lr": 0.05,
        "schedule.epochs": 20,
        "schedule.batch_size": 64,
        "run.save_every": 4,
    },
    images={"cifar100": {"data.imbalance": "exp:50"}},
    data_sets={"cifar10": "digits, IF 20", "cifar100": "digits, IF 50"},
    seeds=(0, 1),
    density=MeasureSettings(num_pairs=2, max_matvecs=60, num_probes=2, max_probes=2, num_steps=30),
    ends=MeasureSettings(num_pairs=1, max_matvecs=60, num_probes=2, max_probes=2, num_steps=10),
    sweep_points=5,
    points=15,
    samples=60,
)
"""scikit-learn's digits and a small network: all figures in some minutes on two cores."""

PAPER = Scale(
    name="paper",
    over={"run.save_every": 10},
    images={},
    data_sets={"cifar10": _DATA_SETS["cifar10"]},
    seeds=(0, 1, 2),
    density=MeasureSettings(),
    ends=MeasureSettings(num_pairs=1, num_probes=2, max_probes=2, num_steps=20),
    sweep_points=20,
    points=51,
    samples=1000,
)
"""The recipes as they ship: CIFAR-10-LT, and where its images are named CIFAR-100-LT too."""


def open_scale(name: str, data: Sequence[str] = ()) -> Scale:
    """A scale by its name.

    Args:
        name: ``smoke`` or ``paper``.
        data: where the images of the paper scale lie: ``folder:PATH`` or ``cifar10:PATH`` those of CIFAR-10,
            ``cifar100=folder:PATH`` or ``cifar100:PATH`` those of CIFAR-100.

    Raises:
        LandscapeError: another name, or data of another form, of one set twice, or for the smoke scale, which has its
            own.
    """
    if name not in get_args(ScaleName):
        raise LandscapeError(f"no scale '{name}'{did_you_mean(name, get_args(ScaleName))}: give smoke or paper")
    if name == "smoke":
        if data:
            raise LandscapeError(
                f"--data {data[0]} is of the paper scale: add --scale paper; smoke has its digits inside"
            )
        return SMOKE
    images: dict[str, _Values] = {}
    for words in data:
        of, values = _source(words)
        if of in images:
            raise LandscapeError(f"--data '{words}': the images of {_DATA_SETS[of]} are named twice")
        images[of] = values
    return replace(
        PAPER, images=images, data_sets={of: title for of, title in _DATA_SETS.items() if of in ("cifar10", *images)}
    )


def _source(data: str) -> tuple[str, dict[str, Any]]:
    """The data set and its place."""
    of, _, place = data.partition("=") if data.startswith(tuple(f"{name}=" for name in _DATA_SETS)) else ("", "", data)
    kind, _, path = place.partition(":")
    if not path or kind not in ("folder", *([] if of else _DATA_SETS)):
        raise LandscapeError(
            f"--data '{data}': write folder:PATH, or cifar10:PATH for the folder of its Python version; of CIFAR-100 "
            "cifar100=folder:PATH or cifar100:PATH"
        )
    if kind == "folder":
        return of or "cifar10", {"data.source": place}
    return kind, {"data.source": kind, "data.root": Path(path).expanduser().absolute()}
