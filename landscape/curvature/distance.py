"""How far two spectra are from having one shape."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import wasserstein_distance

from landscape.curvature.results import Array, SpectralDensity
from landscape.errors import LandscapeError


@dataclass(frozen=True)
class ShapeDistance:
    """Wasserstein-1 distance of two spectra, each in units of its own mean |λ|."""

    value: float  # in [0, 2], without unit; 0: one shape
    standard_error: float  # over the probes of both; infinite where one has a single probe


def shape_distance(first: SpectralDensity, other: SpectralDensity) -> ShapeDistance:
    """W₁(μ, ν) = ∫ |F_μ(x) − F_ν(x)| dx of the two distributions of x = λ/s, s = Σ|λ|/n of each spectrum.

    Both have then E|x| = 1, so W₁ lies between 0 (one spectrum is a multiple of the other) and 2, and is the share of
    the curvature |λ| that stands elsewhere. The unit s is positive for every matrix but 0. The trace is not: at a
    saddle it vanishes or changes sign. λ_max is a single eigenvalue: measured by it, the many eigenvalues near 0 are at
    0 in every large layer, and all of those look alike. Two matrices of different size have few large eigenvalues among
    n: the same outliers in a smaller layer are nearer to its mean, which is part of the distance.

    The value is that of the pooled probes, a little high where they are few, as noise in either spectrum is distance
    too; the quadrature of m steps adds at most the spacing of its nodes, in units of s.

    Args:
        first: spectrum of one part, such as a layer.
        other: spectrum of another, such as the whole.

    Returns:
        The distance with its standard error by the jackknife, leaving out the probes of either part in turn.

    Raises:
        LandscapeError: a spectrum is 0 throughout.

    Cost: (probes of both + 1) sorts of all nodes.
    """
    value = _distance(normalized_measure(first), normalized_measure(other))
    variance = 0.0
    for left_out, fixed in ((first, other), (other, first)):
        count = len(left_out.probe_mass)
        if count < 2:
            return ShapeDistance(value, math.inf)
        known = normalized_measure(fixed)
        samples = np.array([_distance(normalized_measure(left_out, without=probe), known) for probe in range(count)])
        variance += (count - 1) / count * float(np.sum((samples - samples.mean()) ** 2))
    return ShapeDistance(value, math.sqrt(variance))


def normalized_measure(density: SpectralDensity, *, without: int | None = None) -> tuple[Array, Array]:
    """Places x = λ/s ``(p,)``, s = Σ|λ|/n, and shares ``(p,)`` that sum to 1, of all probes together.

    Args:
        density: quadrature of one part.
        without: a probe to leave out.

    Raises:
        LandscapeError: the spectrum is 0 throughout.
    """
    kept = np.arange(len(density.probe_mass)) != (-1 if without is None else without)
    weights = density.weights[kept]
    used = weights > 0
    # Every row stands for all eigenvalues that are not deflated: their number is known, the probe's mass is noise.
    rest = density.dimension - density.deflated.size
    places = np.concatenate([density.deflated, density.nodes[kept][used]])
    shares = np.concatenate([np.ones(density.deflated.size), rest / kept.sum() * weights[used]]) / density.dimension
    unit = float(np.abs(places) @ shares)
    if not unit > 0:
        raise LandscapeError("a spectrum that is 0 throughout has no shape to compare")
    return places / unit, shares / shares.sum()


def _distance(first: tuple[Array, Array], other: tuple[Array, Array]) -> float:
    return float(wasserstein_distance(first[0], other[0], first[1], other[1]))
