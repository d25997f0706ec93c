"""Each certificate on functions and data where the right answer is known, and where a wrong one would be easy."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from support.certification import certified
from support.problems import (
    LABELS,
    NUM_SAMPLES,
    function_problem,
    matrix_of,
    named_outputs_problem,
    small_loss,
    small_problem,
    softmax_regression,
)
from torch import Tensor, nn

from landscape.curvature import (
    HessianOperator,
    Part,
    Problem,
    certificates,
    extreme_eigenpairs,
    spectral_density,
)
from landscape.curvature.certificates import _gauss_newton_trace, certify, descend, second_difference, split_half
from landscape.curvature.sampling import SampleCurvature


def unit(*entries: float) -> Tensor:
    vector = torch.tensor(entries, dtype=torch.float64)
    return vector / vector.norm()


# ------------------------------------------------------------------ second difference


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
@pytest.mark.parametrize(
    ("function", "point", "direction"),
    [
        (lambda w: (w[0] ** 2 - 3 * w[1] ** 2) / 2, [0.0, 0.0], unit(0, 1)),
        (lambda w: (w[0] ** 2 - 3 * w[1] ** 2) / 2, [5.0, -2.0], unit(0, 1)),
        (lambda w: torch.cos(w[0]) * torch.exp(w[1]), [0.3, 0.2], unit(1, 0)),
        (lambda w: torch.cos(w[0]) * torch.exp(w[1]), [0.3, 0.2], unit(1, 1)),
        (lambda w: w[0] ** 4 - w[1] ** 4, [0.5, 0.4], unit(1, -1)),
    ],
)
def test_second_difference_without_any_derivative(
    function: Callable[[Tensor], Tensor], point: list[float], direction: Tensor, offset: float, scale: float
) -> None:
    problem = function_problem(lambda w: scale * (offset + function(w)), point)
    truth = float(direction @ (HessianOperator(problem, engine="double-backward") @ direction))
    value, error = second_difference(problem, direction, size=abs(truth))
    assert abs(value - truth) <= error
    assert error < 0.02 * abs(truth)


def test_second_difference_of_a_network_in_single_precision() -> None:
    """Float64 although the problem works in float32, in which the difference would be rounding alone."""
    problem = small_problem("conv", dtype=torch.float32)
    pairs = extreme_eigenpairs(HessianOperator(problem, engine="double-backward"), 1, max_matvecs=60)
    for column in (0, 1):
        direction = torch.as_tensor(pairs.vectors[:, column])
        value, error = second_difference(problem, direction, size=abs(float(pairs.values[column])))
        assert value == pytest.approx(float(pairs.values[column]), rel=1e-2)
        assert error < 0.02 * abs(value)


def test_a_kink_shows_as_disagreement() -> None:
    """Beside the kink of |w| the curvature is −1, and what larger ε see must not be believed."""
    problem = function_problem(lambda w: (w[0] + 1e-4).abs() - w[0] ** 2 / 2, [0.0, 1.0])
    value, error = second_difference(problem, unit(1, 0), size=1.0)
    assert abs(value + 1) <= error < 0.05
    on_it = function_problem(lambda w: w[0].abs() - w[0] ** 2 / 2, [0.0, 1.0])
    value, error = second_difference(on_it, unit(1, 0), size=1.0)
    assert value > 100
    assert error > 0.5 * value


@pytest.mark.parametrize("distance", np.geomspace(1e-10, 1e-4, 73))
def test_a_kink_at_any_distance_shows_in_the_error(distance: float) -> None:
    """Two ε on either side of the one at which a kink counts most agree; that is no curvature.

    A kink inside the smallest ε falls as 1/ε, a sixty-fourth of it is in all values alike.
    """
    problem = function_problem(lambda w: 40 * torch.relu(w[0] - distance) - w[0] ** 2 / 2, [0.0, 1.0])
    value, error = second_difference(problem, unit(1, 0), size=1.0)
    assert 0.9 * abs(value + 1) <= error


def test_many_kinks_do_not_add_up_to_a_curvature() -> None:
    """A thousand kinks add 5 to the curvature at every ε above their distance, and larger ε agree on that."""
    kinks = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    problem = function_problem(lambda w: 1 - w[0] ** 2 / 2 + 5 * (w[0] - kinks).abs().mean(), [0.1, 3.0])
    far = [problem.value(unit(1, 0), step) for step in (-0.05, 0.0, 0.05)]
    assert (far[0] - 2 * far[1] + far[2]) / 0.05**2 == pytest.approx(4, abs=0.1)
    value, error = second_difference(problem, unit(1, 0), size=1.0)
    assert abs(value + 1) <= error < 0.05


def test_second_difference_where_there_is_nothing_or_too_much() -> None:
    flat = function_problem(lambda w: 0.0 * w.sum(), [1.0, 1.0])
    assert second_difference(flat, unit(1, 0), size=0.0)[0] == 0.0
    line = function_problem(lambda w: 3.0 + w.sum(), [1.0, 1.0])
    value, error = second_difference(line, unit(1, 1), size=1e-9)
    assert abs(value) <= error < 1e-6
    bounded = function_problem(lambda w: torch.where(w[0].detach() == 1.0, 0.0, torch.inf) + w[0] ** 2, [1.0, 1.0])
    value, error = second_difference(bounded, unit(1, 0), size=1.0)
    assert math.isnan(value)
    assert error == math.inf


# ------------------------------------------------------------------ descent


def test_descent_reaches_the_bottom_beside_a_saddle() -> None:
    """f = x² − y² + y⁴ + 1 has its minima at y = ±1/√2, one quarter below the saddle."""
    problem = function_problem(lambda w: w[0] ** 2 - w[1] ** 2 + w[1] ** 4 + 1, [0.0, 0.0, 3.0])
    walk = descend(problem, torch.tensor([0.0, 1.0, 0.0]), curvature=-2.0, loss=1.0)
    assert np.all(np.diff(walk.steps) > 0)
    assert walk.steps[len(walk.steps) // 2] == 0.0
    np.testing.assert_allclose(walk.steps, -walk.steps[::-1])
    np.testing.assert_allclose(walk.losses, 1 - walk.steps**2 + walk.steps**4)
    assert 0.15 < walk.decrease <= 0.25
    assert walk.steps[-1] == pytest.approx(0.9)
    uphill = descend(problem, torch.tensor([1.0, 0.0, 0.0]), curvature=2.0, loss=1.0)
    assert (uphill.decrease, uphill.best_step) == (0.0, 0.0)


def test_descent_sees_both_ways_and_the_scale_of_the_curvature() -> None:
    # Third order: down only where w₀ is negative.
    cubic = function_problem(lambda w: w[0] ** 3, [0.0, 0.0])
    walk = descend(cubic, torch.tensor([1.0, 0.0]), curvature=0.0, loss=0.0)
    assert walk.best_step == pytest.approx(-0.3)
    # A dip a thousand times narrower than ‖θ‖, which steps in units of ‖θ‖ alone would stride over.
    narrow = function_problem(lambda w: 1 - 1e6 * w[0] ** 2 + 1e12 * w[0] ** 4, [0.0, 1.0])
    walk = descend(narrow, torch.tensor([1.0, 0.0]), curvature=-2e6, loss=1.0)
    assert walk.decrease > 0.15
    assert abs(walk.best_step) < 2e-3


# ------------------------------------------------------------------ split half


class _Diagonal(nn.Module):
    """f = Σ_j a_j w_j²/2 of an input a: the Hessian of sample i is diag(a_i)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(dimension, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.w**2).sum(1) / 2


