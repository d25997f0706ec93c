"""A figure of a paper: what it needs, at which scale, and how it is drawn from that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from landscape.plotting import Drawing, read_drawing
from landscape.store import SpectrumFile
from landscape.store.calibration_file import CalibrationFile
from landscape.store.surface_file import SurfaceFile
from landscape.surface.results import Surface
from landscape.training.finished import FinishedRun

from .scales import Scale
from .steps import Calibration, Spectra, Step, ToyRegions, Training, Walk


@dataclass(frozen=True)
class Needs:
    """What a figure is drawn from, by the names that it gives them."""

    runs: Mapping[str, Training] = field(default_factory=dict)
    spectra: Mapping[str, Spectra] = field(default_factory=dict)
    surfaces: Mapping[str, Walk] = field(default_factory=dict)
    calibrations: Mapping[str, Calibration] = field(default_factory=dict)
    toys: Mapping[str, ToyRegions] = field(default_factory=dict)

    @property
    def steps(self) -> list[Step]:
        """All of them."""
        every = (self.runs, self.spectra, self.surfaces, self.calibrations, self.toys)
        return [step for needed in every for step in needed.values()]


@dataclass(frozen=True)
class Results:
    """What a figure needs, computed, by the names of its :class:`Needs`."""

    runs: dict[str, FinishedRun]
    spectra: dict[str, SpectrumFile]
    surfaces: dict[str, Surface]
    calibrations: dict[str, CalibrationFile]
    toys: dict[str, Drawing]

    @classmethod
    def of(cls, needs: Needs, places: Mapping[str, Path]) -> Results:
        """Open them.

        Args:
            needs: of the figure.
            places: key of a step → what it has left.
        """
        return cls(
            runs={name: FinishedRun(places[step.key]) for name, step in needs.runs.items()},
            spectra={name: SpectrumFile.open(places[step.key]) for name, step in needs.spectra.items()},
            surfaces={name: SurfaceFile.open(places[step.key]).surface for name, step in needs.surfaces.items()},
            calibrations={name: CalibrationFile.open(places[step.key]) for name, step in needs.calibrations.items()},
            toys={name: read_drawing(places[step.key]) for name, step in needs.toys.items()},
        )


@dataclass(frozen=True)
class Figure:
    """A figure that answers to one of a paper."""

    name: str  # of the file, S2
    title: str  # what it is, in a few words
    paper: str  # that it answers to
    shows: str  # the caption: what is drawn, what the paper claims [tag]
    smoke: str  # what the smoke scale draws it from, and what that cannot show
    needs: Callable[[Scale], Needs]
    draw: Callable[[Results], Drawing]

    def caption(self, scale: Scale) -> str:
        """What stands below the figure; at the smoke scale with what that cannot show."""
        return self.shows if scale.name == "paper" else f"{self.shows} Smoke scale: {self.smoke}"
