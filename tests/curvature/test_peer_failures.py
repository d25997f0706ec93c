"""Where other Hessian toolkits go wrong, with the figures they give; each was measured on their released code."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from support.matrices import SPECTRA, with_spectrum
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
from torch import Tensor, nn

from landscape.curvature import (
    HessianOperator,
    Interval,
    Problem,
    Samples,
    SymmetricOperator,
    extreme_eigenpairs,
    spectral_density,
    tridiagonalize,
)
from landscape.errors import LandscapeError
from landscape.losses import build_loss


class _JitteredLoader:
    """Every reading adds fresh noise to the inputs, as random crops and flips do."""

    def __init__(self, samples: Samples, jitter: float) -> None:
        self.samples, self.jitter, self.generator = samples, jitter, torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[Samples]:
        inputs, targets = self.samples
        noise = torch.randn(inputs.shape, generator=self.generator, dtype=inputs.dtype)
        yield Samples(inputs + self.jitter * noise, targets)


class _MovingOperator(SymmetricOperator):
    """Softmax regression on inputs that are read anew at every product: convex every time, and never the same."""

    def __init__(self, model: nn.Linear, loader: _JitteredLoader) -> None:
        super().__init__(model.weight.numel(), dtype=torch.float64)
        self.weight, self.loader = model.weight.detach().double(), loader

    def _matvec(self, vector: Tensor) -> Tensor:
        ((inputs, _),) = self.loader
        inputs = inputs.double()
        chances = (inputs @ self.weight.T).softmax(1)
        logits = inputs @ vector.reshape(self.weight.shape).T
        slopes = chances * (logits - (chances * logits).sum(1, keepdim=True))
        return (slopes.T @ inputs / len(inputs)).flatten()


@pytest.mark.parametrize("seed", range(3))
def test_random_augmentation_fabricates_no_negative_curvature(seed: int) -> None:
    """Fresh inputs at every product give a convex family Ritz values of −0.5 to −11 % of λ_max (Saddle-LongTail)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, inputs = nn.Linear(20, 10, bias=False), torch.randn(10, 20)
    loss = build_loss("ce", [1] * 10)
    loader = _JitteredLoader(Samples(inputs, torch.arange(10)), 0.2)
    start = torch.randn(200, generator=torch.Generator().manual_seed(seed))
    moving = tridiagonalize(_MovingOperator(model, loader), start, 40).ritz()[0]
    assert moving[0] < -0.005 * moving[-1]
    with pytest.raises(LandscapeError, match="not deterministic"):
        Problem(model, loss, loader)
    frozen = Problem(model, loss, Samples.from_loader(loader, freeze=True), dtype=torch.float64)
    assert extreme_eigenpairs(HessianOperator(frozen), 1, tol=1e-6).lambda_min > -1e-9 * moving[-1]


@pytest.mark.parametrize("steps", [12, 20])
def test_negative_mass_is_estimated_where_the_share_of_negative_nodes_is_not(steps: int) -> None:
    """Intervals of the share of negative Ritz weight cover the truth in 0 % of runs, those of M₋ in 98 % (all)."""
    rng = np.random.default_rng(1)
    # A bulk that is all but symmetric around 0: Ritz values fall to both sides of it as they like.
    bulk = 10.0 ** rng.uniform(-5, -2, 392) * rng.choice([1, 1, -1], 392)
    truth = np.sort(np.r_[bulk, [-4.0, -2.0, -1.0, 3.0, 5.0, 9.0, 12.0, 20.0]])
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    mass, share = -truth[truth < 0].sum(), np.mean(truth < 0)
    repetitions, by_mass, by_share = 60, 0, 0
    for seed in range(repetitions):
        density = spectral_density(op, num_probes=10, num_steps=steps, seed=seed)
        interval = density.negative_mass()
        by_mass += interval.low <= mass <= interval.high
        samples, offset = density.integrate(lambda x: (x < 0) / len(truth))
        naive = Interval.from_samples(samples, offset)
        by_share += naive.low <= share <= naive.high
    assert by_mass >= 0.9 * repetitions
    assert by_share <= 0.1 * repetitions


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


@pytest.mark.parametrize("spectrum", ["three values", "rank deficient"])
def test_weights_are_first_components_and_both_signs_share_one_total(spectrum: str) -> None:
    """The whole eigenvector matrix squared weighs m, and each sign normalised alone weighs 1 (Landscaper)."""
    truth = SPECTRA[spectrum]
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    density = spectral_density(op, num_probes=200, num_steps=20)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1.0, rtol=1e-12)
    total, _ = density.integrate(np.ones_like)
    assert total.mean() == pytest.approx(len(truth))
    # Few distinct eigenvalues: the quadrature is exact, so the share of each sign is that of its eigenvalues.
    for sign in (-1, 1):
        counts, _ = density.integrate(lambda x, sign=sign: (sign * x > 1e-9).astype(float))
        expected = np.sum(sign * truth > 1e-9)
        assert counts.mean() == pytest.approx(expected, abs=4 * counts.std(ddof=1) / len(counts) ** 0.5)


@pytest.mark.parametrize("spectrum", ["network", "one negative far below", "repeated", "all negative"])
@pytest.mark.parametrize("k", [1, 5])
def test_defaults_find_the_lowest_eigenvalue(spectrum: str, k: int) -> None:
    """Two Lanczos steps by default give a saddle λ_min = +0.012, and five pairs stay unconverged (eigenthings)."""
    truth = SPECTRA[spectrum]
    pairs = extreme_eigenpairs(SymmetricOperator.from_matrix(with_spectrum(truth)), k)
    assert pairs.converged.all()
    largest = np.abs(truth).max()
    assert pairs.lambda_min == pytest.approx(truth[0], abs=1e-3 * largest)
    assert pairs.lambda_max == pytest.approx(truth[-1], abs=1e-3 * largest)


@pytest.mark.parametrize("budget", [4, 8, 16])
def test_converged_means_that_the_explicit_residual_is_small(budget: int) -> None:
    """A test of a shifted quantity calls λ − momentum converged (eigenthings); ends may come from 2 steps."""
    matrix = with_spectrum(SPECTRA["network"])
    pairs = extreme_eigenpairs(SymmetricOperator.from_matrix(matrix), 2, tol=1e-8, max_matvecs=budget)
    assert pairs.vectors is not None
    vectors = torch.as_tensor(pairs.vectors)
    residuals = (matrix @ vectors - vectors * torch.as_tensor(pairs.values)).norm(dim=0).numpy()
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-6, atol=1e-13)
    assert np.array_equal(pairs.converged, residuals <= 1e-8 * np.abs(pairs.values).max())
    assert pairs.num_matvecs <= budget
    assert not pairs.converged.all()
