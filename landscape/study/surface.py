"""A surface: checkpoints and their data in, a surface file out. What `landscape surface` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from landscape.curvature import HessianOperator, MeasureSettings, Part, extreme_eigenpairs
from landscape.curvature.problem import independent_copy
from landscape.curvature.results import Eigenpairs
from landscape.data import ImageSet
from landscape.errors import LandscapeError, did_you_mean
from landscape.lock import writing
from landscape.store import MetaValue, SpectrumFile
from landscape.store.hdf5 import short
from landscape.store.surface_file import SurfaceFile, check_surface_output
from landscape.study.plan import StudyPlan, build_problem, plan_parts
from landscape.study.provenance import question, run_record
from landscape.study.subject import Subject, open_subject, open_sweep
from landscape.surface.directions import (
    Eigenvector,
    Normalization,
    Slice,
    checkpoint_slice,
    displacement,
    eigen_slice,
    random_slice,
)
from landscape.surface.evaluate import PointLosses
from landscape.surface.results import Surface
from landscape.surface.trajectory import trajectory_slice
from landscape.surface.walk import axis, unwalked, walk
from landscape.training.checkpoint import file_sha256, find_checkpoint, fit_state, load_state, read_info
from landscape.training.recipe import resolve_device

Along = Literal["random", "eigen", "checkpoints", "trajectory"]
End = Literal["min", "max"]

POINTS = 51
# From −0.5 to 1.5 in steps of 0.05, so that both checkpoints are points of the line.
_POINTS_BETWEEN = 41
# Pairs an end: the second shows the search whether the first is the outermost.
_PAIRS = 2


@dataclass(frozen=True)
class SurfacePlan:
    """Along which directions, over which grid, of which parts.

    Raises:
        LandscapeError: a setting that means nothing without another.
    """

    along: Along = "random"
    dims: int = 2
    points: tuple[int, ...] = ()  # of every axis; one number is for both; () the default
    ranges: tuple[tuple[float, float] | None, ...] = (None, None)  # of every axis; None what suits the directions
    normalize: Normalization = "filter"  # of random directions
    keep_1d: bool = False  # of random directions
    of: str = "all"  # whose eigenvectors: all, head, mid, tail, a class by number or name
    end: End = "min"  # which eigenvector makes a line
    spectrum: Path | None = None  # a results file that kept the eigenvectors; None searches them
    interpolate_buffers: bool = False  # of checkpoints and trajectories
    whole: bool = False
    per_class: bool = False
    classes: str | None = None
    per_group: bool = False
    split: Literal["train", "test"] = "train"
    loss: Literal["ce", "training"] = "ce"
    max_samples: int | None = None  # images a part, drawn with the seed; None takes all
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, kind in (("along", Along), ("normalize", Normalization), ("end", End)):
            if getattr(self, name) not in get_args(kind):
                raise LandscapeError(f"{name} '{getattr(self, name)}': use {', '.join(get_args(kind))}")
        if self.dims not in (1, 2):
            raise LandscapeError(f"{self.dims} dimensions: a line has 1, a plane 2")
        if len(self.points) > self.dims:
            raise LandscapeError("--points of two axes, but a line has one: write one number")
        if self.dims == 1 and any(given is not None for given in self.ranges[1:]):
            raise LandscapeError("--y-range is of the second direction: leave out --dims 1")
        of_random = self.normalize != "filter" or self.keep_1d
        of_eigen = self.of != "all" or self.end != "min" or self.spectrum is not None
        for belongs, kinds, flags in (
            (of_random, ("random",), "--norm and --keep-1d belong"),
            (of_eigen, ("eigen",), "--of, --end and --spectrum belong"),
            (self.interpolate_buffers, ("checkpoints", "trajectory"), "--interpolate-buffers belongs"),
        ):
            if belongs and self.along not in kinds:
                raise LandscapeError(f"{flags} to --along {' or '.join(kinds)}, this is --along {self.along}")
        if self.end != "min" and self.dims == 2:
            raise LandscapeError("--end says which eigenvector makes a line (--dims 1); a plane has both")

    @property
    def study(self) -> StudyPlan:
        """The parts and samples as `landscape spectrum` takes them with the same words."""
        return StudyPlan(
            whole=self.whole,
            per_class=self.per_class,
            classes=self.classes,
            per_group=self.per_group,
            split=self.split,
            loss=self.loss,
            max_samples=self.max_samples,
            device=self.device,
            settings=MeasureSettings(num_pairs=_PAIRS, seed=self.seed),
        )


@dataclass(frozen=True)
class SurfaceCost:
    """What a walk takes, from a pass that was timed."""

    points: int  # still to come when the walk began
    parts: int  # from the same forward passes
    seconds: float  # for the points still to come
    how: str  # what the evaluator says of itself


class SurfaceProgress(Protocol):
    """What a front end hears while a surface is computed."""

    def search(self, label: str, products: int) -> None: ...
    def product(self, count: int) -> None: ...
    def start(self, points: int, there: int) -> None: ...
    def cost(self, estimate: SurfaceCost) -> None: ...
    def points(self, count: int) -> None: ...
    def note(self, text: str) -> None: ...


class SilentSurface:
    """A surface that says nothing."""

    def search(self, label: str, products: int) -> None:
        pass

    def product(self, count: int) -> None:
        pass

    def start(self, points: int, there: int) -> None:
        pass

    def cost(self, estimate: SurfaceCost) -> None:
        pass

    def points(self, count: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def run_surface(
    checkpoints: Sequence[Path],
    plan: SurfacePlan,
    output: Path,
    *,
    model: str | None = None,
    data: dict[str, Any] | None = None,
    allow_pickle: bool = False,
    logit_scale: float | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: SurfaceProgress | None = None,
) -> SurfaceFile:
    """Compute every point that ``output`` does not hold yet; what is there is kept now and then, and when stopped.

    All parts come from the same forward passes. Eigenvectors that were searched are kept in the file, so that a walk
    that was stopped goes on along the same ones.

    Args:
        checkpoints: one; with ``along="checkpoints"`` two, or three for a plane, the first being the origin; with
            ``along="trajectory"`` those of one training, or its folder, and the origin is the last.
        plan: what to compute.
        output: surface file; one that exists is completed.
        model, data, allow_pickle, logit_scale: as :func:`open_subject`.
        overwrite: start the file again.
        command: stored as the run that computed the points.
        progress: hears of everything.

    Raises:
        LandscapeError: ``output`` is no surface file, or one of another question; checkpoints that are too few, too
            many or do not fit; and whatever :func:`open_subject` refuses.
    """
    check_surface_output(output)
    journey = _open_journey(checkpoints, plan, model, data, allow_pickle, logit_scale)
    with writing(output):
        return _Walker(journey, plan, output, command, progress or SilentSurface()).go(overwrite=overwrite)


@dataclass(frozen=True)
class _Journey:
    """The origin, and what else names the directions."""

    subject: Subject  # its model is the origin
    named: tuple[Path, ...]  # (T,) all checkpoints, in order
    sha256: tuple[str, ...]  # (T,)
    labels: tuple[str, ...]  # (T,)
    load: Callable[[Path], nn.Module]  # a network with the weights of one of them


def _open_journey(
    checkpoints: Sequence[Path],
    plan: SurfacePlan,
    model: str | None,
    data: dict[str, Any] | None,
    allow_pickle: bool,
    logit_scale: float | None,
) -> _Journey:
    if plan.along == "trajectory":
        sweep = open_sweep(
            _training(checkpoints), model=model, data=data, allow_pickle=allow_pickle, logit_scale=logit_scale
        )
        labels = tuple(f"epoch {epoch}" for epoch in sweep.epochs)
        return _Journey(sweep.subject(len(sweep.paths) - 1), sweep.paths, sweep.sha256, labels, sweep.load)
    wanted = plan.dims + 1 if plan.along == "checkpoints" else 1
    if len(checkpoints) != wanted:
        what = {
            1: "along random directions or eigenvectors it takes one",
            2: "a line takes two",
            3: "a plane takes three",
        }
        hint = "; --dims 1 for the line through two" if (wanted, len(checkpoints)) == (3, 2) else ""
        hint = "; --along checkpoints for the line between them" if wanted == 1 else hint
        given = f"{len(checkpoints)} checkpoint{'s' * (len(checkpoints) != 1)}"
        raise LandscapeError(f"{given} with --along {plan.along}: {what[wanted]}{hint}")
    subject = open_subject(checkpoints[0], model=model, data=data, allow_pickle=allow_pickle, logit_scale=logit_scale)
    paths = (subject.path, *(find_checkpoint(path) for path in checkpoints[1:]))

    def load(path: Path) -> nn.Module:
        _check_same_classes(subject.path, path)
        other = independent_copy(subject.model)
        fit_state(other, load_state(path, allow_pickle=allow_pickle), path)
        return other

    sha256 = (subject.sha256, *map(file_sha256, paths[1:]))
    return _Journey(subject, paths, sha256, _short_names(paths), load)


def _training(paths: Sequence[Path]) -> list[Path]:
    """The checkpoints of a training: those that are named, or all that its folder keeps."""
    if len(paths) > 1 or not paths[0].is_dir():
        return list(paths)
    kept = sorted(paths[0].glob("epoch-*.safetensors"))
    if not kept:
        raise LandscapeError(
            f"{paths[0]} keeps no checkpoints of its epochs (epoch-*.safetensors): train with --save-every, or name "
            "several checkpoints"
        )
    return [*kept, paths[0]]


def _check_same_classes(first: Path, other: Path) -> None:
    names = [
        None if path.suffix != ".safetensors" or (info := read_info(path)) is None else info.class_names
        for path in (first, other)
    ]
    if None not in names and names[0] != names[1]:
        raise LandscapeError(f"{other} was trained on other classes than {first}: their outputs mean other things")


def _short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """The shortest names that tell paths apart: files without suffix, then with the folders above them."""
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join((*path.parts[-depth:-1], path.stem)) for path in paths]
        if len(set(names)) == len(names):
            # ``runs/a/last`` and ``runs/b/last`` are a and b.
            ends = {name.rsplit("/", 1)[-1] for name in names}
            return tuple(name.rsplit("/", 1)[0] for name in names) if len(ends) == 1 and depth > 1 else tuple(names)
    return tuple(f"{path.stem} ({number + 1})" for number, path in enumerate(paths))


class _Walker:
    def __init__(
        self, journey: _Journey, plan: SurfacePlan, output: Path, command: str, progress: SurfaceProgress
    ) -> None:
        self.journey, self.plan, self.output, self.progress = journey, plan, output, progress
        self.subject = journey.subject
        self.images = self.subject.data.split(plan.split)
        self.parts = plan_parts(plan.study, self.images.labels, self.subject)
        self.device = torch.device(resolve_device(plan.device))
        self.meta = _meta(journey, plan, self.images)
        self.run = run_record(self.subject, self.device, command)

    def go(self, *, overwrite: bool) -> SurfaceFile:
        file = SurfaceFile.open(self.output) if self.output.exists() and not overwrite else None
        if file is None:
            found = self._slice()
            surface = self._empty(found)
        else:
            file.check_same_question(self.meta)
            found, surface = self._known_slice(file), file.surface
            file.check_same_grid(self._empty(found))
            if surface.complete:
                self.progress.note("every point is there, nothing is left to compute; --overwrite starts it again")
                return file
        evaluate = self._evaluator(found, file)
        run = {**self.run, "chunk_size": evaluate.chunk}
        runs = [run] if file is None else [*file.runs, run]
        kept = [_arrays(direction) for direction in found.directions] if found.kind == "eigen" else []

        def save(so_far: Surface) -> None:
            SurfaceFile.write(self.output, self.meta, runs, so_far, kept)

        if file is None and kept:
            save(surface)  # so that a search is not lost, however soon the walk is stopped
        todo = int(np.sum(~surface.done))
        self.progress.start(surface.done.size, surface.done.size - todo)

        def price(seconds: float) -> None:
            self.progress.cost(SurfaceCost(todo, len(self.parts), seconds, evaluate.describe()))

        walk(surface, evaluate, save=save, on_price=price, on_points=self.progress.points)
        return SurfaceFile.open(self.output)

    def _evaluator(self, found: Slice, file: SurfaceFile | None) -> PointLosses:
        inputs, targets = self.subject.samples(self.images, self.device, torch.float32)
        # In forward passes of the same size, so that a file that goes on gets the same digits.
        last = None if file is None else file.runs[-1]
        if last is not None and torch.device(last["device"]).type != self.device.type:
            last = None
        return PointLosses(
            self.subject.model,
            self.subject.loss(self.plan.loss).to(self.device),
            inputs,
            targets,
            _members(self.parts, len(self.images)),
            directions=found.moves,
            device=self.device,
            chunk=int(last["chunk_size"]) if last is not None else None,
        )

    def _empty(self, found: Slice) -> Surface:
        """The record before its first point."""
        default = _POINTS_BETWEEN if self.plan.along == "checkpoints" and self.plan.dims == 1 else POINTS
        points = self.plan.points or (default,)
        axes = [
            axis(*(asked or usual), points[min(number, len(points) - 1)])
            for number, (asked, usual) in enumerate(zip((*self.plan.ranges, None, None), found.ranges, strict=False))
        ]
        sizes = [len(index) for index in _members(self.parts, len(self.images))]
        return unwalked(found, axes, [part.path for part in self.parts], [part.label for part in self.parts], sizes)

    # ------------------------------------------------------------------ directions

    def _known_slice(self, file: SurfaceFile) -> Slice:
        """The directions of a file that goes on: eigenvectors as they were kept, others made again."""
        if self.plan.along != "eigen":
            return self._slice()
        surface = file.surface
        directions = tuple(
            {name: torch.from_numpy(values) for name, values in direction.items()}
            for direction in file.read_directions()
        )
        return Slice("eigen", directions, surface.axis_labels, ((-1.0, 1.0),) * len(directions))

    def _slice(self) -> Slice:
        plan, journey, model = self.plan, self.journey, self.subject.model
        if plan.along == "random":
            return random_slice(model, plan.dims, seed=plan.seed, normalize=plan.normalize, keep_1d=plan.keep_1d)
        if plan.along == "checkpoints":
            others = [journey.load(path) for path in journey.named[1:]]
            return checkpoint_slice(model, others, journey.labels, interpolate_buffers=plan.interpolate_buffers)
        if plan.along == "trajectory":
            paths, buffers = [], []
            for path in journey.named:
                other = journey.load(path)
                paths.append(displacement(model, other))
                if plan.interpolate_buffers:
                    buffers.append(displacement(model, other, buffers=True))
            return trajectory_slice(paths, journey.labels, plan.dims, buffers=buffers)
        part = self._part_of()
        pairs, same_images = (self._stored_pairs if plan.spectrum is not None else self._searched_pairs)(part)
        vectors = torch.as_tensor(pairs.vectors)
        high = Eigenvector("v_max", pairs.lambda_max, vectors[:, -1])
        low = Eigenvector("v_min", pairs.lambda_min, vectors[:, 0])
        chosen = [high, low] if plan.dims == 2 else [low if plan.end == "min" else high]
        found = eigen_slice(model, chosen, part=part.path, label=part.label)
        return found if same_images else replace(found, curvatures={})

    def _part_of(self) -> Part:
        """The part whose eigenvectors are meant, of the samples that `landscape spectrum` would take of it."""
        wanted, study = self.plan.of, self.plan.study
        everything = replace(study, whole=True, per_group=wanted != "all", per_class=wanted != "all", classes=None)
        parts = plan_parts(everything, self.images.labels, self.subject)
        # The whole and the groups come first: a class may be called like one of them, and is then found by its path.
        by_name = {name: part for part in reversed(parts) for name in (part.label, part.path)}
        found = by_name.get(wanted) or by_name.get(f"class/{wanted}")
        if found is None:
            known = [part.label for part in parts]
            hint = did_you_mean(wanted, known) or f"; known: {', '.join(known[:12])}"
            raise LandscapeError(f"--of '{wanted}': no such part{hint}")
        return found

    def _stored_pairs(self, part: Part) -> tuple[Eigenpairs, bool]:
        """The pairs of a results file, and whether they are of the same images as the surface."""
        assert self.plan.spectrum is not None
        file = SpectrumFile.open(self.plan.spectrum)
        measure = f"landscape spectrum {self.subject.path} … --vectors"
        if file.is_sweep:
            raise LandscapeError(f"'{file.path}' is a sweep over checkpoints: give the file of one, from `{measure}`")
        for key in ("checkpoint_sha256", "dataset_fingerprint", "split", "loss", "logit_scale"):
            if file.meta.get(key) != self.meta[key]:
                raise LandscapeError(
                    f"the eigenvectors in '{file.path}' are of {key} = {short(file.meta.get(key))}, this surface is of "
                    f"{short(self.meta[key])}: give the file of this checkpoint, from `{measure}`"
                )
        pairs = file.read_part(part.path).pairs
        if pairs.vectors is None:
            raise LandscapeError(f"'{file.path}' kept no eigenvectors of {part.label}: measure again with `{measure}`")
        same_images = all(file.meta[key] == self.meta[key] for key in ("max_samples", "seed"))
        if not same_images:
            self.progress.note(
                f"the eigenvectors in '{file.path}' are of --max-samples {file.meta['max_samples']} --seed "
                f"{file.meta['seed']} (0: all): other images than here, so their λ is not written beside this surface"
            )
        return pairs, same_images

    def _searched_pairs(self, part: Part) -> tuple[Eigenpairs, bool]:
        settings = self.plan.study.settings
        problem = build_problem(self.subject, self.plan.study, self.images, self.device).restrict(part)
        count = problem.num_samples
        self.progress.search(f"{part.label}, {count:,} image{'s' * (count != 1)}", settings.search_matvecs)
        pairs = extreme_eigenpairs(
            HessianOperator(problem),
            settings.num_pairs,
            tol=settings.tol,
            max_matvecs=settings.max_matvecs,
            seed=settings.seed,
            on_product=self.progress.product,
        )
        ends = [("v_min", 0), ("v_max", -1)]
        for name, place in ends if self.plan.dims == 2 else [ends[self.plan.end == "max"]]:
            if not pairs.converged[place]:
                self.progress.note(
                    f"{name} of {part.label} is not converged after {pairs.num_matvecs} products: λ = "
                    f"{pairs.values[place]:.4g} ± {pairs.residuals[place]:.1g}"
                )
        return pairs, True


def _members(parts: Sequence[Part], num_samples: int) -> list[Tensor]:
    """``(M_p,)`` indices of the samples of every part."""
    return [torch.arange(num_samples) if part.samples is None else part.samples.cpu() for part in parts]


def _arrays(direction: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: values.numpy() for name, values in direction.items()}


def _meta(journey: _Journey, plan: SurfacePlan, images: ImageSet) -> dict[str, MetaValue]:
    """The question: what must agree before points are added to a file."""
    subject = journey.subject
    meta: dict[str, MetaValue] = {
        "checkpoint": str(subject.path),
        "checkpoint_sha256": subject.sha256,
        "along": plan.along,
        "epoch": -1 if subject.epoch is None else subject.epoch,
        **question(subject, plan.study, images),
    }
    if plan.along == "random":
        meta.update(normalize_directions=plan.normalize, keep_1d=plan.keep_1d)
    elif plan.along == "eigen":
        meta.update(eigenvectors_of=plan.of, end=plan.end if plan.dims == 1 else "both")
    else:
        meta.update(
            interpolate_buffers=plan.interpolate_buffers,
            checkpoints=[str(path) for path in journey.named],
            checkpoints_sha256=list(journey.sha256),
        )
    return meta
