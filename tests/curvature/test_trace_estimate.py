"""Traces and layer traces: exact identities, known variances, and methods against each other."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from support.matrices import SPECTRA, with_spectrum
from torch import Tensor

from landscape.curvature import (
    Eigenpairs,
    Interval,
    SymmetricOperator,
    TraceEstimate,
    Tridiagonalization,
    extreme_eigenpairs,
    hutchinson_trace,
    spectral_density,
    tridiagonalize,
)
from landscape.curvature.density import rademacher_probe
from landscape.curvature.lanczos import Search
from landscape.curvature.trace import TraceProbes, xnystrace, xtrace
from landscape.errors import LandscapeError

LAYERS = {"conv1": [(0, 31)], "block": [(31, 50), (77, 120)], "head": [(50, 77)]}
PSD = {
    "outliers": np.sort(np.r_[np.geomspace(1e-6, 0.1, 190), np.geomspace(1.0, 40.0, 10)]),
    "flat": np.linspace(0.5, 1.0, 200),
    "low rank": np.sort(np.r_[np.zeros(185), np.geomspace(0.1, 10.0, 15)]),
}


def search_of(matrix: Tensor, steps: int, seed: int = 3) -> Search:
    """What a search leaves behind, from one plain Lanczos run."""
    op = SymmetricOperator.from_matrix(matrix)
    start = rademacher_probe(op, seed, 0)
    run = tridiagonalize(op, start, steps)
    values, vectors = run.ritz()
    m = run.num_steps
    q = run.basis
    following = matrix @ q[-1]
    following = following - (q @ following) @ q
    following -= (q @ following) @ q
    projected = np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1)
    coupling = np.zeros((1, m))
    coupling[0, -1] = 1.0
    estimates = run.beta[-1] * np.abs(vectors[-1])
    good = (estimates <= 1e-3 * np.abs(values).max()) & (np.abs(values) > 10 * estimates)
    columns = (torch.as_tensor(vectors[:, good].T, dtype=matrix.dtype) @ q).T.numpy()
    pairs = Eigenpairs(values[good], estimates[good], np.ones(int(good.sum()), bool), 1e-3, m, columns)
    return Search(
        pairs=pairs, run=run, basis=q, projected=projected, residual=following[None], coupling=coupling, outliers=pairs
    )


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deflate", ["nothing", "pairs", "search"])
def test_layers_are_the_diagonal_blocks_of_a_dense_oracle(deflate: str, dtype: torch.dtype) -> None:
    """For every single probe: z ∘ PHPz summed over a layer, beside the exact share diag(H − PHP)."""
    matrix = with_spectrum(SPECTRA["network"], dtype=dtype)
    op, search = SymmetricOperator.from_matrix(matrix), search_of(matrix, 25)
    known = {"nothing": None, "pairs": search.outliers, "search": search}[deflate]
    estimate = hutchinson_trace(op, num_probes=3, deflate=known, layers=LAYERS, seed=8)
    dense = matrix.double()
    rows = {"nothing": torch.zeros(0, 120), "pairs": torch.as_tensor(search.outliers.vectors).T, "search": search.basis}
    basis = torch.linalg.qr(rows[deflate].double().T).Q.T
    projector = torch.eye(120, dtype=torch.float64) - basis.T @ basis
    rest = projector @ dense @ projector
    # Pairs are taken for exact in a layer's share, so they are right to their residuals.
    tolerance = {"nothing": 1e-12, "pairs": 0.1, "search": 1e-9}[deflate] + (2e-4 if dtype == torch.float32 else 0)
    assert estimate.layer_names == tuple(LAYERS)
    assert estimate.layer_offsets is not None
    assert estimate.layer_samples is not None
    for column, ranges in enumerate(LAYERS.values()):
        index = torch.cat([torch.arange(*ends) for ends in ranges])
        exact = float((dense - rest).diagonal()[index].sum())
        assert estimate.layer_offsets[column] == pytest.approx(exact, abs=tolerance)
        for row in range(3):
            z = rademacher_probe(op, 8, row).double()
            sample = float((z * (rest @ z))[index].sum())
            assert estimate.layer_samples[row, column] == pytest.approx(sample, abs=max(1e-9, tolerance / 10))
    assert estimate.offset == pytest.approx(
        float((dense - rest).trace()), abs=1e-9 + (2e-4 if dtype == torch.float32 else 0)
    )
    plain = hutchinson_trace(op, num_probes=3, deflate=known, seed=8)
    np.testing.assert_allclose(plain.samples, estimate.samples, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("deflate", [False, True])
def test_layers_sum_to_the_whole(deflate: bool) -> None:
    matrix = with_spectrum(SPECTRA["network"])
    known = search_of(matrix, 25) if deflate else None
    estimate = hutchinson_trace(SymmetricOperator.from_matrix(matrix), num_probes=4, deflate=known, layers=LAYERS)
    assert estimate.layer_samples is not None
    np.testing.assert_allclose(estimate.layer_samples.sum(axis=1), estimate.samples, rtol=1e-13)
    assert estimate.layer_values.sum() == pytest.approx(estimate.value, rel=1e-13)
    expected = estimate.layer_samples.std(axis=0, ddof=1) / 2
    np.testing.assert_allclose(estimate.layer_standard_errors, expected)
    one = hutchinson_trace(SymmetricOperator.from_matrix(matrix), num_probes=1, layers=LAYERS)
    assert np.isinf(one.layer_standard_errors).all()
    assert (
        TraceEstimate(np.ones(2), 0.0).layer_values.size
        == TraceEstimate(np.ones(2), 0.0).layer_standard_errors.size
        == 0
    )


@pytest.mark.parametrize("deflate", ["nothing", "pairs", "search"])
def test_traces_of_layers_are_unbiased(deflate: str) -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op, search = SymmetricOperator.from_matrix(matrix), search_of(matrix, 20)
    known = {"nothing": None, "pairs": search.outliers, "search": search}[deflate]
    estimate = hutchinson_trace(op, num_probes=1500, deflate=known, layers=LAYERS, seed=11)
    assert abs(estimate.value - float(matrix.trace())) < 4 * estimate.standard_error
    for value, error, ranges in zip(
        estimate.layer_values, estimate.layer_standard_errors, LAYERS.values(), strict=True
    ):
        exact = sum(float(matrix.diagonal()[start:stop].sum()) for start, stop in ranges)
        assert abs(value - exact) < 4 * error + (0.02 if deflate == "pairs" else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_a_density_give_the_same_traces(dtype: torch.dtype) -> None:
    """The density deflates outliers, the trace the whole basis: one product serves both."""
    matrix = with_spectrum(SPECTRA["network"], dtype=dtype)
    op, search = SymmetricOperator.from_matrix(matrix), search_of(matrix, 30)
    probes = TraceProbes(op, search, LAYERS)

    def observe(z: Tensor, u: Tensor, run: Tridiagonalization) -> None:
        probes.add(z, u, run.first_product * float(u.double().norm()))

    spectral_density(op, num_probes=4, num_steps=5, deflate=search.outliers, seed=6, observe=observe)
    shared = probes.estimate()
    alone = hutchinson_trace(op, num_probes=4, deflate=search, layers=LAYERS, seed=6)
    tolerance = 2e-4 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(shared.samples, alone.samples, atol=tolerance)
    np.testing.assert_allclose(shared.layer_samples, alone.layer_samples, atol=tolerance)
    plain = TraceProbes(op, search, LAYERS)
    for index in range(4):
        z = rademacher_probe(op, 6, index)
        plain.add(z, z, op @ z)
    np.testing.assert_allclose(plain.estimate().layer_samples, alone.layer_samples, atol=10 * tolerance)


def test_the_whole_basis_deflates_more_than_the_outliers() -> None:
    matrix = with_spectrum(
        np.sort(np.r_[SPECTRA["network"], -np.geomspace(1e-3, 1.0, 80), np.geomspace(1e-3, 2.0, 80)])
    )
    op, search = SymmetricOperator.from_matrix(matrix), search_of(matrix, 60)
    errors = {
        name: hutchinson_trace(op, num_probes=300, deflate=known).standard_error
        for name, known in (("nothing", None), ("pairs", search.outliers), ("search", search))
    }
    assert errors["pairs"] < 0.2 * errors["nothing"]
    assert errors["search"] < 0.8 * errors["pairs"]


def test_pieces_of_the_probes_are_the_same_probes() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    whole = hutchinson_trace(op, num_probes=5, seed=2)
    rest = hutchinson_trace(op, num_probes=3, seed=2, first_probe=2)
    np.testing.assert_array_equal(whole.samples[2:], rest.samples)


def test_a_density_already_holds_the_same_estimate() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    pairs = extreme_eigenpairs(op, 3, tol=1e-8, max_matvecs=500)
    before = op.num_matvecs
    counted: list[int] = []
    alone = hutchinson_trace(op, num_probes=5, deflate=pairs, seed=4, on_product=counted.append)
    assert op.num_matvecs - before == sum(counted) == 5
    density = spectral_density(op, num_probes=5, num_steps=3, deflate=pairs, seed=4).trace()
    np.testing.assert_allclose(density.samples, alone.samples, rtol=1e-9)
    assert density.offset == pytest.approx(alone.offset)


@pytest.mark.parametrize(
    "layers",
    [
        {"a": [(0, 60)], "b": [(50, 120)]},
        {"a": [(0, 60)], "b": [(61, 120)]},
        {"a": [(0, 119)]},
        {"a": [(0, 121)]},
        {"a": [(0, 60), (60, 60)], "b": [(60, 120)]},
        {},
    ],
)
def test_layers_that_do_not_hold_every_parameter_once_are_refused(layers: dict[str, list[tuple[int, int]]]) -> None:
    with pytest.raises(LandscapeError, match="belongs to"):
        TraceProbes(SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"])), None, layers)


# --- exchangeable estimators ----------------------------------------------------------------------------------------


def naive_xtrace(matrix: np.ndarray, probes: np.ndarray) -> float:
    """The definition, with one orthonormal basis for every probe that is left out."""
    n, k = probes.shape
    values = []
    for i in range(k):
        basis = np.linalg.qr(np.delete(matrix @ probes, i, axis=1))[0]
        rest = probes[:, i] - basis @ (basis.T @ probes[:, i])
        values.append(np.trace(basis.T @ matrix @ basis) + (n - k + 1) / (rest @ rest) * (rest @ matrix @ rest))
    return float(np.mean(values))


def naive_xnystrace(matrix: np.ndarray, probes: np.ndarray) -> float:
    n, k = probes.shape
    values = []
    for i in range(k):
        others = np.delete(probes, i, axis=1)
        image = matrix @ others
        rest = matrix - image @ np.linalg.solve(others.T @ image, image.T)
        basis = np.linalg.qr(others)[0]
        own = probes[:, i] - basis @ (basis.T @ probes[:, i])
        values.append(np.trace(matrix - rest) + (n - k + 1) / (own @ own) * (own @ rest @ own))
    return float(np.mean(values))


class Recorder(SymmetricOperator):
    """Remembers what it is multiplied with."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix.shape[0], dtype=matrix.dtype)
        self.matrix, self.seen = matrix, []

    def _matvec(self, vector: Tensor) -> Tensor:
        self.seen.append(vector.double().numpy())
        return self.matrix @ vector


