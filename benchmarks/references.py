"""What the right answer is: a slow, converged computation that shares as little as possible with what is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dct, idct
from scipy.sparse.linalg import eigsh
from scipy.stats import wasserstein_distance

from landscape.curvature import Eigenpairs, HessianOperator, Problem, spectral_density, tridiagonalize

Array = NDArray[np.float64]

ENDS, TRACE, DENSITY = 0.01, 0.05, 0.005  # what an answer may be off
SMALLEST = 1e-3  # of λ_max; below it an end of the spectrum is asked for to this absolute precision


@dataclass(frozen=True)
class Answer:
    """What a contender says about one part."""

    lambda_min: float
    lambda_max: float
    trace: float
    nodes: Array  # (k,) of the normalised spectral measure
    weights: Array  # (k,) sums to 1
    products: int  # Hessian products that it took


@dataclass(frozen=True)
class Errors:
    """An answer beside the reference; every number is relative."""

    lambda_min: float
    lambda_max: float
    trace: float
    density: float  # Wasserstein-1 of the spectral measure over λ_max − λ_min
    mass: float  # the same of the measure of curvature |λ|dμ, normalised: where the curvature lies, zeros left out

    @property
    def met(self) -> dict[str, bool]:
        """Which of the demands this answer meets."""
        return {
            "ends": max(self.lambda_min, self.lambda_max) <= ENDS,
            "trace": self.trace <= TRACE,
            "density": self.density <= DENSITY,
        }


@dataclass(frozen=True)
class Reference:
    """The converged answer, with what is known of its own error."""

    lambda_min: float
    lambda_max: float
    trace: float
    trace_error: float  # standard error
    nodes: Array  # (k,)
    weights: Array  # (k,) sums to 1
    outliers: Array  # (d,) eigenvalues known one by one, both signs
    dimension: int
    rounding: float  # relative distance of a float32 product from the float64 one; 0 if all was done in float64

    def errors(self, answer: Answer) -> Errors:
        """How far off an answer is."""
        width = self.lambda_max - self.lambda_min
        floor = SMALLEST * self.lambda_max
        return Errors(
            lambda_min=abs(answer.lambda_min - self.lambda_min) / max(abs(self.lambda_min), floor),
            lambda_max=abs(answer.lambda_max - self.lambda_max) / self.lambda_max,
            trace=abs(answer.trace - self.trace) / abs(self.trace),
            density=_distance(answer.nodes, answer.weights, self.nodes, self.weights) / width,
            mass=_distance(answer.nodes, answer.weights * abs(answer.nodes), self.nodes, self.weights * abs(self.nodes))
            / width,
        )

    @property
    def of_a_point_mass(self) -> float:
        """The density error of knowing nothing: all eigenvalues at 0."""
        return _distance(np.zeros(1), np.ones(1), self.nodes, self.weights) / (self.lambda_max - self.lambda_min)

    def stand_in(self, seed: int = 0) -> tuple[Callable[[Array], Array], float]:
        """A matrix of the same size and spectrum in a random basis, whose product costs next to nothing; its trace.

        Settings are searched on it: what a method needs depends on the spectrum, not on what made it. H = F D Fᵀ with
        F a product of random signs and cosine transforms, so that no probe is special.
        """
        count = self.dimension - len(self.outliers)
        bulk = self.weights.copy()
        for value in self.outliers:
            bulk[np.argmin(abs(self.nodes - value))] = 0.0
        quantiles = (np.cumsum(bulk) - bulk / 2) / bulk.sum()
        diagonal = np.r_[self.outliers, np.interp((np.arange(count) + 0.5) / count, quantiles, self.nodes)]
        rng = np.random.default_rng(seed)
        diagonal = rng.permutation(diagonal)
        first, second = rng.choice([-1.0, 1.0], (2, self.dimension))

        def multiply(vector: Array) -> Array:
            inner = dct(second * dct(first * vector, norm="ortho"), norm="ortho")
            return first * idct(second * idct(diagonal * inner, norm="ortho"), norm="ortho")

        return multiply, float(diagonal.sum())

    def save(self, path: Path) -> None:
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Reference:
        with np.load(path) as content:
            values: dict[str, Any] = {key: value if value.ndim else value.item() for key, value in content.items()}
        return cls(**values)


def converge(
    problem: Problem,
    *,
    steps: int = 200,
    probes: int = 10,
    trace_error: float = 0.004,
    exact: bool = False,
    seed: int = 12345,
) -> Reference:
    """The reference of one part.

    Ends by SciPy's ARPACK; density by quadrature with every outlier deflated; trace by Hutchinson
    probes outside a Krylov space.

    Args:
        problem: the part.
        steps: Lanczos steps, of the deflation and of every probe.
        probes: of the density.
        trace_error: relative standard error at which the trace's probes end.
        exact: everything in float64; otherwise in float32, and how far a product is from its float64 twin.
        seed: of everything random.
    """
    double = HessianOperator(problem.with_dtype(torch.float64))
    op = double if exact else HessianOperator(problem)
    n = op.shape[0]
    start = np.random.default_rng(seed).standard_normal(n)
    low, high = eigsh(
        op.to_scipy(), k=2, which="BE", v0=start.astype(op.to_scipy().dtype), tol=1e-4, return_eigenvectors=False
    )
    generator = torch.Generator().manual_seed(seed)
    run = tridiagonalize(op, torch.randn(n, generator=generator), steps)
    values, vectors = run.ritz()
    residuals = abs(run.beta[-1] * vectors[-1])
    known = (residuals <= 1e-3 * abs(values).max()) & (abs(values) > 20 * residuals)
    rows = torch.as_tensor(vectors[:, known].T, dtype=op.dtype, device=op.device) @ run.basis
    pairs = Eigenpairs(
        values=values[known],
        residuals=residuals[known],
        converged=np.ones(int(known.sum()), dtype=bool),
        tol=1e-3,
        num_matvecs=steps,
        vectors=rows.T.cpu().numpy(),
    )
    density = spectral_density(op, num_probes=probes, num_steps=steps, deflate=pairs, seed=seed)
    samples: list[float] = []
    known_trace = float(run.alpha.sum())
    while len(samples) < 1000:
        probe = torch.randn(n, generator=generator).to(op.device, op.dtype)
        probe -= (run.basis @ probe) @ run.basis
        samples.append(float(probe.double() @ (op @ probe).double()))
        error = np.std(samples, ddof=1) / len(samples) ** 0.5 if len(samples) >= 20 else np.inf
        if error <= trace_error * abs(known_trace + np.mean(samples)):
            break
    rounding = 0.0
    if not exact:
        unit = torch.randn(n, generator=generator)
        one, two = (op @ unit).double(), double @ unit.double()
        rounding = float((one - two).norm() / two.norm())
    nodes, weights = measure_of(density.nodes, density.weights, density.probe_mass, density.deflated, n)
    return Reference(
        lambda_min=float(low),
        lambda_max=float(high),
        trace=float(known_trace + np.mean(samples)),
        trace_error=float(error),
        nodes=nodes,
        weights=weights,
        outliers=density.deflated,
        dimension=n,
        rounding=rounding,
    )


def measure_of(nodes: Array, weights: Array, mass: Array, deflated: Array, n: int) -> tuple[Array, Array]:
    """Deflated quadrature as one normalised measure: nodes ascending, and weights that sum to 1."""
    rows = np.isfinite(nodes) & (weights > 0)
    scaled = weights * mass[:, None] / mass.sum() * (n - len(deflated)) / n
    points, shares = np.r_[deflated, nodes[rows]], np.r_[np.full(len(deflated), 1 / n), scaled[rows]]
    order = np.argsort(points)
    return points[order], shares[order] / shares.sum()


def _distance(u: Array, u_weights: Array, v: Array, v_weights: Array) -> float:
    return float(wasserstein_distance(u, v, u_weights, v_weights))
