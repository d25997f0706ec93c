"""What figures need computed: trainings, spectra, surfaces, second stages. Each is a record that knows its key.

The key of a step is the SHA-256 of everything that decides its result, the keys of its inputs among it, and of nothing
that does not: neither device, nor folders, nor what a figure calls it. Which checkpoints a run keeps is part of it,
since sweeps and trajectories are measured on them. Equal steps of different figures are one step, and a changed setting
changes the keys of what follows from it and of nothing else. The version of landscape is not part of it: what a release
computes otherwise is computed anew by clearing the folder.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from landscape.errors import LandscapeError
from landscape.plotting import PlaneClassifier, decision_regions, write_drawing
from landscape.store.features_file import SPLITS, FeaturesFile
from landscape.study import StudyPlan, StudyProgress, Sweep, open_subject, open_sweep, run_study
from landscape.study.surface import SurfacePlan, SurfaceProgress, run_surface
from landscape.training.checkpoint import read_info
from landscape.training.loop import TrainingProgress, is_started, train
from landscape.training.recipe import NOT_THE_METHOD, Recipe, resolve_device
from landscape.twostage import Method, SecondStage, ToySettings, find_feature_layer, run_toy, two_stage_settings
from landscape.twostage.record import record_features, record_outcomes
from landscape.twostage.settings import TRAINED
from landscape.twostage.toy import TOY_CLASSIFIERS


class Reporter(Protocol):
    """What a front end gives to the steps, so that it hears how they get on."""

    def training(self, title: str) -> AbstractContextManager[TrainingProgress | None]: ...
    def study(self, title: str) -> AbstractContextManager[StudyProgress | None]: ...
    def surface(self, title: str) -> AbstractContextManager[SurfaceProgress | None]: ...
    def work(self, title: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]: ...


class Silent:
    """Hears nothing."""

    def training(self, title: str) -> AbstractContextManager[None]:
        return nullcontext()

    def study(self, title: str) -> AbstractContextManager[None]:
        return nullcontext()

    def surface(self, title: str) -> AbstractContextManager[None]:
        return nullcontext()

    def work(self, title: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda count: None)


@dataclass(frozen=True)
class Bench:
    """Where and how a step is made; none of it changes the result."""

    inputs: Mapping[str, Path]  # key → what an input step has left
    device: str
    command: str
    reporter: Reporter

    def of(self, step: Step) -> Path:
        """What an input has left."""
        return self.inputs[step.key]


@dataclass(frozen=True)
class Step(ABC):
    """Something that is computed once and kept under its key."""

    shelf: ClassVar[str]  # folder below the work folder
    suffix: ClassVar[str]  # of the file; empty for a folder

    @property
    @abstractmethod
    def name(self) -> str:
        """For people, before the key in the name of the file."""

    @property
    @abstractmethod
    def does(self) -> str:
        """What making it means, in a few words."""

    @property
    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Everything beside the inputs that decides the result, as JSON has it."""

    @property
    def inputs(self) -> tuple[Step, ...]:
        """What must be there before."""
        return ()

    @abstractmethod
    def make(self, path: Path, bench: Bench) -> None:
        """Compute it into ``path``; what a killed attempt has left there is gone on with."""

    def check(self, path: Path) -> None:  # noqa: B027  most have nothing to say
        """Refuse what lies at ``path`` under the key although it is something else.

        Raises:
            LandscapeError: it is.
        """

    @cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal digits."""
        decisive = {"kind": self.shelf, "content": self.content, "inputs": [step.key for step in self.inputs]}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.key[:12]}"


def in_order(steps: Sequence[Step]) -> list[Step]:
    """All steps with what they need, each once, inputs first."""
    found: dict[str, Step] = {}

    def visit(step: Step) -> None:
        if step.key not in found:
            for needed in step.inputs:
                visit(needed)
            found[step.key] = step

    for step in steps:
        visit(step)
    return list(found.values())


# ---------------------------------------------------------------------- trainings


_NOT_THE_RUN = NOT_THE_METHOD - {("run", "save_every")}


@dataclass(frozen=True)
class Training(Step):
    """A training run."""

    shelf: ClassVar[str] = "runs"
    suffix: ClassVar[str] = ""

    title: str  # what a figure calls the method
    recipe: Recipe

    @property
    def name(self) -> str:
        words = [self.recipe.loss.name, self.recipe.loss.reweight, self.recipe.optimizer.name]
        words += [self.recipe.regularizer.name, f"seed{self.recipe.run.seed}" if self.recipe.run.seed else "none"]
        return "-".join(word for word in words if word != "none")

    @property
    def does(self) -> str:
        return f"train {self.title}: {self.recipe.model.name}, {self.recipe.schedule.epochs} epochs"

    @property
    def content(self) -> dict[str, Any]:
        return {
            section: {key: value for key, value in values.items() if (section, key) not in _NOT_THE_RUN}
            for section, values in self.recipe.resolved.dump().items()
        }

    @property
    def images(self) -> dict[str, Any]:
        """Where the images lie now, which may be elsewhere than when it was trained: fields of ``DataRecipe``."""
        data = self.recipe.dump()["data"]
        return {key: data[key] for key in ("source", "root") if key in data}

    @property
    def kept_epochs(self) -> tuple[int, ...]:
        """Epochs whose checkpoints the run keeps."""
        every, last = self.recipe.run.save_every, self.recipe.schedule.epochs
        return tuple(range(every, last + 1, every)) if every else ()

    def check(self, path: Path) -> None:
        # Of a folder of images the key has the name alone, which others may have too.
        data = self.recipe.data.resolved
        if not data.source.startswith("folder:") or data.root is None:
            return
        folder, info = data.root / data.source.removeprefix("folder:") / "train", read_info(path / "last.safetensors")
        missing = [] if info is None else [name for name in info.class_names if not (folder / name).is_dir()]
        if folder.is_dir() and missing:
            raise LandscapeError(
                f"'{path}' was trained on other images of the name '{data.source}': '{folder}' has no class "
                f"'{missing[0]}'; give another --work"
            )

    def make(self, path: Path, bench: Bench) -> None:
        values = self.recipe.dump()
        values["run"]["device"] = bench.device
        with bench.reporter.training(f"train {self.title}") as progress:
            train(Recipe.parse(values), path, resume=is_started(path), progress=progress)


# ---------------------------------------------------------------------- spectra


def representatives(counts: Sequence[int]) -> dict[str, int]:
    """The largest class, the one in the middle by size and the smallest, by the names of the groups they lie in.

    Args:
        counts: training images, one entry a class in label order.
    """
    order = np.argsort(-np.asarray(counts), kind="stable")
    return {"head": int(order[0]), "mid": int(order[len(order) // 2]), "tail": int(order[-1])}


def class_word(label: int, names: Sequence[str]) -> str:
    """What a plan understands as this class: its number, or its name where a class is called by that number."""
    return names[label] if str(label) in names else str(label)


@dataclass(frozen=True)
class Spectra(Step):
    """The spectra of a training's last checkpoint, or of a sweep over some that it kept."""

    shelf: ClassVar[str] = "spectra"
    suffix: ClassVar[str] = ".h5"

    training: Training
    plan: StudyPlan  # device and chunk size are the bench's
    of: tuple[str, ...] = ()  # classes by their place: "head", "mid", "tail"; added to the parts of the plan
    epochs: tuple[int, ...] | None = None  # of a sweep

    @property
    def name(self) -> str:
        return self.training.name + ("-sweep" if self.epochs is not None else "") + ("-layers" * self.plan.per_layer)

    @property
    def does(self) -> str:
        parts = ["layers"] * self.plan.per_layer + list(self.of)
        parts += ["classes"] * self.plan.per_class + ["groups"] * self.plan.per_group
        over = f" at {len(self.epochs)} epochs" if self.epochs is not None else ""
        return f"measure {', '.join(parts) or 'the whole'} of {self.training.title}{over}"

    @property
    def content(self) -> dict[str, Any]:
        plan = asdict(self.plan)
        for key in ("device", "chunk_size"):
            del plan[key]
        return {"plan": plan, "of": self.of, "epochs": self.epochs}

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.training,)

    def make(self, path: Path, bench: Bench) -> None:
        run, data = bench.of(self.training), self.training.images
        subject = (
            open_subject(run, data=data)
            if self.epochs is None
            else open_sweep([run / f"epoch-{epoch:04d}.safetensors" for epoch in self.epochs], data=data)
        )
        first = subject.first if isinstance(subject, Sweep) else subject
        places = representatives(first.training_counts)
        classes = [self.plan.classes] if self.plan.classes is not None else []
        classes += [class_word(places[place], first.data.class_names) for place in self.of]
        plan = replace(self.plan, classes=",".join(classes) or None, device=bench.device)
        with bench.reporter.study(f"measure {self.training.title}") as progress:
            run_study(subject, plan, path, command=bench.command, progress=progress)


