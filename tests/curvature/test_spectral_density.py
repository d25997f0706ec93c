"""Stochastic Lanczos quadrature: exact moments, deflation identities, and intervals that hold what they promise."""

import numpy as np
import pytest
import torch
from support.matrices import SPECTRA, with_spectrum

from landscape.curvature import Eigenpairs, Interval, SpectralDensity, SymmetricOperator, spectral_density
from landscape.curvature.density import rademacher_probe
from landscape.errors import LandscapeError

RUNS = 200
ENOUGH = 0.90  # of the runs; the intervals are nominal 95 % ones


def exact_pairs(matrix: torch.Tensor, lowest: int, highest: int) -> Eigenpairs:
    values, vectors = (t.numpy() for t in torch.linalg.eigh(matrix.double()))
    chosen = np.r_[np.arange(lowest), np.arange(len(values) - highest, len(values))]
    count = len(chosen)
    return Eigenpairs(values[chosen], np.zeros(count), np.ones(count, bool), 1e-3, 0, vectors[:, chosen])


def probes_of(op: SymmetricOperator, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([rademacher_probe(op, generator) for _ in range(count)])


def mass(values: np.ndarray) -> tuple[float, float]:
    """(M₋, ν) of a known spectrum."""
    negative = float(np.maximum(-values, 0).sum())
    return negative, negative / float(np.abs(values).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_weights_of_every_probe_sum_to_one(name: str, dtype: torch.dtype) -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA[name], dtype=dtype))
    counted: list[int] = []
    density = spectral_density(op, num_probes=3, num_steps=40, on_product=counted.append)
    np.testing.assert_allclose(density.weights.sum(axis=1), 1.0, atol=1e-12)
    assert (density.weights >= 0).all()
    np.testing.assert_allclose(density.probe_mass, len(SPECTRA[name]), rtol=1e-12)
    assert density.num_matvecs == op.num_matvecs == sum(counted) == density.num_steps.sum()
    assert density.dimension == len(SPECTRA[name])


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_moments_are_exact_to_degree_2m_minus_1(steps: int) -> None:
    matrix = with_spectrum(np.linspace(-1.0, 1.3, 50))
    op = SymmetricOperator.from_matrix(matrix)
    density = spectral_density(op, num_probes=2, num_steps=steps, seed=5)
    for row, z in enumerate(probes_of(op, 2, 5)):
        power = z.clone()
        for degree in range(2 * steps + 1):
            exact = float(z @ power)
            quadrature = density.probe_mass[row] * float(np.sum(density.weights[row] * density.nodes[row] ** degree))
            if degree <= 2 * steps - 1:
                assert quadrature == pytest.approx(exact, abs=1e-12 * 50)
            power = matrix @ power
        assert abs(quadrature - exact) > 1e-6 * abs(exact)  # one degree more is too much to ask


def test_breakdown_leaves_a_shorter_row_that_is_still_exact() -> None:
    swap = torch.block_diag(*[torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)] * 30)  # exactly ±1
    matrix = torch.block_diag(swap, torch.diag(torch.full((20,), 5.0, dtype=torch.float64)))
    truth = torch.linalg.eigvalsh(matrix).numpy()
    op = SymmetricOperator.from_matrix(matrix)
    density = spectral_density(op, num_probes=3, num_steps=40, seed=2)
    assert (density.num_steps == 3).all()
    assert density.nodes.shape == (3, 40)
    for row, steps in enumerate(density.num_steps):
        assert np.isnan(density.nodes[row, steps:]).all()
        assert np.isnan(density.alpha[row, steps:]).all()
        assert not density.weights[row, steps:].any()
        assert not np.isnan(density.nodes[row, :steps]).any()
    vectors = torch.linalg.eigh(matrix).eigenvectors
    for row, z in enumerate(probes_of(op, 3, 2)):
        exact = float((torch.as_tensor(np.maximum(-truth, 0)) * (vectors.T @ z) ** 2).sum())
        assert density.integrate(lambda x: np.maximum(-x, 0))[0][row] == pytest.approx(exact, rel=1e-9)


def test_a_zero_matrix_has_no_mass_and_an_undefined_share() -> None:
    density = spectral_density(SymmetricOperator.from_matrix(torch.zeros(30, 30)), num_probes=3)
    assert density.negative_mass() == Interval(0.0, 0.0, 0.0)
    assert np.isnan(density.negative_fraction_of_mass().value)
    assert (density.trace().value, density.trace().standard_error) == (0.0, 0.0)


