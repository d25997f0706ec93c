"""Errors over samples against the jackknife itself: Hessians recomputed without each block."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from support.problems import DenseOracle, function_problem, small_problem
from torch import Tensor, nn

from landscape.curvature import HessianOperator, Part, Problem, Samples, SymmetricOperator, extreme_eigenpairs
from landscape.curvature.lanczos import tridiagonalize
from landscape.curvature.results import Eigenpairs, SamplingErrors
from landscape.curvature.sampling import SampleCurvature, jackknife_error, jackknife_values, sample_blocks
from landscape.losses import build_loss

Array = np.ndarray
COUNTS = [260, 120, 60, 40]
WEIGHTS = torch.tensor([0.5, 0.8, 1.5, 2.0], dtype=torch.float64)


@functools.cache
def trained(weighted: bool) -> tuple[Problem, list[Tensor], Array]:
    """A small net after some training, its dense Hessian without each block, and the blocks."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    centres = 1.2 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
    inputs = centres[labels] + torch.randn(len(labels), 4, generator=generator, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    loss = build_loss("ce", COUNTS, class_weights=WEIGHTS if weighted else None)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        loss(model(inputs), labels).mean.backward()
        optimizer.step()
    samples = Samples(inputs, labels)
    blocks = sample_blocks(labels)
    dense = DenseOracle(model, loss, samples)
    without = [
        dense.hessian(None, torch.nonzero(torch.as_tensor(blocks != b)).flatten()) for b in range(blocks.max() + 1)
    ]
    return Problem(model, loss, samples, dtype=torch.float64, chunk_size=480), without, blocks


def dense_hessian(problem: Problem) -> Tensor:
    return HessianOperator(problem, engine="double-backward") @ torch.eye(problem.num_parameters, dtype=torch.float64)


def exact_pairs(matrix: Tensor, keep: list[int]) -> Eigenpairs:
    values, vectors = torch.linalg.eigh(matrix)
    count = len(keep)
    return Eigenpairs(
        values[keep].numpy(), np.zeros(count), np.ones(count, bool), 1e-8, 0, vectors[:, keep].contiguous().numpy()
    )


def measured(
    problem: Problem, deflate: list[int], probes: list[Tensor], *, steps: int = 60, deflated_run: bool = True
) -> SampleCurvature:
    matrix = dense_hessian(problem)
    outliers = exact_pairs(matrix, deflate)
    curvature = SampleCurvature(
        problem, pairs=exact_pairs(matrix, [0, -1]), deflated=outliers, max_probes=len(probes), max_negative=2
    )
    rows = torch.as_tensor(outliers.vectors).T
    op = SymmetricOperator.from_matrix(matrix)
    for z in probes:
        u = z - (rows @ z) @ rows if deflated_run else z
        curvature.add_probe(z, u, tridiagonalize(op, u, steps, deflate=rows if deflated_run else None))
    return curvature


def signs(count: int, dimension: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = 2 * torch.randint(0, 2, (count, dimension), generator=generator, dtype=torch.int8) - 1
    return list(drawn.double())


def spectral_numbers(matrix: Tensor) -> Array:
    values = torch.linalg.eigvalsh(matrix)
    return np.array([values[-1], values[0], values.sum(), -values[values < 0].sum()])


def errors_of(rows: Array) -> SamplingErrors:
    return SamplingErrors(len(rows), *(jackknife_error(column) for column in np.asarray(rows).T))


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_those_of_the_true_jackknife(weighted: bool) -> None:
    """To first order: within a fifth of what recomputing every Hessian without each block gives."""
    problem, without, _ = trained(weighted)
    truth = errors_of([spectral_numbers(matrix) for matrix in without])
    found = measured(problem, [0, 1, 2, -3, -2, -1], signs(20, problem.num_parameters)).errors()
    assert found is not None
    assert found.num_blocks == 24
    for name in ("lambda_max", "lambda_min", "trace", "negative_mass"):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), rel=0.2), name


@pytest.mark.parametrize(("deflate", "deflated_run"), [([0, 1, 2, 3, -2, -1], True), ([0, 1, 2], False)])
def test_the_first_order_is_exact(deflate: list[int], deflated_run: bool) -> None:
    """Probes √n eᵢ have the identity as their mean, so that only the derivative itself is left to be wrong."""
    problem, without, _ = trained(True)
    n = problem.num_parameters
    matrix = dense_hessian(problem)
    values, vectors = torch.linalg.eigh(matrix)
    negative = vectors[:, values < 0] @ vectors[:, values < 0].T
    changes = [other - matrix for other in without]
    expected = errors_of(
        [
            [
                float(vectors[:, -1] @ change @ vectors[:, -1]),
                float(vectors[:, 0] @ change @ vectors[:, 0]),
                float(change.trace()),
                float(-(negative @ change).trace()),
            ]
            for change in changes
        ]
    )
    probes = list(math.sqrt(n) * torch.eye(n, dtype=torch.float64))
    found = measured(problem, deflate, probes, steps=n, deflated_run=deflated_run).errors()
    assert found is not None
    np.testing.assert_allclose(dataclasses.astuple(found), dataclasses.astuple(expected), rtol=1e-6)


def test_few_probes_err_on_the_safe_side() -> None:
    """The noise of the probes adds to the errors of trace and mass: too large on average, never too small."""
    problem, _, _ = trained(False)
    n = problem.num_parameters
    many = measured(problem, [0, 1, 2, -2, -1], signs(30, n)).errors()
    assert many is not None
    few = [measured(problem, [0, 1, 2, -2, -1], signs(2, n, seed)).errors() for seed in range(1, 9)]
    for name in ("trace", "negative_mass"):
        ratios = np.array([getattr(errors, name) for errors in few]) / getattr(many, name)
        assert 0.95 < np.sqrt(np.mean(ratios**2)) < 1.6, name


