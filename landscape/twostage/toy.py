"""A long-tailed toy with two features: what resampling and TailCalibX do to the regions of a linear classifier.

Points of class c are N(m_c, S_c) in the plane, few of most classes, and as many test points of each. Three classifiers
of one kind, softmax regression z = Wx + b, are trained on them by cross-entropy:

    long-tailed   on the points as they are,
    resampled     on the same points, every class drawn equally often (cRT),
    TailCalibX    on them and on points drawn around them, until all classes have n_max, anew in every epoch.

A second stage trains a linear layer too, and its loss is convex: what differs between the three is what they see, not
where they started. The constants of the draws are those published for an imbalance of 100. Points are drawn in the
plane itself: without Tukey's ladder, which is for features that are not negative, and without the unit sphere, which
would leave one dimension of two.

Source: the setting is this project's; the draws are TailCalibX (Vigneswaran et al., ICVGIP 2021), resampling is cRT
(Kang et al., ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import skip_init

from landscape.data import epoch_order
from landscape.training.evaluation import Evaluation
from landscape.twostage.classifiers import fit
from landscape.twostage.distributions import Calibration, ClassDistributions, balancing_seeds
from landscape.twostage.settings import TwoStageSettings

Pair = tuple[float, float]

TOY_CLASSIFIERS = ("long-tailed", "resampled", "TailCalibX")
"""What they see, in the order in which they are trained."""


@dataclass(frozen=True)
class ToySettings:
    """Everything that decides a toy: a large class in the middle of smaller ones, each of another shape."""

    means: tuple[Pair, ...] = ((0.0, 0.0), (3.0, 0.8), (0.6, 3.0), (-2.8, 1.6), (-1.8, -2.4), (2.0, -2.4))
    covariances: tuple[tuple[Pair, Pair], ...] = (
        ((1.0, 0.3), (0.3, 0.7)),
        ((0.5, -0.2), (-0.2, 0.9)),
        ((1.2, 0.0), (0.0, 0.4)),
        ((0.6, 0.4), (0.4, 0.8)),
        ((0.9, -0.4), (-0.4, 0.6)),
        ((0.4, 0.2), (0.2, 0.9)),
    )
    counts: tuple[int, ...] = (400, 159, 63, 25, 10, 4)  # n_c: exponential, imbalance 100
    test_count: int = 1000  # of every class
    seed: int = 0
    neighbors: int = 3  # K
    alpha: float = 0.0
    epochs: int = 150
    lr: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 128


@dataclass(frozen=True)
class ToyClassifier:
    """One of the three."""

    name: str  # of TOY_CLASSIFIERS
    weight: Tensor  # W, (C, 2)
    bias: Tensor  # b, (C,)
    result: Evaluation  # on the test points
    generated: tuple[Tensor, Tensor] | None  # (G, 2) points of the last epoch and (G,) their classes

    def scores(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """z of points (M, 2), (M, C)."""
        return points @ self.weight.double().numpy().T + self.bias.double().numpy()


@dataclass(frozen=True)
class Toy:
    """Points and what was trained on them."""

    points: Tensor  # (N, 2) float32, class by class
    labels: Tensor  # (N,) int64
    test_points: Tensor  # (C·test_count, 2)
    test_labels: Tensor
    classifiers: tuple[ToyClassifier, ...]  # in the order of TOY_CLASSIFIERS


def run_toy(settings: ToySettings = ToySettings(), on_epoch: Callable[[], None] = lambda: None) -> Toy:
    """Draw the points, train the three classifiers and count their right answers; on the CPU, the same every time.

    An epoch of the first two is N points, of the third C·n_max. All start from W = 0, b = 0 and follow one cosine
    schedule (:func:`~landscape.twostage.classifiers.fit`).

    Args:
        settings: of the toy.
        on_epoch: called after every epoch of each classifier.

    Raises:
        LandscapeError: K is larger than C, or α negative.

    Cost: ``epochs`` · (2N + C·n_max) products with a C×2 matrix; seconds for the toy as it is.
    """
    num_classes = len(settings.counts)
    generator = torch.Generator().manual_seed(settings.seed)
    points, labels = _draw(settings, settings.counts, generator)
    test_points, test_labels = _draw(settings, (settings.test_count,) * num_classes, generator)
    stage = TwoStageSettings(
        "tailcalibx", neighbors=settings.neighbors, alpha=settings.alpha, epochs=settings.epochs, lr=settings.lr,
        momentum=settings.momentum, weight_decay=settings.weight_decay, batch_size=settings.batch_size,
    )  # fmt: skip
    epochs = _Epochs(points, labels, stage)
    classifiers = []
    for name, epoch in zip(TOY_CLASSIFIERS, (epochs.as_they_are, epochs.resampled, epochs.generated), strict=True):
        model = skip_init(nn.Linear, 2, num_classes)
        nn.init.zeros_(model.weight)
        nn.init.zeros_(model.bias)
        fit(model, epoch, stage, torch.Generator().manual_seed(settings.seed), on_epoch)
        with torch.no_grad():
            result = Evaluation.of(test_labels, model(test_points).argmax(1), num_classes)
        # Only the last of them has generated by then.
        classifiers.append(ToyClassifier(name, model.weight.detach(), model.bias.detach(), result, epochs.last))
    return Toy(points, labels, test_points, test_labels, tuple(classifiers))


def _draw(settings: ToySettings, counts: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points of every class, class by class, and their labels."""
    pieces = []
    for mean, covariance, count in zip(settings.means, settings.covariances, counts, strict=True):
        factor = torch.linalg.cholesky(torch.tensor(covariance, dtype=torch.float64)).float()
        pieces.append(torch.tensor(mean) + torch.randn(count, 2, generator=generator) @ factor.T)
    return torch.cat(pieces), torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


class _Epochs:
    """What each of the three sees in an epoch, in batches."""

    def __init__(self, points: Tensor, labels: Tensor, stage: TwoStageSettings) -> None:
        self.points, self.labels, self.size = points, labels, stage.batch_size
        self.num_classes = int(labels.max()) + 1
        distributions = ClassDistributions.of(points, labels, self.num_classes)
        self.calibration = Calibration.of(distributions, points, neighbors=stage.neighbors, alpha=stage.alpha)
        self.last: tuple[Tensor, Tensor] | None = None  # generated in the latest epoch, with their classes

    def _batches(self, points: Tensor, labels: Tensor, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in order.split(self.size):
            yield points[batch], labels[batch]

    def as_they_are(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._batches(self.points, self.labels, epoch_order(self.labels, generator))

    def resampled(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        balanced = 1 / torch.bincount(self.labels)
        yield from self._batches(self.points, self.labels, epoch_order(self.labels, generator, balanced))

    def generated(self, number: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        seeds = balancing_seeds(self.labels, self.num_classes, generator)
        self.last = self.calibration.draw(self.points, seeds, generator), self.labels[seeds]
        points, labels = torch.cat([self.points, self.last[0]]), torch.cat([self.labels, self.last[1]])
        yield from self._batches(points, labels, epoch_order(labels, generator))
