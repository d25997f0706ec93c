"""The training loop: a recipe in, a run's folder out.

A run's folder holds ``recipe.toml``, ``history.jsonl`` (one line an epoch), ``last.safetensors`` (the result),
``best.safetensors`` (best on the test split, kept for comparison with papers that select on it), ``resume.pt`` and, on
request, ``tensorboard/``. A run killed at any moment leaves each file whole, the one before or the one after, and goes
on with the same outcome.
"""

from __future__ import annotations

import copy
import errno
import math
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from landscape.atomic import atomic_replacement
from landscape.data import epoch_order
from landscape.data.batches import TrainingBatches
from landscape.data.longtailed import LongTailedData
from landscape.errors import LandscapeError
from landscape.json_text import json_text
from landscape.lock import writing
from landscape.losses import ClassificationLoss, build_loss, class_weights_at
from landscape.optim import EscapeOptimizer, GroupedObjective, build_optimizer, tail_classes
from landscape.regularizers import Htr
from landscape.store.history import EpochRecord
from landscape.switches import milestone
from landscape.training.acceleration import (
    Bf16Forward,
    compiled,
    repeatable_convolutions,
    reusable_compiled_graphs,
)
from landscape.training.checkpoint import (
    CheckpointInfo,
    fit_state,
    model_for,
    read_info,
    save_checkpoint,
    save_resume_state,
)
from landscape.training.evaluation import check_cosines, check_fit, evaluate
from landscape.training.recipe import Recipe, resolve_device
from landscape.training.schedules import learning_rate
from landscape.training.tensorboard import TensorBoardLog, clear, import_summary_writer

# Steps between two looks at the loss. Each look waits for a GPU once; a diverged run wastes at most so many steps.
LOOK_EVERY = 50
# What a file system says that has no room for a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# Resampling follows the rules of re-weighting: the weights of a class are then the weights of a draw.
_DRAWING = {"none": "none", "balanced": "rw", "deferred": "drw"}


@dataclass(frozen=True)
class TrainingResult:
    """Where a run ended."""

    folder: Path
    history: list[EpochRecord] = field(repr=False)

    @property
    def last(self) -> EpochRecord:
        return self.history[-1]

    @property
    def best(self) -> EpochRecord:
        """The epoch that ``best.safetensors`` holds: the first of those with the highest accuracy."""
        return max(self.history, key=lambda record: record.accuracy)


class TrainingProgress(Protocol):
    """What a front end hears while a run goes on."""

    def start(self, *, epochs: int, first_epoch: int, steps_per_epoch: int) -> None: ...
    def step(self) -> None: ...
    def epoch(self, record: EpochRecord) -> None: ...


class Silent:
    """Says nothing."""

    def start(self, *, epochs: int, first_epoch: int, steps_per_epoch: int) -> None:
        pass

    def step(self) -> None:
        pass

    def epoch(self, record: EpochRecord) -> None:
        pass


