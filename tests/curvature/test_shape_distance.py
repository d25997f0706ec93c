"""Wasserstein-1 of normalised spectra: known spectra, invariances, bounds, and an error that covers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.spectra import class_eigenvalues, quadrature_of

from landscape.curvature.distance import normalized_measure, shape_distance
from landscape.curvature.results import SpectralDensity
from landscape.errors import LandscapeError


def exactly(eigenvalues: list[float]) -> SpectralDensity:
    """A spectrum that is known in full: every eigenvalue is deflated, but for one that a probe found."""
    *known, last = eigenvalues
    rows = np.array([[last], [last]])
    ones = np.ones_like(rows)
    return SpectralDensity(
        rows, ones, rows, 0 * rows, np.array([1, 1]), np.ones(2), np.array(known), len(eigenvalues), 0
    )


def scaled(density: SpectralDensity, factor: float) -> SpectralDensity:
    return dataclasses.replace(density, nodes=factor * density.nodes, deflated=factor * density.deflated)


def test_known_spectra() -> None:
    # (0, 2)/1 and (1, 1)/1: half of the eigenvalues move by 1, each way.
    assert shape_distance(exactly([0.0, 6.0]), exactly([5.0, 5.0])).value == pytest.approx(1.0)
    # (0, 0, 3) and (0, 1.5, 1.5): CDFs differ by 1/3 on [0, 1.5] and on [1.5, 3].
    assert shape_distance(exactly([0.0, 0.0, 3.0]), exactly([0.0, 2.0, 2.0])).value == pytest.approx(1.0)
    # All positive against its mirror image: the most there can be.
    assert shape_distance(exactly([1.0, 1.0]), exactly([-3.0, -3.0])).value == pytest.approx(2.0)
    # Of different size: (0, 2) four times over is the same distribution.
    assert shape_distance(exactly([0.0, 2.0] * 4), exactly([0.0, 7.0])).value == pytest.approx(0.0, abs=1e-12)


def test_a_saddle_without_trace_has_a_shape() -> None:
    assert shape_distance(exactly([-1.0, 1.0]), exactly([-5.0, 5.0])).value == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(LandscapeError, match="0 throughout"):
        shape_distance(exactly([0.0, 0.0]), exactly([1.0, 1.0]))


def test_scale_does_not_matter_and_order_does_not_matter() -> None:
    one = quadrature_of(class_eigenvalues(0.1, 800, 0), num_probes=3, num_steps=30, deflate=(4, 9))
    two = quadrature_of(class_eigenvalues(0.9, 500, 1), num_probes=4, num_steps=30, deflate=(4, 9))
    distance = shape_distance(one, two)
    assert 0 < distance.value < 2
    for pair in ((scaled(one, 7.0), two), (two, one)):
        again = shape_distance(*pair)
        assert again.value == pytest.approx(distance.value)
        assert again.standard_error == pytest.approx(distance.standard_error)
    assert shape_distance(one, scaled(one, 0.3)).value == pytest.approx(0.0, abs=1e-12)
    assert shape_distance(one, scaled(one, -1.0)).value > 0.5


def test_the_measure_has_unit_mass_and_unit_mean_magnitude() -> None:
    density = quadrature_of(class_eigenvalues(0.5, 800, 3), num_probes=5, num_steps=30, deflate=(4, 9))
    places, shares = normalized_measure(density)
    assert shares.sum() == pytest.approx(1.0)
    assert np.abs(places) @ shares == pytest.approx(1.0)


def test_the_error_is_the_jackknife_over_the_probes_of_both() -> None:
    """Var = Σ over parts of (R − 1)/R Σ_r (W_{−r} − mean)², each W_{−r} that of a spectrum measured without probe r."""
    parts = [
        quadrature_of(class_eigenvalues(rarity, size, seed), num_probes=probes, num_steps=20, deflate=(3, 5), seed=seed)
        for rarity, size, seed, probes in ((0.2, 600, 0, 3), (0.7, 300, 1, 4))
    ]
    variance = 0.0
    for place, part in enumerate(parts):
        values = []
        for probe in range(len(part.probe_mass)):
            rows = {
                name: np.delete(getattr(part, name), probe, axis=0)
                for name in ("nodes", "weights", "alpha", "beta", "num_steps", "probe_mass")
            }
            values.append(shape_distance(dataclasses.replace(part, **rows), parts[1 - place]).value)
        count = len(values)
        variance += (count - 1) / count * sum((value - np.mean(values)) ** 2 for value in values)
    assert shape_distance(*parts).standard_error == pytest.approx(variance**0.5, rel=1e-9)


def test_the_error_is_that_of_repeated_probes_and_unknown_for_one() -> None:
    spectra = class_eigenvalues(0.2, 600, 0), class_eigenvalues(0.7, 300, 1)
    found = []
    for trial in range(30):
        densities = [
            quadrature_of(s, num_probes=4, num_steps=25, deflate=(4, 9), seed=2 * trial + i)
            for i, s in enumerate(spectra)
        ]
        found.append(shape_distance(*densities))
    spread = np.std([distance.value for distance in found], ddof=1)
    assert 0.5 * spread < np.mean([distance.standard_error for distance in found]) < 2 * spread
    truth = shape_distance(exactly(list(spectra[0])), exactly(list(spectra[1]))).value
    covered = [abs(distance.value - truth) < 3 * distance.standard_error + 0.02 for distance in found]
    assert np.mean(covered) >= 0.9
    single = quadrature_of(spectra[0], num_probes=1, num_steps=25)
    assert shape_distance(single, densities[1]).standard_error == np.inf
