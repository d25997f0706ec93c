"""Stochastic Lanczos quadrature: exact moments, deflation identities, and intervals that hold what they promise."""

import dataclasses

import numpy as np
import pytest
import torch
from support.matrices import SPECTRA, with_spectrum

from landscape.curvature import (
    Eigenpairs,
    Interval,
    SpectralDensity,
    SymmetricOperator,
    Tridiagonalization,
    spectral_density,
)
from landscape.curvature.density import density_of_run, rademacher_probe
from landscape.curvature.lanczos import search
from landscape.curvature.results import _radau_shares
from landscape.errors import LandscapeError


def exact_pairs(matrix: torch.Tensor, lowest: int, highest: int) -> Eigenpairs:
    values, vectors = (t.numpy() for t in torch.linalg.eigh(matrix.double()))
    chosen = np.r_[np.arange(lowest), np.arange(len(values) - highest, len(values))]
    count = len(chosen)
    return Eigenpairs(values[chosen], np.zeros(count), np.ones(count, bool), 1e-3, 0, vectors[:, chosen])


def probes_of(op: SymmetricOperator, count: int, seed: int) -> torch.Tensor:
    return torch.stack([rademacher_probe(op, seed, index) for index in range(count)])


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


def test_a_probe_depends_on_its_number_alone() -> None:
    op = SymmetricOperator.from_matrix(torch.eye(1003, dtype=torch.float64))
    probes = torch.stack([rademacher_probe(op, seed, index) for seed in (-1, 0, 1, 2**40) for index in range(6)])
    torch.testing.assert_close(rademacher_probe(op, 1, 4), probes[16], rtol=0, atol=0)
    overlaps = probes @ probes.T / 1003 - torch.eye(24, dtype=torch.float64)
    assert float(overlaps.abs().max()) < 5 / 1003**0.5
    assert float(overlaps.std()) == pytest.approx(1003**-0.5, rel=0.2)
    assert abs(float(probes.mean())) < 4 / (24 * 1003) ** 0.5
    short = rademacher_probe(SymmetricOperator.from_matrix(torch.eye(70)), 1, 4)
    assert short.dtype == torch.float32
    assert torch.equal(short.double(), probes[16, :70])


