"""Accuracy: all, by group, by class; of an image alone, and of an image together with its mirror image.

Papers differ in two choices and seldom say which they made: the epoch (the last, or the best on the test split) and
whether the logits of an image and its mirror image are averaged first (ImbSAM, SSE-SAM). Here the last epoch without
averaging is the result; the other three cells are for comparison with what was published.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.data import ClassGroups, LabelledImages, Normalization
from landscape.errors import LandscapeError

_BATCH_SIZE = 512  # images a forward pass


@dataclass(frozen=True)
class Evaluation:
    """Counts of right answers; every accuracy is computed from them."""

    correct: tuple[int, ...]  # (C,)
    total: tuple[int, ...]  # (C,)

    @classmethod
    def of(cls, labels: Tensor, predicted: Tensor, num_classes: int) -> Evaluation:
        """Count predictions ``(N,)`` against labels ``(N,)``."""
        right = labels[predicted == labels]
        correct, total = (torch.bincount(each, minlength=num_classes).tolist() for each in (right, labels))
        return cls(tuple(correct), tuple(total))

    @property
    def accuracy(self) -> float:
        """Share of all samples; on a balanced test set it equals the mean over classes."""
        return sum(self.correct) / sum(self.total)

    @property
    def per_class(self) -> tuple[float, ...]:
        """``(C,)``; NaN for a class without samples."""
        return tuple(c / t if t else float("nan") for c, t in zip(self.correct, self.total, strict=True))

    def per_group(self, groups: ClassGroups) -> dict[str, float]:
        """Share of the samples of each group's classes; NaN for an empty group."""
        shares = {}
        for name, classes in groups.items():
            total = sum(self.total[c] for c in classes)
            shares[name] = sum(self.correct[c] for c in classes) / total if total else float("nan")
        return shares


def predict(
    model: nn.Module,
    images: Tensor,
    normalization: Normalization,
    *,
    batch_size: int = _BATCH_SIZE,
    channels_last: bool = False,
) -> Tensor:
    """Logits ``(N, C)`` of uint8 images ``(N, channels, height, width)``, in eval mode; the mode is put back after."""
    inputs = _inputs(model, images.split(batch_size), normalization, channels_last=channels_last)
    with _evaluating(model):
        return torch.cat([model(batch).float() for batch in inputs])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _inputs(
    model: nn.Module, batches: Iterable[Tensor], normalization: Normalization, *, channels_last: bool
) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    for batch in batches:
        inputs = normalization(batch.to(device))
        yield inputs.contiguous(memory_format=torch.channels_last) if channels_last else inputs


def check_fit(model: nn.Module, images: Tensor, normalization: Normalization, num_classes: int) -> None:
    """Ask a model about a few images, and refuse one that cannot take them or does not answer with C numbers each.

    Args:
        model: in any mode, on any device.
        images: uint8 ``(n, channels, height, width)``, n = 1 is enough.
        normalization: from bytes to what the model takes.
        num_classes: C.

    Raises:
        LandscapeError: what does not fit, in one line.
    """
    try:
        answer = predict(model, images, normalization)
    except LandscapeError:
        raise
    except Exception as error:
        shape = "×".join(map(str, images.shape[1:]))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LandscapeError(f"{type(model).__name__} cannot take images of {shape}: {reason}") from error
    if answer.shape != (len(images), num_classes):
        raise LandscapeError(
            f"{type(model).__name__} answers {len(images)} image with shape {tuple(answer.shape)}, but the data has "
            f"{num_classes} classes: expected ({len(images)}, {num_classes}). Name the right model or the right data."
        )


def check_cosines(model: nn.Module, images: Tensor, normalization: Normalization) -> None:
    """Refuse a model that does not answer with cosines, for a loss that multiplies them by its own scale.

    Args:
        model: in any mode, on any device; one that :func:`check_fit` has let pass.
        images: uint8 ``(n, channels, height, width)``, a few.
        normalization: from bytes to what the model takes.

    Raises:
        LandscapeError: an answer outside [−1, 1].
    """
    inputs = normalization(images.to(next(model.parameters()).device))
    with _evaluating(model):
        # Fresh raw logits may well be small; on far brighter images they grow, and cosines do not.
        largest = max(float(model(factor * inputs).abs().max()) for factor in (1.0, 1e4))
    if largest > 1 + 1e-3:
        raise LandscapeError(
            f"{type(model).__name__} answers {largest:.3g}, not cosines in [−1, 1]: LDAM needs a cosine head, as does "
            "model.head = 'cosine'. End the model in landscape.models.heads.CosineHead or choose another loss."
        )


def evaluate(
    model: nn.Module, data: LabelledImages, normalization: Normalization, *, channels_last: bool = False
) -> Evaluation:
    """Accuracy of a classifier on a set; prediction is the largest raw logit, whatever the training loss."""
    inputs = _inputs(model, data.batches(_BATCH_SIZE), normalization, channels_last=channels_last)
    with _evaluating(model):
        return _count(data, [model(batch).argmax(1) for batch in inputs])


def evaluate_with_flips(
    model: nn.Module, data: LabelledImages, normalization: Normalization, *, channels_last: bool = False
) -> tuple[Evaluation, Evaluation]:
    """Accuracy by the logits of every image, and by the mean of its logits and those of its mirror image.

    Returns:
        (without, with) averaging; the first is what :func:`evaluate` gives.

    Cost: two forward passes, one reading of the images.

    Source: the released evaluation of ImbSAM and SSE-SAM averages.
    """
    alone, averaged = [], []
    with _evaluating(model):
        for batch in _inputs(model, data.batches(_BATCH_SIZE), normalization, channels_last=channels_last):
            logits = model(batch)
            alone.append(logits.argmax(1))
            averaged.append((logits + model(batch.flip(-1))).argmax(1))
    return _count(data, alone), _count(data, averaged)


def _count(data: LabelledImages, predicted: list[Tensor]) -> Evaluation:
    return Evaluation.of(data.labels.cpu(), torch.cat(predicted).cpu(), data.num_classes)