@pytest.mark.parametrize(("method", "naive", "per_probe"), [(xtrace, naive_xtrace, 2), (xnystrace, naive_xnystrace, 1)])
@pytest.mark.parametrize("name", ["outliers", "flat"])
def test_exchangeable_estimators_follow_their_definition(
    method: Callable[..., TraceEstimate], naive: Callable[..., float], per_probe: int, name: str
) -> None:
    """And their samples are the jackknife's: delete a probe, estimate again."""
    matrix = with_spectrum(PSD[name])
    op, counted = Recorder(matrix), []
    k = 9
    estimate = method(op, num_matvecs=k * per_probe, seed=5, on_product=counted.append)
    assert sum(counted) == op.num_matvecs == k * per_probe
    probes = np.stack(op.seen[:k], axis=1)
    np.testing.assert_allclose(np.linalg.norm(probes, axis=0), np.sqrt(200), rtol=1e-6)
    whole = naive(matrix.numpy(), probes)
    without = [naive(matrix.numpy(), np.delete(probes, i, axis=1)) for i in range(k)]
    assert estimate.value == pytest.approx(whole, rel=1e-6)
    error = np.sqrt((k - 1) / k * np.sum((without - np.mean(without)) ** 2))
    assert estimate.standard_error == pytest.approx(error, rel=1e-5)
    assert estimate.offset == 0.0


