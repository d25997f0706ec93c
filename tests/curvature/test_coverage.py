"""Do intervals hold what they promise? Two hundred simulated analyses for every spectrum and way of stopping.

With 200 runs, 90 % is 3.2 standard deviations below a true coverage of 95 %, so a test that fails speaks of the method.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.matrices import network_like, with_spectrum
from torch import Tensor

from landscape.curvature import (
    Eigenpairs,
    Interval,
    SpectralDensity,
    SymmetricOperator,
    TraceEstimate,
    hutchinson_trace,
    spectral_density,
)
from landscape.curvature.density import rademacher_probe
from landscape.curvature.lanczos import Tridiagonalization, search
from landscape.curvature.trace import TraceProbes, xnystrace, xtrace

RUNS = 200
MIN_PROBES, MAX_PROBES, TARGET = 4, 12, 0.1
STEPS = 20
THRESHOLDS = (0.05, 0.5)
_NORMAL = np.random.default_rng(3).standard_normal(194)
TRUTH = {
    "network": network_like(200),
    "uniform": np.linspace(-1.0, 2.0, 360),
    "normal with outliers": np.sort(np.r_[0.3 * _NORMAL, [8.0, 5.0, 3.0, 2.0, -2.0, -1.2]]),
}


def covers(interval: Interval, truth: float) -> bool:
    return interval.low - 1e-12 <= truth <= interval.high + 1e-12


def trace_interval(estimate: TraceEstimate) -> Interval:
    return Interval.from_samples(estimate.samples, estimate.offset)


def first_probes(density: SpectralDensity, count: int) -> SpectralDensity:
    rows = ("nodes", "weights", "alpha", "beta", "num_steps", "probe_mass")
    return dataclasses.replace(density, **{name: getattr(density, name)[:count] for name in rows})


def stopped(density: SpectralDensity) -> SpectralDensity:
    """The probes that an analysis would have made which stops once M₋ is known well enough."""
    count = MIN_PROBES
    while count < MAX_PROBES and first_probes(density, count).relative_width() > TARGET:
        count += 1
    return first_probes(density, count)


def pairs_of(truth: np.ndarray, deflated: int) -> Eigenpairs | None:
    """The ``deflated`` // 2 exact pairs at each end."""
    if not deflated:
        return None
    chosen = np.r_[: deflated // 2, truth.size - deflated // 2 : truth.size]
    vectors = torch.linalg.eigh(with_spectrum(truth)).eigenvectors.numpy()[:, chosen]
    return Eigenpairs(truth[chosen], np.zeros(chosen.size), np.ones(chosen.size, bool), 1e-3, 0, vectors)


def shares(name: str, deflated: int) -> tuple[dict[str, float], np.ndarray]:
    """Share of runs whose interval holds the truth, for every figure and way of stopping; and the probes used."""
    truth = TRUTH[name]
    op, pairs = SymmetricOperator.from_matrix(with_spectrum(truth)), pairs_of(truth, deflated)
    hits: dict[str, float] = {}
    used = np.zeros(RUNS, dtype=int)
    for seed in range(RUNS):
        most = spectral_density(op, num_probes=MAX_PROBES, num_steps=STEPS, deflate=pairs, seed=seed)
        adaptive = stopped(most)
        used[seed] = len(adaptive.num_steps)
        for way, density in (("4", first_probes(most, 4)), ("12", most), ("adaptive", adaptive)):
            found = {
                "M₋": covers(density.negative_mass(), np.maximum(-truth, 0).sum()),
                "M₊": covers(density.positive_mass(), np.maximum(truth, 0).sum()),
                "tr": covers(trace_interval(density.trace()), truth.sum()),
            }
            for threshold in THRESHOLDS if way != "adaptive" else ():
                found[f"below {threshold}"] = covers(density.fraction_below(threshold), np.mean(truth < -threshold))
            for figure, hit in found.items():
                hits[f"{figure}, {way}"] = hits.get(f"{figure}, {way}", 0.0) + hit / RUNS
    return hits, used


@pytest.mark.parametrize("deflated", [0, 16])
@pytest.mark.parametrize("name", TRUTH)
def test_intervals_of_a_density_cover(name: str, deflated: int) -> None:
    """Masses at least 90 %, the enclosure 95 %; of the trace see the test below."""
    hits, used = shares(name, deflated)
    assert min(share for figure, share in hits.items() if figure.startswith("M")) >= 0.90, hits
    assert min(share for figure, share in hits.items() if figure.startswith("below")) >= 0.95, hits
    skewed = name == "network" and not deflated
    assert min(share for figure, share in hits.items() if figure.startswith("tr")) >= (0.85 if skewed else 0.90), hits
    assert used.min() >= MIN_PROBES
    if name == "network":
        assert used.mean() < 5 if deflated else used.min() == MAX_PROBES


CLUSTERED = {
    "repeated outliers": np.sort(np.r_[np.repeat([40.0, 20.0, -10.0, -6.0], 5), 0.3 * _NORMAL[:180]]),
    "negative pairs": np.sort(np.r_[np.repeat(-np.geomspace(1, 8, 8), 2), np.geomspace(0.01, 30, 184)]),
}


@pytest.mark.parametrize("name", CLUSTERED)
def test_what_a_search_deflates_leaves_the_intervals_valid(name: str) -> None:
    """The way of a measurement: outliers, and the basis of the trace, from a search; eigenvalues that repeat."""
    truth = CLUSTERED[name]
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    negative, hits = np.maximum(-truth, 0).sum(), np.zeros(4)
    means = []
    for seed in range(RUNS):
        found = search(op, 5, start=rademacher_probe(op, seed, 1000), seed=seed)
        probes = TraceProbes(op, found)

        def observe(z: Tensor, u: Tensor, run: Tridiagonalization, probes: TraceProbes = probes) -> None:
            probes.add(z, u, run.first_product * u.norm())

        density = spectral_density(op, num_probes=6, num_steps=40, deflate=found.outliers, seed=seed, observe=observe)
        means.append(density.negative_mass().value)
        hits += (
            covers(density.negative_mass(), negative),
            covers(density.fraction_below(0.05), np.mean(truth < -0.05)),
            covers(probes.estimate().interval, truth.sum()),
            covers(first_probes(density, 1).fraction_below(0.5), np.mean(truth < -0.5)),
        )
    assert abs(np.mean(means) / negative - 1) < 4 * np.std(means) / negative / RUNS**0.5 + 0.01
    mass, below, trace, single = hits / RUNS
    assert (mass >= 0.90, below >= 0.95, trace >= 0.90, single >= 0.95) == (True, True, True, True), hits / RUNS


def test_few_outliers_make_the_interval_of_a_trace_too_short() -> None:
    """A form that one eigenvalue dominates is χ²₁; deflated, what is left has many terms and Student is right."""
    truth = np.r_[np.linspace(0.0, 0.01, 99), 100.0]
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    plain = [hutchinson_trace(op, num_probes=10, seed=seed) for seed in range(2 * RUNS)]
    share = np.mean([covers(trace_interval(estimate), truth.sum()) for estimate in plain])
    assert 0.80 < share < 0.91  # 0.88 for ten values of χ²₁
    samples = np.concatenate([estimate.samples for estimate in plain]) / 100
    assert np.mean((samples - samples.mean()) ** 3) / samples.std() ** 3 > 2.0  # √8 for χ²₁
    pairs = pairs_of(truth, 2)
    deflated = [hutchinson_trace(op, num_probes=10, deflate=pairs, seed=seed) for seed in range(RUNS)]
    assert np.mean([covers(trace_interval(estimate), truth.sum()) for estimate in deflated]) >= 0.90
    errors = [np.std([estimate.value for estimate in estimates]) for estimates in (plain, deflated)]
    assert errors[1] < 0.01 * errors[0]


TRACES: dict[str, tuple[np.ndarray, Callable[..., TraceEstimate], int]] = {
    "xtrace, network": (TRUTH["network"], xtrace, 24),
    "xtrace, uniform": (TRUTH["uniform"], xtrace, 24),
    "xtrace, decaying": (np.sort(np.r_[np.geomspace(1e-4, 10, 150), -np.geomspace(1e-3, 1, 50)]), xtrace, 24),
    "xtrace, rank as probes": (np.sort(np.r_[np.zeros(188), np.geomspace(0.1, 10, 12)]), xtrace, 24),
    "xnystrace, outliers": (np.sort(np.r_[np.geomspace(1e-6, 0.1, 190), np.geomspace(1, 40, 10)]), xnystrace, 16),
    "xnystrace, flat": (np.linspace(0.5, 1.0, 200), xnystrace, 16),
}


@pytest.mark.parametrize("name", TRACES)
def test_intervals_of_exchangeable_estimators_cover(name: str) -> None:
    """The jackknife's error is the true one or more; leave-one-out values themselves covered 77 to 91 %."""
    truth, method, products = TRACES[name]
    op = SymmetricOperator.from_matrix(with_spectrum(truth))
    estimates = [method(op, num_matvecs=products, seed=seed) for seed in range(RUNS)]
    assert np.mean([covers(trace_interval(estimate), truth.sum()) for estimate in estimates]) >= 0.90
    error = np.sqrt(np.mean([(estimate.value - truth.sum()) ** 2 for estimate in estimates]))
    claimed = np.sqrt(np.mean([estimate.standard_error**2 for estimate in estimates]))
    assert claimed > 0.9 * error
    assert abs(np.mean([estimate.value for estimate in estimates]) - truth.sum()) < 4 * error / np.sqrt(RUNS)
