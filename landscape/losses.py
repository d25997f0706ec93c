"""The losses of long-tailed classification, the class weights that go with them, and when the weights switch on.

Every loss answers with a pair of sums (Σ_i w_i ℓ_i, Σ_i w_i) rather than with a mean, so that chunks of any size can be
added up and divided once. The mean that training minimises is their quotient: weighted losses are divided by the sum of
the weights in the batch, not by the batch size.

| name  | per-sample loss ℓ                                       | use it when                                        |
|-------|---------------------------------------------------------|----------------------------------------------------|
| ce    | CE(z)                                                   | baseline                                           |
| focal | (1 − p_y)^γ CE(z)                                       | easy samples dominate the gradient                 |
| ldam  | CE(s·(z − m_y e_y))                                     | cosine head; rare classes need a wider margin      |
| vs    | CE(Δ∘z + ι)                                             | additive and multiplicative correction together    |
| la    | CE(z + ι)                                               | logit adjustment: consistent for balanced accuracy |
| cdt   | CE(Δ∘z)                                                 | class-dependent temperatures                       |

With a cosine head, whose logits lie in [−1, 1], every z above is the logit times the scale s (LDAM writes it out).
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from landscape.errors import LandscapeError, did_you_mean

ClassCounts = Sequence[int] | NDArray[np.integer[Any]] | Tensor

LOSSES = ("ce", "focal", "ldam", "vs", "la", "cdt")
WEIGHT_RULES = ("none", "rw", "drw")
LDAM_SCALE = 30.0


class LossSum(NamedTuple):
    """A loss over some samples as two sums that add up over any split of the samples."""

    total: Tensor  # (), Σ_i w_i ℓ_i, nats
    weight: Tensor  # (), Σ_i w_i

    @property
    def mean(self) -> Tensor:
        """The weighted mean Σ_i w_i ℓ_i / Σ_i w_i, shape ``()``, in nats."""
        return self.total / self.weight


@dataclass(frozen=True, eq=False)
class ClassificationLoss(ABC):
    """A classification loss with optional class weights: (Σ_i w_{y_i} ℓ_i, Σ_i w_{y_i}).

    Losses are immutable; :meth:`to` and :meth:`with_class_weights` return changed copies. They hold no trainable
    parameter, can be traced by ``make_fx`` and transformed by ``torch.func``, and are twice differentiable in the
    logits. Half-precision logits are raised to float32 first.
    """

    logit_scale: float = field(default=1.0, kw_only=True)  # s; 1 for a linear head, well above 1 for a cosine head
    class_weights: Tensor | None = field(default=None, kw_only=True)  # (C,), positive; None: every weight is 1

    @abstractmethod
    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The unweighted losses ``(B,)`` of logits ``(B, C)`` that are float32 or float64."""

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The unweighted losses ℓ_i.

        Args:
            logits: raw model outputs, ``(B, C)``.
            labels: class indices, int64, ``(B,)``.

        Returns:
            ``(B,)``, in nats.

        Raises:
            LandscapeError: the logits have another number of classes than the loss was built for.
        """
        for spec in dataclasses.fields(self):
            value = getattr(self, spec.name)
            # Indexing a vector that is too long by the labels would go unnoticed.
            if isinstance(value, Tensor) and value.shape[0] != logits.shape[-1]:
                raise LandscapeError(
                    f"the {spec.name} of {type(self).__name__} are for {value.shape[0]} classes, but the model has "
                    f"{logits.shape[-1]} outputs; build the loss from the class counts of the model's own data"
                )
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        return self._losses(logits, labels)

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits if self.logit_scale == 1 else self.logit_scale * logits

    def sample_weights(self, labels: Tensor) -> Tensor:
        """The weights w_{y_i}, ``(B,)``: 1 where the loss has no class weights."""
        if self.class_weights is None:
            return torch.ones(labels.shape, device=labels.device)
        return self.class_weights[labels]

    def __call__(self, logits: Tensor, labels: Tensor) -> LossSum:
        """(Σ_i w_{y_i} ℓ_i, Σ_i w_{y_i}) for logits ``(B, C)`` and labels ``(B,)``."""
        losses = self.per_sample(logits, labels)
        weights = self.sample_weights(labels).to(losses.dtype)
        return LossSum((weights * losses).sum(), weights.sum())

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A copy whose per-class tensors live on ``device`` in ``dtype``; ``None`` leaves either as it is.

        Losses are built in float64 on the CPU. Any floating dtype gives right values with any logits; the dtype of the
        logits saves a conversion a call.
        """
        moved: dict[str, Any] = {
            spec.name: value.to(device=device, dtype=dtype)
            for spec in dataclasses.fields(self)
            if isinstance(value := getattr(self, spec.name), Tensor)
        }
        return dataclasses.replace(self, **moved)

    def with_class_weights(self, class_weights: Tensor | None) -> Self:
        """A copy with other class weights, or with none.

        Args:
            class_weights: w_c, ``(C,)``, positive, on the device of the labels; only their ratios change the mean loss.

        Raises:
            LandscapeError: not a vector of positive numbers.
        """
        weights = class_weights
        if weights is not None and (weights.dim() != 1 or not bool((weights.isfinite() & (weights > 0)).all())):
            raise LandscapeError(
                f"class weights must be a vector of positive numbers, one a class; got {weights.tolist()}"
            )
        return dataclasses.replace(self, class_weights=class_weights)


