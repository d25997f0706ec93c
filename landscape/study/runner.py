"""Doing it: part by part, checkpoint by checkpoint, each result on disk as soon as it is there."""

from __future__ import annotations

import functools
import math
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from landscape.curvature import Measurement, MeasureSettings, Part, Problem
from landscape.curvature.batches import batch_spectra, draw_batches
from landscape.curvature.operators import free_memory
from landscape.curvature.results import BatchSpectra
from landscape.errors import LandscapeError
from landscape.lock import writing
from landscape.store import MetaValue, PartSummary, RunValue, SpectrumFile, check_output, epoch_prefix
from landscape.study.cost import Cost, Ledger, estimate_cost, refuse_small_budget
from landscape.study.plan import StudyPlan, build_problem, part_size, plan_parts
from landscape.study.provenance import question, run_record
from landscape.study.subject import Measured, MeasuredSamples, Sweep, recipe_difference
from landscape.training.recipe import Recipe, resolve_device

# What must agree before a part is added to an existing file; a single checkpoint's SHA-256 and a sweep's recipe too.
DECISIVE = (
    "model",
    "dataset_fingerprint",
    "class_names",
    "class_counts",
    "split",
    "loss",
    "logit_scale",
    "normalize",
    "dtype",
    "batch_norm",
    "max_samples",
    *(setting.name for setting in fields(MeasureSettings)),
)
# Mini-batches are quick beside a copy of the file; a killed run loses at most so many seconds of them.
_SECONDS_BETWEEN_WRITES = 20.0


class StudyProgress(Protocol):
    """What a front end hears while a study goes on."""

    def cost(self, estimate: Cost) -> None: ...
    def part(self, part: Part, number: int, total: int, products: int) -> None: ...
    def batches(self, path: str, first: int, total: int) -> None: ...
    def refine(self, part: Part, width: float) -> None: ...
    def product(self, count: int) -> None: ...
    def skipped(self, part: Part, remark: str) -> None: ...
    def note(self, text: str) -> None: ...