def train(
    recipe: Recipe,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: TrainingProgress | None = None,
) -> TrainingResult:
    """Train what ``recipe`` says and keep everything in ``folder``.

    The training images live on the device as one uint8 tensor, or are streamed from their files; see
    :class:`landscape.data.batches.TrainingBatches`. The test split is evaluated after every epoch, in float32 whatever
    the precision of the training; the last epoch is the result. Only the recipe is written before the first epoch has
    ended, and that once the run is known to be possible.

    The same recipe gives the same weights bit for bit on the same machine with the same number of threads.

    Args:
        recipe: the run.
        folder: created if need be.
        resume: go on after the last epoch that was kept, from the start if there is none; on the same kind of device
            the result is the same bit for bit as without the interruption.
        overwrite: start again in a folder that already holds a run.
        progress: hears of every step and epoch.

    Raises:
        LandscapeError: the folder holds a run and neither ``resume`` nor ``overwrite`` was said, another process trains
            in it, the run to resume has another recipe, the loss is no longer finite, the disk is full, the data cannot
            be read, or the model cannot be trained with this loss or on batches of this size.
    """
    with ExitStack() as scopes:
        scopes.enter_context(repeatable_convolutions())
        if recipe.run.compile:
            scopes.enter_context(reusable_compiled_graphs())
        run = _Run(recipe.resolved, folder, resume=resume, overwrite=overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        scopes.enter_context(writing(folder))
        run.begin()
        return run.go(progress or Silent())


def is_started(folder: Path) -> bool:
    """Whether a folder holds a run that can be resumed, be it from its start."""
    return (folder / "recipe.toml").is_file() or (folder / "resume.pt").is_file()


def seeds_in(folder: Path) -> list[int]:
    """The seeds N of the runs ``folder/seed-N``, in order."""
    names = [place.name.removeprefix("seed-") for place in folder.glob("seed-*") if is_started(place)]
    return sorted(int(name) for name in names if name.isdecimal())


def check_vacant(folder: Path) -> None:
    """Refuse a folder whose run would be lost to a new one; a run without a finished epoch is none.

    Raises:
        LandscapeError: it holds a run, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise LandscapeError(f"{folder} is a file; -o names the folder of the run")
    if (folder / "resume.pt").exists() or (folder / "last.safetensors").exists():
        raise LandscapeError(
            f"{folder} already holds a run. Go on with --resume, replace it with --overwrite, or choose another -o."
        )


class _Run:
    def __init__(self, recipe: Recipe, folder: Path, *, resume: bool, overwrite: bool) -> None:
        self.recipe, self.folder = recipe, folder
        state = self._saved_state() if resume else None
        if not (resume or overwrite):
            check_vacant(folder)
        self._check_writable()
        if recipe.run.log == "tensorboard":
            import_summary_writer()
        self.device = torch.device(resolve_device(recipe.run.device))
        self.data: LongTailedData = recipe.data.open()
        images = self.data.first_images(8)
        self.channels, self.image_size = images.shape[1], images.shape[-1]
        torch.manual_seed(recipe.run.seed)
        model = model_for(recipe, self.data.num_classes, self.channels, self.image_size)
        # Convolutions run faster with the channel axis last, on CPUs as on tensor cores.
        self.model = model.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained_model: nn.Module = compiled(self.model) if recipe.run.compile else self.model
        if recipe.run.precision == "bf16":
            self.trained_model = Bf16Forward(self.trained_model, self.device.type)
        check_fit(self.model, images[:1], recipe.data.normalization, self.data.num_classes)
        if recipe.head == "cosine":
            check_cosines(self.model, images, recipe.data.normalization)
        self.batches = TrainingBatches(
            self.data,
            batch_size=recipe.schedule.batch_size,
            normalization=recipe.data.normalization,
            augmentation=recipe.data.augmentation,
            device=self.device,
        )
        self.loss = self._build_loss()
        self.optimizer = self._build_optimizer()
        self.regularizer = self._build_regularizer()
        eta = recipe.optimizer.eta
        self.is_tail = None if eta is None else tail_classes(self.data.counts, eta)
        self.is_tail_here = None if self.is_tail is None else self.is_tail.to(self.device)
        self.generator = torch.Generator(self.device).manual_seed(recipe.run.seed)
        self.first_loss = build_loss("ce", self.data.counts, logit_scale=recipe.logit_scale).to(self.device)
        self.history: list[EpochRecord] = []
        self._check_batches()
        self._state = state

    def begin(self) -> None:
        """Take the folder; only now, so that a run that cannot even start leaves the old one alone."""
        if self._state is not None:
            self._restore(self._state)
            self._write_recipe()
            self._state = None  # the momenta need not lie in memory twice
        else:
            self._start_folder()

    def _saved_state(self) -> dict[str, Any] | None:
        """What to go on from; ``None`` for a run that was stopped before it kept an epoch."""
        saved = self.folder / "resume.pt"
        if not saved.is_file():
            kept = self.folder / "recipe.toml"
            if not kept.is_file():
                seeds = ",".join(map(str, seeds_in(self.folder)))
                way_out = (
                    f"It holds runs of several seeds: add --seeds {seeds}." if seeds else "Start it without --resume."
                )
                raise LandscapeError(f"nothing to resume in {self.folder}: no run. {way_out}")
            self._check_same_recipe(Recipe.load(kept))
            return None
        try:
            state: dict[str, Any] = torch.load(saved, map_location="cpu", weights_only=True)
            recipe: dict[str, Any] = state["recipe"]
        except Exception:
            raise LandscapeError(
                f"{saved} is damaged. {self.folder / 'last.safetensors'} can still be measured; to train again, "
                "--overwrite or another -o."
            ) from None
        self._check_same_recipe(recipe)
        return state

    def _check_writable(self) -> None:
        """Before an epoch is spent: the folder itself is made only when there is something to keep."""
        nearest = next(place for place in (self.folder, *self.folder.absolute().parents) if place.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            reason = "permission denied" if nearest.is_dir() else "it is a file"
            raise LandscapeError(f"cannot write '{self.folder}': {nearest}: {reason}; choose another -o.")

    def _start_folder(self) -> None:
        """Leave nothing of an older run, and say whose folder it is."""
        # In this order, so that one killed in between is neither resumed as the old run nor taken for it.
        (self.folder / "resume.pt").unlink(missing_ok=True)
        self._write_recipe()
        for name in ("last.safetensors", "best.safetensors", "history.jsonl"):
            (self.folder / name).unlink(missing_ok=True)
        for checkpoint in self.folder.glob("epoch-*.safetensors"):
            checkpoint.unlink()
        clear(self.folder)

    def _write_recipe(self) -> None:
        with atomic_replacement(self.folder / "recipe.toml") as path:
            path.write_text(self.recipe.to_toml(), encoding="utf-8")

    def _check_same_recipe(self, saved: dict[str, Any]) -> None:
        # Parsed again, so that a run of an older version has the defaults of settings that came later.
        difference = Recipe.parse(saved, where=str(self.folder)).resolved.difference(self.recipe)
        if difference is not None:
            setting, old, new = difference
            raise LandscapeError(
                f"{self.folder} was trained with {setting} = {old!r}, not {new!r}. Resume it with its own recipe "
                f"({self.folder / 'recipe.toml'}) or choose another -o."
            )

    def _check_batches(self) -> None:
        """Try a forward pass where a batch has one image; batch norm over maps of one pixel refuses it."""
        if min(self.batches.sizes) > 1:
            return
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []), torch.no_grad():
            trial = copy.deepcopy(self.model).train()  # a copy, whose running statistics may move
            inputs = self.recipe.data.normalization(self.data.first_image().to(self.device))
            try:
                trial(inputs.contiguous(memory_format=torch.channels_last))
            except ValueError as error:
                raise LandscapeError(
                    f"{type(self.model).__name__} cannot be trained on a batch of one image ({error}). Give "
                    "--batch-size 2 or more, and at least two training images."
                ) from error

    def _build_loss(self) -> ClassificationLoss:
        return build_training_loss(self.recipe, self.data.counts).to(self.device)

    def _build_optimizer(self) -> EscapeOptimizer:
        section = self.recipe.optimizer
        return build_optimizer(
            section.name,
            [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad],
            lr=section.lr,
            momentum=section.momentum,
            weight_decay=section.weight_decay,
            **section.settings(),
        )

    def _build_regularizer(self) -> Htr | None:
        section = self.recipe.regularizer
        return Htr(self.model, **section.settings(), seed=self.recipe.run.seed) if section.active else None

    # ------------------------------------------------------------------ epochs

    def go(self, progress: TrainingProgress) -> TrainingResult:
        epochs = self.recipe.schedule.epochs
        steps = len(self.batches.sizes)
        progress.start(epochs=epochs, first_epoch=len(self.history), steps_per_epoch=steps)
        with self._scalar_log() as log:
            for epoch in range(len(self.history), epochs):
                record = self._epoch(epoch, progress)
                self.history.append(record)
                self._save(record, log)
                progress.epoch(record)
        return TrainingResult(self.folder, self.history)

    @contextmanager
    def _scalar_log(self) -> Iterator[TensorBoardLog | None]:
        if self.recipe.run.log is None:
            yield None
            return
        log = TensorBoardLog(self.folder, self.history)
        try:
            yield log
        finally:
            log.close()

    def _epoch(self, epoch: int, progress: TrainingProgress) -> EpochRecord:
        start = time.monotonic()
        recipe, epochs = self.recipe, self.recipe.schedule.epochs
        rate = learning_rate(recipe.schedule, recipe.optimizer.lr, epoch)
        weights = class_weights_at(
            epoch,
            recipe.loss.reweight,
            self.data.counts,
            switch_epoch=milestone(recipe.loss.defer, epochs),
            beta=recipe.loss.beta,
        )
        loss = self.first_loss if epoch < recipe.loss.ce_epochs else self.loss
        loss = loss.with_class_weights(weights.to(self.device) if weights is not None else None)
        self.optimizer.set_lr(rate)
        self.optimizer.start_epoch(epoch, epochs)
        self.model.train()
        drawing = class_weights_at(
            epoch,
            _DRAWING[recipe.data.resample],
            self.data.counts,
            switch_epoch=milestone(recipe.loss.defer, epochs),
            beta=recipe.loss.beta,
        )
        order = epoch_order(self.batches.labels, self.generator, drawing)
        losses = []
        penalties = []
        for batch in self.batches.epoch(order, self.generator):
            objective = GroupedObjective(
                self.trained_model,
                loss,
                batch.inputs,
                batch.labels,
                is_tail=self.is_tail_here,
                normalization=recipe.optimizer.normalization or "batch",
                present=self._groups_among(batch.host_labels),
            )
            if self.regularizer is None:
                losses.append(self.optimizer.step(objective))
            else:
                regularized = self.regularizer.on(objective)
                losses.append(self.optimizer.step(regularized))
                penalties.append(regularized.first)
            progress.step()
            if len(losses) % LOOK_EVERY == 0:
                self._refuse_infinite_loss(losses, epoch, rate)
        self._refuse_infinite_loss(losses, epoch, rate)
        self._refuse_infinite_weights(len(losses), epoch, rate)
        train_loss = float(torch.stack(losses).mean())
        penalty, trace = torch.stack(penalties).mean(0).tolist() if penalties else (None, None)
        result = evaluate(self.model, self.data.labelled("test"), recipe.data.normalization, channels_last=True)
        by_index, by_count = map(result.per_group, self.data.groups)
        return EpochRecord(
            epoch=epoch + 1,
            lr=rate,
            reweighted=weights is not None,
            train_loss=train_loss,
            accuracy=result.accuracy,
            groups=by_index,
            per_class=result.per_class,
            seconds=time.monotonic() - start,
            groups_by_count=by_count,
            resampled=drawing is not None,
            radii=self.optimizer.radii,
            penalty=penalty,
            trace=trace,
        )

    def _groups_among(self, labels: Tensor) -> tuple[bool, bool] | None:
        """Whether labels on the CPU have head and tail classes among them."""
        if self.is_tail is None:
            return None
        in_tail = self.is_tail[labels]
        return not bool(in_tail.all()), bool(in_tail.any())

    def _refuse_infinite_loss(self, losses: list[Tensor], epoch: int, rate: float) -> None:
        """Look at the steps since the last look, so that a GPU seldom waits and no divergence costs an epoch."""
        first = (len(losses) - 1) // LOOK_EVERY * LOOK_EVERY
        bad = (~torch.stack(losses[first:]).isfinite()).nonzero().flatten().tolist()
        if bad:
            raise self._divergence("loss is", first + bad[0] + 1, epoch, rate)

    def _refuse_infinite_weights(self, step: int, epoch: int, rate: float) -> None:
        """The loss is that before the step, so the last step shows only in the weights and statistics."""
        state = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        if not bool(torch.stack([tensor.isfinite().all() for tensor in state]).all()):
            raise self._divergence("weights are", step, epoch, rate)

    def _divergence(self, what: str, step: int, epoch: int, rate: float) -> LandscapeError:
        penalty = "" if self.regularizer is None else ", regularizer.weight"
        causes = f"optimizer.lr{penalty} or the perturbation radius"
        return LandscapeError(
            f"the {what} no longer finite: epoch {epoch + 1}, step {step}, learning rate {rate:g}; {self._kept()}. "
            f"Lower {causes} and train again."
        )

    def _kept(self) -> str:
        last = self.folder / "last.safetensors"
        info = read_info(last) if last.is_file() else None
        return "no epoch was finished" if info is None else f"the last good checkpoint is {last} (epoch {info.epoch})"

    # ------------------------------------------------------------------ files

    def _save(self, record: EpochRecord, log: TensorBoardLog | None) -> None:
        try:
            self._write(record)
            if log is not None:
                log.epoch(record)
        except LandscapeError as error:
            full = isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL
            way_out = "Make room, then the same command with --resume goes on" if full else "--resume goes on"
            raise LandscapeError(
                f"{error}; {self._kept()}. {way_out} (`landscape figures make` resumes without it)."
            ) from error.__cause__

    def _write(self, record: EpochRecord) -> None:
        info = CheckpointInfo(
            recipe=self.recipe.dump(),
            epoch=record.epoch,
            class_names=list(self.data.class_names),
            class_counts=list(self.data.counts),
            in_channels=self.channels,
            image_size=self.image_size,
            metrics={"accuracy": record.accuracy, **{k: v for k, v in record.groups.items() if not math.isnan(v)}},
        )
        if record.accuracy > max((other.accuracy for other in self.history[:-1]), default=-1.0):
            save_checkpoint(self.folder / "best.safetensors", self.model, info)
        every = self.recipe.run.save_every
        if every and record.epoch % every == 0:
            save_checkpoint(self.folder / f"epoch-{record.epoch:04d}.safetensors", self.model, info)
        save_checkpoint(self.folder / "last.safetensors", self.model, info)
        lines = "".join(json_text(asdict(entry)) + "\n" for entry in self.history)
        with atomic_replacement(self.folder / "history.jsonl") as path:
            path.write_text(lines, encoding="utf-8")
        # Last, and complete in itself: a run killed before this line repeats the epoch, with the same outcome.
        save_resume_state(self.folder / "resume.pt", self._resume_state())

    def _resume_state(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe.dump(),
            "device": self.device.type,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "regularizer": None if self.regularizer is None else self.regularizer.state_dict(),
            "generator": self.generator.get_state(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "history": [asdict(entry) for entry in self.history],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        fit_state(self.model, state["model"], self.folder / "resume.pt")
        self.optimizer.load_state_dict(state["optimizer"])
        if self.regularizer is not None:
            self.regularizer.load_state_dict(state["regularizer"])
        torch.set_rng_state(state["rng"])
        if state["device"] == self.device.type:
            self.generator.set_state(state["generator"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"], self.device)
        else:
            # A generator's state means nothing on another kind of device; the run goes on with a stream of its own.
            self.generator.manual_seed(self.recipe.run.seed + len(state["history"]))
        self.history = [EpochRecord(**{**entry, "per_class": tuple(entry["per_class"])}) for entry in state["history"]]


def build_training_loss(recipe: Recipe, counts: tuple[int, ...]) -> ClassificationLoss:
    """The loss of a recipe without class weights; a cosine head's logits are multiplied by s."""
    return build_loss(recipe.loss.name, counts, logit_scale=recipe.logit_scale, **recipe.loss.settings())