@dataclass(frozen=True, eq=False)
class CrossEntropy(ClassificationLoss):
    """ℓ = −log softmax(s·z)_y."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self._scaled(logits), labels, reduction="none")


@dataclass(frozen=True, eq=False)
class Focal(ClassificationLoss):
    """ℓ = −(1 − p_y)^γ log p_y with p = softmax(s·z) (Lin et al. 2017, arXiv 1708.02002).

    p comes from the unweighted cross-entropy also where class weights are given, so that it stays a probability; and
    the mean divides by the sum of the weights like every loss here. The focal loss of the LDAM scripts does neither.
    """

    gamma: float = 1.0  # focusing exponent, 0 is cross-entropy

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        log_p = F.log_softmax(self._scaled(logits), dim=-1)
        # log(1 − p_y) from the other classes: 1 − p_y itself rounds to 0 on a fitted sample, where 0^γ has no slope.
        log_q = log_p.masked_fill(_is_target(logits, labels), -torch.inf).logsumexp(dim=-1)
        return (self.gamma * log_q).exp() * F.nll_loss(log_p, labels, reduction="none")


@dataclass(frozen=True, eq=False)
class Ldam(ClassificationLoss):
    """ℓ = −log softmax(s·(z − m_y e_y))_y on cosine logits z ∈ [−1, 1] (Cao et al. 2019, arXiv 1906.07413).

    The margin lowers the cosine of the true class before scaling, in training only; the prediction is argmax z.
    """

    margins: Tensor  # (C,), m_c in units of the cosine

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        lowered = logits - _is_target(logits, labels) * self.margins.to(logits.dtype)
        return F.cross_entropy(self._scaled(lowered), labels, reduction="none")


@dataclass(frozen=True, eq=False)
class VectorScaling(ClassificationLoss):
    """ℓ = −log softmax(Δ∘(s·z) + ι)_y, Δ_c = (n_c/n_max)^γ, ι_c = τ log π_c (Kini et al. 2021, arXiv 2103.01550).

    Logit adjustment is Δ = 1 (γ = 0), class-dependent temperatures are ι = 0 (τ = 0). The prediction is argmax z.
    """

    multipliers: Tensor  # (C,), Δ_c in (0, 1]
    offsets: Tensor  # (C,), ι_c in nats

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        adjusted = self.multipliers.to(logits.dtype) * self._scaled(logits) + self.offsets.to(logits.dtype)
        return F.cross_entropy(adjusted, labels, reduction="none")


def build_loss(
    name: str,
    class_counts: ClassCounts,
    *,
    logit_scale: float | None = None,
    max_margin: float = 0.5,
    gamma: float = 0.3,
    tau: float = 1.0,
    focal_gamma: float = 1.0,
    class_weights: Tensor | None = None,
) -> ClassificationLoss:
    """The loss called ``name`` for data with these class sizes.

    Args:
        name: one of ``ce``, ``focal``, ``ldam``, ``vs``, ``la``, ``cdt``.
        class_counts: training images of each class n_c, ``(C,)``.
        logit_scale: s, which multiplies the logits of a cosine head; ``None`` is 30 for ldam and 1 for the others.
        max_margin: largest LDAM margin, in cosine units; m_c = max_margin·(n_min/n_c)^{1/4}.
        gamma: exponent of Δ_c in vs and cdt; la fixes it at 0.
        tau: factor of ι_c in vs and la; cdt fixes it at 0.
        focal_gamma: exponent of (1 − p_y) in focal.
        class_weights: w_c, ``(C,)``, positive; see :func:`class_weights_at`.

    Returns:
        The loss, its tensors in float64 on the CPU; move it with :meth:`ClassificationLoss.to`.

    Raises:
        LandscapeError: unknown name, a setting out of range, or an empty class where the loss depends on n_c.
    """
    if name not in LOSSES:
        raise LandscapeError(_unknown("loss", name, LOSSES))
    if logit_scale is None:
        logit_scale = LDAM_SCALE if name == "ldam" else 1.0
    if not logit_scale > 0:
        raise LandscapeError(f"logit_scale = {logit_scale}: the scale of the logits must be positive")
    num_classes = len(class_counts)
    if class_weights is not None and class_weights.shape != (num_classes,):
        raise LandscapeError(
            f"class weights of shape {tuple(class_weights.shape)} for {num_classes} classes; give one weight a class"
        )
    loss: ClassificationLoss
    if name == "ce":
        loss = CrossEntropy(logit_scale=logit_scale)
    elif name == "focal":
        if focal_gamma < 0:
            raise LandscapeError(f"focal_gamma = {focal_gamma}: the focal exponent must be 0 or more")
        loss = Focal(focal_gamma, logit_scale=logit_scale)
    elif name == "ldam":
        if max_margin < 0:
            raise LandscapeError(f"max_margin = {max_margin}: the largest margin must be 0 or more (0.5 in the paper)")
        counts = _positive_counts(class_counts)
        loss = Ldam(max_margin * (counts.min() / counts) ** 0.25, logit_scale=logit_scale)
    else:
        counts = _positive_counts(class_counts)
        multipliers = (counts / counts.max()) ** (0.0 if name == "la" else gamma)
        offsets = (0.0 if name == "cdt" else tau) * (counts / counts.sum()).log()
        loss = VectorScaling(multipliers, offsets, logit_scale=logit_scale)
    return loss.with_class_weights(class_weights)


def effective_number_weights(counts: ClassCounts, beta: float = 0.9999) -> Tensor:
    """Class weights from the effective number of samples, w_c ∝ (1 − β)/(1 − β^{n_c}) with Σ_c w_c = C.

    β = 0 weighs all classes alike; β → 1 tends to w_c ∝ 1/n_c.

    Args:
        counts: training images of each class, ``(C,)``.
        beta: β in [0, 1).

    Returns:
        ``(C,)``, float64 on the CPU.

    Raises:
        LandscapeError: β out of range, or an empty class.

    Source: Cui et al. 2019, arXiv 1901.05555.
    """
    if not 0 <= beta < 1:
        raise LandscapeError(f"beta = {beta}: the effective number of samples needs 0 <= beta < 1 (0.9999 is usual)")
    weights = (1 - beta) / (1 - beta ** _positive_counts(counts))
    return weights * (len(weights) / weights.sum())


def class_weights_at(
    epoch: int, rule: str, counts: ClassCounts, *, switch_epoch: int, beta: float = 0.9999
) -> Tensor | None:
    """The class weights in force at an epoch: never (``none``), always (``rw``), or from ``switch_epoch`` on (``drw``).

    Args:
        epoch: 0-based epoch index.
        rule: ``none``, ``rw`` (reweighting) or ``drw`` (deferred reweighting, arXiv 1906.07413).
        counts: training images of each class, ``(C,)``.
        switch_epoch: first epoch with weights under ``drw``.
        beta: β of :func:`effective_number_weights`.

    Returns:
        ``(C,)``, float64 on the CPU, or ``None`` while every class weighs the same.

    Raises:
        LandscapeError: unknown rule, or what :func:`effective_number_weights` refuses.
    """
    if rule not in WEIGHT_RULES:
        raise LandscapeError(_unknown("class-weight rule", rule, WEIGHT_RULES))
    if rule == "none" or (rule == "drw" and epoch < switch_epoch):
        return None
    return effective_number_weights(counts, beta)


def _is_target(logits: Tensor, labels: Tensor) -> Tensor:
    # Not one_hot: that looks at the values of the labels, which tracing and vmap refuse.
    return labels[:, None] == torch.arange(logits.shape[-1], device=logits.device)


def _positive_counts(counts: ClassCounts) -> Tensor:
    values = torch.as_tensor(counts, dtype=torch.float64, device="cpu")
    empty = (values < 1).nonzero().flatten().tolist()
    if empty:
        raise LandscapeError(
            f"class {empty[0]} has {values[empty[0]]:g} training images, but this loss or weighting needs at least one "
            "in every class; leave empty classes out of the data"
        )
    return values


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    return f"unknown {kind} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}"
