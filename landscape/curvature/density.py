"""Spectral density by stochastic Lanczos quadrature."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.lanczos import Progress, tridiagonalize
from landscape.curvature.operators import SymmetricOperator
from landscape.curvature.results import Eigenpairs, SpectralDensity
from landscape.errors import LandscapeError


def rademacher_probe(op: SymmetricOperator, generator: torch.Generator) -> Tensor:
    """z ∈ {−1, 1}ⁿ; drawn on the CPU, so that every device sees the same probes for one seed."""
    signs = torch.randint(0, 2, (op.shape[0],), generator=generator, dtype=torch.int8)
    return (2 * signs - 1).to(device=op.device, dtype=op.dtype)


def deflation_basis(op: SymmetricOperator, pairs: Eigenpairs | None) -> tuple[Tensor | None, np.ndarray]:
    """Converged outliers as orthonormal rows ``(d, n)`` and their eigenvalues ``(d,)``.

    A pair whose residual is not small beside its own eigenvalue belongs to the bulk: taking it out would move mass that
    the quadrature counts correctly.
    """
    if pairs is None or pairs.vectors is None:
        return None, np.zeros(0)
    outliers = pairs.converged & (np.abs(pairs.values) > 10 * pairs.residuals)
    if not outliers.any():
        return None, np.zeros(0)
    columns = torch.as_tensor(pairs.vectors[:, outliers], dtype=op.dtype, device=op.device)
    rows = torch.linalg.qr(columns).Q.T.contiguous()
    return rows, np.asarray(pairs.values[outliers], dtype=np.float64)


def spectral_density(
    op: SymmetricOperator,
    *,
    num_probes: int = 10,
    num_steps: int = 100,
    deflate: Eigenpairs | None = None,
    seed: int = 0,
    on_product: Progress | None = None,
) -> SpectralDensity:
    """Quadrature nodes and weights of the spectral measure, kept raw for every probe.

    For a probe z and P = I − VVᵀ, Lanczos on PHP from Pz gives Ritz values θ_k and weights ω_k = (e₁ᵀy_k)²:

        tr f(H) ≈ Σ_d f(λ_d) + mean_l ‖Pz_l‖² Σ_k ω_lk f(θ_lk),

    exact in expectation for polynomials of degree 2m − 1 when the deflated pairs are exact. Two figures a reader may
    take from it are safe: masses (f Lipschitz) and smoothed densities. The share of *negative nodes* is not.

    Args:
        op: the matrix H.
        num_probes: n_v; the error bars come from their spread, so at least 2 for any statement.
        num_steps: m; the resolution inside the spectrum is about (λ_max − λ_min)/m.
        deflate: pairs to take out and count exactly; only the converged ones are used.
        seed: probes are the same for one seed and dimension, whatever the part, so parts compare probe by probe.
        on_product: called with the number of products just made.

    Raises:
        LandscapeError: no probe or no step.

    Cost: n_v · m products, memory m vectors.
    Source: Ubaru, Chen and Saad 2017; Ghorbani, Krishnan and Xiao 2019.
    """
    if num_probes < 1 or num_steps < 1:
        raise LandscapeError(f"num_probes = {num_probes}, num_steps = {num_steps}: both must be at least 1")
    rows, values = deflation_basis(op, deflate)
    generator = torch.Generator().manual_seed(seed)
    width = max(1, min(num_steps, op.shape[0] - len(values)))
    nodes, alpha = np.full((num_probes, width), np.nan), np.full((num_probes, width), np.nan)
    weights, beta = np.zeros((num_probes, width)), np.zeros((num_probes, width))
    steps, mass = np.zeros(num_probes, dtype=np.int64), np.zeros(num_probes)
    before = op.num_matvecs
    for probe in range(num_probes):
        vector = rademacher_probe(op, generator)
        if rows is not None:
            vector = vector - (rows @ vector) @ rows
        mass[probe] = float(vector.double().square().sum())
        run = tridiagonalize(op, vector, num_steps, deflate=rows, on_product=on_product)
        values_of_run, vectors_of_run = run.ritz()
        m = run.num_steps
        nodes[probe, :m], weights[probe, :m] = values_of_run, vectors_of_run[0] ** 2
        alpha[probe, :m], beta[probe, :m] = run.alpha, run.beta
        steps[probe] = m
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        alpha=alpha,
        beta=beta,
        num_steps=steps,
        probe_mass=mass,
        deflated=values,
        dimension=op.shape[0],
        num_matvecs=op.num_matvecs - before,
    )
