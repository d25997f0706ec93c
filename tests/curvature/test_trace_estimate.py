"""Hutchinson's estimate and the intervals that every estimate shares."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from support.matrices import SPECTRA, with_spectrum

from landscape.curvature import (
    Interval,
    SymmetricOperator,
    TraceEstimate,
    extreme_eigenpairs,
    hutchinson_trace,
    spectral_density,
)
from landscape.errors import LandscapeError


def test_estimate_is_unbiased_with_the_known_variance() -> None:
    """Mean tr A and variance 2(‖A‖_F² − Σ a_ii²) over all 2ⁿ sign vectors, and over the probes that are drawn."""
    matrix = with_spectrum(np.array([-3.0, -0.5, 0.0, 0.2, 1.0, 6.0]))
    every = [z @ matrix.numpy() @ z for z in map(np.array, itertools.product([-1.0, 1.0], repeat=6))]
    trace, variance = float(matrix.trace()), 2 * float(matrix.square().sum() - matrix.diagonal().square().sum())
    assert np.mean(every) == pytest.approx(trace)
    assert np.var(every) == pytest.approx(variance)
    op = SymmetricOperator.from_matrix(matrix)
    estimate = hutchinson_trace(op, num_probes=4000, seed=1)
    assert abs(estimate.value - trace) < 4 * estimate.standard_error
    assert estimate.standard_error == pytest.approx(np.sqrt(variance / 4000), rel=0.1)
    assert set(np.round(estimate.samples, 9)) == set(np.round(every, 9))


@pytest.mark.parametrize(("spectrum", "deflate"), [("uniform", False), ("network", True)])
def test_intervals_cover_the_trace(spectrum: str, deflate: bool) -> None:
    """Ten probes do where no eigenvalue dominates; one that does makes the samples skewed, and belongs deflated."""
    truth = SPECTRA[spectrum]
    matrix = with_spectrum(truth)
    op = SymmetricOperator.from_matrix(matrix)
    pairs = extreme_eigenpairs(op, 5, tol=1e-8, max_matvecs=500) if deflate else None
    hits, errors = 0, []
    for seed in range(200):
        estimate = hutchinson_trace(op, num_probes=10, deflate=pairs, seed=seed)
        interval = Interval.from_samples(estimate.samples, estimate.offset)
        assert interval.value == pytest.approx(estimate.value)
        hits += interval.low <= truth.sum() <= interval.high
        errors.append(estimate.standard_error)
    assert hits >= 180
    if deflate:
        plain = [hutchinson_trace(op, num_probes=10, seed=seed).standard_error for seed in range(20)]
        assert np.median(errors) < 0.1 * np.median(plain)


def test_a_density_already_holds_the_same_estimate() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    pairs = extreme_eigenpairs(op, 3, tol=1e-8, max_matvecs=500)
    before = op.num_matvecs
    alone = hutchinson_trace(op, num_probes=5, deflate=pairs, seed=4)
    assert op.num_matvecs - before == 5
    density = spectral_density(op, num_probes=5, num_steps=3, deflate=pairs, seed=4).trace()
    np.testing.assert_allclose(density.samples, alone.samples, rtol=1e-9)
    assert density.offset == pytest.approx(alone.offset)


def test_interval_is_students() -> None:
    samples = np.array([1.0, 2.0, 4.0, 9.0])
    interval = Interval.from_samples(samples, offset=10.0)
    reference = stats.ttest_1samp(samples, 0.0).confidence_interval(0.95)
    assert interval.value == 14.0
    assert (interval.low, interval.high) == pytest.approx((reference.low + 10, reference.high + 10))
    assert Interval.from_samples(np.array([3.0])) == Interval(3.0, -np.inf, np.inf)


def test_standard_error_of_one_probe_is_unknown() -> None:
    assert TraceEstimate(np.array([2.0]), 1.0).value == 3.0
    assert TraceEstimate(np.array([2.0]), 1.0).standard_error == np.inf
    with pytest.raises(LandscapeError, match="num_probes = 0"):
        hutchinson_trace(SymmetricOperator.from_matrix(torch.eye(3)), num_probes=0)
