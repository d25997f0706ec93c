"""The toy in the plane: its points, what is generated around them, and what its classifiers learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import support.runs  # noqa: F401  one thread
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.twostage.distributions import RIDGE
from landscape.twostage.toy import TOY_CLASSIFIERS, Toy, ToySettings, run_toy

Array = NDArray[np.float64]

SMALL = replace(ToySettings(), counts=(300, 20, 10, 6, 5, 4), test_count=50, epochs=3)


@pytest.fixture(scope="module")
def toy() -> Toy:
    return run_toy()


def tensors(toy: Toy) -> list[Tensor]:
    found = [toy.points, toy.labels, toy.test_points, toy.test_labels]
    for each in toy.classifiers:
        found += [each.weight, each.bias, *(each.generated or ())]
    return found


def test_points_are_those_of_the_settings() -> None:
    toy = run_toy(replace(SMALL, test_count=4000))
    assert torch.bincount(toy.labels).tolist() == list(SMALL.counts)
    assert torch.bincount(toy.test_labels).tolist() == [4000] * 6
    for label, (mean, covariance) in enumerate(zip(SMALL.means, SMALL.covariances, strict=True)):
        members = toy.test_points[toy.test_labels == label].double().numpy()
        variances = np.diag(covariance)
        # Four standard errors of a mean, and of an entry of a covariance of Gaussian points.
        assert (np.abs(members.mean(axis=0) - mean) < 4 * np.sqrt(variances / 4000)).all()
        spread = np.sqrt((np.outer(variances, variances) + np.square(covariance)) / 4000)
        assert (np.abs(np.cov(members.T) - covariance) < 4 * spread).all()


def test_generated_points_lie_where_the_formula_says() -> None:
    """With K = C every seed has all classes for neighbours, so m moves with the seed alone and S is one matrix."""
    alpha, counts = 0.3, (4000, 300, 60, 30, 10, 4)
    toy = run_toy(replace(SMALL, counts=counts, neighbors=6, alpha=alpha, epochs=1))
    points, labels = toy.points.double().numpy(), toy.labels.numpy()
    assert toy.classifiers[2].generated is not None
    generated, classes = (tensor.double().numpy() for tensor in toy.classifiers[2].generated)
    assert np.bincount(classes.astype(int)).tolist() == [0, *(4000 - count for count in counts[1:])]
    means = np.stack([points[labels == label].mean(axis=0) for label in range(6)])
    within = np.mean([np.cov(points[labels == label].T) for label in range(6)], axis=0) + alpha + RIDGE * np.eye(2)
    for label in (4, 5):  # (4000 − n_c)/n_c is whole: every member is a seed equally often
        seeds, drawn = points[labels == label], generated[classes == label]
        between = np.cov(seeds.T, bias=True) / 7**2
        expected, covariance = (means.sum(axis=0) + seeds.mean(axis=0)) / 7, within + between
        variances = np.diag(within)  # seeds are no sample, so only S scatters
        assert (np.abs(drawn.mean(axis=0) - expected) < 4 * np.sqrt(variances / len(drawn))).all()
        total = np.diag(covariance)
        spread = np.sqrt((np.outer(total, total) + covariance**2) / len(drawn))
        assert (np.abs(np.cov(drawn.T) - covariance) < 4 * spread).all()


def test_three_nearest_classes_are_not_all_of_them() -> None:
    """The draws of the smallest class, whose neighbours are itself, the middle and the class beside it."""
    toy = run_toy(SMALL)
    points, labels = toy.points.double().numpy(), toy.labels.numpy()
    means = np.stack([points[labels == label].mean(axis=0) for label in range(6)])
    assert toy.classifiers[2].generated is not None
    generated, classes = (tensor.numpy() for tensor in toy.classifiers[2].generated)
    seeds = points[labels == 5]
    nearest = np.argsort(np.linalg.norm(seeds[:, None] - means, axis=2), axis=1)[:, :3]
    covariances = np.stack([np.cov(points[labels == label].T) for label in range(6)])
    drawn = generated[classes == 5]
    expected = ((means[nearest].sum(axis=1) + seeds) / 4).mean(axis=0)
    variances = np.diagonal(covariances[nearest].mean(axis=(0, 1)))
    assert len(drawn) == 296  # 74 for each of the four seeds
    assert (np.abs(drawn.mean(axis=0) - expected) < 4 * np.sqrt(variances / 296)).all()


def test_the_same_seed_is_the_same_toy_and_another_is_another() -> None:
    one, again, other = run_toy(SMALL), run_toy(SMALL), run_toy(replace(SMALL, seed=1))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(tensors(one), tensors(again), strict=True))
    assert not torch.equal(one.points, other.points)


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    run_toy(SMALL)
    assert torch.equal(torch.get_rng_state(), before)


def test_only_tailcalibx_generates(toy: Toy) -> None:
    assert [each.name for each in toy.classifiers] == list(TOY_CLASSIFIERS)
    assert [each.generated is not None for each in toy.classifiers] == [False, False, True]


def test_right_answers_are_those_of_the_weights(toy: Toy) -> None:
    points, labels = toy.test_points.double().numpy(), toy.test_labels.numpy()
    for each in toy.classifiers:
        predicted = (points @ each.weight.double().numpy().T + each.bias.double().numpy()).argmax(axis=1)
        shares = [np.mean(predicted[labels == label] == label) for label in range(6)]
        np.testing.assert_allclose(each.result.per_class, shares, atol=1.5e-3)  # a tie that float32 rounds otherwise
        np.testing.assert_array_equal(each.scores(points).argmax(axis=1), predicted)


def optimum(points: Array, labels: Array, shares: Array, decay: float) -> Array:
    """(3, C) of W and b: the minimum of Σ ω_i ℓ_i + ½·decay·‖(W, b)‖²."""
    inputs, targets = np.c_[points, np.ones(len(points))], np.eye(6)[labels]

    def loss(flat: Array) -> tuple[float, Array]:
        weight = flat.reshape(3, 6)
        logs = log_softmax(inputs @ weight, axis=1)
        slope = inputs.T @ (shares[:, None] * (np.exp(logs) - targets)) + decay * weight
        return -float((shares[:, None] * targets * logs).sum()) + 0.5 * decay * float(flat @ flat), slope.ravel()

    return np.asarray(minimize(loss, np.zeros(18), jac=True, method="L-BFGS-B").x).reshape(3, 6)


@pytest.mark.parametrize("place", [0, 1])
def test_training_ends_at_the_minimum_of_what_it_claims_to_minimise(toy: Toy, place: int) -> None:
    """Another optimiser on the weighted loss: ω = 1/N as they are, 1/(C·n_c) where classes come equally often."""
    points, labels = toy.points.double().numpy(), toy.labels.numpy()
    counts = np.bincount(labels)
    shares = np.full(len(labels), 1 / len(labels)) if place == 0 else 1 / (6 * counts[labels])
    best = optimum(points, labels, shares, ToySettings().weight_decay)
    test = toy.test_points.double().numpy()
    predicted = (np.c_[test, np.ones(len(test))] @ best).argmax(axis=1)
    mine, other = (toy.classifiers[each].scores(test).argmax(axis=1) for each in (place, 1 - place))
    assert (mine == predicted).mean() > 0.985
    assert (other == predicted).mean() < 0.9


def test_weight_decay_is_that_of_the_settings() -> None:
    toy = run_toy(replace(SMALL, weight_decay=0.3, epochs=60))
    points, labels = toy.points.double().numpy(), toy.labels.numpy()
    best = optimum(points, labels, np.full(len(labels), 1 / len(labels)), 0.3)
    classifier = toy.classifiers[0]
    np.testing.assert_allclose(classifier.weight.T.numpy(), best[:2], atol=0.01)
    np.testing.assert_allclose(classifier.bias.numpy(), best[2], atol=0.01)
    assert np.abs(best).max() > 0.2


def test_more_neighbours_than_classes_are_refused() -> None:
    with pytest.raises(LandscapeError, match="only 6 classes"):
        run_toy(replace(SMALL, neighbors=7))