# ---------------------------------------------------------------------- surfaces


@dataclass(frozen=True)
class Walk(Step):
    """The losses in a plane through a training's last checkpoint."""

    shelf: ClassVar[str] = "surfaces"
    suffix: ClassVar[str] = ".h5"

    training: Training
    plan: SurfacePlan  # the device is the bench's
    of: str | None = None  # the class whose loss, and eigenvectors: "head", "mid", "tail"; None as the plan says

    def __post_init__(self) -> None:
        if self.plan.spectrum is not None:
            raise LandscapeError(
                f"a figure searches its eigenvectors itself: leave out spectrum = {self.plan.spectrum}"
            )

    @property
    def name(self) -> str:
        return f"{self.training.name}-{self.plan.along}" + (f"-{self.of}" if self.of else "")

    @property
    def does(self) -> str:
        points = "×".join(map(str, self.plan.points * 2 if len(self.plan.points) == 1 else self.plan.points))
        whose = f" of the {self.of}" if self.of else ""
        return f"walk from {self.training.title}: {points} points along {self.plan.along} directions{whose}"

    @property
    def content(self) -> dict[str, Any]:
        plan = asdict(self.plan)
        del plan["device"], plan["spectrum"]
        return {"plan": plan, "of": self.of}

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.training,)

    def make(self, path: Path, bench: Bench) -> None:
        run = bench.of(self.training)
        plan = replace(self.plan, device=bench.device)
        if self.of is not None:
            info = read_info(run / "last.safetensors")
            assert info is not None
            chosen = class_word(representatives(info.class_counts)[self.of], info.class_names)
            plan = replace(plan, of=chosen if plan.along == "eigen" else plan.of, classes=chosen)
        with bench.reporter.surface(f"walk from {self.training.title}") as progress:
            run_surface([run], plan, path, data=self.training.images, command=bench.command, progress=progress)


