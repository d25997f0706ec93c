"""Accuracy: all, by group, by class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from landscape.data import ClassGroups, ImageSet, Normalization
from landscape.errors import LandscapeError


@dataclass(frozen=True)
class Evaluation:
    """Counts of right answers; every accuracy is computed from them."""

    correct: tuple[int, ...]  # (C,)
    total: tuple[int, ...]  # (C,)

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


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    normalization: Normalization,
    *,
    batch_size: int = 512,
    channels_last: bool = False,
) -> Tensor:
    """Logits ``(N, C)`` of uint8 images ``(N, channels, height, width)``, in eval mode; the mode is put back after."""
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    logits = []
    for batch in images.split(batch_size):
        inputs = normalization(batch.to(device))
        if channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits.append(model(inputs).float())
    model.train(was_training)
    return torch.cat(logits)


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


@torch.no_grad()
def check_cosines(model: nn.Module, images: Tensor, normalization: Normalization) -> None:
    """Refuse a model that does not answer with cosines, for a loss that multiplies them by its own scale.

    Args:
        model: in any mode, on any device; one that :func:`check_fit` has let pass.
        images: uint8 ``(n, channels, height, width)``, a few.
        normalization: from bytes to what the model takes.

    Raises:
        LandscapeError: an answer outside [−1, 1].
    """
    was_training = model.training
    model.eval()
    inputs = normalization(images.to(next(model.parameters()).device))
    # Fresh raw logits may well be small; on far brighter images they grow, and cosines do not.
    largest = max(float(model(factor * inputs).abs().max()) for factor in (1.0, 1e4))
    model.train(was_training)
    if largest > 1 + 1e-3:
        raise LandscapeError(
            f"{type(model).__name__} answers {largest:.3g}, not cosines in [−1, 1]: LDAM needs a cosine head, as does "
            "model.head = 'cosine'. End the model in landscape.models.heads.CosineHead or choose another loss."
        )


def evaluate(
    model: nn.Module, data: ImageSet, normalization: Normalization, *, channels_last: bool = False
) -> Evaluation:
    """Accuracy of a classifier on a set; prediction is the largest raw logit, whatever the training loss."""
    predicted = predict(model, data.images, normalization, channels_last=channels_last).argmax(1).cpu()
    labels = data.labels.cpu()
    total = torch.bincount(labels, minlength=data.num_classes)
    correct = torch.bincount(labels[predicted == labels], minlength=data.num_classes)
    return Evaluation(tuple(correct.tolist()), tuple(total.tolist()))
