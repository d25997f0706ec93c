"""Verdicts on functions whose answer is known, through the whole chain from a model to a word."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.certification import certified
from support.matrices import with_spectrum
from support.problems import function_problem
from torch import Tensor, nn

from landscape.curvature import (
    Eigenpairs,
    HessianOperator,
    MeasureSettings,
    Part,
    Problem,
    SaddleReport,
    SymmetricOperator,
    measure,
    saddle_report,
    spectral_density,
)
from landscape.losses import build_loss

SETTINGS = MeasureSettings(num_pairs=2, num_probes=3, num_steps=10)


def judge(function: Callable[[Tensor], Tensor], point: Any, **settings: Any) -> SaddleReport:
    return measure(function_problem(function, point, **settings), SETTINGS).saddle


def quadratic(*curvatures: float) -> Callable[[Tensor], Tensor]:
    return lambda w: (torch.tensor(curvatures, dtype=w.dtype) * w**2).sum() / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("function", "point", "verdict", "index"),
    [
        (quadratic(2.0, 1.0, 5.0), [0, 0, 0], "minimum", 0),
        (quadratic(2.0, -1.0, 5.0), [0, 0, 0], "saddle", 1),
        (quadratic(2.0, -1.0, -3.0, 5.0), [0, 0, 0, 0], "saddle", 2),
        (quadratic(-2.0, -1.0), [0, 0], "saddle", 2),
        (quadratic(2.0, -1.0, 5.0), [1, 1, 1], "not stationary", 1),
        (quadratic(2.0, 1.0, 5.0), [1, 1, 1], "not stationary", 0),
        # The gradient is small against 1e4, but in its own direction the bottom is as far away as the origin.
        (quadratic(1e4, 1e4, 1.0), [0, 0, 1], "not stationary", 0),
        (lambda w: w @ torch.tensor([1.0, 2.0, -1.0], dtype=w.dtype), [1, 1, 1], "not stationary", 0),
        (lambda w: w[0] ** 2 + w[1], [0, 1, 1], "not stationary", 0),
        (lambda w: (w[0] * w[1] - 1) ** 2, [1, 1], "minimum", 0),  # a curved valley of minima
        (quadratic(1.0, 0.0, 0.0), [0, 3, 4], "minimum", 0),  # a straight one
        (lambda w: (w**4).sum(), [0, 0, 0], "flat", 0),
        (lambda w: w[0] ** 3 - 3 * w[0] * w[1] ** 2, [0, 0], "flat", 0),  # a monkey saddle: second order cannot tell
        (lambda w: w[0] * w[1], [0, 0], "saddle", 1),
    ],
)
def test_functions_whose_answer_is_known(
    function: Callable[[Tensor], Tensor], point: list[float], verdict: str, index: int, dtype: torch.dtype
) -> None:
    report = judge(function, point, dtype=dtype)
    assert (report.verdict, report.index_lower_bound) == (verdict, index), report.reason
    if verdict == "not stationary" and index:
        assert "certified negative" in report.reason


def scaled(function: Callable[[Tensor], Tensor], scale: float) -> Callable[[Tensor], Tensor]:
    return lambda w: scale * function(w)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_verdicts_do_not_depend_on_the_unit_of_the_loss(scale: float) -> None:
    for function, point in (
        (quadratic(2.0, -1.0), [0, 0]),
        (quadratic(2.0, 1.0), [1, 0]),
        (quadratic(2.0, 1.0), [0, 0]),
        (lambda w: w.sum(), [1, 1]),
    ):
        assert judge(scaled(function, scale), point).verdict == judge(function, point).verdict


def test_every_number_of_the_report() -> None:
    """f = x² − y²/2 at (1, 2): ∇f = (2, −2), H = diag(2, −1)."""
    report = judge(quadratic(2.0, -1.0), [1, 2])
    assert report.loss == pytest.approx(1 - 2)
    assert report.gradient_norm == pytest.approx(math.sqrt(8))
    assert (report.lambda_min, report.lambda_max) == pytest.approx((-1, 2))
    assert max(report.lambda_min_residual, report.lambda_max_residual) < 1e-12
    assert report.gradient_alignment == pytest.approx(2 / math.sqrt(8))
    assert report.sam_threshold == pytest.approx(2 * math.sqrt(8) / 1)
    assert report.curvature_ratio == pytest.approx(0.5)
    assert report.negative_mass.value == pytest.approx(1)
    assert report.negative_fraction.value == pytest.approx(1 / 3)
    assert report.trace == pytest.approx(1)
    assert report.noise_floor == pytest.approx(10 * math.sqrt(2) * 2.2e-16 * 2, rel=0.01)
    bowl = judge(quadratic(2.0, 1.0), [0, 0])
    assert (bowl.sam_threshold, bowl.negative_mass.value) == (math.inf, 0.0)
    assert math.isnan(judge(lambda w: (w**4).sum(), [0, 0]).curvature_ratio)


def test_not_converged_is_undecided_but_a_negative_quotient_is_proof_anyway() -> None:
    rough = MeasureSettings(num_pairs=2, max_matvecs=4, num_probes=2, num_steps=5)
    for values, verdict in (
        (np.linspace(1e-4, 1, 80), "undecided"),
        (np.linspace(-1, 1e-4, 80), "saddle"),
    ):
        matrix = with_spectrum(values)
        problem = function_problem(lambda w, m=matrix: w @ m.to(w.dtype) @ w / 2, torch.zeros(80))
        spectrum = measure(problem, rough)
        assert not spectrum.pairs.converged[0]
        assert spectrum.saddle.verdict == verdict
        assert spectrum.saddle.index_lower_bound <= np.sum(values < 0)
    patient = measure(problem, MeasureSettings(num_pairs=2, max_matvecs=500, num_probes=2, num_steps=5))
    assert patient.pairs.converged.all()


def report_of(values: np.ndarray, *, noise: float, **changes: Any) -> SaddleReport:
    op = SymmetricOperator.from_matrix(torch.diag(torch.as_tensor(values)))
    count = len(values)
    pairs = Eigenpairs(values, np.zeros(count), np.ones(count, bool), 1e-3, 0, np.eye(count))
    density = spectral_density(op, num_probes=2, num_steps=5)
    settings: dict[str, Any] = {
        "loss": 1.0,
        "gradient": torch.zeros(count),
        "gradient_curvature": 0.0,
        "parameter_norm": 1.0,
        "pairs": pairs,
        "density": density,
        "trace": density.trace(),
        "noise": noise,
    }
    settings.setdefault("descent_share", 0.0)
    return saddle_report(**{**settings, **changes})


def test_no_sign_is_claimed_below_the_noise_floor() -> None:
    values = np.array([-2e-4, -1e-5, 1.0])
    for noise, floor, index, verdict in (
        (1e-7, 1e-6, 2, "saddle"),
        (1e-5, 1e-4, 1, "saddle"),
        (1e-4, 1e-3, 0, "minimum"),
        (0.5, 5.0, 0, "flat"),
    ):
        report = report_of(values, noise=noise)
        assert report.noise_floor == pytest.approx(floor)
        assert (report.index_lower_bound, report.verdict) == (index, verdict)
    assert math.isnan(report_of(values, noise=0.5).curvature_ratio)


def test_a_class_fitted_to_the_last_digit_is_flat() -> None:
    # Class 1 sits so far on its side of the boundary that its probabilities are 1 − 1e-40; class 0 does not.
    model = nn.Linear(2, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))
        model.bias.zero_()
    inputs = torch.tensor([[0.5, 1.0], [-0.5, -1.0], [90.0, 1.0], [92.0, -1.0]]).double()
    problem = Problem(model, build_loss("ce", [2, 2]), (inputs, torch.tensor([0, 0, 1, 1])), dtype=torch.float64)
    fitted = measure(problem.restrict(Part("class/1", "1", samples=torch.tensor([2, 3])))).saddle
    assert 0 < fitted.lambda_max < 1e-30
    assert (fitted.verdict, fitted.index_lower_bound) == ("flat", 0)
    assert math.isnan(fitted.curvature_ratio)
    assert measure(problem.restrict(Part("class/0", "0", samples=torch.tensor([0, 1])))).saddle.verdict != "flat"


def test_a_minimum_says_what_its_residual_leaves_open() -> None:
    values = np.array([1e-5, 1.0])
    wide = Eigenpairs(values, np.array([8e-4, 0.0]), np.ones(2, bool), 1e-3, 0, np.eye(2))
    report = report_of(values, noise=1e-8, pairs=wide)
    assert report.verdict == "minimum"
    assert "below −7.9e-04" in report.reason


def test_a_steep_slope_of_a_sharp_valley_is_no_saddle() -> None:
    """Huge curvature makes every length short; that the gradient removes the whole loss within it must show."""

    def sharp(x: Tensor) -> Tensor:
        return 1e4 * (x[0] - 0.1) ** 2 - 2e4 * x[1] ** 2 + 2e4 * x[1] ** 4

    report = judge(sharp, [0.0, 0.0, 30.0])
    assert report.lambda_min < -1e4
    assert 2 * report.gradient_norm / abs(report.lambda_min) < 0.01 * 30
    assert report.descent_share == pytest.approx(1.0, abs=1e-3)
    assert (report.verdict, report.index_lower_bound) == ("not stationary", 1)
    assert "removes 100% of the loss" in report.reason
    at_rest = judge(lambda x: 1e3 + sharp(x), [0.0999, 0.0, 30.0])
    assert at_rest.descent_share < 1e-3
    assert at_rest.verdict == "saddle"


def test_nearness_is_a_share_of_the_parameters() -> None:
    """With λ_min = −1 and ‖∇L‖ = 0.005 curvature takes over at 0.01."""
    values, gradient = np.array([-1.0, 2.0]), torch.tensor([0.003, 0.004])
    for norm, radius, verdict in ((1.1, 0.01, "saddle"), (0.9, 0.01, "not stationary"), (0.9, 0.02, "saddle")):
        report = report_of(values, noise=1e-7, gradient=gradient, parameter_norm=norm, radius=radius)
        assert report.verdict == verdict
        assert report.sam_threshold == pytest.approx(0.01)
    assert report.gradient_alignment == pytest.approx(0.6)
    bare = Eigenpairs(values, np.zeros(2), np.ones(2, bool), 1e-3, 0)
    assert math.isnan(report_of(values, noise=1e-7, pairs=bare).gradient_alignment)


# ------------------------------------------------------------------ the index, and what certificates add


def nearly_orthonormal(angle: float) -> np.ndarray:
    vectors = np.eye(4)
    vectors[:, 1] = np.cos(angle) * vectors[:, 1] + np.sin(angle) * vectors[:, 0]
    return vectors


@pytest.mark.parametrize(("angle", "index"), [(0.0, 2), (1e-4, 2), (0.05, 1), (math.pi / 2, 1)])
def test_vectors_that_are_not_orthonormal_prove_less(angle: float, index: int) -> None:
    """At a right angle both columns are the same vector: one direction is no proof of two eigenvalues."""
    values = np.array([-1.0, -0.1, 1.0, 4.0])
    pairs = Eigenpairs(values, np.zeros(4), np.ones(4, bool), 1e-3, 0, nearly_orthonormal(angle))
    assert report_of(values, noise=1e-8, pairs=pairs).index_lower_bound == index
    longer = Eigenpairs(values, np.zeros(4), np.ones(4, bool), 1e-3, 0, 3 * nearly_orthonormal(angle))
    assert report_of(values, noise=1e-8, pairs=longer).index_lower_bound == index


def test_the_index_never_exceeds_the_truth() -> None:
    """Single-precision copies of eigenvectors, and of one eigenvector many times over."""
    matrix = with_spectrum(np.r_[-3.0, -2.0, -1e-5, np.linspace(0.1, 4, 27)])
    values, vectors = torch.linalg.eigh(matrix)
    chosen = vectors[:, [0, 1, 2, -1]].float()
    quotients = np.sort(torch.einsum("ni,nm,mi->i", chosen.double(), matrix, chosen.double()).numpy())
    pairs = Eigenpairs(quotients, np.zeros(4), np.ones(4, bool), 1e-3, 0, chosen.numpy())
    report = report_of(values.numpy(), noise=1e-8, pairs=pairs, gradient=torch.zeros(30))
    assert report.index_lower_bound in (2, 3)
    copies = Eigenpairs(np.full(3, -3.0), np.zeros(3), np.ones(3, bool), 1e-3, 0, vectors[:, [0, 0, 0]].numpy())
    report = report_of(values.numpy(), noise=1e-8, pairs=copies, gradient=torch.zeros(30))
    assert report.index_lower_bound == 1


def judge_certified(function: Callable[[Tensor], Tensor], point: Any, **changes: Any) -> SaddleReport:
    """The verdict of :func:`judge` with every certificate."""
    problem = function_problem(function, point)
    plain = measure(problem, SETTINGS).saddle
    pairs, density, certificates = certified(problem, floor=plain.noise_floor)
    _, gradient = problem.value_and_gradient()
    length = torch.linalg.vector_norm(gradient)
    direction = gradient / length if length else gradient
    product = HessianOperator(problem, engine="double-backward") @ direction
    return saddle_report(
        loss=plain.loss,
        gradient=gradient,
        gradient_curvature=float(direction @ product),
        descent_share=plain.descent_share,
        parameter_norm=problem.parameter_norm,
        pairs=pairs,
        density=density,
        trace=density.trace(),
        noise=problem.noise(),
        scale=problem.check.scale,
        certificates=dataclasses.replace(certificates, **changes),
    )


def monkey_saddle(w: Tensor) -> Tensor:
    return w[0] ** 3 - 3 * w[0] * w[1] ** 2


KNOWN: dict[str, tuple[Callable[[Tensor], Tensor], list[float], str, int]] = {
    "bowl": (quadratic(2.0, 1.0, 5.0), [0, 0, 0], "minimum", 0),
    "saddle": (quadratic(2.0, -1.0, 5.0), [0, 0, 0], "saddle", 1),
    "saddle beside the origin": (lambda w: (w[0] - 1) ** 2 - (w[1] - 2) ** 2 + 7, [1, 2], "saddle", 1),
    "tiny negative": (lambda w: w[0] ** 2 - 1e-9 * w[1] ** 2, [0, 0], "saddle", 1),
    "tiny positive": (lambda w: w[0] ** 2 + 1e-9 * w[1] ** 2, [0, 0], "minimum", 0),
    "ill-conditioned bowl": (quadratic(1e6, 1.0, 1e-6), [0, 0, 0], "minimum", 0),
    "flat valley": (quadratic(1.0, 0.0, 0.0), [0, 3, 4], "minimum", 0),
    "curved valley": (lambda w: (w[0] * w[1] - 1) ** 2, [1, 1], "minimum", 0),
    "slope": (lambda w: w[0] ** 2 + w[1], [0, 1, 1], "not stationary", 0),
    "slope of a saddle": (quadratic(2.0, -1.0), [1, 1], "not stationary", 1),
    "monkey saddle": (monkey_saddle, [0, 0], "flat", 0),
    "beside a monkey saddle": (monkey_saddle, [0.1, 0.0], "not stationary", 1),
    "quartic bowl": (lambda w: (w**4).sum(), [0, 0, 0], "flat", 0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_certificates_agree_where_the_answer_is_known(name: str) -> None:
    function, point, verdict, index = KNOWN[name]
    report = judge_certified(function, point)
    assert (report.verdict, report.index_lower_bound) == (verdict, index), report.reason
    certificates = report.certificates
    assert certificates is not None
    assert abs(certificates.second_difference - report.lambda_min) <= certificates.second_difference_error + 1e-12
    if verdict == "saddle":
        assert certificates.second_difference + certificates.second_difference_error < 0
        assert certificates.descent.decrease > 0
    if verdict == "minimum":
        assert certificates.descent.decrease <= 1e-12


def test_a_flat_point_says_whether_the_loss_falls_all_the_same() -> None:
    monkey = judge_certified(monkey_saddle, [0, 0])
    assert monkey.verdict == "flat"
    assert "yet the loss falls by" in monkey.reason
    assert monkey.certificates is not None
    assert monkey.certificates.descent.decrease > 1e-3
    bowl = judge_certified(lambda w: 3.0 + (w**4).sum(), [0, 0, 0])
    assert bowl.verdict == "flat"
    assert bowl.reason.endswith("nor does the loss fall along ±v_min")


def test_a_contradicted_saddle_is_undecided() -> None:
    """A Hessian product that is wrong where the loss is right: the difference of losses has the last word."""
    for difference, error, verdict in ((1.0, 0.1, "undecided"), (1.0, 2.0, "saddle"), (-1.0, 0.1, "saddle")):
        changes = {"second_difference": difference, "second_difference_error": error}
        report = judge_certified(quadratic(2.0, -1.0), [0, 0], **changes)
        assert report.verdict == verdict
        assert ("second difference of the loss along v_min is 1 ± 0.1" in report.reason) == (verdict == "undecided")
        assert report.index_lower_bound == 1
    nothing = {"second_difference": math.nan, "second_difference_error": math.inf}
    assert judge_certified(quadratic(2.0, -1.0), [0, 0], **nothing).verdict == "saddle"
    bowl = judge_certified(quadratic(2.0, 1.0), [0, 0], second_difference=1.0, second_difference_error=0.1)
    assert bowl.verdict == "minimum"


def test_a_kink_under_the_point_is_not_sold_as_a_saddle() -> None:
    """|w₀| hides its slope from every derivative at 0 (its gradient there is 0), but not from the loss."""
    report = judge_certified(lambda w: w[0].abs() - w[0] ** 2 + w[1] ** 2, [0.0, 0.0])
    assert report.lambda_min == pytest.approx(-2.0)
    assert report.verdict == "undecided"
    assert "but the second difference" in report.reason