def test_blocks_hold_every_class_in_nearly_the_same_share() -> None:
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))
    blocks = sample_blocks(labels)
    sizes = np.bincount(blocks)
    assert (len(sizes), sizes.max() - sizes.min()) == (24, 0)  # 480 samples in blocks of 20
    for c in range(4):
        share = np.bincount(blocks[labels.numpy() == c], minlength=24)
        assert share.max() - share.min() <= 1
    shuffled = torch.randperm(480, generator=torch.Generator().manual_seed(0))
    again = sample_blocks(labels[shuffled])
    for c in range(4):
        share = np.bincount(again[labels[shuffled].numpy() == c], minlength=24)
        assert share.max() - share.min() <= 1


@pytest.mark.parametrize("count", [1, 2, 24, 25, 26, 49, 51, 1000])
def test_at_most_25_blocks_and_one_sample_each_when_there_are_few(count: int) -> None:
    for targets in (torch.zeros(count, dtype=torch.int64), torch.zeros(count), torch.zeros(count, 3)):
        sizes = np.bincount(sample_blocks(targets))
        assert sizes.sum() == count
        assert len(sizes) <= 25
        assert sizes.max() - sizes.min() <= 1
        assert count > 25 or len(sizes) == count


def test_jackknife_of_a_mean_is_its_standard_error() -> None:
    samples = np.random.default_rng(0).standard_normal(20)
    values = jackknife_values(samples, np.ones(20), np.arange(20))
    assert jackknife_error(values) == pytest.approx(samples.std(ddof=1) / math.sqrt(20))
    assert math.isnan(jackknife_error(np.ones(1)))
    assert math.isnan(jackknife_error(jackknife_values(samples[:2], np.array([1.0, 0.0]), np.arange(2))))


def test_errors_cover_another_draw() -> None:
    """The spread of λ_max and trace over fresh draws from one population is what the errors announce."""
    draws, size = 60, 200
    generator = torch.Generator().manual_seed(3)
    scales = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    inputs = torch.randn(draws * size, 3, generator=generator, dtype=torch.float64) * scales
    labels = (inputs.sum(1) + torch.randn(draws * size, generator=generator).double() > 0).long()
    model = nn.Linear(3, 2, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-0.3, -0.3, -0.3], [0.3, 0.3, 0.3]]))
    population = Problem(model, build_loss("ce", [1, 1]), (inputs, labels), dtype=torch.float64, chunk_size=size)
    found, announced = [], []
    for draw in range(draws):
        problem = population.restrict(Part("x", "x", samples=torch.arange(draw * size, (draw + 1) * size)))
        found.append(spectral_numbers(dense_hessian(problem))[[0, 2]])
        errors = measured(problem, [-1], signs(3, 6)).errors()
        assert errors is not None
        announced.append([errors.lambda_max, errors.trace])
    ratio = np.std(found, axis=0, ddof=1) / np.sqrt(np.mean(np.square(announced), axis=0))
    # The 99 % range of a standard deviation from 60 draws, widened below by the noise of three probes.
    assert np.all((ratio > 0.7) & (ratio < 1.24)), ratio


def test_parts_that_leave_nothing_to_compare() -> None:
    one = function_problem(lambda w: (w**2).sum() - 3 * w[0] ** 2, [0.0, 0.0])
    pairs = exact_pairs(dense_hessian(one), [0, -1])
    assert SampleCurvature(one, pairs=pairs).errors() is None
    coupled = small_problem("conv", batch_norm="batch", chunk_size=13)
    pairs = extreme_eigenpairs(HessianOperator(coupled, engine="double-backward"), 1, max_matvecs=60)
    curvature = SampleCurvature(coupled, pairs=pairs)
    assert curvature.errors() is None
    assert curvature.gauss_newton_curvature >= 0
    with pytest.raises(ValueError, match="without vectors"):
        SampleCurvature(one, pairs=pairs.without_vectors())


def test_a_layer_of_a_class_and_what_is_missing_without_a_basis() -> None:
    problem = small_problem("conv").restrict(
        Part("x", "x", samples=torch.tensor([0, 2, 4, 5]), parameters=("0.weight", "3.weight"))
    )
    curvature = measured(problem, [0, -1], signs(2, problem.num_parameters))
    errors = curvature.errors()
    assert errors is not None
    assert errors.num_blocks == 4
    assert all(value > 0 for value in dataclasses.astuple(errors))
    pairs = exact_pairs(dense_hessian(problem), [0, -1])
    bare = SampleCurvature(problem, pairs=pairs)
    z = signs(1, problem.num_parameters)[0]
    run = tridiagonalize(HessianOperator(problem, engine="double-backward"), z, 3)
    bare.add_probe(z, z, dataclasses.replace(run, basis=run.basis[:0]))
    errors = bare.errors()
    assert errors is not None
    assert math.isnan(errors.negative_mass)
    assert errors.trace > 0


def test_more_probes_than_asked_for_cost_nothing() -> None:
    problem = small_problem("mlp")
    matrix = dense_hessian(problem)
    curvature = SampleCurvature(problem, pairs=exact_pairs(matrix, [0, -1]), max_probes=1)
    op = HessianOperator(problem, engine="double-backward")
    for z in signs(3, problem.num_parameters):
        curvature.add_probe(z, z, tridiagonalize(op, z, 5))
    assert curvature.num_probes == 1
