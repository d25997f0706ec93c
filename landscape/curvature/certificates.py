"""Checks of λ_min that do not rest on what computed it: other arithmetic, other samples, the loss itself."""

from __future__ import annotations

import contextlib
import itertools
import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from landscape.curvature.directional import directional_curvature
from landscape.curvature.lanczos import Progress, extreme_eigenpairs
from landscape.curvature.operators import GaussNewtonOperator, HessianOperator
from landscape.curvature.parts import Part
from landscape.curvature.problem import Problem
from landscape.curvature.results import (
    Certificates,
    Descent,
    Eigenpairs,
    SpectralDensity,
    SplitHalf,
    TraceEstimate,
)
from landscape.curvature.sampling import SampleCurvature, by_class
from landscape.curvature.trace import hutchinson_trace, xnystrace
from landscape.errors import LandscapeError

# Share of λ_max below which an eigenvalue counts as one of the bulk at 0.
RELATIVE_THRESHOLD = 1e-4
# A line is followed both ways from 1 % of the shorter to 30 % of ‖θ‖, in so many steps.
_LONGEST, _NUM_STEPS = 0.3, 8
# The smallest ε of a second difference leaves its rounding at this share of the curvature.
_ROUNDING_SHARE = 0.01
_EPSILON_RATIOS = (1.0, 4.0, 16.0, 64.0)
# Neighbours that agree to this share of the curvature are believed, the smallest first.
_AGREEMENT_SHARE = 0.05
# Products that the search on one half of the samples may take.
_HALF_MATVECS = 40
# Products with the Gauss-Newton matrix for its trace, each about two thirds of one with the Hessian.
_GAUSS_NEWTON_PRODUCTS = 16


def certify(
    problem: Problem,
    *,
    pairs: Eigenpairs,
    density: SpectralDensity,
    curvature: SampleCurvature,
    loss: float,
    noise_floor: float,
    gauss_newton_trace: TraceEstimate | None = None,
    seed: int = 0,
    on_product: Progress | None = None,
) -> Certificates:
    """Every check of one part's λ_min.

    Args:
        problem: the part.
        pairs: both ends of its spectrum, with vectors.
        density: its quadrature.
        curvature: of its samples; without a probe of the density the sampling errors of trace and M₋ are NaN.
        loss: L of the part.
        noise_floor: below which the sign of an eigenvalue means nothing, absolute.
        gauss_newton_trace: tr G where it is known, as by :func:`sample_trace`; estimated otherwise.
        seed: of the halves.
        on_product: called with the number of products just made.

    Raises:
        ValueError: the pairs have no vectors.

    Cost: 13 forward passes in float64, 17 in the working precision, 16 products with the Gauss-Newton matrix unless its
    trace is given, and on half of the samples 40 products at most.
    """
    if pairs.vectors is None:
        raise ValueError("eigenpairs without vectors cannot be certified")
    lowest = torch.as_tensor(pairs.vectors[:, 0], device=problem.device)
    threshold = max(noise_floor, RELATIVE_THRESHOLD * float(np.abs(pairs.values).max()))
    difference, error = second_difference(problem, lowest, size=max(abs(pairs.lambda_min), noise_floor))
    gauss_newton = gauss_newton_trace or _gauss_newton_trace(problem, seed)
    return Certificates(
        threshold=threshold,
        fraction_below=density.fraction_below(threshold),
        second_difference=difference,
        second_difference_error=error,
        descent=descend(problem, lowest, curvature=pairs.lambda_min, loss=loss),
        gauss_newton_curvature=curvature.gauss_newton_curvature,
        gauss_newton_trace=gauss_newton.value,
        gauss_newton_trace_standard_error=gauss_newton.standard_error,
        split_half=split_half(problem, seed=seed, on_product=on_product),
        sampling=curvature.errors(),
    )


def _gauss_newton_trace(problem: Problem, seed: int) -> TraceEstimate:
    """tr G by XNysTrace; by plain probes where the loss is not convex in the outputs; NaN where they are no tensor."""
    op = GaussNewtonOperator(problem)
    with contextlib.suppress(LandscapeError):
        return xnystrace(op, num_matvecs=_GAUSS_NEWTON_PRODUCTS, seed=seed)
    with contextlib.suppress(LandscapeError):
        return hutchinson_trace(op, num_probes=_GAUSS_NEWTON_PRODUCTS, seed=seed)
    return TraceEstimate(samples=np.full(2, np.nan), offset=0.0)


