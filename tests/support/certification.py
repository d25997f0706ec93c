"""One part with all its certificates, in the steps that a measurement takes."""

from __future__ import annotations

import torch

from landscape.curvature import (
    Certificates,
    Eigenpairs,
    HessianOperator,
    Problem,
    SpectralDensity,
    extreme_eigenpairs,
    spectral_density,
)
from landscape.curvature.certificates import certify
from landscape.curvature.lanczos import tridiagonalize
from landscape.curvature.sampling import SampleCurvature


def certified(
    problem: Problem, num_probes: int = 2, floor: float = 0.0
) -> tuple[Eigenpairs, SpectralDensity, Certificates]:
    """Pairs, density and certificates; the probes of the density and those of the samples are the same in kind only."""
    op = HessianOperator(problem, engine="double-backward")
    pairs = extreme_eigenpairs(op, 2, tol=1e-6, max_matvecs=300)
    density = spectral_density(op, num_probes=3, num_steps=40, deflate=pairs)
    curvature = SampleCurvature(problem, pairs=pairs, max_probes=num_probes)
    generator = torch.Generator().manual_seed(0)
    for _ in range(num_probes):
        signs = 2 * torch.randint(0, 2, (op.shape[0],), generator=generator) - 1
        z = signs.to(dtype=op.dtype)
        curvature.add_probe(z, z, tridiagonalize(op, z, 40))
    found = certify(problem, pairs=pairs, density=density, curvature=curvature, loss=problem.value(), noise_floor=floor)
    return pairs, density, found
