"""Calibrated distributions against dense algebra: means, covariances, seeds, and what cannot be drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.twostage.distributions import (
    RIDGE,
    Calibration,
    ClassDistributions,
    balancing_seeds,
    on_sphere,
    tukey,
)

COUNTS = (40, 11, 3)
WIDTH = 5


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sample(counts: tuple[int, ...] = COUNTS, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Features around class means that lie apart, non-negative, and their labels in random order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator(1))]
    centres = 4 * torch.rand(len(counts), width, generator=generator(2))
    spread = torch.rand(len(counts), width, generator=generator(3))
    return (centres[labels] + spread[labels] * torch.randn(len(labels), width, generator=generator(4))).abs(), labels


def dense_covariance(features: Tensor, labels: Tensor, label: int) -> Tensor:
    return torch.cov(features[labels == label].double().T, correction=1)


# ---------------------------------------------------------------------- statistics


def test_factors_square_to_the_covariances_of_wide_and_of_narrow_classes() -> None:
    features, labels = sample()
    found = ClassDistributions.of(features, labels, 3)
    assert [len(factor) for factor in found.factors] == [WIDTH, WIDTH, 3]  # n_c < d keeps the samples themselves
    for label, factor in enumerate(found.factors):
        torch.testing.assert_close(
            factor.T @ factor, dense_covariance(features, labels, label).float(), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(found.means[label], features[labels == label].mean(0))


def test_a_singular_covariance_has_a_factor() -> None:
    """Dead features, and more samples than their rank: a Cholesky factor would not exist."""
    features, labels = sample((30, 30))
    features[:, 1] = 0.0
    features[:, 2] = 2 * features[:, 0]
    found = ClassDistributions.of(features, labels, 2)
    torch.testing.assert_close(
        found.factors[0].T @ found.factors[0], dense_covariance(features, labels, 0).float(), rtol=1e-5, atol=1e-5
    )


def test_neighbours_are_the_nearest_means() -> None:
    features, labels = sample()
    found = ClassDistributions.of(features, labels, 3)
    distances = (features[:, None] - found.means).norm(dim=2)
    assert torch.equal(found.nearest(features, 2), distances.argsort(1)[:, :2])
    with pytest.raises(LandscapeError, match=r"--neighbors 4.*only 3 classes"):
        found.nearest(features, 4)


def test_a_class_without_features_is_refused() -> None:
    features, labels = sample()
    with pytest.raises(LandscapeError, match="class 3 has no training features"):
        ClassDistributions.of(features, labels, 4)


# ---------------------------------------------------------------------- drawing


def test_the_mean_of_one_neighbour_is_the_midpoint() -> None:
    features, labels = sample()
    found = ClassDistributions.of(features, labels, 3)
    calibration = Calibration.of(found, features, neighbors=1, alpha=0.0)
    index = torch.arange(len(features))
    nearest = torch.cdist(features, found.means).argmin(1)
    torch.testing.assert_close(calibration.means(features, index), (features + found.means[nearest]) / 2)


@pytest.mark.parametrize(("neighbors", "alpha"), [(1, 0.0), (2, 0.3), (3, 0.0)])
def test_draws_have_the_calibrated_mean_and_covariance(neighbors: int, alpha: float) -> None:
    """Moments of 200,000 draws within five standard errors of m = (Σμ + x̃)/(K+1), S = mean Σ_k + α·11ᵀ + ε·I."""
    features, labels = sample()
    found = ClassDistributions.of(features, labels, 3)
    calibration = Calibration.of(found, features, neighbors=neighbors, alpha=alpha)
    seed, count = 7, 200_000
    points = calibration.draw(features, torch.full((count,), seed), generator()).double()
    members = found.nearest(features[seed : seed + 1], neighbors)[0].tolist()
    mean = (features[seed] + found.means[members].sum(0)) / (neighbors + 1)
    covariance = torch.stack([dense_covariance(features, labels, label) for label in members]).mean(0)
    covariance += alpha + RIDGE * torch.eye(WIDTH, dtype=torch.float64)
    variances = covariance.diagonal()
    assert ((points.mean(0) - mean).abs() < 5 * (variances / count).sqrt() + 1e-6).all()
    # Wishart: var(S_ij) = (S_ii S_jj + S_ij²)/n.
    errors = ((variances[:, None] * variances + covariance.square()) / count).sqrt()
    assert ((torch.cov(points.T) - covariance).abs() < 5 * errors).all()


def test_seeds_of_different_neighbours_are_drawn_together_as_apart() -> None:
    """With all noise switched off by zero factors, every row is the mean of its own seed."""
    features, labels = sample()
    exact = torch.cat([features[labels == label][:1].expand(5, -1) for label in range(3)])
    exact_labels = torch.arange(3).repeat_interleave(5)
    found = ClassDistributions.of(exact, exact_labels, 3)
    calibration = Calibration.of(found, exact, neighbors=1, alpha=0.0)
    index = torch.tensor([14, 0, 7, 7, 3])
    points = calibration.draw(exact, index, generator())
    assert (points - exact[index]).abs().max() < 6 * math.sqrt(RIDGE)


def test_a_mixed_batch_gives_every_seed_its_own_covariance() -> None:
    """Sets of neighbours with none, one and several classes of one sample among them, drawn in one call."""
    features, labels = sample((30, 20, 1, 1, 9))
    found = ClassDistributions.of(features, labels, 5)
    calibration = Calibration.of(found, features, neighbors=2, alpha=0.0)
    # By hand, so that every kind of set is there: shares ½ ½, 1 0, and of a set without any covariance ⅓ of all three.
    sets = {0: (0, 1), 1: (2, 4), 2: (2, 3), 3: (4, 0)}
    for seed, members in sets.items():
        calibration.neighbors[seed] = torch.tensor(members)
    index = torch.tensor(list(sets)).repeat(60_000)
    points = calibration.draw(features, index, generator()).double()
    for seed, members in sets.items():
        lenders = [label for label in members if label not in (2, 3)] or [0, 1, 4]
        expected = torch.stack([dense_covariance(features, labels, label) for label in lenders]).mean(0)
        expected += RIDGE * torch.eye(WIDTH, dtype=torch.float64)
        mine = points[index == seed]
        variances = expected.diagonal()
        errors = ((variances[:, None] * variances + expected.square()) / len(mine)).sqrt()
        assert ((torch.cov(mine.T) - expected).abs() < 5 * errors).all(), seed
        mean = (features[seed] + found.means[list(members)].sum(0)) / 3
        assert ((mine.mean(0) - mean).abs() < 5 * (variances / len(mine)).sqrt() + 1e-6).all(), seed


def test_a_class_of_one_borrows_the_covariance_of_its_neighbours() -> None:
    features, labels = sample((30, 20, 1))
    found = ClassDistributions.of(features, labels, 3)
    lonely = int((labels == 2).nonzero())
    assert len(found.factors[2]) == 0
    for neighbors in (1, 2):
        calibration = Calibration.of(found, features, neighbors=neighbors, alpha=0.0)
        members = [label for label in calibration.neighbors[lonely].tolist() if label != 2]
        assert len(members) == neighbors - 1  # its own mean is where it is itself
        lenders = members or [0, 1]  # nobody in the set has one: all that have
        expected = torch.stack([dense_covariance(features, labels, label) for label in lenders]).mean(0)
        points = calibration.draw(features, torch.full((50_000,), lonely), generator()).double()
        assert points.isfinite().all()
        torch.testing.assert_close(torch.cov(points.T), expected, rtol=0.05, atol=0.02)


def test_negative_alpha_is_refused() -> None:
    features, labels = sample()
    with pytest.raises(LandscapeError, match=r"--alpha -0\.1"):
        Calibration.of(ClassDistributions.of(features, labels, 3), features, neighbors=1, alpha=-0.1)


# ---------------------------------------------------------------------- seeds


def test_seeds_balance_the_classes_and_use_every_member_alike() -> None:
    _, labels = sample((40, 17, 3, 40, 1))
    seeds = balancing_seeds(labels, 5, generator())
    total = torch.bincount(labels, minlength=5) + torch.bincount(labels[seeds], minlength=5)
    assert total.tolist() == [40] * 5
    uses = torch.bincount(seeds, minlength=len(labels))
    for label, count in enumerate((40, 17, 3, 40, 1)):
        mine = uses[labels == label]
        assert mine.min() == (40 - count) // count
        assert mine.max() - mine.min() <= 1


def test_the_remainder_of_the_seeds_is_random() -> None:
    _, labels = sample((40, 17))
    first, same, other = (balancing_seeds(labels, 2, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# ---------------------------------------------------------------------- Tukey


def test_tukeys_ladder() -> None:
    features = torch.tensor([[0.0, 0.25, 4.0]])
    assert torch.equal(tukey(features, 1.0), features)
    torch.testing.assert_close(tukey(features, 0.5), torch.tensor([[0.0, 0.5, 2.0]]))
    torch.testing.assert_close(tukey(features, 0.0), torch.log(features + 1e-6))
    torch.testing.assert_close(on_sphere(features, 0.9).norm(dim=1), torch.ones(1))


@pytest.mark.parametrize("power", [0.9, 0.0, 1.5])
def test_a_negative_feature_has_no_fractional_power(power: float) -> None:
    with pytest.raises(LandscapeError, match=r"down to -0\.5.*--lam 1"):
        tukey(torch.tensor([[1.0, -0.5]]), power)
    assert torch.equal(tukey(torch.tensor([[1.0, -0.5]]), 1.0), torch.tensor([[1.0, -0.5]]))