# ---------------------------------------------------------------------- second stages


@dataclass(frozen=True)
class Features(Step):
    """What the last layer of a trained network sees of every image."""

    shelf: ClassVar[str] = "features"
    suffix: ClassVar[str] = ".h5"

    training: Training

    @property
    def name(self) -> str:
        return self.training.name

    @property
    def does(self) -> str:
        return f"read the features of all images, {self.training.title}"

    @property
    def content(self) -> dict[str, Any]:
        return {}

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.training,)

    def make(self, path: Path, bench: Bench) -> None:
        subject = open_subject(bench.of(self.training), data=self.training.images)
        device = resolve_device(bench.device)
        sample = subject.normalization(subject.data.first_images(2).to(device))
        layer = find_feature_layer(subject.model.to(device).eval(), sample)
        count = sum(len(subject.data.labelled(split).labels) for split in SPLITS)
        with bench.reporter.work(f"features of {self.training.title}", count, "images") as advance:
            record_features(subject, layer, path, device=device, command=bench.command, on_images=advance)


@dataclass(frozen=True)
class Calibration(Step):
    """A second stage on the features of a trained network, with its published constants."""

    shelf: ClassVar[str] = "calibrations"
    suffix: ClassVar[str] = ".h5"

    features: Features
    method: Method
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.features.name}-{self.method}"

    @property
    def does(self) -> str:
        return f"calibrate by {self.method}, {len(self.seeds)} seed{'s' * (len(self.seeds) != 1)}"

    @property
    def content(self) -> dict[str, Any]:
        return {"method": self.method, "seeds": self.seeds}

    @property
    def inputs(self) -> tuple[Step, ...]:
        return (self.features,)

    def make(self, path: Path, bench: Bench) -> None:
        file = FeaturesFile.open(bench.of(self.features))
        settings = two_stage_settings(
            self.method, file.class_counts, source=file.meta["source"], first_epochs=file.meta["epoch"]
        )
        stage = SecondStage(file, settings, resolve_device(bench.device))
        epochs = settings.epochs if self.method in TRAINED else 0
        with bench.reporter.work(self.method, epochs * len(self.seeds), "epochs") as advance:
            outcomes = [stage.run(seed, lambda: advance(1)) for seed in self.seeds]
        record_outcomes(file, stage, outcomes, path, command=bench.command)


@dataclass(frozen=True)
class ToyRegions(Step):
    """The decision regions of a long-tailed toy in the plane, as the file of their drawing."""

    shelf: ClassVar[str] = "toys"
    suffix: ClassVar[str] = ".h5"

    settings: ToySettings

    @property
    def name(self) -> str:
        return f"regions-seed{self.settings.seed}"

    @property
    def does(self) -> str:
        return f"train {len(TOY_CLASSIFIERS)} classifiers of a toy in the plane, {self.settings.epochs} epochs each"

    @property
    def content(self) -> dict[str, Any]:
        return asdict(self.settings)

    def make(self, path: Path, bench: Bench) -> None:
        with bench.reporter.work("toy", self.settings.epochs * len(TOY_CLASSIFIERS), "epochs") as advance:
            toy = run_toy(self.settings, lambda: advance(1))
        classifiers = []
        for each in toy.classifiers:
            generated = each.generated and (each.generated[0].double().numpy(), each.generated[1].numpy())
            classifiers.append(PlaneClassifier(each.name, each.scores, each.result.per_class, generated))
        names = [f"class {label}" for label in range(len(self.settings.counts))]
        drawing = decision_regions(classifiers, toy.points.double().numpy(), toy.labels.numpy(), names)
        write_drawing(drawing, path, origin={"command": bench.command})
