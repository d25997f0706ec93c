"""Lanczos and its thick restart on matrices whose spectrum is known."""

import numpy as np
import pytest
import torch
from support.matrices import SPECTRA, with_spectrum
from torch import Tensor

from landscape.curvature import Eigenpairs, SymmetricOperator, extreme_eigenpairs, tridiagonalize
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
