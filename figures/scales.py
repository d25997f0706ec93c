"""How large the trainings behind the figures are: some minutes on two cores, or as the papers have them."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Scale:
    """What turns the recipes that ship, and what is measured of them, into steps of one size."""

    name: ScaleName
    over: _Values  # section.key → value, laid over every recipe
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
        laid = {**self.over, **(changes or {}), "run.seed": seed}
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
    seeds=(0, 1, 2),
    density=MeasureSettings(),
    ends=MeasureSettings(num_pairs=1, num_probes=2, max_probes=2, num_steps=20),
    sweep_points=20,
    points=51,
    samples=1000,
)
"""CIFAR-10-LT with the recipes as they ship."""


def open_scale(name: str, data: str | None = None) -> Scale:
    """A scale by its name.

    Args:
        name: ``smoke`` or ``paper``.
        data: where the images of the paper scale lie, ``folder:PATH`` or ``cifar10:PATH``.

    Raises:
        LandscapeError: another name, or data of another form, or for the smoke scale, which has its own.
    """
    if name not in get_args(ScaleName):
        raise LandscapeError(f"no scale '{name}'{did_you_mean(name, get_args(ScaleName))}: give smoke or paper")
    if name == "smoke":
        if data is not None:
            raise LandscapeError(f"--data {data} is of the paper scale: add --scale paper; smoke has its digits inside")
        return SMOKE
    return PAPER if data is None else replace(PAPER, over={**PAPER.over, **_source(data)})


def _source(data: str) -> dict[str, Any]:
    kind, _, path = data.partition(":")
    if kind not in ("folder", "cifar10") or not path:
        raise LandscapeError(
            f"--data '{data}': write folder:PATH, or cifar10:PATH for the folder of its Python version"
        )
    if kind == "folder":
        return {"data.source": data}
    return {"data.source": "cifar10", "data.root": Path(path).expanduser().absolute()}