@pytest.mark.parametrize("deflate", [False, True])
def test_probes_made_in_pieces_are_the_probes_made_at_once(deflate: bool) -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op = SymmetricOperator.from_matrix(matrix)
    pairs = exact_pairs(matrix, 3, 5) if deflate else None
    whole = spectral_density(op, num_probes=5, num_steps=12, deflate=pairs, seed=3)
    first = spectral_density(op, num_probes=2, num_steps=12, deflate=pairs, seed=3)
    rest = spectral_density(op, num_probes=3, num_steps=12, deflate=pairs, seed=3, first_probe=2)
    joined = first.extended(rest)
    for name in ("nodes", "weights", "alpha", "beta", "num_steps", "probe_mass", "deflated"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    assert (joined.dimension, joined.num_matvecs) == (whole.dimension, whole.num_matvecs)


def test_joining_pads_and_refuses_another_deflation() -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op = SymmetricOperator.from_matrix(matrix)
    short, long = (spectral_density(op, num_probes=1, num_steps=m, first_probe=m) for m in (5, 9))
    for one, two in ((short, long), (long, short)):
        joined = one.extended(two)
        assert joined.nodes.shape == (2, 9)
        for row, part in enumerate((one, two)):
            steps = part.num_steps[0]
            np.testing.assert_array_equal(joined.nodes[row, :steps], part.nodes[0])
            assert np.isnan(joined.alpha[row, steps:]).all()
            assert not joined.weights[row, steps:].any()
        assert joined.trace().value == pytest.approx((one.trace().value + two.trace().value) / 2)
    other = spectral_density(op, num_probes=1, num_steps=5, deflate=exact_pairs(matrix, 0, 1))
    with pytest.raises(LandscapeError, match="deflate the same pairs"):
        short.extended(other)
    with pytest.raises(LandscapeError, match="dimension 120 and 90"):
        short.extended(spectral_density(SymmetricOperator.from_matrix(with_spectrum(SPECTRA["uniform"]))))


def test_an_observer_sees_every_probe_and_its_first_product() -> None:
    matrix = with_spectrum(SPECTRA["network"])
    op, pairs = SymmetricOperator.from_matrix(matrix), exact_pairs(matrix, 3, 5)
    seen: list[tuple[torch.Tensor, torch.Tensor, Tridiagonalization]] = []
    density = spectral_density(
        op, num_probes=3, num_steps=9, deflate=pairs, first_probe=4, observe=lambda *args: seen.append(args)
    )
    rows = torch.as_tensor(pairs.vectors).T
    assert len(seen) == 3
    for row, (z, u, run) in enumerate(seen):
        torch.testing.assert_close(z, rademacher_probe(op, 0, 4 + row))
        torch.testing.assert_close(u, z - (rows @ z) @ rows)
        assert density.probe_mass[row] == pytest.approx(float(u @ u))
        torch.testing.assert_close(run.first_product * u.norm(), matrix @ u, rtol=0, atol=1e-12 * 40)
        np.testing.assert_allclose(density.alpha[row], run.alpha)


@pytest.mark.parametrize("deflate", [False, True])
def test_two_vectors_are_enough_for_masses(deflate: bool) -> None:
    matrix = with_spectrum(SPECTRA["network"], dtype=torch.float32)
    op = SymmetricOperator.from_matrix(matrix)
    pairs = exact_pairs(matrix, 3, 5) if deflate else None
    full, lean = (
        spectral_density(op, num_probes=3, num_steps=60, deflate=pairs, reorthogonalize=keep) for keep in (True, False)
    )
    for one, two in ((full.negative_mass(), lean.negative_mass()), (full.positive_mass(), lean.positive_mass())):
        assert two.value == pytest.approx(one.value, rel=1e-2)
        assert two.high - two.low == pytest.approx(one.high - one.low, rel=5e-2)


# --- the probe that comes with the search ---------------------------------------------------------------------------


def test_the_run_of_a_search_is_a_density_of_its_own() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["network"]))
    z = rademacher_probe(op, 2, 0)
    found = search(op, 3, start=z, tol=1e-6)
    assert found.run is not None
    before = op.num_matvecs
    free = density_of_run(found.run, op.shape[0])
    assert op.num_matvecs == before
    made = spectral_density(op, num_probes=1, num_steps=found.run.num_steps, seed=2)
    for function in (lambda x: x, np.square, np.abs, lambda x: np.maximum(-x, 0)):
        assert free.integrate(function)[0][0] == pytest.approx(made.integrate(function)[0][0], rel=1e-6, abs=1e-9)


# --- the enclosure below a threshold --------------------------------------------------------------------------------


def bounds_of(density: SpectralDensity, threshold: float) -> tuple[float, float]:
    """L and U of a density's single probe, in eigenvalues: the interval without its probe error."""
    steps = density.num_steps[0]
    low, high = _radau_shares(density.alpha[0, :steps], density.beta[0, :steps], np.array([-threshold]))[0, :, 0]
    return float(density.probe_mass[0] * low), float(density.probe_mass[0] * high)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 30])
