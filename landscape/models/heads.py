"""Classifier heads: from features to one number a class.

| head | output | parameters | when |
|---|---|---|---|
| ``linear`` | ⟨x, w_c⟩ + b_c | (d + 1)·C | every loss on logits |
| ``cosine`` | ⟨x/‖x‖, w_c/‖w_c‖⟩ | d·C | LDAM, whose margins are in units of the cosine |
| ``learned-cosine`` | softplus(a)·⟨x/‖x‖, w_c/‖w_c‖⟩ + b_c | (d + 1)·C + 1 | CosineCE, TailCalibX |
| ``learned-cosine-legacy`` | the same with w_cj/‖w_·j‖ | (d + 1)·C + 1 | to repeat numbers of TailCalibX's code |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import LandscapeError

LinearHead = nn.Linear


class CosineHead(nn.Module):
    """Cosine of the angle between the features and each class vector ("normed linear" of LDAM, no bias).

        z_c = ⟨x/‖x‖, w_c/‖w_c‖⟩ ∈ [−1, 1]

    There is no scale in it: the loss multiplies (LDAM's s). The function does not depend on the lengths ‖w_c‖; weight
    decay still shrinks them, which only changes the effective step size. Initialised uniform(−1, 1) and then to unit
    length.

    Args:
        in_features: d.
        num_classes: C.

    Source: Cao et al., NeurIPS 2019.
    """

    def __init__(self, in_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, in_features).uniform_(-1.0, 1.0)))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, d) to cosines (N, C), in float32 at least: multiplied by s = 30, bf16's third digit counts."""
        if not torch.is_autocast_enabled(features.device.type):
            return F.linear(_unit(features), _unit(self.weight))
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(_unit(features.float()), _unit(self.weight))

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"in_features={self.weight.shape[1]}, num_classes={self.weight.shape[0]}"


class LearnedCosineHead(nn.Module):
    """Cosines with a learned scale and a learned offset a class: logits that plain cross-entropy takes.

        z_c = softplus(a)·⟨x/‖x‖, w_c/‖w_c‖⟩ + b_c

    a starts at 10 (softplus(10) = 10.00005), b at 0, each w_c uniform(−1, 1) and then at unit length. The scale is in
    the model, so a loss must not multiply once more.

    Args:
        in_features: d.
        num_classes: C.
        legacy: normalise as TailCalibX's code does, every feature over the classes, w_cj/√(Σ_k w_kj²). Class vectors
            then have different lengths, and a long one wins at the same angle.

    Source: the first stage "CosineCE" of TailCalibX (Vigneswaran et al., ICVGIP 2021).
    """

    def __init__(self, in_features: int, num_classes: int, *, legacy: bool = False) -> None:
        super().__init__()
        self.legacy = legacy
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, in_features).uniform_(-1.0, 1.0)))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.raw_scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, d) to logits (N, C), in float32 at least, as :class:`CosineHead`."""
        if not torch.is_autocast_enabled(features.device.type):
            return self._logits(features)
        with torch.autocast(features.device.type, enabled=False):
            return self._logits(features.float())

    def _logits(self, features: Tensor) -> Tensor:
        directions = _unit(self.weight.T).T if self.legacy else _unit(self.weight)
        return F.softplus(self.raw_scale) * F.linear(_unit(features), directions) + self.bias

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        sizes = f"in_features={self.weight.shape[1]}, num_classes={self.weight.shape[0]}"
        return sizes + ", legacy=True" * self.legacy


def _unit(vectors: Tensor) -> Tensor:
    # x·rsqrt(x·x) rather than x/‖x‖: a dead feature vector (all zeros after ReLU) maps to zero and has finite
    # derivatives of every order, where the norm has none.
    return vectors * vectors.square().sum(dim=-1, keepdim=True).clamp_min(1e-24).rsqrt()


_HEADS: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": LinearHead,
    "cosine": CosineHead,
    "learned-cosine": LearnedCosineHead,
    "learned-cosine-legacy": partial(LearnedCosineHead, legacy=True),
}


def head_names() -> tuple[str, ...]:
    """Names that :func:`make_head` knows."""
    return tuple(_HEADS)


def make_head(kind: str, in_features: int, num_classes: int) -> nn.Module:
    """Build a head of :func:`head_names`: features (N, in_features) to (N, num_classes).

    Raises:
        LandscapeError: another kind.
    """
    if kind not in _HEADS:
        raise LandscapeError(f"unknown head '{kind}': use {' or '.join(repr(name) for name in _HEADS)}")
    return _HEADS[kind](in_features, num_classes)


def head_kind(module: nn.Module) -> str | None:
    """The name by which :func:`make_head` builds such a module; ``None`` if it is no head of ours."""
    if isinstance(module, LearnedCosineHead):
        return "learned-cosine-legacy" if module.legacy else "learned-cosine"
    if isinstance(module, CosineHead):
        return "cosine"
    return "linear" if isinstance(module, LinearHead) else None
