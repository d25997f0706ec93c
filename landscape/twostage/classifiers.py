"""The classifiers of second stages, and how those that learn are trained on features."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.errors import LandscapeError
from landscape.training.recipe import ScheduleRecipe
from landscape.training.schedules import learning_rate
from landscape.twostage.settings import TwoStageSettings

_TAUS = tuple(number / 10 for number in range(21))

Epoch = Callable[[int, torch.Generator], Iterator[tuple[Tensor, Tensor]]]
"""The batches (inputs, labels) of one epoch by its index."""


class ClassScales(nn.Module):
    """z_c ↦ s_c·z_c: what LWS learns on top of logits that stay. (Kang et al., ICLR 2020.)"""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(num_classes))

    def forward(self, logits: Tensor) -> Tensor:
        """(N, C) to (N, C)."""
        return self.scales * logits


class TauNorm(nn.Module):
    """z_c = ⟨x, w_c/‖w_c‖^τ⟩, without offsets: longer class vectors, those of the head, lose their start.

    τ = 0 is the classifier itself without offsets, τ = 1 divides by the whole length. (Kang et al., ICLR 2020.)
    """

    def __init__(self, weight: Tensor, tau: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12) ** tau)

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) to (N, C)."""
        return F.linear(features, self.weight)


class NearestMean(nn.Module):
    """z_c = cos(x, μ_c), or −‖x − μ_c‖: the nearest class mean. (Mensink et al. 2013; Kang et al., ICLR 2020.)"""

    def __init__(self, means: Tensor, *, euclidean: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(means)
        self.euclidean = euclidean

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) to (N, C)."""
        if self.euclidean:
            return -torch.cdist(features, self.weight)
        return F.linear(F.normalize(features), F.normalize(self.weight))


def fit(
    classifier: nn.Module,
    epoch: Epoch,
    settings: TwoStageSettings,
    generator: torch.Generator,
    on_epoch: Callable[[], None],
) -> None:
    """Train by cross-entropy with SGD: one cosine schedule, stepped after an epoch, for all parameters.

    With ``settings.legacy`` the rate stays what it is.
    """
    schedule = ScheduleRecipe(name="constant" if settings.legacy else "cosine", epochs=settings.epochs)
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    for number in range(settings.epochs):
        optimizer.param_groups[0]["lr"] = learning_rate(schedule, settings.lr, number)
        total = torch.zeros((), device=generator.device)
        for inputs, labels in epoch(number, generator):
            loss = F.cross_entropy(classifier(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        if not bool(total.isfinite()):
            raise LandscapeError(f"the loss is no longer finite in epoch {number + 1}: lower --lr {settings.lr:g}")
        on_epoch()


def choose_tau(weight: Tensor, features: Tensor, labels: Tensor) -> float:
    """The τ among 0, 0.1, …, 2 with the highest mean accuracy over classes on these features; the least of several.

    Args:
        weight: (C, d).
        features: (n, d), of every class at least one.
        labels: (n,).
    """
    sizes = torch.bincount(labels, minlength=len(weight)).clamp_min(1)
    scores = []
    for tau in _TAUS:
        right = labels[TauNorm(weight, tau)(features).argmax(1) == labels]
        scores.append(float((torch.bincount(right, minlength=len(weight)) / sizes).mean()))
    return _TAUS[scores.index(max(scores))]


def held_out(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Positions of a random share of every class, at least one each."""
    order = torch.randperm(len(labels), generator=generator, device=labels.device)
    rank = torch.empty_like(order)
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        rank[members] = torch.arange(len(members), device=labels.device)
    sizes = torch.bincount(labels)
    return (rank < (share * sizes[labels]).clamp_min(1)).nonzero().flatten()