def test_every_probe_encloses_its_measure(name: str, steps: int) -> None:
    """L ≤ F ≤ U for each probe, wherever the threshold lies: on an eigenvalue, on a Ritz value, outside."""
    truth = SPECTRA[name]
    matrix = with_spectrum(truth)
    op = SymmetricOperator.from_matrix(matrix)
    density = spectral_density(op, num_probes=1, num_steps=steps, seed=4)
    shares = (torch.linalg.eigh(matrix).eigenvectors.T @ rademacher_probe(op, 4, 0)).square().numpy()
    values = torch.linalg.eigvalsh(matrix).numpy()
    nodes, scale = density.nodes[0, : density.num_steps[0]], float(np.abs(truth).max())
    for x in {*-np.geomspace(1e-6, 2 * scale + 1e-9, 25), *truth[truth <= 0], *nodes[nodes <= 0], 0.0}:
        lower, upper = bounds_of(density, -x)
        rounding = 1e-7 * scale
        assert lower <= shares[values < x + rounding].sum() + 1e-9
        assert shares[values < x - rounding].sum() <= upper + 1e-9
        interval = density.fraction_below(-x)
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_more_steps_close_the_enclosure() -> None:
    truth = np.linspace(-1.0, 2.0, 150)
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    widths = []
    for steps in (4, 12, 36, 150):
        lower, upper = bounds_of(spectral_density(op, num_probes=1, num_steps=steps), 0.305)
        widths.append((upper - lower) / 150)
    assert (np.diff(widths) < 0).all()
    assert widths[0] > 0.25
    assert widths[2] < 0.1
    assert widths[3] < 1e-9  # exhausted


def test_the_enclosure_does_not_jump_at_a_ritz_value() -> None:
    density = spectral_density(SymmetricOperator.from_matrix(with_spectrum(SPECTRA["uniform"])), num_steps=12)
    ritz = density.nodes[0][density.nodes[0] < 0]
    for x in ritz:
        around = np.array([bounds_of(first_probes(density, 1), -x - gap) for gap in (-1e-9, 0.0, 1e-15, 1e-9)])
        assert np.ptp(around, axis=0).max() < 1e-4


def first_probes(density: SpectralDensity, count: int) -> SpectralDensity:
    rows = ("nodes", "weights", "alpha", "beta", "num_steps", "probe_mass")
    return dataclasses.replace(density, **{name: getattr(density, name)[:count] for name in rows})


def test_deflated_eigenvalues_are_counted_one_by_one() -> None:
    truth = np.linspace(-1, 2, 12)
    matrix = with_spectrum(truth)
    density = spectral_density(
        SymmetricOperator.from_matrix(matrix), num_probes=1, num_steps=8, deflate=exact_pairs(matrix, 6, 6)
    )
    interval = density.fraction_below(0.5)
    assert interval == Interval(2 / 12, 2 / 12, 2 / 12)
    partly = spectral_density(
        SymmetricOperator.from_matrix(matrix), num_probes=1, num_steps=2, deflate=exact_pairs(matrix, 2, 3)
    )
    assert partly.fraction_below(0.0).low >= 2 / 12
    assert partly.fraction_below(0.0).high <= 1 - 3 / 12


def test_a_convex_problem_has_nothing_below() -> None:
    op = SymmetricOperator.from_matrix(with_spectrum(np.geomspace(1e-3, 10, 80)))
    assert spectral_density(op, num_probes=2, num_steps=80).fraction_below(1e-4).high == 0.0
    assert spectral_density(op, num_probes=2, num_steps=20).fraction_below(0.5).high < 0.01
    zero = spectral_density(SymmetricOperator.from_matrix(torch.zeros(30, 30)), num_probes=2)
    assert zero.fraction_below(0.0) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("steps", [2, 8, 30])
def test_counts_enclose_the_measure_on_both_sides_of_every_point(name: str, steps: int) -> None:
    """Averaged over probes, at points of both signs, on eigenvalues and on Ritz values."""
    truth = SPECTRA[name]
    matrix = with_spectrum(truth)
    op = SymmetricOperator.from_matrix(matrix)
    density = spectral_density(op, num_probes=3, num_steps=steps, seed=4)
    values, vectors = torch.linalg.eigh(matrix)
    probes = torch.stack([rademacher_probe(op, 4, probe) for probe in range(3)], dim=1)
    shares, values = (vectors.T @ probes).square().mean(dim=1).numpy(), values.numpy()
    scale, nodes = float(np.abs(truth).max()), density.nodes[np.isfinite(density.nodes)]
    grid = np.geomspace(1e-6, 2 * scale + 1e-9, 12)
    points = np.unique(np.r_[-grid, 0.0, grid, truth[:5], truth[-5:], nodes[:6]])
    below, above = density.cumulative(points)
    rounding = 1e-7 * scale
    for number, x in enumerate(points):
        for counts, sure, possible in (
            (below, values < x - rounding, values < x + rounding),
            (above, values > x + rounding, values > x - rounding),
        ):
            assert counts.lower[number] <= shares[possible].sum() + 1e-9
            assert shares[sure].sum() <= counts.upper[number] + 1e-9
            assert counts.low[number] <= counts.lower[number] + 1e-9
            assert counts.upper[number] <= counts.high[number] + 1e-9
    np.testing.assert_array_equal(below.points, points)