def test_xtrace_serves_indefinite_matrices() -> None:
    for name in ("network", "uniform", "all negative", "one negative far below"):
        matrix = with_spectrum(SPECTRA[name])
        op = Recorder(matrix)
        estimate = xtrace(op, num_matvecs=20, seed=1)
        assert estimate.value == pytest.approx(naive_xtrace(matrix.numpy(), np.stack(op.seen[:10], axis=1)), rel=1e-6)


@pytest.mark.parametrize("method", [xtrace, xnystrace])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_low_rank_is_exact(method: Callable[..., TraceEstimate], dtype: torch.dtype) -> None:
    truth = PSD["low rank"]
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    op = SymmetricOperator.from_matrix(with_spectrum(truth, dtype=dtype))
    estimate = method(op, num_matvecs=40, seed=1)
    assert estimate.value == pytest.approx(truth.sum(), rel=tolerance)
    assert estimate.standard_error < 20 * tolerance * truth.sum()
    zero = method(SymmetricOperator.from_matrix(torch.zeros(50, 50, dtype=dtype)), num_matvecs=10)
    assert (zero.value, zero.standard_error) == (0.0, 0.0)
    diagonal = torch.zeros(60, dtype=dtype)
    diagonal[[3, 50]] = torch.tensor([2.0, 5.0], dtype=dtype)
    assert method(SymmetricOperator.from_matrix(torch.diag(diagonal)), num_matvecs=12).value == pytest.approx(
        7.0, rel=tolerance
    )


