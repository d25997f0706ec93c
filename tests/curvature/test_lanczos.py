"""Lanczos and its thick restart on matrices whose spectrum is known."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from scipy.stats import norm, wasserstein_distance
from support.matrices import SPECTRA, network_like, with_spectrum
from torch import Tensor

from landscape.curvature import Eigenpairs, SymmetricOperator, extreme_eigenpairs, tridiagonalize
from landscape.curvature.lanczos import Search, Tridiagonalization, search
from landscape.errors import LandscapeError


def assert_honest(pairs: Eigenpairs, matrix: Tensor) -> None:
    """Residuals, flags and orthonormality, all recomputed in float64 from the vectors alone."""
    exact = matrix.double().numpy()
    eps = float(torch.finfo(matrix.dtype).eps)
    norm = np.abs(np.linalg.eigvalsh(exact)).max()
    vectors = np.asarray(pairs.vectors, dtype=np.float64)
    residuals = np.linalg.norm(exact @ vectors - vectors * pairs.values, axis=0)
    rounding = 40 * eps * norm
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-3, atol=rounding)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=40 * eps)
    assert (np.diff(pairs.values) >= 0).all()
    assert (pairs.converged == (pairs.residuals <= pairs.tol * np.abs(pairs.values).max())).all()
    # Some eigenvalue lies within the residual, and the i-th from either end never beyond the true one (Cauchy).
    truth = np.linalg.eigvalsh(exact)
    distance = np.abs(pairs.values[:, None] - truth).min(axis=1)
    assert (distance <= pairs.residuals + rounding).all()
    count = len(pairs.values)
    assert (pairs.values >= truth[:count] - rounding).all()
    assert (pairs.values <= truth[-count:] + rounding).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_both_ends_of_a_prescribed_spectrum(name: str, dtype: torch.dtype) -> None:
    matrix = with_spectrum(SPECTRA[name], dtype=dtype)
    op = SymmetricOperator.from_matrix(matrix)
    counted: list[int] = []
    pairs = extreme_eigenpairs(op, 3, tol=1e-4, max_matvecs=400, on_product=counted.append)
    assert_honest(pairs, matrix)
    assert pairs.converged.all()
    assert pairs.num_matvecs == op.num_matvecs == sum(counted) <= 400
    scale = np.abs(SPECTRA[name]).max()
    # Within the tolerance of the residual; repeats beyond the first copy are another test's matter.
    assert pairs.lambda_min == pytest.approx(SPECTRA[name][0], abs=1e-4 * scale)
    assert pairs.lambda_max == pytest.approx(SPECTRA[name][-1], abs=1e-4 * scale)
    if name != "repeated":
        truth = np.r_[SPECTRA[name][:3], SPECTRA[name][-3:]]
        np.testing.assert_allclose(pairs.values, truth, atol=2e-4 * scale + 1e-12)


def test_multiplicities_are_found_only_after_exhaustion() -> None:
    """What a single-vector process can promise about copies of a repeated eigenvalue.

    A Krylov space holds one direction of each eigenspace. Copies are certain only when the space closes and the process
    goes on from a random vector; otherwise the Ritz values give a lower bound of their number. It is never too high.
    """
    closing = extreme_eigenpairs(
        SymmetricOperator.from_matrix(with_spectrum(SPECTRA["three values"])), 3, max_matvecs=400
    )
    np.testing.assert_allclose(closing.values, [-2, -2, 0, 5, 5, 5], atol=1e-10)
    spectrum = SPECTRA["repeated"]
    for seed in range(5):
        op = SymmetricOperator.from_matrix(with_spectrum(spectrum, seed=seed))
        open_space = extreme_eigenpairs(op, 3, tol=1e-6, max_matvecs=400, seed=seed)
        assert 1 <= np.sum(np.abs(open_space.values - 5) < 1e-6) <= 3
        assert 1 <= np.sum(np.abs(open_space.values + 2) < 1e-6) <= 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_tiny_and_huge_matrices_give_the_same_spectrum(scale: float, dtype: torch.dtype) -> None:
    """The squares of such entries leave the range of float32; a norm that underflows looks like an exhausted space."""
    matrix = with_spectrum(SPECTRA["network"], dtype=dtype)
    plain = extreme_eigenpairs(SymmetricOperator.from_matrix(matrix), 3)
    scaled = extreme_eigenpairs(SymmetricOperator.from_matrix(matrix * scale), 3)
    assert scaled.converged.all()
    np.testing.assert_allclose(scaled.values / scale, plain.values, atol=1e-3 * plain.lambda_max)
    start = torch.ones(len(matrix), dtype=dtype)
    runs = [tridiagonalize(SymmetricOperator.from_matrix(matrix * s), start, 30) for s in (1.0, scale)]
    assert runs[1].num_steps == 30
    np.testing.assert_allclose(runs[1].ritz()[0][[0, -1]] / scale, runs[0].ritz()[0][[0, -1]], rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("repeated", [False, True])
def test_matrices_smaller_than_the_subspace_are_solved_completely(n: int, repeated: bool) -> None:
    truth = np.sort(np.r_[-1.0, np.full(n - 1, 2.0)]) if repeated else np.linspace(-1, 2, n)
    matrix = with_spectrum(truth)
    op = SymmetricOperator.from_matrix(matrix)
    pairs = extreme_eigenpairs(op, 5, tol=1e-13)
    assert_honest(pairs, matrix)
    np.testing.assert_allclose(pairs.values, truth, atol=1e-13)
    assert pairs.num_matvecs == op.num_matvecs == 2 * n
    assert pairs.vectors is not None
    assert pairs.vectors.shape == (n, n)


@pytest.mark.parametrize("max_matvecs", [2, 3, 7, 10, 11, 19, 40, 47, 61, 90])
def test_a_small_budget_is_kept_and_confessed(max_matvecs: int) -> None:
    matrix = with_spectrum(np.linspace(-1, 1, 400))
    op = SymmetricOperator.from_matrix(matrix)
    pairs = extreme_eigenpairs(op, 5, tol=1e-9, max_matvecs=max_matvecs)
    assert pairs.num_matvecs == op.num_matvecs <= max_matvecs
    assert op.num_matvecs >= max_matvecs - 1
    assert_honest(pairs, matrix)
    assert not pairs.converged.all()


def test_the_tolerance_is_what_the_residual_meets() -> None:
    matrix = with_spectrum(SPECTRA["network"])
    products = []
    for tol in (1e-2, 1e-6, 1e-10):
        pairs = extreme_eigenpairs(SymmetricOperator.from_matrix(matrix), 3, tol=tol, max_matvecs=2000)
        assert_honest(pairs, matrix)
        assert pairs.converged.all()
        assert pairs.residuals.max() <= tol * 40
        products.append(pairs.num_matvecs)
    assert products == sorted(products)


@pytest.mark.parametrize("subspace", [9, 10, 17, 60])
def test_any_subspace_converges_to_the_same_pairs(subspace: int) -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op = SymmetricOperator.from_matrix(matrix)
    pairs = extreme_eigenpairs(op, 3, max_vectors=subspace, tol=1e-5, max_matvecs=3000)
    assert pairs.converged.all()
    assert_honest(pairs, matrix)
    np.testing.assert_allclose(pairs.values, np.r_[SPECTRA["network"][:3], SPECTRA["network"][-3:]], atol=1e-6)


def test_the_seed_decides_everything() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    state = torch.random.get_rng_state()
    one, two, other = (extreme_eigenpairs(op, 2, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.values, two.values)
    assert np.array_equal(one.vectors, two.vectors)
    assert not np.array_equal(one.vectors, other.vectors)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("settings", [{"k": 0}, {"max_matvecs": 1}, {"k": 5, "max_vectors": 12}])
def test_impossible_settings_are_refused(settings: dict[str, int]) -> None:
    op = SymmetricOperator.from_matrix(torch.eye(50))
    with pytest.raises(LandscapeError, match=r"at least|give 13"):
        extreme_eigenpairs(op, **settings)


# ------------------------------------------------------------------ the tridiagonal matrix


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("name", SPECTRA)
def test_basis_is_orthonormal_and_projects_to_the_tridiagonal_matrix(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    matrix = with_spectrum(SPECTRA[name], dtype=dtype)
    scale = max(1.0, float(np.abs(SPECTRA[name]).max()))
    run = tridiagonalize(SymmetricOperator.from_matrix(matrix), torch.ones(len(matrix)), 70)
    basis = run.basis.double()
    m = run.num_steps
    assert basis.shape == (m, len(matrix))
    np.testing.assert_allclose(basis @ basis.T, np.eye(m), atol=20 * tolerance)
    expected = np.diag(run.alpha) + np.diag(run.beta[:-1], 1) + np.diag(run.beta[:-1], -1)
    np.testing.assert_allclose(basis @ matrix.double() @ basis.T, expected, atol=60 * tolerance * scale)
    values, vectors = run.ritz()
    np.testing.assert_allclose(vectors @ np.diag(values) @ vectors.T, expected, atol=1e-13 * scale)
    assert values[0] >= SPECTRA[name][0] - 20 * tolerance * scale
    assert values[-1] <= SPECTRA[name][-1] + 20 * tolerance * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("name", "distinct"), [("three values", 3), ("zero", 1), ("rank deficient", 6)])
def test_an_exhausted_space_stops_the_run(name: str, distinct: int, dtype: torch.dtype) -> None:
    matrix = with_spectrum(SPECTRA[name], dtype=dtype)
    counted: list[int] = []
    run = tridiagonalize(SymmetricOperator.from_matrix(matrix), torch.ones(len(matrix)), 50, on_product=counted.append)
    assert run.exhausted
    # Rounding can add a step before the residual is recognised as nothing.
    assert distinct <= run.num_steps <= distinct + 2
    assert len(counted) == run.num_steps
    scale = max(1.0, float(np.abs(SPECTRA[name]).max()))
    for value in np.unique(SPECTRA[name]):
        assert np.abs(run.ritz()[0] - value).min() < 1e-4 * scale


def test_a_full_run_is_the_whole_spectrum() -> None:
    truth = np.linspace(-1, 2, 25)
    matrix = with_spectrum(truth)
    start = torch.randn(25, generator=torch.Generator().manual_seed(0))
    for steps in (25, 60):
        run = tridiagonalize(SymmetricOperator.from_matrix(matrix), start, steps)
        np.testing.assert_allclose(run.ritz()[0], truth, atol=1e-12)


def test_deflation_runs_on_the_projected_matrix() -> None:
    truth = SPECTRA["network"]
    matrix = with_spectrum(truth)
    vectors = torch.linalg.eigh(matrix).eigenvectors
    rows = torch.cat([vectors[:, :3], vectors[:, -5:]], dim=1).T.contiguous()
    start = torch.randn(len(truth), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    run = tridiagonalize(SymmetricOperator.from_matrix(matrix), start, 30, deflate=rows)
    assert float((run.basis @ rows.T).abs().max()) < 1e-13
    values = run.ritz()[0]
    assert values[0] >= truth[3] - 1e-12
    assert values[-1] <= truth[-6] + 1e-12
    assert values[-1] == pytest.approx(truth[-6], rel=1e-6)


def test_nothing_left_to_start_from_is_a_zero() -> None:
    matrix = with_spectrum(np.linspace(1, 2, 6))
    everything = torch.linalg.eigh(matrix).eigenvectors.T.contiguous()
    op = SymmetricOperator.from_matrix(matrix)
    for deflate, start in ((everything, torch.ones(6)), (None, torch.zeros(6))):
        run = tridiagonalize(op, start, 4, deflate=deflate)
        assert run.exhausted
        assert run.basis.shape == (1, 6)
        assert not run.basis.any()
        assert run.ritz()[0].tolist() == [0.0]
    assert op.num_matvecs == 0


@pytest.mark.parametrize("reorthogonalize", [True, False])
@pytest.mark.parametrize("deflated", [False, True])
def test_the_first_product_is_untouched(reorthogonalize: bool, deflated: bool) -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op = SymmetricOperator.from_matrix(matrix)
    rows = torch.linalg.eigh(matrix).eigenvectors[:, -2:].T.contiguous() if deflated else None
    start = probe(len(matrix))
    run = tridiagonalize(op, start, 5, deflate=rows, reorthogonalize=reorthogonalize)
    first = start if rows is None else start - (rows @ start) @ rows
    torch.testing.assert_close(run.first_product, matrix @ first / first.norm(), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------ two vectors


def probe(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def measure_of(run: Tridiagonalization) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = run.ritz()
    return values, vectors[0] ** 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ghosts_share_the_right_weight(dtype: torch.dtype) -> None:
    """Two vectors give repeated values, but the measure of the whole basis."""
    truth = network_like(400)
    matrix = with_spectrum(truth, dtype=dtype)
    op, start = SymmetricOperator.from_matrix(matrix), probe(400)
    runs = [tridiagonalize(op, start, 120, reorthogonalize=flag) for flag in (True, False)]
    assert runs[1].basis.shape == (0, 400)
    (full, full_weights), (bare, bare_weights) = (measure_of(run) for run in runs)
    assert np.sum(np.abs(full - 40) < 0.01) == 1
    assert np.sum(np.abs(bare - 40) < 0.01) > 1  # ghosts there are
    assert bare_weights.sum() == pytest.approx(1.0, abs=1e-12)
    for outlier in (-4.0, 3.0, 40.0):
        near = [w[np.abs(v - outlier) < 0.01].sum() for v, w in ((full, full_weights), (bare, bare_weights))]
        assert near[1] == pytest.approx(near[0], rel=1e-3)
    masses = [np.sum(w * np.maximum(-v, 0)) for v, w in ((full, full_weights), (bare, bare_weights))]
    rounding = 50 * float(torch.finfo(dtype).eps) * 44  # of the products, over the whole range
    assert masses[1] == pytest.approx(masses[0], abs=2e-3 * masses[0] + rounding)
    assert wasserstein_distance(full, bare, full_weights, bare_weights) < 1e-4 * 44
    grid = np.linspace(-6, 42, 2000)
    curves = [norm.cdf((grid[:, None] - v) / 0.05) @ w for v, w in ((full, full_weights), (bare, bare_weights))]
    assert np.abs(curves[0] - curves[1]).max() < 0.02


def test_two_vectors_stay_out_of_the_deflated_space() -> None:
    truth = network_like(400)
    matrix = with_spectrum(truth)
    vectors = torch.linalg.eigh(matrix).eigenvectors
    rows = torch.cat([vectors[:, :3], vectors[:, -5:]], dim=1).T.contiguous()
    values = tridiagonalize(
        SymmetricOperator.from_matrix(matrix), probe(400), 150, deflate=rows, reorthogonalize=False
    ).ritz()[0]
    assert values[0] >= truth[3] - 1e-10
    assert values[-1] <= truth[-6] + 1e-10


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_two_vectors_keep_the_measure_when_the_space_is_exhausted(scale: float) -> None:
    """Rounding hides the end of the space from two vectors; what follows is ghosts, no weight elsewhere."""
    matrix = with_spectrum(SPECTRA["three values"])
    start = probe(100)
    run = tridiagonalize(SymmetricOperator.from_matrix(matrix * scale), start, 50, reorthogonalize=False)
    values, weights = measure_of(run)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    shares = ((vectors.T @ start) ** 2 / (start @ start)).numpy()
    for value in (-2.0, 0.0, 5.0):
        found = weights[np.abs(values / scale - value) < 1e-6].sum()
        assert found == pytest.approx(shares[np.abs(eigenvalues.numpy() - value) < 1e-6].sum(), abs=1e-9)


# ------------------------------------------------------------------ what a search leaves behind


CASES = {
    **{f"{name}, one": (SPECTRA[name], None, {}) for name in SPECTRA},
    "restarted, one": (SPECTRA["uniform"], None, {"max_vectors": 12, "max_matvecs": 150}),
    "block": (SPECTRA["network"], 4, {}),
    "block, repeated": (SPECTRA["repeated"], 3, {}),
    "block, rank deficient": (SPECTRA["rank deficient"], 3, {}),
    "block, zero": (SPECTRA["zero"], 3, {}),
    "block, all negative": (SPECTRA["all negative"], 3, {}),
    "block, restarted": (SPECTRA["uniform"], 3, {"max_vectors": 18, "max_matvecs": 200}),
    "block, as wide as the space": (np.linspace(-1, 2, 6), 9, {}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("case", CASES)
def test_the_subspace_says_what_it_knows_of_the_matrix(
    case: str, scale: float, dtype: torch.dtype, tolerance: float
) -> None:
    """H Bᵀ = Bᵀ T + Rᵀ E, B orthonormal, R ⊥ B, before and after restarts, for one vector and for blocks."""
    spectrum, columns, settings = CASES[case]
    matrix = with_spectrum(spectrum * scale, dtype=dtype)
    n = len(matrix)
    start = None if columns is None else probe(n * columns).reshape(n, columns)
    op = SymmetricOperator.from_matrix(matrix)
    found = search(op, 2, tol=1e-4, start=start, **settings)
    exact, basis, residual = matrix.double(), found.basis.double(), found.residual.double()
    size = max(np.abs(spectrum).max(), 1e-300) * scale
    m = len(basis)
    assert found.projected.shape == (m, m)
    assert found.coupling.shape == (len(residual), m)
    np.testing.assert_allclose(basis @ basis.T, np.eye(m), atol=10 * tolerance)
    assert np.array_equal(found.projected, found.projected.T)
    np.testing.assert_allclose(residual @ basis.T / size, 0, atol=10 * tolerance)
    known = basis.T @ torch.as_tensor(found.projected) + residual.T @ torch.as_tensor(found.coupling)
    np.testing.assert_allclose(exact @ basis.T / size, known / size, atol=20 * tolerance)
    assert_honest(found.pairs, matrix)
    assert_outliers(found, matrix)
    assert found.pairs.num_matvecs == op.num_matvecs == found.outliers.num_matvecs
    assert found.pairs.converged.all() or "restarted" in case
    assert (found.run is None) == (columns is not None)


def assert_outliers(found: Search, matrix: Tensor) -> None:
    """Converged eigenpairs, orthonormal, away from 0, and every wanted pair of that kind among them."""
    exact = matrix.double().numpy()
    truth = np.linalg.eigvalsh(exact)
    size = np.abs(truth).max()
    rounding = 100 * float(torch.finfo(matrix.dtype).eps) * size
    outliers, pairs = found.outliers, found.pairs
    vectors = np.asarray(outliers.vectors, dtype=np.float64)
    assert vectors.shape == (len(exact), len(outliers.values))
    residuals = np.linalg.norm(exact @ vectors - vectors * outliers.values, axis=0)
    assert (residuals <= outliers.residuals + rounding).all()
    assert (outliers.residuals <= 1.01 * pairs.tol * size).all()
    assert (np.abs(outliers.values) > 10 * outliers.residuals).all()
    assert (np.diff(outliers.values) >= 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=1e-5)
    qualified = pairs.converged & (np.abs(pairs.values) > 10 * pairs.residuals)
    for value, residual in zip(pairs.values[qualified], pairs.residuals[qualified], strict=True):
        assert np.any((outliers.values == value) & (outliers.residuals == residual))


def test_outliers_between_the_wanted_ends_are_found_too() -> None:
    spectrum = network_like(200)
    found = search(SymmetricOperator.from_matrix(with_spectrum(spectrum)), 1, tol=1e-3, max_matvecs=100)
    assert len(found.pairs.values) == 2
    assert np.sum(found.outliers.values > 2.5) > 1
    exhaustive = search(SymmetricOperator.from_matrix(with_spectrum(spectrum)), 3, tol=1e-8, max_matvecs=100)
    np.testing.assert_allclose(exhaustive.outliers.values[-5:], spectrum[-5:], rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_vectors", [None, 12])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_run_of_a_search_is_lanczos_from_its_start(name: str, max_vectors: int | None, dtype: torch.dtype) -> None:
    matrix = with_spectrum(SPECTRA[name], dtype=dtype)
    op, start = SymmetricOperator.from_matrix(matrix), probe(len(matrix)).sign()
    found = search(op, 2, tol=1e-4, start=start, max_vectors=max_vectors)
    run = found.run
    assert run is not None
    assert max_vectors is None or run.num_steps <= max_vectors
    alone = tridiagonalize(op, start, run.num_steps)
    np.testing.assert_allclose(run.alpha, alone.alpha, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(run.beta, alone.beta, rtol=1e-12, atol=1e-14)
    assert run.exhausted == alone.exhausted
    assert torch.equal(run.first_product, alone.first_product)
    if len(run.basis):
        assert torch.equal(run.basis, alone.basis)
        assert run.basis.data_ptr() == found.basis.data_ptr()
    else:  # it was restarted, and the coefficients are what is left
        assert found.pairs.num_matvecs > run.num_steps + 4
    assert measure_of(run)[1].sum() == pytest.approx(1.0, abs=1e-12)


def test_quadrature_of_the_run_is_exact_to_degree_2m_minus_1() -> None:
    matrix = with_spectrum(np.linspace(-1.0, 1.3, 60))
    start = probe(60)
    run = search(SymmetricOperator.from_matrix(matrix), 1, tol=0.5, start=start).run
    assert run is not None
    values, weights = measure_of(run)
    unit, power = start / start.norm(), start / start.norm()
    for degree in range(2 * run.num_steps):
        assert np.sum(weights * values**degree) == pytest.approx(float(unit @ power), abs=1e-12 * 1.3**degree)
        power = matrix @ power


# ------------------------------------------------------------------ blocks and warm starts


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_a_block_resolves_repeated_eigenvalues_in_an_open_space(scale: float, dtype: torch.dtype) -> None:
    truth = np.sort(np.r_[network_like(300), np.full(3, 60.0), np.full(2, -9.0)]) * scale
    for seed in range(3):
        matrix = with_spectrum(truth, dtype=dtype, seed=seed)
        start = probe(len(truth) * 3, seed).reshape(-1, 3)
        found = search(SymmetricOperator.from_matrix(matrix), 3, tol=1e-4, start=start, seed=seed)
        assert len(found.basis) < 60
        assert found.pairs.converged.all()
        np.testing.assert_allclose(found.pairs.values / scale, np.r_[truth[:3], truth[-3:]] / scale, atol=1e-3)


def slow_edges(n: int = 400) -> np.ndarray:
    """Both ends thin out gradually, as after real training; a cold search takes its time."""
    bulk = np.random.default_rng(3).normal(0, 0.01, n - 120)
    return np.sort(np.r_[20 * 0.9 ** np.arange(60), -4 * 0.9 ** np.arange(60), bulk])


@pytest.mark.parametrize("change", [1e-4, 1e-2])
def test_a_warm_start_needs_clearly_fewer_products(change: float) -> None:
    spectrum = slow_edges()
    matrix = with_spectrum(spectrum)
    noise = with_spectrum(np.random.default_rng(0).uniform(-change, change, len(spectrum)), seed=5)
    before = search(SymmetricOperator.from_matrix(matrix), 5)
    op = SymmetricOperator.from_matrix(matrix + noise)
    cold = search(op, 5)
    warm = search(op, 5, start=torch.as_tensor(before.pairs.vectors))
    assert_honest(warm.pairs, matrix + noise)
    assert warm.pairs.converged.all()
    assert warm.pairs.num_matvecs <= 0.75 * cold.pairs.num_matvecs
    truth = np.linalg.eigvalsh(matrix + noise)
    np.testing.assert_allclose(warm.pairs.values, np.r_[truth[:5], truth[-5:]], atol=1e-3 * 20)


def test_a_warm_start_finds_what_its_vectors_do_not_hold() -> None:
    """A new negative eigenvalue whose eigenvector is orthogonal to every start vector, all of which are exact."""
    spectrum = slow_edges()
    matrix = with_spectrum(spectrum)
    vectors = torch.linalg.eigh(matrix).eigenvectors
    new = vectors[:, 200]
    op = SymmetricOperator.from_matrix(matrix - 6 * torch.outer(new, new))
    warm = search(op, 3, start=torch.cat([vectors[:, :3], vectors[:, -3:]], dim=1))
    assert warm.pairs.lambda_min == pytest.approx(spectrum[200] - 6, abs=1e-3)


def test_bad_start_vectors_are_replaced() -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op, good = SymmetricOperator.from_matrix(matrix), probe(120)
    truth = np.r_[SPECTRA["network"][:3], SPECTRA["network"][-3:]]
    for start in (torch.zeros(120), torch.zeros(120, 3), torch.stack([good, -2 * good, 1e-30 * good], dim=1)):
        found = search(op, 3, tol=1e-6, start=start)
        assert found.pairs.converged.all()
        np.testing.assert_allclose(found.pairs.values, truth, atol=1e-4)
        np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(len(found.basis)), atol=1e-12)


@pytest.mark.parametrize("max_matvecs", [2, 5, 9, 14, 23, 31])
def test_a_block_keeps_the_budget(max_matvecs: int) -> None:
    matrix = with_spectrum(np.linspace(-1, 1, 300))
    op = SymmetricOperator.from_matrix(matrix)
    pairs = extreme_eigenpairs(op, 3, tol=1e-9, max_matvecs=max_matvecs, start=probe(1200).reshape(300, 4))
    assert pairs.num_matvecs == op.num_matvecs <= max_matvecs
    assert_honest(pairs, matrix)
    assert not pairs.converged.all()


def test_blocks_share_one_call_of_the_operator() -> None:
    class Recorder(SymmetricOperator):
        def __matmul__(self, vectors: Tensor) -> Tensor:
            shapes.append(tuple(vectors.shape))
            return matrix @ vectors

    shapes: list[tuple[int, ...]] = []
    matrix = with_spectrum(slow_edges())
    search(Recorder(400, dtype=torch.float64), 2, start=probe(1200).reshape(400, 3))
    assert shapes[0] == (400, 4)
    assert shapes[-1] == (400, 4)  # the explicit residuals
    shapes.clear()
    search(Recorder(400, dtype=torch.float64), 2, start=probe(400))
    assert set(shapes[:-1]) == {(400,)}


def test_the_ends_agree_with_arpack() -> None:
    matrix = with_spectrum(slow_edges())
    op = SymmetricOperator.from_matrix(matrix)
    pairs = extreme_eigenpairs(op, 5, tol=1e-9, max_matvecs=2000)
    expected = np.sort(eigsh(op.to_scipy(), k=10, which="BE", tol=1e-12, v0=np.ones(400))[0])
    assert pairs.converged.all()
    np.testing.assert_allclose(pairs.values, expected, atol=1e-8)


def test_an_operator_may_return_its_argument() -> None:
    class Identity(SymmetricOperator):
        def _matvec(self, vector: Tensor) -> Tensor:
            return vector

    op = Identity(40, dtype=torch.float64)
    found = search(op, 2, start=probe(40))
    assert found.run is not None
    assert (found.run.num_steps, found.run.exhausted) == (1, True)
    np.testing.assert_allclose(found.pairs.values, 1.0, atol=1e-14)
    np.testing.assert_allclose(tridiagonalize(op, probe(40), 5, reorthogonalize=False).ritz()[0], [1.0], atol=1e-14)


def test_what_cannot_be_searched_is_refused() -> None:
    op = SymmetricOperator.from_matrix(torch.eye(50))
    for start in (torch.ones(49), torch.ones(50, 0), torch.ones(50, 2, 2)):
        with pytest.raises(LandscapeError, match=r"give \(50,\) or \(50, p\)"):
            search(op, start=start)
    with pytest.raises(LandscapeError, match="give finite vectors"):
        search(op, start=torch.full((50,), torch.nan))
    with pytest.raises(LandscapeError, match="block of 4: give 16"):
        search(op, start=torch.ones(50, 3), max_vectors=15)
    broken = SymmetricOperator.from_matrix(torch.full((50, 50), torch.nan))
    for flag in (True, False):
        with pytest.raises(LandscapeError, match="not finite"):
            tridiagonalize(broken, torch.ones(50), 5, reorthogonalize=flag)
    with pytest.raises(LandscapeError, match="not finite"):
        search(broken)
