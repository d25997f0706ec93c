"""From numbers to a verdict: is this part of the problem at a minimum, at a saddle, or nowhere in particular?"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from landscape.curvature.results import (
    Certificates,
    Descent,
    Eigenpairs,
    SaddleReport,
    SpectralDensity,
    TraceEstimate,
)

# A sign is claimed only this many times above the measured rounding of a product.
NOISE_MARGIN = 10.0
# Within one hundredth of ‖θ‖ of the point, curvature must outweigh the gradient for the point to count as stationary.
STATIONARY_RADIUS = 0.01
# Where following the gradient that far removes more of the loss than this, the point is on its way, not at rest.
STATIONARY_SHARE = 0.1


def noise_floor(pairs: Eigenpairs, noise: float, scale: float = 0.0) -> float:
    """10 · δ · max(max|θ|, scale), the unit of an eigenvalue: below it the sign of an eigenvalue means nothing."""
    return NOISE_MARGIN * noise * max(float(np.abs(pairs.values).max()), scale)


def saddle_report(
    *,
    loss: float,
    gradient: Tensor,
    gradient_curvature: float,
    descent_share: float,
    parameter_norm: float,
    pairs: Eigenpairs,
    density: SpectralDensity,
    trace: TraceEstimate,
    noise: float,
    scale: float = 0.0,
    radius: float = STATIONARY_RADIUS,
    certificates: Certificates | None = None,
) -> SaddleReport:
    """Sum up one part.

    The noise floor is 10 · δ · max(max|θ|, scale), δ being the relative rounding error of a product. (The scale is
    there for a class that is fitted to the last digit: beside the whole problem its curvature is nothing, signs and
    all.) A Rayleigh quotient below minus the floor proves a negative eigenvalue (Courant-Fischer), and k of them over
    orthonormal vectors prove k negative eigenvalues (Cauchy interlacing). Vectors X that are not quite orthonormal
    prove k where every quotient lies below minus the floor by more than ‖I − XᵀX‖ · max|θ|.

    Moving by t along a direction changes the loss by about ‖∇L‖t + ½λt², so the gradient decides up to t = 2‖∇L‖/|λ|
    and the curvature beyond. The point counts as stationary when that length is at most ``radius`` · ‖θ‖, λ being λ_min
    if that is certified negative, and otherwise the curvature along the gradient itself: λ_max would call the floor of
    every ill-conditioned valley stationary. Curvature that the noise hides counts as large as the noise floor. For
    λ_min the length is also the radius above which a SAM step amplifies the escape direction. Near a very sharp point
    every length is short, so the loss has the last word: a walk along −∇L within that radius must not remove more than
    a tenth of it.

    Where there are certificates, a saddle is withheld if the second difference of the loss along v_min contradicts it
    beyond its own error, and a flat point says whether the loss falls along ±v_min all the same, as it does at the
    centre of a monkey saddle.

    Args:
        loss: L of the part.
        gradient: ∇L, ``(n,)``.
        gradient_curvature: gᵀHg/‖g‖² along g = ∇L, the unit of an eigenvalue; 0 where the gradient is 0.
        descent_share: see :attr:`SaddleReport.descent_share`; NaN where L is not positive.
        parameter_norm: ‖θ‖ of the part's parameters.
        pairs: both ends of its spectrum, with vectors.
        density: its quadrature.
        trace: its trace.
        noise: δ.
        scale: typical curvature of the whole problem that this is a part of (:attr:`ProblemCheck.scale`).
        radius: what share of ‖θ‖ counts as near.
        certificates: further checks of λ_min.
    """
    gradient_norm = float(gradient.double().norm())
    low, high = float(pairs.values[0]), float(pairs.values[-1])
    floor = noise_floor(pairs, noise, scale)
    index = _certified_index(pairs, floor)
    threshold = 2 * gradient_norm / -low if low < 0 else float("inf")
    alignment = float("nan")
    if pairs.vectors is not None:
        direction = gradient.double().cpu().numpy() / (gradient_norm or 1.0)
        alignment = float(abs(direction @ pairs.vectors[:, 0].astype(np.float64)))
    curvature = -low if index else max(gradient_curvature, floor)
    near = radius * parameter_norm
    verdict, reason = _verdict(pairs, index, floor, gradient_norm, curvature, near, descent_share)
    if certificates is not None:
        if verdict == "saddle":
            verdict, reason = _unless_contradicted(reason, certificates)
        elif verdict == "flat":
            reason += _fall(certificates.descent, NOISE_MARGIN * noise)
    return SaddleReport(
        loss=loss,
        gradient_norm=gradient_norm,
        descent_share=descent_share,
        lambda_max=high,
        lambda_max_residual=float(pairs.residuals[-1]),
        lambda_min=low,
        lambda_min_residual=float(pairs.residuals[0]),
        noise_floor=floor,
        index_lower_bound=index,
        negative_mass=density.negative_mass(floor),
        negative_fraction=density.negative_fraction_of_mass(floor),
        trace=trace.value,
        trace_standard_error=trace.standard_error,
        gradient_alignment=alignment,
        sam_threshold=threshold,
        verdict=verdict,
        reason=reason,
        certificates=certificates,
    )


def _certified_index(pairs: Eigenpairs, floor: float) -> int:
    """The largest k for which the k lowest quotients prove k negative eigenvalues."""
    low = pairs.values[pairs.values < -floor]
    if pairs.vectors is None:
        return len(low)
    columns = pairs.vectors[:, : len(low)].astype(np.float64)
    # A quotient does not depend on the length of its vector, so lengths are no defect.
    columns /= np.linalg.norm(columns, axis=0)
    defect = np.eye(len(low)) - columns.T @ columns
    largest = float(np.abs(pairs.values).max())
    for count in range(len(low), 0, -1):
        if low[count - 1] < -(floor + np.linalg.norm(defect[:count, :count], 2) * largest):
            return count
    return 0


def _unless_contradicted(reason: str, certificates: Certificates) -> tuple[str, str]:
    difference, error = certificates.second_difference, certificates.second_difference_error
    if difference - error > 0:
        return (
            "undecided",
            f"{reason}; but the second difference of the loss along v_min is {difference:.3g} ± {error:.1g}",
        )
    return "saddle", reason


def _fall(descent: Descent, rounding: float) -> str:
    """What the walk along ±v_min adds where second order says nothing; ``rounding`` is relative to the loss."""
    here = float(descent.losses[descent.steps == 0.0][0])
    if descent.decrease > rounding * max(abs(here), abs(here - descent.decrease)):
        return f"; yet the loss falls by {descent.decrease:.2g} within {abs(descent.best_step):.2g} along v_min"
    return "; nor does the loss fall along ±v_min"


def _verdict(
    pairs: Eigenpairs,
    index: int,
    floor: float,
    gradient_norm: float,
    curvature: float,
    near: float,
    descent_share: float,
) -> tuple[str, str]:
    low, residual = float(pairs.values[0]), float(pairs.residuals[0])
    reach = 2 * gradient_norm / curvature if curvature > 0 else float("inf") if gradient_norm > 0 else 0.0
    known = f"; λ_min = {low:.3g} is certified negative" if index else ""
    if reach > near:
        return (
            "not stationary",
            f"the gradient outweighs the curvature up to a distance {reach:.2g}, near is {near:.2g}{known}",
        )
    if float(np.abs(pairs.values).max()) <= floor:
        return "flat", f"every eigenvalue computed lies within the noise floor {floor:.1e}"
    if descent_share > STATIONARY_SHARE:
        return (
            "not stationary",
            f"following −∇L by at most {near:.2g} removes {descent_share:.0%} of the loss{known}",
        )
    if index:
        return (
            "saddle",
            f"{index} eigenvalue{'s' if index > 1 else ''} certified negative, λ_min = {low:.3g} < −{floor:.1e}",
        )
    if not pairs.converged[0]:
        return "undecided", f"no negative eigenvalue found, but λ_min has not converged (residual {residual:.1e})"
    # What the residual leaves open is said, not hidden behind a floor that may be much lower.
    return "minimum", f"no eigenvalue found below −{max(floor, residual - low):.1e}: λ_min = {low:.2g} ± {residual:.1e}"
