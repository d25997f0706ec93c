"""Calibrated class distributions: Gaussians around every training feature, drawn without a covariance matrix.

    x ~ N(m, S),   m = (Σ_{k∈N} μ_k + x̃)/(K + 1),   S = (1/K) Σ_{k∈N} Σ_k + α·11ᵀ + ε·I,   ε = 1e-4,

for a seed x̃ and the set N of the K classes whose means are nearest to it. With A_k the centred features of class k,
Σ_k = A_kᵀA_k/(n_k − 1), so A_kᵀz/√(n_k − 1) has covariance Σ_k for z ~ N(0, I), and

    x = m + (1/√K) Σ_k A_kᵀz_k/√(n_k − 1) + √α·g·1 + √ε·e

has exactly covariance S: no d×d matrix where n_k < d, and nothing that a singular Σ_k could break.

Source: TailCalib and TailCalibX (Vigneswaran et al., ICVGIP 2021), after Yang et al., ICLR 2021.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import LandscapeError

RIDGE = 1e-4
_LOG_OFFSET = 1e-6
# Distances that are held at once, by number of entries.
_CHUNK = 1 << 24


def tukey(features: Tensor, power: float) -> Tensor:
    """Tukey's ladder: f^λ, and log(f + 1e-6) for λ = 0. Makes skewed, non-negative features more like a Gaussian.

    Raises:
        LandscapeError: a negative feature, of which a fraction of a power or a logarithm is no number.
    """
    if power == 1:
        return features
    if not float(power).is_integer() or power == 0:
        least = float(features.min())
        if least < 0:
            what = "the logarithm (λ = 0)" if power == 0 else f"the power {power:g}"
            raise LandscapeError(
                f"the features go down to {least:.3g}, of which {what} is not real: give --lam 1, or features that end "
                "in a ReLU (`landscape features --layer`)"
            )
    return (features + _LOG_OFFSET).log() if power == 0 else features.pow(power)


def on_sphere(features: Tensor, power: float = 1.0) -> Tensor:
    """Features (N, d) at length 1, through Tukey's ladder, at length 1 again: where a cosine classifier sees them."""
    return F.normalize(tukey(F.normalize(features), power))


