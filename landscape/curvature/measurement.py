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
from landscape.curvature.results import Eigenpairs, PartSpectrum, SpectralDensity
from landscape.curvature.saddle import STATIONARY_RADIUS, saddle_report


@dataclass(frozen=True)
class MeasureSettings:
    """How far to go; every number here changes the cost in proportion."""

    num_pairs: int = 5  # eigenpairs at each end
    tol: float = 1e-3  # residual over max|θ|
    max_matvecs: int = 300  # products for the eigenpairs, at most
    num_probes: int = 4  # probes of the density and the trace, at least
    max_probes: int = 12  # and at most
    target: float = 0.1  # half-width of the 95 % interval of M₋ over M₋ at which probing ends
    num_steps: int = 80  # Lanczos steps a probe
    seed: int = 0
    radius: float = STATIONARY_RADIUS  # share of ‖θ‖ within which a point counts as stationary

    @property
    def expected_matvecs(self) -> int:
        """Products that one part takes: the density's, and what the pairs of a trained network usually need."""
        usual = min(self.max_matvecs, 10 * self.num_pairs + 40)
        return usual + self.num_probes * self.num_steps


class Measurement:
    """One part being measured, step by step, so that a budget can be spent where intervals are widest.

    Call :meth:`search` once, :meth:`add_probes` as often as wanted, then :meth:`finish`; :func:`measure` does it all.

    Args:
        problem: the part, for example ``problem.restrict(part)``.
        settings: how far to go.
        warm: ``(n, p)`` start vectors, such as the eigenvectors of the previous checkpoint.
        on_product: called with the number of products just made.
    """

    def __init__(
        self,
        problem: Problem,
        settings: MeasureSettings = MeasureSettings(),
        *,
        warm: Tensor | None = None,
        on_product: Progress | None = None,
    ) -> None:
        self.problem, self.settings = problem, settings
        self._warm, self._on_product = warm, on_product
        self._op = HessianOperator(problem)
        self._pairs: Eigenpairs | None = None
        self._density: SpectralDensity | None = None
        self._seconds = 0.0

    @property
    def num_matvecs(self) -> int:
        """Products spent so far."""
        return self._op.num_matvecs

    @property
    def relative_width(self) -> float:
        """Half-width of the interval of M₋ over M₋; infinite before the second probe, 0 where M₋ = 0."""
        return float("inf")

    def search(self) -> None:
        """Both ends of the spectrum."""
        start = time.monotonic()
        settings = self.settings
        self._pairs = extreme_eigenpairs(
            self._op,
            settings.num_pairs,
            tol=settings.tol,
            max_matvecs=settings.max_matvecs,
            seed=settings.seed,
            on_product=self._on_product,
        )
        self._seconds += time.monotonic() - start

    def add_probes(self, count: int = 1) -> None:
        """More probes of density and trace. Cost: ``settings.num_steps`` products each."""
        start = time.monotonic()
        self._density = spectral_density(
            self._op,
            num_probes=count,
            num_steps=self.settings.num_steps,
            deflate=self._pairs,
            seed=self.settings.seed,
            on_product=self._on_product,
        )
        self._seconds += time.monotonic() - start

    def finish(
        self, *, part: str = "all", label: str = "all", accuracy: float | None = None, keep_vectors: bool = False
    ) -> PartSpectrum:
        """Gradient, checks and verdict: the record of the part, after at least one probe."""
        if self._pairs is None or self._density is None:
            raise RuntimeError("search() and add_probes() come before finish()")
        start = time.monotonic()
        problem, op, settings = self.problem, self._op, self.settings
        pairs, density = self._pairs, self._density
        loss, gradient = problem.value_and_gradient()
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float64)
        gradient_curvature = 0.0
        if norm > 0:
            direction = (gradient / norm).to(gradient.dtype)
            gradient_curvature = float(direction.double() @ (op @ direction).double())
            if self._on_product is not None:
                self._on_product(1)
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
        return PartSpectrum(
            part=part,
            label=label,
            num_samples=problem.num_samples,
            num_parameters=problem.num_parameters,
            pairs=pairs if keep_vectors else pairs.without_vectors(),
            density=density,
            saddle=saddle,
            seconds=self._seconds + time.monotonic() - start,
            accuracy=accuracy,
        )

    def release(self) -> None:
        """Give back what is kept between products; the next product prepares it again."""


def measure(
    problem: Problem,
    settings: MeasureSettings = MeasureSettings(),
    *,
    part: str = "all",
    label: str = "all",
    accuracy: float | None = None,
    keep_vectors: bool = False,
    warm: Tensor | None = None,
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
        warm: ``(n, p)`` vectors to start the search from, such as the eigenvectors of the previous checkpoint.
        on_product: called with the number of products just made.

    Cost: about ``settings.expected_matvecs`` Hessian products over the part's samples.
    """
    measurement = Measurement(problem, settings, warm=warm, on_product=on_product)
    measurement.search()
    measurement.add_probes(settings.num_probes)
    return measurement.finish(part=part, label=label, accuracy=accuracy, keep_vectors=keep_vectors)


def _descent_share(problem: Problem, loss: float, gradient: Tensor, curvature: float, near: float) -> float:
    """The largest share of L removed by a step along −∇L of at most ``near``. Cost: up to five forward passes."""
    norm = float(gradient.double().norm())
    if not loss > 0 or norm == 0.0:
        return 0.0 if loss > 0 else float("nan")
    newton = norm / abs(curvature) if curvature else near
    steps = sorted({near * share for share in (0.03, 0.1, 0.3, 1.0)} | {min(newton, near)})
    values = [problem.value(-gradient / norm, step) for step in steps]
    return max(0.0, *((loss - value) / loss for value in values if math.isfinite(value)))