def test_the_interval_of_counts_holds_the_number_of_eigenvalues() -> None:
    """At 1 % a side and a point, over points and seeds; what was deflated is counted one by one."""
    truth = np.sort(np.concatenate([-np.geomspace(1e-3, 5, 40), np.geomspace(1e-3, 50, 160)]))
    matrix = with_spectrum(truth)
    points = np.r_[-np.geomspace(4e-3, 6, 4), np.geomspace(4e-3, 60, 4)]
    exact = np.stack([(truth < points[:, None]).sum(axis=1), (truth > points[:, None]).sum(axis=1)])
    held = []
    for seed in range(12):
        density = spectral_density(
            SymmetricOperator.from_matrix(matrix),
            num_probes=4, num_steps=40, seed=seed, deflate=exact_pairs(matrix, 3, 5),
        )  # fmt: skip
        sides = density.cumulative(points)
        held += [
            (side.low <= true + 1e-9) & (true <= side.high + 1e-9) for side, true in zip(sides, exact, strict=True)
        ]
        assert [sides[0].low[3], sides[1].low[7]] == [0, 0]
        assert max(sides[0].high[3], sides[1].high[7]) < 0.1  # beyond the ends of the spectrum
        assert sides[0].low[2] >= 3
        assert sides[1].low[6] >= 5
    assert np.mean(held) > 0.97
    fraction = density.fraction_below(-float(points[1]))
    assert (fraction.low * 200, fraction.high * 200) == pytest.approx((sides[0].low[1], sides[0].high[1]))


def test_an_eigenvalue_lies_neither_below_nor_above_itself() -> None:
    truth = np.sort(np.concatenate([-np.geomspace(1e-3, 5, 10), np.geomspace(1e-3, 50, 30)]))
    matrix = with_spectrum(truth)
    pairs = exact_pairs(matrix, 1, 1)
    density = spectral_density(SymmetricOperator.from_matrix(matrix), num_probes=4, num_steps=20, deflate=pairs)
    below, above = density.cumulative(density.deflated)
    assert max(below.high[0], above.high[-1]) < 0.1
    below, above = density.cumulative(np.nextafter(density.deflated, [np.inf, -np.inf]))
    assert [below.lower[0], above.lower[-1]] == [1, 1]


def test_a_negative_threshold_is_refused() -> None:
    density = spectral_density(SymmetricOperator.from_matrix(torch.eye(3)), num_probes=1)
    for threshold in (-1e-3, float("nan")):
        with pytest.raises(LandscapeError, match="give one ≥ 0"):
            density.fraction_below(threshold)


def test_relative_width() -> None:
    indefinite = SymmetricOperator.from_matrix(with_spectrum(SPECTRA["uniform"]))
    assert spectral_density(indefinite, num_probes=1).relative_width() == np.inf
    density = spectral_density(indefinite, num_probes=6)
    negative = density.negative_mass()
    assert density.relative_width() == pytest.approx((negative.high - negative.value) / negative.value)
    few = dataclasses.replace(first_probes(density, 2), nodes=density.nodes[[0, 0]], weights=density.weights[[0, 0]])
    assert few.relative_width() > 0.1  # two probes that agree by chance are no proof
    convex = SymmetricOperator.from_matrix(with_spectrum(np.geomspace(1e-3, 1, 40)))
    assert spectral_density(convex, num_probes=2, num_steps=40).relative_width() == 0.0