class Quiet:
    """A study that says nothing."""

    def cost(self, estimate: Cost) -> None:
        pass

    def part(self, part: Part, number: int, total: int, products: int) -> None:
        pass

    def batches(self, path: str, first: int, total: int) -> None:
        pass

    def refine(self, part: Part, width: float) -> None:
        pass

    def product(self, count: int) -> None:
        pass

    def skipped(self, part: Part, remark: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def run_study(
    subject: Measured | Sweep,
    plan: StudyPlan,
    output: Path,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: StudyProgress | None = None,
) -> SpectrumFile:
    """Measure every part that ``output`` does not hold yet, and write each as soon as it is done.

    Without a budget a part gets ``num_probes`` probes, then one at a time until the interval of its negative mass meets
    ``target`` or ``max_probes`` are spent. Nothing depends on the order of the parts, so a killed study goes on where
    it stopped and gives the same numbers.

    With a budget every part first gets its least (both ends and ``num_probes`` probes) and is written; then the part
    with the widest interval gets one more probe, again and again, and the better result replaces the first. What a
    killed run had not replaced stays at its least.

    In a sweep each checkpoint's parts go below ``epoch/<n>/``, and the search for a part's eigenpairs starts from the
    vectors of the same part one checkpoint earlier: those in memory, or in the file if they were kept there. After an
    interruption without kept vectors one checkpoint starts cold, so its numbers may differ within their tolerance. A
    budget is shared evenly among the checkpoints that are left. Checkpoints can be added to a sweep later, and the file
    of a single checkpoint becomes a sweep when it is one of several.

    Args:
        subject: a checkpoint, of a classifier or of an anomaly detector, or a sweep over several classifiers.
        plan: what to measure.
        output: results file; one that exists is completed.
        overwrite: start it again instead.
        command: stored as the run that made the parts.
        progress: hears of everything.

    Raises:
        LandscapeError: ``output`` is no spectrum file, holds results of another checkpoint, data set or setting, or is
            written by another run; or the budget does not hold the least that is measured.
    """
    check_output(output)
    study = _Study(subject, plan, output, command, progress or Quiet())
    with writing(output):
        return study.go(overwrite=overwrite)


@dataclass(frozen=True)
class _Task:
    """What is missing of one checkpoint."""

    number: int  # in the sweep
    epoch: int | None  # None outside a sweep
    parts: tuple[Part, ...]  # named as in the file
    batches: int  # mini-batches still to be measured


@dataclass
class _Running:
    """A part whose least is written, and that may get more probes."""

    part: Part
    measurement: Measurement
    accuracy: float | None
    probe_cost: float  # in the unit of the budget
    write_cost: float
    written: bool = True


@dataclass
class _Vectors:
    """Eigenvectors of one checkpoint, kept for the next as far as memory allows."""

    room: int  # bytes
    columns: dict[str, Tensor] = field(default_factory=dict)  # part without epoch → (n, k)

    def keep(self, part: str, vectors: Any) -> None:
        if vectors is not None and vectors.nbytes <= self.room:
            self.room -= vectors.nbytes
            self.columns[part] = torch.as_tensor(vectors)


class _Study:
    def __init__(
        self,
        subject: Measured | Sweep,
        plan: StudyPlan,
        output: Path,
        command: str,
        progress: StudyProgress,
    ) -> None:
        self.sweep = subject if isinstance(subject, Sweep) else None
        self.first = subject.first if isinstance(subject, Sweep) else subject
        self.plan, self.output, self.progress = plan, output, progress
        self.images = self.first.data.split(plan.split)
        self.ledger = None if plan.budget is None else Ledger(plan.budget, len(self.images))
        self.parts = plan_parts(plan, self.images.labels, self.first)
        self.sizes = {part.path: part_size(part, len(self.images), self.first.model) for part in self.parts}
        if plan.num_batches:
            next(draw_batches(len(self.images), plan.batch_size))  # refuses a size that does not fit
        self.device = torch.device(resolve_device(plan.device))
        self.meta = _meta(self.first, plan, self.images)
        self.run: dict[str, RunValue] = {
            **run_record(self.first, self.device, command),
            "chunk_size": plan.chunk_size if plan.chunk_size is not None else 0,
            "budget": "" if plan.budget is None else str(plan.budget),
        }

    def go(self, *, overwrite: bool) -> SpectrumFile:
        file = SpectrumFile.open(self.output) if self.output.exists() and not overwrite else None
        if file is not None:
            file = self._resumable(file)
        tasks = self._tasks(file)
        total = sum(len(task.parts) for task in tasks)
        before, priced = 0, False
        vectors: tuple[int, _Vectors] | None = None  # of the epoch measured last
        for position, task in enumerate(tasks):
            if not task.parts and not task.batches:
                continue
            subject = self.first if self.sweep is None else self.sweep.subject(task.number)
            problem = build_problem(subject, self.plan, self.images, self.device)
            if not priced:
                self._price(problem, tasks)
                priced = True
            # A file comes to be only when nothing is left that would refuse to start.
            file = self._register(file, subject, task.epoch, problem, overwrite=overwrite)
            allowance = math.inf
            if self.ledger is not None:
                waiting = sum(bool(later.parts or later.batches) for later in tasks[position:])
                allowance = self.ledger.spent + self.ledger.left / waiting
            station = _Station(self, file, problem, task, warm=self._warm(file, task, vectors), allowance=allowance)
            station.measure(before, total)
            before += len(task.parts)
            if task.epoch is not None:
                vectors = task.epoch, station.kept
        assert file is not None
        if not any(task.parts or task.batches for task in tasks):
            spending = "" if self.ledger is None else ": a budget adds no probes to parts that are there"
            self.progress.note(f"nothing is left to measure{spending}; --overwrite starts the file again")
        if self.ledger is not None and self.ledger.spent > 1.05 * self.ledger.budget.amount:
            budget = self.ledger.budget
            self.progress.note(f"this took {budget.say(self.ledger.spent)}, more than the budget of {budget}")
        return file

    # ------------------------------------------------------------------ what is there, what is missing

    def _resumable(self, file: SpectrumFile) -> SpectrumFile:
        """The file that goes on with this study; that of one checkpoint of a sweep becomes a sweep."""
        anew = "give --overwrite to start it anew, or another -o"
        if self.sweep is None:
            if file.is_sweep:
                raise LandscapeError(f"'{file.path}' holds a sweep over checkpoints, this is one checkpoint: {anew}")
            file.check_resumable(
                {**self.meta, "checkpoint_sha256": self.first.sha256}, ("checkpoint_sha256", *DECISIVE)
            )
            return file
        if not file.is_sweep:
            file.check_resumable(self.meta, DECISIVE)
            epochs = dict(zip(self.sweep.sha256, self.sweep.epochs, strict=True))
            if file.meta["checkpoint_sha256"] not in epochs:
                raise LandscapeError(
                    f"'{file.path}' holds one checkpoint, {file.meta['checkpoint']}, which is not among these: name it "
                    f"too to make its file a sweep, or {anew}"
                )
            return file.as_sweep(epochs[file.meta["checkpoint_sha256"]])
        known = dict(zip(map(int, file.meta["epochs"]), file.meta["checkpoints_sha256"], strict=True))
        for epoch, path, sha256 in zip(self.sweep.epochs, self.sweep.paths, self.sweep.sha256, strict=True):
            if known.get(epoch, sha256) != sha256:
                raise LandscapeError(
                    f"'{file.path}' has epoch {epoch} of another checkpoint (SHA-256 {known[epoch][:12]}…) than {path} "
                    f"({sha256[:12]}…): {anew}"
                )
        if self.first.recipe is not None and file.meta["recipe"]:
            stored = Recipe.parse(tomllib.loads(file.meta["recipe"]), where=str(file.path))
            difference = recipe_difference(stored, self.first.recipe)
            if difference is not None:
                raise LandscapeError(f"'{file.path}' follows another training, this one has {difference}: {anew}")
        file.check_resumable(self.meta, DECISIVE)
        return file

    def _tasks(self, file: SpectrumFile | None) -> list[_Task]:
        done = {} if file is None else file.summaries()
        self._check_layer_unit(done)
        epochs: list[int | None] = [None] if self.sweep is None else list(self.sweep.epochs)
        tasks = []
        for number, epoch in enumerate(epochs):
            missing = []
            for part in self.parts:
                placed = replace(part, path=epoch_prefix(epoch) + part.path)
                if placed.path not in done:
                    missing.append(placed)
                    continue
                known = done[placed.path]
                now, now_parameters = self.sizes[part.path]
                if (known.num_samples, known.num_parameters) != (now, now_parameters):
                    raise LandscapeError(
                        f"'{self.output}' has part '{placed.path}' of {known.num_samples} images and "
                        f"{known.num_parameters} parameters, here it has {now} and {now_parameters}: give --overwrite, "
                        "or another -o"
                    )
                self.progress.skipped(placed, self._remark(known))
            batches = 0
            if self.plan.num_batches:
                batches = max(0, self.plan.num_batches - self._known_batches(file, epoch))
            tasks.append(_Task(number, epoch, tuple(missing), batches))
        return tasks

    def _remark(self, known: PartSummary) -> str:
        """What a part that is there lacks of what this run asks for."""
        remarks = []
        if known.relative_width > self.plan.settings.target:
            probes = f"{known.num_probes} probe{'s' * (known.num_probes != 1)}"
            width = f"±{100 * known.relative_width:.2g} %" if math.isfinite(known.relative_width) else "has no interval"
            remarks.append(f"M₋ {width} with {probes}")
        if self.plan.keep_vectors and not known.has_vectors:
            remarks.append("has no vectors: --overwrite measures it again")
        return ", ".join(remarks)

    def _check_layer_unit(self, done: dict[str, PartSummary]) -> None:
        """Layers of one file are of one unit: names alone do not tell which parameters they have."""
        if not any(_is_layer(part) for part in self.parts):
            return
        stored = next((known.layer_unit for known in done.values() if known.layer_unit is not None), None)
        if stored not in (None, self.plan.layer_unit):
            raise LandscapeError(
                f"'{self.output}' holds layers by --layer-unit {stored}, this run has {self.plan.layer_unit}: give "
                "another -o, or --overwrite to start it anew"
            )

    def _known_batches(self, file: SpectrumFile | None, epoch: int | None) -> int:
        """Mini-batches that are there already, if they are the same batches."""
        record = None if file is None else file.read_batches(epoch)
        if record is None:
            return 0
        for key, wanted in (
            ("batch_size", self.plan.batch_size),
            ("weight_decay", self.plan.weight_decay),
            ("max_matvecs", self.plan.settings.max_matvecs),
        ):
            stored = getattr(record, key)
            if stored != wanted:
                raise LandscapeError(
                    f"'{self.output}' has mini-batches with {key} = {stored:g}, this run has {key} = {wanted:g}: give "
                    "--overwrite to start it anew, or another -o"
                )
        return len(record.values)

    def _price(self, problem: Problem, tasks: list[_Task]) -> None:
        prefixes = {task.epoch: len(epoch_prefix(task.epoch)) for task in tasks}
        sizes = [self.sizes[part.path[prefixes[task.epoch] :]] for task in tasks for part in task.parts]
        cost = estimate_cost(
            problem,
            sizes,
            self.plan,
            checkpoints=sum(bool(task.parts or task.batches) for task in tasks),
            batches=sum(task.batches for task in tasks),
        )
        self.progress.cost(cost)
        if self.plan.budget is not None:
            refuse_small_budget(self.plan.budget, cost, self.plan, sizes)

    def _register(
        self,
        file: SpectrumFile | None,
        subject: Measured,
        epoch: int | None,
        problem: Problem,
        *,
        overwrite: bool,
    ) -> SpectrumFile:
        """The file with this checkpoint in its meta."""
        probe = {f"check_{key}": float(value) for key, value in asdict(problem.check).items()}
        meta = {**self.meta, "num_parameters": problem.num_parameters}
        if epoch is None:
            if file is not None:
                return file
            own: dict[str, MetaValue] = {
                "checkpoint": str(subject.path),
                "checkpoint_sha256": subject.sha256,
                "epoch": subject.epoch if subject.epoch is not None else -1,
                **probe,
            }
            return SpectrumFile.create(self.output, {**meta, **own}, overwrite=overwrite)
        row: dict[str, Any] = {
            "epochs": epoch,
            "checkpoints": str(subject.path),
            "checkpoints_sha256": subject.sha256,
            **probe,
        }
        rows = {}
        if file is not None:
            columns = [file.meta[key] for key in row]
            rows = {int(values[0]): dict(zip(row, values, strict=True)) for values in zip(*columns, strict=True)}
        if epoch in rows:
            assert file is not None
            return file
        rows[epoch] = row
        table: dict[str, MetaValue] = {key: [rows[known][key] for known in sorted(rows)] for key in row}
        if file is None:
            return SpectrumFile.create(self.output, {**meta, **table}, overwrite=overwrite)
        return file.update_meta(table)

    def _warm(
        self, file: SpectrumFile, task: _Task, last: tuple[int, _Vectors] | None
    ) -> Callable[[str], Tensor | None]:
        """Start vectors of a part, by its name without the epoch."""
        earlier = [int(epoch) for epoch in file.meta.get("epochs", []) if task.epoch is not None and epoch < task.epoch]
        if not earlier:
            return lambda part: None
        previous = max(earlier)
        in_memory = last[1].columns if last is not None and last[0] == previous else {}
        there = set(file.complete_parts())
        said = False

        def find(part: str) -> Tensor | None:
            nonlocal said
            if part in in_memory:
                return in_memory[part]
            path = epoch_prefix(previous) + part
            if path not in there:
                return None
            vectors = file.read_part(path).pairs.vectors
            if vectors is None and not said:
                said = True
                self.progress.note(
                    f"epoch {task.epoch}: the vectors of epoch {previous} were not kept (--vectors keeps them), the "
                    "search starts cold"
                )
            return None if vectors is None else torch.as_tensor(vectors)

        return find


class _Station:
    """The parts and mini-batches of one checkpoint."""

    def __init__(
        self,
        study: _Study,
        file: SpectrumFile,
        problem: Problem,
        task: _Task,
        *,
        warm: Callable[[str], Tensor | None],
        allowance: float,
    ) -> None:
        self.subject = study.first
        self.plan, self.settings, self.progress = study.plan, study.plan.settings, study.progress
        self.ledger, self.allowance = study.ledger, allowance
        self.file, self.problem, self.task, self.warm, self.run = file, problem, task, warm, study.run
        # The next checkpoint starts from these; a quarter of what is free leaves room for the graphs of the products.
        in_sweep = task.epoch is not None
        self.kept = _Vectors(room=free_memory(torch.device("cpu")) // 4 if in_sweep else 0)

    def measure(self, before: int, total: int) -> None:
        """Everything that is missing; ``before`` of all ``total`` parts belong to earlier checkpoints."""
        running = []
        for number, part in enumerate(self.task.parts):
            self.progress.part(part, before + number, total, self.settings.expected_matvecs)
            least = self._least(part)
            if self.ledger is not None and least.measurement.wants_probe:
                running.append(least)
        if self.task.batches:
            self._batches()
        if self.ledger is not None:
            self._spend(running, self.ledger)

    def _least(self, part: Part) -> _Running:
        restricted = self.problem.restrict(part)
        accuracy = self.subject.accuracy(restricted.outputs(), restricted.samples.targets)
        measurement = Measurement(
            restricted,
            self.settings,
            warm=self.warm(part.path.removeprefix(epoch_prefix(self.task.epoch))),
            on_product=functools.partial(self._hear, images=restricted.num_samples),
        )
        running = _Running(part, measurement, accuracy, 0.0, 0.0)
        measurement.search()
        start = self._spent
        self._probe(running, self.settings.num_probes)
        running.probe_cost = (self._spent - start) / self.settings.num_probes
        if self.ledger is None:
            while measurement.wants_probe:
                self._probe(running, 1)
        self._write(running)
        measurement.release()
        return running

    def _hear(self, count: int, *, images: int) -> None:
        if self.ledger is not None:
            self.ledger.product(count, images)
        self.progress.product(count)

    @property
    def _spent(self) -> float:
        return 0.0 if self.ledger is None else self.ledger.spent

    def _probe(self, running: _Running, count: int) -> None:
        running.measurement.add_probes(count)
        running.written = False

    def _write(self, running: _Running) -> None:
        in_sweep = self.task.epoch is not None
        spectrum = running.measurement.finish(
            part=running.part.path,
            label=running.part.label,
            accuracy=running.accuracy,
            keep_vectors=in_sweep or self.plan.keep_vectors,
        )
        self.kept.keep(running.part.path.removeprefix(epoch_prefix(self.task.epoch)), spectrum.pairs.vectors)
        if not self.plan.keep_vectors:
            spectrum = replace(spectrum, pairs=spectrum.pairs.without_vectors())
        # What the record needs beside probes is kept from the first time, so writing is all that it takes again.
        start = self._spent
        unit = self.plan.layer_unit if _is_layer(running.part) else None
        self.file.write_part(spectrum, layer_unit=unit, run=self.run)
        running.write_cost = self._spent - start
        running.written = True

    def _spend(self, running: list[_Running], ledger: Ledger) -> None:
        """One more probe where the interval is widest, as long as it and the writing still fit."""
        last: _Running | None = None
        while True:
            unwritten = sum(each.write_cost for each in running if not each.written)
            room = min(ledger.left, self.allowance - ledger.spent) - unwritten
            affordable = [
                each
                for each in running
                if each.measurement.wants_probe and each.probe_cost + (each.write_cost if each.written else 0.0) <= room
            ]
            if not affordable:
                break
            widest = max(affordable, key=lambda each: each.measurement.relative_width)
            if last is not None and last is not widest:
                last.measurement.release()
            last = widest
            self.progress.refine(widest.part, widest.measurement.relative_width)
            self._probe(widest, 1)
            if not widest.measurement.wants_probe:
                self._write(widest)
        for each in running:
            if not each.written:
                self._write(each)
            each.measurement.release()

    def _batches(self) -> None:
        plan, epoch = self.plan, self.task.epoch
        known = self.file.read_batches(epoch)
        path = f"{epoch_prefix(epoch)}batches"
        self.progress.batches(path, plan.num_batches - self.task.batches, plan.num_batches)
        written = time.monotonic()

        def write_now_and_then(record: BatchSpectra) -> None:
            nonlocal written
            if time.monotonic() - written > _SECONDS_BETWEEN_WRITES:
                self.file.write_batches(record, epoch, run=self.run)
                written = time.monotonic()

        record = batch_spectra(
            self.problem,
            plan.num_batches,
            batch_size=plan.batch_size,
            k=self.settings.num_pairs,
            weight_decay=plan.weight_decay,
            tol=self.settings.tol,
            max_matvecs=self.settings.max_matvecs,
            seed=self.settings.seed,
            known=known,
            on_batch=write_now_and_then,
            on_product=functools.partial(self._hear, images=plan.batch_size),
        )
        self.file.write_batches(record, epoch, run=self.run)


def _is_layer(part: Part) -> bool:
    return part.parameters is not None


def _meta(subject: Measured, plan: StudyPlan, images: MeasuredSamples) -> dict[str, MetaValue]:
    """What all runs share, but for what belongs to a single checkpoint."""
    return {
        **question(subject, plan, images),
        "dtype": plan.dtype,
        "batch_norm": plan.batch_norm,
        **asdict(plan.settings),
    }
