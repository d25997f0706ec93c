"""Where other Hessian toolkits go wrong, with the figures they give; each was measured on their released code."""

import itertools

import numpy as np
import pytest
import torch
from support.matrices import with_spectrum
from support.problems import (
    COUNTS,
    LABELS,
    DenseOracle,
    hessian_matrix,
    model_and_samples,
    oracle,
    small_loss,
    small_problem,
    softmax_regression,
)
from torch import Tensor

from landscape.curvature import (
    HessianOperator,
    Problem,
    Samples,
    SymmetricOperator,
    extreme_eigenpairs,
    spectral_density,
    tridiagonalize,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_exhausted_krylov_space_gives_a_convex_problem_no_negative_eigenvalue(seed: int, dtype: torch.dtype) -> None:
    """100 single-pass Lanczos steps on softmax regression with 5 samples give λ_min = −0.72 λ_max (PyHessian)."""
    op = HessianOperator(softmax_regression(dtype))
    start = torch.randn(op.shape[0], generator=torch.Generator().manual_seed(seed))
    values = tridiagonalize(op, start, 100).ritz()[0]
    truth = torch.linalg.eigvalsh(hessian_matrix(softmax_regression(torch.float64)))
    assert values[0] >= -1e-6 * values[-1]
    assert values[-1] == pytest.approx(float(truth[-1]), rel=1e-5)
    pairs = extreme_eigenpairs(op, 5, tol=1e-5, seed=seed)
    assert pairs.converged.all()
    assert pairs.lambda_min >= -1e-6 * pairs.lambda_max
    np.testing.assert_allclose(pairs.values[-5:], truth[-5:], rtol=1e-5)
    for deflate in (None, pairs):
        density = spectral_density(op, num_probes=3, num_steps=100, deflate=deflate, seed=seed)
        assert density.negative_mass().value <= 1e-6 * float(truth.sum())
        assert density.negative_fraction_of_mass().value <= 1e-6
        assert density.trace().value == pytest.approx(float(truth.sum()), rel=0.5)
        assert np.nanmin(density.nodes) >= -1e-6 * pairs.lambda_max


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 1e-5, 1e-8, 1e-20])
def test_a_flat_loss_keeps_its_spectrum(scale: float, dtype: torch.dtype) -> None:
    """Adding 1e-6 to norms turns λ_min/λ_max = −4 % into −41 % once the loss is scaled by 1e-4 (PyHessian)."""
    loss = small_loss()

    def scaled_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        total, weight = loss(logits, labels)
        return scale * total, weight

    plain, scaled = (HessianOperator(small_problem("mlp", f, dtype=dtype)) for f in (loss, scaled_loss))
    one, two = (extreme_eigenpairs(op, 3, tol=1e-5) for op in (plain, scaled))
    assert one.lambda_min < -1e-3
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(two.values / scale, one.values, atol=tolerance * one.lambda_max)
    densities = [spectral_density(op, num_probes=2, num_steps=30) for op in (plain, scaled)]
    shares = [density.negative_fraction_of_mass().value for density in densities]
    assert shares[1] == pytest.approx(shares[0], rel=10 * tolerance)
    assert scaled.problem.check.finite_difference < 1e-5


def test_ragged_batches_weigh_samples_not_batches() -> None:
    """A mean of batch means makes 250 samples cut as 240 + 10 wrong by 43 % in λ_max (hessian-eigenthings)."""
    reference = oracle("mlp").hessian()
    matrix = hessian_matrix(small_problem("mlp", chunk_size=12))  # 12 + 1
    assert float((matrix - reference).norm() / reference.norm()) < 1e-12
    pieces = [oracle("mlp").hessian(index=torch.arange(*ends)) for ends in ((0, 12), (12, 13))]
    mean_of_means = (pieces[0] + pieces[1]) / 2
    assert float((mean_of_means - reference).norm() / reference.norm()) > 0.1


def test_class_weights_divide_once_not_once_a_batch() -> None:
    """Weighted means of batches weighed by their size are 19 % off at batch 16 (curvlinops)."""
    loss = small_loss("ce", weighted=True)
    reference = oracle("mlp", loss).hessian()
    for chunk_size in (1, 4, 13):
        matrix = hessian_matrix(small_problem("mlp", loss, chunk_size=chunk_size))
        assert float((matrix - reference).norm() / reference.norm()) < 1e-12
    by_size = sum(oracle("mlp", loss).hessian(index=chunk) * len(chunk) for chunk in torch.arange(13).split(4)) / len(
        LABELS
    )
    assert float((by_size - reference).norm() / reference.norm()) > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [50, 100, 200])
def test_no_ghost_copies_of_a_converged_eigenvalue(steps: int, dtype: torch.dtype) -> None:
    """Without reorthogonalisation outliers come back after 50 steps (hessian-eigenthings) and weigh twice."""
    truth = np.sort(np.r_[np.linspace(-0.1, 1.0, 395), [-3.0, 5.0, 9.0, 20.0, 50.0]])
    op = SymmetricOperator.from_matrix(with_spectrum(truth, dtype=dtype))
    run = tridiagonalize(op, torch.ones(400), steps)
    values = run.ritz()[0]
    assert run.num_steps == steps
    for outlier in (-3.0, 5.0, 9.0, 20.0, 50.0):
        assert np.sum(np.abs(values - outlier) < 0.1) == 1
    # Between two Ritz values there is always an eigenvalue.
    counts = [np.sum((truth > low - 1e-4) & (truth < high + 1e-4)) for low, high in itertools.pairwise(values)]
    assert min(counts) >= 1


def test_random_labels_order_of_chunks_does_not_matter() -> None:
    """Batches sorted by class, as class-wise analysis makes them, give the same matrix as shuffled ones."""
    model, samples = model_and_samples("mlp")
    order = torch.argsort(samples.targets)
    matrices = [
        hessian_matrix(Problem(model, small_loss(), data, dtype=torch.float64, chunk_size=4))
        for data in (samples, Samples(samples.inputs[order], samples.targets[order]))
    ]
    torch.testing.assert_close(matrices[0], matrices[1], rtol=1e-11, atol=1e-14)
    expected = DenseOracle(model, small_loss(), samples).hessian()
    torch.testing.assert_close(matrices[0], expected, rtol=1e-10, atol=1e-13)
    assert sum(COUNTS) == len(LABELS)