def test_a_single_probe_knows_no_error() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    density = spectral_density(op, num_probes=1, num_steps=30)
    negative, share = density.negative_mass(), density.negative_fraction_of_mass()
    assert (negative.low, negative.high) == (0.0, np.inf)
    assert (share.low, share.high) == (0.0, 1.0)
    assert 0 < share.value < 1
    assert density.trace().standard_error == np.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deflated_pairs_are_counted_once_and_exactly(dtype: torch.dtype) -> None:
    """tr f(H) = Σ_d f(λ_d) + tr f(PHP) on the complement, probe by probe."""
    truth = SPECTRA["network"]
    matrix = with_spectrum(truth, dtype=dtype)
    op, pairs = SymmetricOperator.from_matrix(matrix), exact_pairs(matrix, 3, 5)
    density = spectral_density(op, num_probes=4, num_steps=60, deflate=pairs, seed=9)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    np.testing.assert_allclose(density.deflated, pairs.values)
    assert np.nanmin(density.nodes) >= truth[3] - tolerance
    assert np.nanmax(density.nodes) <= truth[-6] + tolerance
    rows = torch.as_tensor(pairs.vectors).T
    samples, offset = density.integrate(lambda x: x)
    assert offset == pytest.approx(pairs.values.sum())
    for row, z in enumerate(probes_of(op, 4, 9).double()):
        rest = z - (rows @ z) @ rows
        assert density.probe_mass[row] == pytest.approx(float(rest @ rest), rel=1e-5)
        assert samples[row] == pytest.approx(float(rest @ matrix.double() @ rest), abs=10 * tolerance)
    trace = density.trace()
    assert trace.offset + trace.samples[0] == pytest.approx(offset + samples[0], abs=10 * tolerance)
    negative = density.negative_mass()
    assert negative.low >= -truth[:3].sum() - tolerance
    assert negative.value == pytest.approx(mass(truth)[0], rel=0.02)


def test_everything_deflated_leaves_no_error() -> None:
    truth = np.linspace(-1, 2, 12)
    matrix = with_spectrum(truth)
    op = SymmetricOperator.from_matrix(matrix)
    density = spectral_density(op, num_probes=3, num_steps=8, deflate=exact_pairs(matrix, 6, 6))
    assert op.num_matvecs == density.num_matvecs == 0
    negative, share = density.negative_mass(), density.negative_fraction_of_mass()
    assert (negative.value, share.value) == pytest.approx(mass(truth))
    assert negative.high - negative.low < 1e-12
    assert share.high - share.low < 1e-12
    assert density.trace().value == pytest.approx(truth.sum())


def test_doubtful_pairs_are_not_deflated() -> None:
    matrix = with_spectrum(np.linspace(-1, 2, 30))
    exact = exact_pairs(matrix, 2, 2)
    doubtful = Eigenpairs(
        exact.values,
        np.array([0.0, 0.5, 0.0, 0.0]),  # the second is wide beside its own eigenvalue
        np.array([True, True, False, True]),
        1e-3,
        0,
        exact.vectors,
    )
    density = spectral_density(SymmetricOperator.from_matrix(matrix), num_probes=2, num_steps=10, deflate=doubtful)
    np.testing.assert_allclose(density.deflated, exact.values[[0, 3]])
    without = spectral_density(
        SymmetricOperator.from_matrix(matrix), num_probes=2, num_steps=10, deflate=exact.without_vectors()
    )
    assert without.deflated.size == 0


@pytest.mark.parametrize("deflated", [0, 4])
def test_ninety_five_percent_intervals_cover(deflated: int) -> None:
    """Simulated 200 times on an indefinite matrix with outliers; the share of negative nodes would cover 0 %."""
    rng = np.random.default_rng(11)
    truth = np.sort(np.r_[rng.standard_normal(54) * 0.3, [8.0, 5.0, 3.0, 2.0, -2.0, -1.2]])
    matrix = with_spectrum(truth)
    op = SymmetricOperator.from_matrix(matrix)
    pairs = exact_pairs(matrix, deflated // 2, deflated - deflated // 2) if deflated else None
    expected = {"M₋": mass(truth)[0], "ν": mass(truth)[1], "tr": truth.sum()}
    hits = dict.fromkeys(expected, 0)
    for seed in range(RUNS):
        density = spectral_density(op, num_probes=6, num_steps=20, deflate=pairs, seed=seed)
        trace = density.trace()
        intervals = {
            "M₋": density.negative_mass(),
            "ν": density.negative_fraction_of_mass(),
            "tr": Interval.from_samples(trace.samples, trace.offset),
        }
        for name, interval in intervals.items():
            assert interval.low <= interval.value <= interval.high
            hits[name] += interval.low <= expected[name] <= interval.high
    assert min(hits.values()) >= ENOUGH * RUNS, hits


def test_masses_and_trace_obey_their_identity() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    density = spectral_density(op, num_probes=4, num_steps=30)
    difference = density.positive_mass().value - density.negative_mass().value
    assert difference == pytest.approx(density.trace().value, rel=1e-10)
    total = density.positive_mass().value + density.negative_mass().value
    assert density.negative_fraction_of_mass().value == pytest.approx(density.negative_mass().value / total, rel=1e-12)


def test_parts_of_one_size_meet_the_same_probes() -> None:
    def run(seed: int) -> SpectralDensity:
        return spectral_density(
            SymmetricOperator.from_matrix(with_spectrum(SPECTRA["uniform"])), num_probes=2, seed=seed
        )

    assert np.array_equal(run(1).alpha, run(1).alpha)
    assert not np.array_equal(run(1).alpha, run(2).alpha)
    op = SymmetricOperator.from_matrix(torch.eye(40, dtype=torch.float64))
    single = SymmetricOperator.from_matrix(torch.eye(40, dtype=torch.float32))
    probes = probes_of(op, 3, 0)
    assert torch.equal(probes, probes_of(single, 3, 0).double())
    assert set(probes.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("settings", [{"num_probes": 0}, {"num_steps": 0}])
def test_no_probe_and_no_step_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(LandscapeError, match="at least 1"):
        spectral_density(SymmetricOperator.from_matrix(torch.eye(3)), **settings)