def second_difference(problem: Problem, direction: Tensor, *, size: float) -> tuple[float, float]:
    """The curvature along a unit vector from losses alone, and its error.

        [L(θ + εv) − 2L(θ) + L(θ − εv)]/ε²

    in float64 for four ε, each four times the one before. Rounding of L is measured, by second differences at an ε so
    small that nothing else is left; the smallest ε is where it makes up a hundredth of ``size``. A fourth derivative
    bends the larger ones, and so do kinks of ReLUs inside ±ε: on average they add the same at every ε, so that larger
    ones may agree on a value that is not the Hessian's, and so may two neighbours on either side of the ε at which one
    kink counts most. Hence the first pair of neighbours that agrees is taken, and the value at its larger ε, where
    rounding is less; the error is what they disagree by, rounding, and what rounding does not explain of the values at
    smaller ε. If none agrees, as on a kink, it is the value at the smallest ε, inside which kinks are fewest, and the
    error is how far all of them lie apart.

    A large network on many samples has kinks inside any ±ε that float64 can resolve. The second difference is then the
    curvature of the loss as it is, and the Hessian that of its smooth pieces.

    Args:
        problem: the part.
        direction: v, ``(n,)``, a unit vector.
        size: about the curvature that is expected, the unit of an eigenvalue; positive for a useful ε.

    Returns:
        The second difference and its error; (NaN, inf) where the loss overflows at every ε.

    Cost: 13 forward passes over the samples in float64.
    """
    exact = problem.with_dtype(torch.float64)
    direction = direction.to(device=problem.device, dtype=torch.float64)
    direction = direction / torch.linalg.vector_norm(direction)
    length = problem.parameter_norm or 1.0
    middle = exact.value()

    def change(epsilon: float) -> float:
        # Differences first: they are exact for neighbouring numbers, while the sum of both ends would round again.
        return (exact.value(direction, epsilon) - middle) + (exact.value(direction, -epsilon) - middle)

    unit = torch.finfo(torch.float64).eps
    rounding = max(unit * abs(middle), *(abs(change(factor * 1e-10 * length)) for factor in (1.0, 3.0)))
    longest = _LONGEST * length / _EPSILON_RATIOS[-1]
    wanted = math.sqrt(rounding / (_ROUNDING_SHARE * size)) if size > 0 else longest
    smallest = min(max(wanted, 1e-9 * length), longest)
    epsilons = [smallest * ratio for ratio in _EPSILON_RATIOS]
    values = [change(epsilon) / epsilon**2 for epsilon in epsilons]
    # What a fourth derivative leaves at the larger ε is the disagreement and the next terms of a geometric series.
    ratio = _EPSILON_RATIOS[1] / _EPSILON_RATIOS[0]
    gaps = [abs(far - near) / (1 - ratio**-2) for near, far in itertools.pairwise(values)]
    noises = [2 * rounding / epsilon**2 for epsilon in epsilons]
    for place, (value, gap, noise) in enumerate(zip(values[1:], gaps, noises[1:], strict=True)):
        if gap + noise <= _AGREEMENT_SHARE * size:
            apart = [abs(values[j] - value) - noises[j] for j in range(place)]
            return value, gap + noise + max([0.0, *apart])
    known = [(value, noise) for value, noise in zip(values, noises, strict=True) if math.isfinite(value)]
    if len(known) < 2:
        return float("nan"), math.inf
    value, noise = known[0]
    return value, noise + float(np.ptp([value for value, _ in known]))


def descend(problem: Problem, direction: Tensor, *, curvature: float, loss: float) -> Descent:
    """Losses along ±v, which say whether the way that the curvature points out does lead down.

    The steps are geometric, from 1 % of the shorter to 30 % of ‖θ‖, where the shorter of ‖θ‖ and √(2L/|λ|) is meant:
    at the latter the quadratic model has used up the whole loss. Losses are in the working precision, so a decrease
    below its rounding means nothing.

    Args:
        problem: the part.
        direction: v, ``(n,)``, a unit vector.
        curvature: vᵀHv.
        loss: L(θ).

    Cost: 17 forward passes over the samples.
    """
    direction = direction.to(device=problem.device, dtype=problem.dtype)
    length = problem.parameter_norm or 1.0
    quadratic = math.sqrt(2 * abs(loss / curvature)) if curvature and loss else length
    shortest = 0.01 * min(length, quadratic)
    ladder = np.geomspace(shortest, _LONGEST * length, _NUM_STEPS)
    steps = np.concatenate([-ladder[::-1], [0.0], ladder])
    # Step 0 in the same way as the others: ``loss`` may come from a pass that rounds differently.
    losses = np.array([problem.value(direction, float(step)) for step in steps])
    return Descent(steps=steps, losses=losses)


def split_half(problem: Problem, *, seed: int = 0, on_product: Progress | None = None) -> SplitHalf | None:
    """Is a direction that was found on half of the samples negative on the others too?

    λ_min of the samples at hand is too low for the population, because its direction was chosen on them. A direction f
    sought on half A alone has never seen B, so s_i = fᵀ∇²ℓ_i f for i in B are unbiased, and their weighted mean is
    tested against 0 from above by Student's t. Halves are drawn class by class where targets are integer labels.

    None for fewer than two samples, and for batch statistics, under which each half would be another function.

    Cost: at most 40 products on A, and the curvature of the samples of B, on half of the samples each.
    """
    if problem.num_samples < 2 or problem.batch_norm == "batch":
        return None
    first, second = (problem.restrict(Part("half", "half", samples=index)) for index in _halves(problem, seed))
    op = HessianOperator(first)
    found = extreme_eigenpairs(op, 1, max_matvecs=_HALF_MATVECS, seed=seed, on_product=on_product)
    assert found.vectors is not None
    curvature = directional_curvature(second, torch.as_tensor(found.vectors[:, 0], device=problem.device))
    count, mean = second.num_samples, curvature.mean
    error = p_value = float("nan")
    if count > 1:
        spread = curvature.weights * (curvature.hessian - mean)
        error = float(np.sqrt(count / (count - 1) * np.sum(spread**2)) / curvature.weights.sum())
        # Without any spread the sign itself is the answer.
        statistic = mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
        p_value = float(stats.t.cdf(statistic, count - 1))
    return SplitHalf(found=found.lambda_min, confirmed=mean, standard_error=error, num_samples=count, p_value=p_value)


def _halves(problem: Problem, seed: int) -> tuple[Tensor, Tensor]:
    """Two halves in random order class by class; an odd sample goes to the second, which is the one tested."""
    targets = problem.samples.targets
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    order = shuffled[torch.as_tensor(by_class(targets.cpu()[shuffled]))]
    return order[1::2].sort().values, order[::2].sort().values
