"""The methods: what a network says of a row or a pair of rows, and what it is told.

| name    | a sample is | output o           | ℓ of the head (unlabelled) | ℓ of the tail (labelled anomalies)         |
|---------|-------------|--------------------|----------------------------|--------------------------------------------|
| devnet  | a row       | (φ(x) − μ)/σ       | abs(o)                     | max(0, 5 − o)                              |
| deepsad | a row       | φ(x) − c, a vector | ‖o‖²                       | 1/(‖o‖² + 1e-6)                            |
| prenet  | a pair      | v·(φ(x), φ(y)) + b | abs(o) of (u, u)           | abs(4 − o) of (a, u), abs(8 − o) of (a, a) |

What is fixed before training (μ and σ, c) is a buffer of the network, so a loss has no state, and a checkpoint all of
it. Every output is higher, or longer, for what is more of an anomaly.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.errors import LandscapeError, did_you_mean
from landscape.losses import ClassificationLoss

MethodName = Literal["devnet", "deepsad", "prenet"]

MARGIN = 5.0
REFERENCE_DRAWS = 5_000
INVERSE_EPSILON = 1e-6
PAIR_TARGET = 4.0  # of a pair, for each labelled anomaly in it
PARTNERS = 30
FROZEN_PAIRS = 4_096


class AnomalyLoss(ClassificationLoss):
    """(Σ_i w_i ℓ_i, Σ_i w_i) of a detector's outputs ``(B, k)`` and kinds of sample ``(B,)``, 0 = unlabelled."""

    def per_sample(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The unweighted losses ℓ_i, ``(B,)``."""
        # Outputs are not one a class, so the weights are not held against their number.
        return self._losses(logits, labels)


@dataclasses.dataclass(frozen=True, eq=False)
class DeviationLoss(AnomalyLoss):
    """ℓ = |o| of unlabelled rows, max(0, 5 − o) of anomalies (Pang et al. 2019, arXiv 1911.08623)."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        deviation = logits.squeeze(1)
        return torch.where(labels == 1, F.relu(MARGIN - deviation), deviation.abs())


@dataclasses.dataclass(frozen=True, eq=False)
class DistanceLoss(AnomalyLoss):
    """ℓ = ‖o‖² of unlabelled rows, 1/(‖o‖² + 1e-6) of anomalies (Ruff et al. 2020, arXiv 1906.02694)."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        squared = logits.square().sum(1)
        return torch.where(labels == 1, 1 / (squared + INVERSE_EPSILON), squared)


@dataclasses.dataclass(frozen=True, eq=False)
class PairLoss(AnomalyLoss):
    """ℓ = |t − o| with t = 0, 4, 8 for pairs with 0, 1, 2 labelled anomalies (Pang et al. 2023, arXiv 1910.13601)."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (PAIR_TARGET * labels - logits.squeeze(1)).abs()


class Detector(nn.Module, ABC):
    """A network with what its method says of losses, batches and scores.

    Args:
        num_features: d.
    """

    loss: ClassVar[AnomalyLoss]
    is_tail: ClassVar[tuple[bool, ...]]  # by kind of sample
    lr: ClassVar[float]  # chosen by the loss of held-out training rows; see docs/methods.md
    weight_decay: ClassVar[float]

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    @abstractmethod
    def prepare(self, train: Tensor, generator: torch.Generator) -> None:
        """Fix what training leaves alone, from the training rows ``(N, d)`` and the fresh network."""

    @abstractmethod
    def draw_batches(
        self, unlabelled: Tensor, anomalies: Tensor, steps: int, size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Samples of ``steps`` batches and their kinds, which are the same in every batch.

        Half of a batch is head and half is tail, drawn with replacement.

        Args:
            unlabelled: ``(N_u, d)``.
            anomalies: ``(N_a, d)``.
            steps: S.
            size: B, a multiple of 4.
            generator: on the CPU.

        Returns:
            ``(S, B, ...)`` and ``(B,)`` int64.
        """

    @abstractmethod
    def frozen_samples(self, train: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The samples over which the training loss is a fixed function, ``(P, ...)``, and their kinds ``(P,)``."""

    @abstractmethod
    def scores(self, rows: Tensor, unlabelled: Tensor, anomalies: Tensor, generator: torch.Generator) -> Tensor:
        """How much of an anomaly each row is, ``(M,)`` for rows ``(M, d)``; only the order matters."""


class _RowDetector(Detector):
    is_tail = (False, True)

    def draw_batches(
        self, unlabelled: Tensor, anomalies: Tensor, steps: int, size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        half = size // 2
        rows = [_drawn(kind, (steps, half), generator) for kind in (unlabelled, anomalies)]
        return torch.cat(rows, 1), torch.tensor([0, 1], device=unlabelled.device).repeat_interleave(half)

    def frozen_samples(self, train: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return train, labels


class DevNet(_RowDetector):
    """One hidden layer of 20 ReLU and a linear score, in standard deviations of a normal reference.

    A score's deviation is (φ(x) − μ)/σ with μ, σ of 5,000 draws of N(0, 1). 20d + 41 parameters.

    Source: Pang et al. 2019, arXiv 1911.08623.
    """

    loss = DeviationLoss()
    lr = 0.01
    weight_decay = 0.01
    reference_mean: Tensor  # ()
    reference_std: Tensor  # ()

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.hidden = nn.Linear(num_features, 20)
        self.score = nn.Linear(20, 1)
        self.register_buffer("reference_mean", torch.zeros(()))
        self.register_buffer("reference_std", torch.ones(()))

    def prepare(self, train: Tensor, generator: torch.Generator) -> None:
        reference = torch.randn(REFERENCE_DRAWS, generator=generator)
        self.reference_mean.fill_(reference.mean())
        self.reference_std.fill_(reference.std(correction=0))

    def forward(self, rows: Tensor) -> Tensor:
        """Deviations ``(B, 1)`` of rows ``(B, d)``."""
        return (self.score(F.relu(self.hidden(rows))) - self.reference_mean) / self.reference_std

    def scores(self, rows: Tensor, unlabelled: Tensor, anomalies: Tensor, generator: torch.Generator) -> Tensor:
        return self(rows).squeeze(1)


class DeepSad(_RowDetector):
    """A bias-free network whose unlabelled rows are drawn to a centre c, and labelled anomalies driven away from it.

    d → 32 → 16 → 8 with ReLU. c is the mean output of the fresh network over the training rows, with coordinates below
    0.1 in size pushed to ±0.1; without biases and with c ≠ 0 no constant map is a solution. 32d + 640 parameters.

    Source: Ruff et al. 2020, arXiv 1906.02694.
    """

    loss = DistanceLoss()
    lr = 0.001
    weight_decay = 1e-6
    center: Tensor  # (8,)

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.hidden1 = nn.Linear(num_features, 32, bias=False)
        self.hidden2 = nn.Linear(32, 16, bias=False)
        self.embedding = nn.Linear(16, 8, bias=False)
        self.register_buffer("center", torch.zeros(8))

    def prepare(self, train: Tensor, generator: torch.Generator) -> None:
        with torch.no_grad():
            mean = self(train).mean(0) + self.center
        self.center.copy_(torch.where(mean < 0, mean.clamp(max=-0.1), mean.clamp(min=0.1)))

    def forward(self, rows: Tensor) -> Tensor:
        """Displacements from the centre, ``(B, 8)``, of rows ``(B, d)``."""
        return self.embedding(F.relu(self.hidden2(F.relu(self.hidden1(rows))))) - self.center

    def scores(self, rows: Tensor, unlabelled: Tensor, anomalies: Tensor, generator: torch.Generator) -> Tensor:
        return self(rows).square().sum(1)


class PReNet(Detector):
    """A pair of rows is told how many labelled anomalies it holds: φ(x) of 20 ReLU, shared, and a linear relation.

    20d + 61 parameters. A row's score is its mean relation to 30 labelled anomalies, on the left, and to 30 unlabelled
    rows, on the right.

    Source: Pang et al. 2023, arXiv 1910.13601.
    """

    loss = PairLoss()
    # (a, a) and (a, u) are the pairs in which a labelled anomaly takes part.
    is_tail = (False, True, True)
    lr = 0.1
    weight_decay = 0.01

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.hidden = nn.Linear(num_features, 20)
        self.relation = nn.Linear(40, 1)

    def prepare(self, train: Tensor, generator: torch.Generator) -> None:
        """Nothing is fixed."""

    def forward(self, pairs: Tensor) -> Tensor:
        """Relations ``(B, 1)`` of pairs ``(B, 2, d)``."""
        return self.relation(F.relu(self.hidden(pairs)).flatten(1))

    def draw_batches(
        self, unlabelled: Tensor, anomalies: Tensor, steps: int, size: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        quarter = size // 4
        kinds = [
            _pairs(left, right, (steps, count), generator)
            for left, right, count in (
                (unlabelled, unlabelled, 2 * quarter),
                (anomalies, unlabelled, quarter),
                (anomalies, anomalies, quarter),
            )
        ]
        counts = torch.tensor([2 * quarter, quarter, quarter], device=unlabelled.device)
        return torch.cat(kinds, 1), torch.arange(3, device=unlabelled.device).repeat_interleave(counts)

    def frozen_samples(self, train: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pairs, kinds = self.draw_batches(train[labels == 0], train[labels == 1], 1, FROZEN_PAIRS, generator)
        return pairs[0], kinds

    def scores(self, rows: Tensor, unlabelled: Tensor, anomalies: Tensor, generator: torch.Generator) -> Tensor:
        left, right = (_drawn(kind, (PARTNERS,), generator) for kind in (anomalies, unlabelled))
        features, left, right = (F.relu(self.hidden(each)) for each in (rows, left, right))
        # The relation is linear in both features, so a mean over partners is the relation to their mean feature.
        to_anomalies = self.relation(torch.cat([left.mean(0).expand_as(features), features], 1))
        to_unlabelled = self.relation(torch.cat([features, right.mean(0).expand_as(features)], 1))
        return (to_anomalies + to_unlabelled).squeeze(1) / 2


METHODS: dict[str, type[Detector]] = {"devnet": DevNet, "deepsad": DeepSad, "prenet": PReNet}


def method_of(name: str) -> type[Detector]:
    """The detector called ``name``.

    Raises:
        LandscapeError: there is none.
    """
    if name not in METHODS:
        raise LandscapeError(f"unknown method '{name}'{did_you_mean(name, METHODS)}; known: {', '.join(METHODS)}")
    return METHODS[name]


def _drawn(rows: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Rows drawn with replacement, ``(*shape, d)``."""
    index = torch.randint(len(rows), (math.prod(shape),), generator=generator)
    return rows[index.to(rows.device)].reshape(*shape, rows.shape[1])


def _pairs(left: Tensor, right: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.stack([_drawn(left, shape, generator), _drawn(right, shape, generator)], -2)
