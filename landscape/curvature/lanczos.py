"""Lanczos with two-pass orthogonalisation, and thick restarts for the pairs at both ends of a spectrum.

One process serves both ends. Coefficients live in float64; the basis in the operator's precision as one contiguous
matrix, so that orthogonalising is two matrix-vector products (classical Gram-Schmidt, twice).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.operators import SymmetricOperator
from landscape.curvature.results import Array, Eigenpairs
from landscape.errors import LandscapeError

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Tridiagonalization:
    """QᵀHQ = T with T = diag(α) + offdiag(β)."""

    alpha: Array  # (m,) float64
    beta: Array  # (m,) float64; entry j couples steps j and j+1, the last one is the residual norm
    basis: Tensor  # (m, n) orthonormal rows
    exhausted: bool  # the Krylov space closed before the step limit
    first_product: Tensor  # (n,) H q_1, as the operator gave it

    @property
    def num_steps(self) -> int:
        return len(self.alpha)

    def ritz(self) -> tuple[Array, Array]:
        """Ritz values ``(m,)``, ascending, and eigenvectors of T as columns ``(m, m)``."""
        matrix = np.diag(self.alpha) + np.diag(self.beta[:-1], 1) + np.diag(self.beta[:-1], -1)
        values, vectors = np.linalg.eigh(matrix)
        return values, vectors


@dataclass(frozen=True)
class Search:
    """What one search for both ends leaves behind: H Bᵀ = Bᵀ T + Rᵀ E, rows of R orthogonal to B."""

    pairs: Eigenpairs
    run: Tridiagonalization | None
    basis: Tensor  # (m, n) orthonormal rows
    projected: Array  # (m, m) T = B H Bᵀ
    residual: Tensor  # (p, n) R
    coupling: Array  # (p, m) E
    outliers: Eigenpairs  # every converged Ritz pair well away from 0, vectors (n, d)


def breakdown_tolerance(op: SymmetricOperator) -> float:
    """A residual below this share of the largest |α| + |β| is rounding: the Krylov space is exhausted."""
    return float(torch.finfo(op.dtype).eps) * max(10.0, op.shape[0] ** 0.5)


def _norm(vector: Tensor) -> float:
    # In float64: the squares of a small class Hessian's entries leave the range of float32.
    return float(torch.linalg.vector_norm(vector, dtype=torch.float64))


def _orthogonalize(vector: Tensor, basis: Tensor) -> Array:
    """Take the span of ``basis`` (k, n) out of ``vector`` in place, twice; return the coefficients ``(k,)``."""
    coefficients = torch.zeros(len(basis), dtype=torch.float64, device=vector.device)
    for _ in range(2):
        step = basis @ vector
        vector -= step @ basis
        coefficients += step.double()
    return coefficients.cpu().numpy()


def tridiagonalize(
    op: SymmetricOperator,
    start: Tensor,
    num_steps: int,
    *,
    deflate: Tensor | None = None,
    reorthogonalize: bool = True,
    on_product: Progress | None = None,
) -> Tridiagonalization:
    """Lanczos for ``num_steps`` steps from ``start``, or until the Krylov space is exhausted.

    Every residual is orthogonalised twice against the whole basis, so T is QᵀHQ to rounding and its eigenvalues cannot
    leave the spectrum, also after exhaustion. Nothing is ever added to a norm.

    Args:
        op: the matrix H.
        start: ``(n,)``, any non-zero length.
        num_steps: m, at most; never more than n minus the deflated vectors.
        deflate: ``(d, n)`` orthonormal rows; the process then runs on PHP with P = I − VᵀV.
        reorthogonalize: False keeps two vectors and returns an empty basis.
        on_product: called with the number of products just made.

    Cost: one product and 4jn multiplications in step j; m vectors of memory.
    Source: Lanczos 1950; the double orthogonalisation is Giraud, Langou and Rozložník 2005.
    """
    n = op.shape[0]
    outside = 0 if deflate is None else len(deflate)
    num_steps = min(num_steps, n - outside)
    kept = num_steps if reorthogonalize else min(2, num_steps)
    basis = torch.empty(outside + kept, n, dtype=op.dtype, device=op.device)
    if deflate is not None:
        basis[:outside] = deflate
    vector = start.to(device=op.device, dtype=op.dtype).clone()
    _orthogonalize(vector, basis[:outside])
    norm = _norm(vector)
    alpha, beta = np.zeros(num_steps), np.zeros(num_steps)
    if num_steps == 0 or norm == 0.0:
        nothing = torch.zeros(1, n, dtype=op.dtype, device=op.device)
        return Tridiagonalization(np.zeros(1), np.zeros(1), nothing, True, nothing[0])
    scale = 0.0
    for j in range(num_steps):
        at = min(j, kept - 1)
        if j > at:
            basis[outside] = basis[outside + 1]
        basis[outside + at] = vector / norm
        vector = op @ basis[outside + at]
        if j == 0:
            first_product = vector.clone()
        if on_product is not None:
            on_product(1)
        alpha[j] = _orthogonalize(vector, basis[: outside + at + 1])[-1]
        norm = _norm(vector)
        beta[j] = norm
        scale = max(scale, abs(alpha[j]) + norm)
        if norm <= breakdown_tolerance(op) * scale:
            rows = basis[outside : outside + j + 1] if reorthogonalize else basis[:0]
            return Tridiagonalization(alpha[: j + 1], beta[: j + 1], rows, True, first_product)
    return Tridiagonalization(alpha, beta, basis[outside:] if reorthogonalize else basis[:0], False, first_product)


def extreme_eigenpairs(
    op: SymmetricOperator,
    k: int = 5,
    *,
    tol: float = 1e-3,
    max_matvecs: int = 300,
    subspace: int | None = None,
    seed: int = 0,
    on_product: Progress | None = None,
) -> Eigenpairs:
    """The k smallest and the k largest eigenpairs together, by thick-restart Lanczos.

    Continues until the *explicit* residual ‖Hv − θv‖ of every wanted pair is at most tol · max|θ|, or until
    ``max_matvecs`` products are spent; the record then says which pairs converged. When the Krylov space closes early
    (repeated eigenvalues, low rank), the process goes on from a random vector orthogonal to it.

    Args:
        op: the matrix H.
        k: pairs wanted at each end; fewer in all when n < 2k.
        tol: relative tolerance of the residual.
        max_matvecs: budget, the explicit residuals included; at least 2.
        subspace: vectors of the basis, at least 2k + 3; 4k + 20 by default.
        seed: of the starting vector.
        on_product: called with the number of products just made.

    Raises:
        LandscapeError: k, the budget or the subspace is too small.

    Cost: memory ``subspace`` vectors; typically 40 to 150 products for a trained network and k = 5.
    Source: Wu and Simon 2000, SIAM J. Matrix Anal. Appl. 22(2).
    """
    n = op.shape[0]
    size_limit = min(n, subspace or 4 * k + 20)
    generator = torch.Generator().manual_seed(seed)
    if k < 1 or max_matvecs < 2:
        raise LandscapeError(f"k = {k}, max_matvecs = {max_matvecs}: at least 1 pair and 2 products are needed")
    if size_limit < min(n, 2 * k + 3):
        raise LandscapeError(f"subspace = {subspace} vectors are too few for {k} pairs at each end: give {2 * k + 3}")
    wanted = _ends(size_limit, k)
    # A search of s products has at most s pairs to verify, which helps when the budget is small.
    search_budget = max(max_matvecs - len(wanted), max_matvecs // 2)
    basis = torch.empty(size_limit + 1, n, dtype=op.dtype, device=op.device)
    projected = np.zeros((size_limit, size_limit))
    basis[0] = _random_unit(generator, op)
    kept, used, scale = 0, 0, 0.0
    while True:
        size, residual, complete = kept, 0.0, False
        for j in range(kept, size_limit):
            vector = op @ basis[j]
            used += 1
            if on_product is not None:
                on_product(1)
            coefficients = _orthogonalize(vector, basis[: j + 1])
            projected[: j + 1, j] = projected[j, : j + 1] = coefficients
            size, residual = j + 1, _norm(vector)
            scale = max(scale, abs(coefficients[-1]) + residual)
            complete = size == n
            if complete:  # what is left of the vector is rounding, however large it looks
                residual = 0.0
                break
            if residual <= breakdown_tolerance(op) * scale:
                residual = 0.0
                vector = _random_unit(generator, op)
                _orthogonalize(vector, basis[: j + 1])
            basis[j + 1] = vector / _norm(vector)
            if used >= search_budget:
                break
        values, vectors = np.linalg.eigh(projected[:size, :size])
        ends = _ends(size, k)
        estimates = residual * np.abs(vectors[-1, ends])
        enough = size >= min(n, 2 * k)
        if complete or used >= search_budget or (enough and np.all(estimates <= tol * np.abs(values).max())):
            pairs = _explicit(op, basis[:size], values, vectors, ends, tol, used, on_product)
            if complete or pairs.converged.all() or used >= search_budget:
                return pairs
            used = pairs.num_matvecs
            if used + len(wanted) >= max_matvecs:
                return pairs
        # Keep more than what is wanted: the extra vectors are what makes the next round short.
        keep = _ends(size, k + max(1, (size_limit - 2 * k) // 4))
        kept = len(keep)
        rotation = torch.as_tensor(vectors[:, keep].T, dtype=op.dtype, device=op.device)
        next_vector = basis[size].clone()
        basis[:kept] = rotation @ basis[:size]
        basis[kept] = next_vector
        projected[:] = 0.0
        projected[range(kept), range(kept)] = values[keep]


def _ends(size: int, k: int) -> list[int]:
    """Indices of the k lowest and the k highest of ``size`` sorted values."""
    return sorted({*range(min(k, size)), *range(max(size - k, 0), size)})


def _random_unit(generator: torch.Generator, op: SymmetricOperator) -> Tensor:
    # Drawn in float32 for every precision, so that a float64 run starts from the same vector; unit length in its own.
    vector = torch.randn(op.shape[0], generator=generator, dtype=torch.float32).to(device=op.device, dtype=op.dtype)
    return vector / vector.norm()


def _explicit(
    op: SymmetricOperator,
    basis: Tensor,
    values: Array,
    vectors: Array,
    ends: list[int],
    tol: float,
    used: int,
    on_product: Progress | None,
) -> Eigenpairs:
    """Rayleigh quotients and residuals from fresh products, not from the recurrence that may have drifted."""
    rotation = torch.as_tensor(vectors[:, ends].T, dtype=op.dtype, device=op.device)
    ritz = rotation @ basis
    quotients, residuals = np.zeros(len(ends)), np.zeros(len(ends))
    for i, row in enumerate(ritz):
        row /= _norm(row)
        product = op @ row
        if on_product is not None:
            on_product(1)
        quotients[i] = float(row.double() @ product.double())
        residuals[i] = float((product.double() - quotients[i] * row.double()).norm())
    order = np.argsort(quotients, kind="stable")
    largest = max(np.abs(values).max(), np.abs(quotients).max())
    return Eigenpairs(
        values=quotients[order],
        residuals=residuals[order],
        converged=residuals[order] <= tol * largest,
        tol=tol,
        num_matvecs=used + len(ends),
        vectors=ritz[torch.as_tensor(order, device=op.device)].T.cpu().numpy(),
    )