def sums(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    return outputs.sum(), len(outputs)


def diagonal_problem(curvatures: Tensor, targets: Tensor | None = None) -> Problem:
    """Sample i has the Hessian diag(curvatures[i]); H is their mean."""
    labels = torch.zeros(len(curvatures), dtype=torch.int64) if targets is None else targets
    return Problem(_Diagonal(curvatures.shape[1]), sums, (curvatures, labels), dtype=torch.float64, chunk_size=4096)


def test_split_half_confirms_what_is_there() -> None:
    generator = torch.Generator().manual_seed(0)
    curvatures = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    curvatures[:, 2] -= 2.0
    result = split_half(diagonal_problem(curvatures))
    assert result is not None
    assert result.num_samples == 100
    assert result.found == pytest.approx(-2.0, abs=0.5)
    assert result.confirmed == pytest.approx(-2.0, abs=0.5)
    assert result.standard_error == pytest.approx(0.1, rel=0.3)
    assert result.p_value < 1e-10


def test_split_half_is_not_fooled_by_noise() -> None:
    """No eigenvalue of the population is negative, every sample's lowest is: p must be uniform, found clearly < 0."""
    generator = torch.Generator().manual_seed(1)
    population = diagonal_problem(torch.randn(1600, 30, generator=generator, dtype=torch.float64))
    found, p_values, statistics = [], [], []
    for seed in range(40):
        draw = torch.arange(40 * seed, 40 * seed + 40)
        result = split_half(population.restrict(Part("x", "x", samples=draw)), seed=seed)
        assert result is not None
        found.append(result.found)
        p_values.append(result.p_value)
        statistics.append(result.confirmed / result.standard_error)
    assert np.mean(found) < -0.3
    assert abs(np.mean(statistics)) < 0.6
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_halves_are_drawn_class_by_class() -> None:
    problem = small_problem("mlp")
    for seed in range(5):
        first, second = certificates._halves(problem, seed)
        assert sorted(torch.cat([first, second]).tolist()) == list(range(NUM_SAMPLES))
        assert (len(first), len(second)) == (6, 7)
        for c in range(4):
            share = [int((LABELS[half] == c).sum()) for half in (first, second)]
            assert abs(share[0] - share[1]) <= 1
    draws = {tuple(certificates._halves(problem, seed)[0].tolist()) for seed in range(5)}
    assert len(draws) > 1


def test_the_direction_has_not_seen_the_other_half(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = small_problem("mlp", small_loss(weighted=True), chunk_size=5)
    seen: list[Problem] = []

    def spy(op: HessianOperator, *arguments: Any, **settings: Any) -> Any:
        seen.append(op.problem)
        assert settings["max_matvecs"] <= 40
        return extreme_eigenpairs(op, *arguments, **settings)

    monkeypatch.setattr(certificates, "extreme_eigenpairs", spy)
    result = split_half(problem, seed=3)
    assert result is not None
    first, second = certificates._halves(problem, 3)
    assert torch.equal(seen[0].samples.inputs, problem.samples.inputs[first])
    pairs = extreme_eigenpairs(HessianOperator(seen[0]), 1, max_matvecs=40, seed=3)
    direction = torch.as_tensor(pairs.vectors[:, 0])
    other = problem.restrict(Part("B", "B", samples=second))
    expected = float(direction @ (HessianOperator(other, engine="double-backward") @ direction))
    assert result.confirmed == pytest.approx(expected, rel=1e-9)


def test_split_half_of_two_and_three_samples() -> None:
    two = split_half(diagonal_problem(torch.tensor([[1.0, -1.0], [2.0, -3.0]], dtype=torch.float64)))
    assert two is not None
    assert two.num_samples == 1
    assert math.isnan(two.p_value)
    assert math.isnan(two.standard_error)
    assert two.found + two.confirmed == pytest.approx(-4.0)
    three = split_half(diagonal_problem(torch.tensor([[1.0, -1.0]] * 3, dtype=torch.float64)))
    assert three is not None
    assert (three.num_samples, three.p_value) == (2, 0.0)
    assert split_half(function_problem(lambda w: (w**2).sum(), [1.0, 1.0])) is None
    assert split_half(small_problem("conv", batch_norm="batch", chunk_size=13)) is None


# ------------------------------------------------------------------ all together


@pytest.mark.parametrize(
    "part", [None, Part("x", "x", samples=torch.tensor([0, 2, 4, 5, 8]), parameters=("0.weight",))]
)
def test_every_certificate_of_a_network(part: Part | None) -> None:
    problem = small_problem("mlp", small_loss(weighted=True))
    problem = problem if part is None else problem.restrict(part)
    pairs, _, found = certified(problem, floor=1e-9)
    lowest = pairs.lambda_min
    assert lowest < -1e-4
    assert found.threshold == pytest.approx(1e-4 * np.abs(pairs.values).max())
    assert found.second_difference == pytest.approx(lowest, rel=1e-2)
    assert found.second_difference_error < 0.02 * abs(lowest)
    assert found.descent.losses[len(found.descent.losses) // 2] == pytest.approx(problem.value())
    assert found.gauss_newton_curvature >= 0
    assert lowest - found.gauss_newton_curvature < 0
    assert found.gauss_newton_trace > 0
    assert found.gauss_newton_trace_standard_error > 0
    assert found.split_half.num_samples == (problem.num_samples + 1) // 2
    assert found.sampling.num_blocks == problem.num_samples
    assert 0 < found.fraction_below.value < 1
    assert all(isinstance(getattr(found, f.name), float) for f in dataclasses.fields(found) if f.type == "float")


def test_the_trace_of_gauss_newton_is_that_of_the_hessian_for_a_linear_model() -> None:
    problem = softmax_regression(torch.float64, num_samples=30)
    truth = float(torch.trace(matrix_of(HessianOperator(problem))))
    for seed in range(8):
        estimate = _gauss_newton_trace(problem, seed)
        assert abs(estimate.value - truth) <= 4 * estimate.standard_error
        assert estimate.standard_error < 0.2 * truth


def test_outputs_that_are_no_tensor_leave_the_trace_of_gauss_newton_open() -> None:
    assert math.isnan(_gauss_newton_trace(named_outputs_problem(), 0).value)


def test_the_noise_floor_raises_the_threshold() -> None:
    assert certified(small_problem("mlp"), floor=0.5)[2].threshold == 0.5


def test_a_single_sample_has_no_error_over_samples() -> None:
    *_, found = certified(function_problem(lambda w: w[0] ** 2 - w[1] ** 2 + w[2] ** 4, [0.0, 0.0, 0.0]), num_probes=1)
    assert found.split_half is None
    assert found.sampling is None
    assert found.second_difference == pytest.approx(-2.0)
    assert found.descent.decrease > 0.05


def test_an_own_loss_and_kinks() -> None:
    inputs = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))

    def loss(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        return F.cross_entropy(outputs, targets, reduction="sum"), len(targets)

    problem = Problem(model, loss, (inputs, torch.tensor([0, 1, 2, 0, 1, 2])))
    pairs, _, found = certified(problem)
    assert found.second_difference == pytest.approx(pairs.lambda_min, rel=0.05)
    assert np.isfinite(found.descent.losses).all()


def test_vectors_are_needed() -> None:
    problem = small_problem("mlp")
    op = HessianOperator(problem, engine="double-backward")
    pairs = extreme_eigenpairs(op, 1)
    density = spectral_density(op, num_probes=2, num_steps=5)
    with pytest.raises(ValueError, match="without vectors"):
        certify(
            problem,
            pairs=pairs.without_vectors(),
            density=density,
            curvature=SampleCurvature(problem, pairs=pairs),
            loss=1.0,
            noise_floor=0.0,
        )
