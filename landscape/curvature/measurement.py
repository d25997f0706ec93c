"""One part, everything: both ends, density, trace, gradient, verdict, from as few products as they take."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape.curvature.density import spectral_density
from landscape.curvature.lanczos import Progress, extreme_eigenpairs
from landscape.curvature.operators import HessianOperator
from landscape.curvature.problem import Problem
from landscape.curvature.results import PartSpectrum
from landscape.curvature.saddle import STATIONARY_RADIUS, saddle_report


@dataclass(frozen=True)
class MeasureSettings:
    """How far to go; every number here changes the cost in proportion."""

    num_pairs: int = 5  # eigenpairs at each end
    tol: float = 1e-3  # residual over max|θ|
    max_matvecs: int = 300  # products for the eigenpairs, at most
    num_probes: int = 4  # probes of the density and the trace
    num_steps: int = 80  # Lanczos steps a probe
    seed: int = 0
    radius: float = STATIONARY_RADIUS  # share of ‖θ‖ within which a point counts as stationary

    @property
    def expected_matvecs(self) -> int:
        """Products that one part takes: the density's, and what the pairs of a trained network usually need."""
        usual = min(self.max_matvecs, 10 * self.num_pairs + 40)
        return usual + self.num_probes * self.num_steps


def measure(
    problem: Problem,
    settings: MeasureSettings = MeasureSettings(),
    *,
    part: str = "all",
    label: str = "all",
    accuracy: float | None = None,
    keep_vectors: bool = False,
    on_product: Progress | None = None,
) -> PartSpectrum:
    """Everything about one part of a problem.

    Args:
        problem: the part, for example ``problem.restrict(part)``.
        settings: how far to go.
        part: its path in a results file.
        label: what figures call it.
        accuracy: share of its samples classified correctly, if the caller knows it.
        keep_vectors: keep the eigenvectors, ``(n, k)`` values, in the record.
        on_product: called with the number of products just made.

    Cost: about ``settings.expected_matvecs`` Hessian products over the part's samples.
    """
    start = time.monotonic()
    op = HessianOperator(problem)
    pairs = extreme_eigenpairs(
        op,
        settings.num_pairs,
        tol=settings.tol,
        max_matvecs=settings.max_matvecs,
        seed=settings.seed,
        on_product=on_product,
    )
    density = spectral_density(
        op,
        num_probes=settings.num_probes,
        num_steps=settings.num_steps,
        deflate=pairs,
        seed=settings.seed,
        on_product=on_product,
    )
    loss, gradient = problem.value_and_gradient()
    norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
    gradient_curvature = 0.0
    if norm > 0:
        direction = (gradient / norm).to(gradient.dtype)
        gradient_curvature = float(direction.double() @ (op @ direction).double())
        if on_product is not None:
            on_product(1)
    near = settings.radius * problem.parameter_norm
    saddle = saddle_report(
        loss=loss,
        gradient=gradient,
        gradient_curvature=gradient_curvature,
        descent_share=_descent_share(problem, loss, gradient, gradient_curvature, near),
        parameter_norm=problem.parameter_norm,
        pairs=pairs,
        density=density,
        noise=max(problem.check.determinism, problem.noise()),
        scale=problem.check.scale,
        radius=settings.radius,
    )
    if not keep_vectors:
        pairs = pairs.without_vectors()
    return PartSpectrum(
        part=part,
        label=label,
        num_samples=problem.num_samples,
        num_parameters=problem.num_parameters,
        pairs=pairs,
        density=density,
        saddle=saddle,
        seconds=time.monotonic() - start,
        accuracy=accuracy,
    )


def _descent_share(problem: Problem, loss: float, gradient: Tensor, curvature: float, near: float) -> float:
    """The largest share of L removed by a step along −∇L of at most ``near``. Cost: up to five forward passes."""
    norm = float(gradient.double().norm())
    if not loss > 0 or norm == 0.0:
        return 0.0 if loss > 0 else float("nan")
    newton = norm / abs(curvature) if curvature else near
    steps = sorted({near * share for share in (0.03, 0.1, 0.3, 1.0)} | {min(newton, near)})
    values = [problem.value(-gradient / norm, step) for step in steps]
    return max(0.0, *((loss - value) / loss for value in values if math.isfinite(value)))