@dataclass(frozen=True)
class ClassDistributions:
    """Mean and covariance of each class, the covariance as a factor."""

    means: Tensor  # (C, d) float32
    factors: tuple[Tensor, ...]  # (r_c, d) each, F_cᵀF_c = Σ_c; r_c = 0 for a class of fewer than two samples
    counts: Tensor  # (C,) int64

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, num_classes: int) -> ClassDistributions:
        """Estimate them, with the divisor n_c − 1; a class of one sample has a mean and no covariance.

        Args:
            features: (N, d).
            labels: (N,) int64, on the same device.

        Raises:
            LandscapeError: a class without samples.

        Cost: for a class of more samples than features, one QR factorisation in float64.
        """
        counts = torch.bincount(labels, minlength=num_classes)
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            raise LandscapeError(f"class {empty[0]} has no training features: every class needs at least one")
        means, factors = [], []
        for label in range(num_classes):
            members = features[labels == label].double()
            mean = members.mean(0)
            centred = (members - mean) / math.sqrt(max(len(members) - 1, 1))
            if len(members) < 2:
                centred = centred[:0]
            elif len(members) > members.shape[1]:
                # RᵀR = AᵀA: as short as a Cholesky factor, without squaring the condition number.
                centred = torch.linalg.qr(centred, mode="r").R
            means.append(mean.float())
            factors.append(centred.float())
        return cls(torch.stack(means), tuple(factors), counts)

    def nearest(self, points: Tensor, count: int) -> Tensor:
        """The ``count`` classes whose means are nearest to each point, (N, count), nearest first.

        Raises:
            LandscapeError: more classes are asked for than there are.
        """
        if count > len(self.means):
            most = len(self.means)
            raise LandscapeError(f"--neighbors {count}: there are only {most} classes; give --neighbors {most} or less")
        pieces = points.split(max(1, _CHUNK // len(self.means)))
        return torch.cat([torch.cdist(piece, self.means).topk(count, largest=False).indices for piece in pieces])

    def lenders(self, neighbors: Tensor) -> tuple[Tensor, Tensor]:
        """Whose covariances make up S, and with what share: (N, L) classes and (N, L) shares that sum to 1.

        A class of one sample has no covariance, so the others of the set share alone. Where none of them has one, all
        classes that have one share alike, which is the pooled shape of a class; if there is none at all, shares are 0
        and ε·I is all.
        """
        able = self.counts[neighbors] > 1
        shares = able / able.sum(1, keepdim=True).clamp_min(1)
        alone = ~able.any(1)
        if not bool(alone.any()):
            return neighbors, shares
        everyone = torch.arange(len(self.counts), device=neighbors.device).expand(len(neighbors), -1)
        pooled = (self.counts > 1).float()
        pooled = pooled / pooled.sum().clamp_min(1)
        extra = torch.where(alone[:, None], pooled, torch.zeros_like(pooled))
        return torch.cat([neighbors, everyone], 1), torch.cat([shares, extra], 1)


@dataclass(frozen=True)
class Calibration:
    """What to draw around every seed."""

    distributions: ClassDistributions
    neighbors: Tensor  # (N, K) classes of each training feature
    alpha: float

    @classmethod
    def of(cls, distributions: ClassDistributions, seeds: Tensor, *, neighbors: int, alpha: float) -> Calibration:
        """Find the neighbours of all training features (N, d)."""
        if not alpha >= 0:
            raise LandscapeError(f"--alpha {alpha:g} would make a covariance that is none: give 0 or more")
        return cls(distributions, distributions.nearest(seeds, neighbors), alpha)

    def means(self, seeds: Tensor, index: Tensor) -> Tensor:
        """m of the seeds ``seeds[index]``, (M, d)."""
        chosen = self.neighbors[index]
        total = seeds[index]
        for column in chosen.T:
            total = total + self.distributions.means[column]
        return total / (chosen.shape[1] + 1)

    def draw(self, seeds: Tensor, index: Tensor, generator: torch.Generator) -> Tensor:
        """One point around each of the seeds ``seeds[index]``, (M, d).

        Args:
            seeds: (N, d) the training features, transformed.
            index: (M,) int64.
            generator: on the device of ``seeds``.

        Cost: 2·K·M·min(n_c, d)·d operations, as K·M products of a row with a class's factor, class by class.
        """
        points = self.means(seeds, index)
        count, width = points.shape
        device = points.device
        lenders, shares = self.distributions.lenders(self.neighbors[index])
        row, place = (shares > 0).nonzero(as_tuple=True)
        lender, weight = lenders[row, place], shares[row, place].sqrt()
        by_class = lender.argsort(stable=True)
        row, weight = row[by_class], weight[by_class]
        sizes = torch.bincount(lender, minlength=len(self.distributions.factors)).tolist()
        for factor, rows, weights in zip(
            self.distributions.factors, row.split(sizes), weight.split(sizes), strict=True
        ):
            if len(rows):
                noise = torch.randn(len(rows), len(factor), generator=generator, device=device)
                points.index_add_(0, rows, (noise * weights[:, None]) @ factor)
        if self.alpha:
            points += math.sqrt(self.alpha) * torch.randn(count, 1, generator=generator, device=device)
        return points + math.sqrt(RIDGE) * torch.randn(count, width, generator=generator, device=device)


def balancing_seeds(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Which training features are to be seeds so that every class reaches n_max: positions (M,), class by class.

    Each member of class c comes ⌊(n_max − n_c)/n_c⌋ times, and as many members as are still missing, drawn without
    replacement, once more.

    Args:
        labels: (N,) int64.
        generator: on the device of ``labels``.
    """
    counts = torch.bincount(labels, minlength=num_classes).tolist()
    chosen = []
    for label, count in enumerate(counts):
        missing = max(counts) - count
        if not count or not missing:
            continue
        members = (labels == label).nonzero().flatten()
        order = torch.randperm(count, generator=generator, device=labels.device)[: missing % count]
        chosen += [members.repeat(missing // count), members[order]]
    return torch.cat(chosen) if chosen else labels.new_empty(0)