@pytest.mark.parametrize("method", [xtrace, xnystrace])
def test_enough_products_give_the_exact_trace(method: Callable[..., TraceEstimate]) -> None:
    truth = np.linspace(0.1, 2, 21)
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    estimate = method(op, num_matvecs=22)
    assert op.num_matvecs == 21
    assert estimate.value == pytest.approx(truth.sum(), rel=1e-13)
    assert estimate.standard_error == 0.0


@pytest.mark.parametrize("method", [xtrace, xnystrace])
@pytest.mark.parametrize("scale", [1e-20, 1e-8, 1e8])
def test_scale_does_not_matter(method: Callable[..., TraceEstimate], scale: float) -> None:
    one, two = (
        method(SymmetricOperator.from_matrix(with_spectrum(f * PSD["outliers"], dtype=torch.float32)), num_matvecs=24)
        for f in (1.0, scale)
    )
    np.testing.assert_allclose(two.samples / scale, one.samples, rtol=1e-3)


def test_xnystrace_refuses_what_is_clearly_indefinite() -> None:
    for name in ("uniform", "all negative"):
        with pytest.raises(LandscapeError, match=r"not positive semidefinite.*use xtrace"):
            xnystrace(SymmetricOperator.from_matrix(with_spectrum(SPECTRA[name] - 0.5)), num_matvecs=30)
    noisy = SymmetricOperator.from_matrix(with_spectrum(PSD["low rank"], dtype=torch.float32))
    assert xnystrace(noisy, num_matvecs=60).value == pytest.approx(PSD["low rank"].sum(), rel=1e-4)


def test_too_few_products_are_refused() -> None:
    op = SymmetricOperator.from_matrix(torch.eye(30))
    for method, few in ((xtrace, 5), (xnystrace, 2)):
        with pytest.raises(LandscapeError, match=f"num_matvecs = {few}"):
            method(op, num_matvecs=few)
    with pytest.raises(LandscapeError, match="num_probes = 0"):
        hutchinson_trace(op, num_probes=0)
    with pytest.raises(LandscapeError, match="no probe has been added"):
        TraceProbes(op).estimate()


def test_equal_products_take_the_exchangeable_estimators_further() -> None:
    """Root mean square errors over 40 seeds at 40 products."""
    truth = PSD["outliers"]
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    errors = {
        "Hutchinson": [hutchinson_trace(op, num_probes=40, seed=seed).value for seed in range(40)],
        "XTrace": [xtrace(op, num_matvecs=40, seed=seed).value for seed in range(40)],
        "XNysTrace": [xnystrace(op, num_matvecs=40, seed=seed).value for seed in range(40)],
    }
    rmse = {name: float(np.sqrt(np.mean((np.array(values) - truth.sum()) ** 2))) for name, values in errors.items()}
    assert rmse["XTrace"] < 0.03 * rmse["Hutchinson"]
    assert rmse["XNysTrace"] < 0.03 * rmse["Hutchinson"]


# --- intervals ------------------------------------------------------------------------------------------------------


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


def test_probing_ends_where_the_interval_meets_the_target() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["uniform"]))
    truth = float(SPECTRA["uniform"].sum())
    used, hits = [], 0
    for seed in range(40):
        found = hutchinson_trace(op, num_probes=8, max_probes=400, target=0.1, seed=seed)
        assert found.relative_width <= 0.1 or len(found.samples) == 400
        used.append(len(found.samples))
        hits += found.interval.low <= truth <= found.interval.high
    assert 8 < np.median(used) < 400
    assert hits >= 34  # 85 %: stopping early costs a few of the 95
    assert len(hutchinson_trace(op, num_probes=8, max_probes=12, target=1e-6).samples) == 12
    assert len(hutchinson_trace(op, num_probes=8, target=1e-6).samples) == 8
