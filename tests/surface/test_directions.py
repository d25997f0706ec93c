"""Directions have the norms, the independence and the curvature that they promise."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from support.point_losses import PlainPointLosses
from torch import Tensor, nn

from landscape.curvature import HessianOperator, Problem, Samples, extreme_eigenpairs
from landscape.errors import LandscapeError
from landscape.losses import ClassificationLoss, CrossEntropy
from landscape.surface.directions import (
    Eigenvector,
    Slice,
    checkpoint_slice,
    displacement,
    eigen_slice,
    inner,
    norm,
    parameters_of,
    random_slice,
)


def net(seed: int = 0) -> nn.Module:
    """Every kind of parameter: filters, rows, biases, batch normalisation with running statistics of its own."""
    torch.manual_seed(seed)
    norm_layer, pool = nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), norm_layer, nn.Tanh(), pool, nn.Flatten(), nn.Linear(4, 3))
    for tensor in (norm_layer.weight, norm_layer.running_var):
        assert tensor is not None
        nn.init.uniform_(tensor, 0.5, 1.5)
    nn.init.normal_(norm_layer.running_mean)  # type: ignore[arg-type]
    return model.eval()


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(12, 2, 5, 5, generator=generator), torch.randint(3, (12,), generator=generator)


def losses_at(model: nn.Module, found: Slice, points: np.ndarray) -> np.ndarray:
    inputs, targets = samples()
    evaluate = PlainPointLosses(
        model, CrossEntropy(), inputs, targets, [torch.arange(len(inputs))], directions=found.moves
    )
    return evaluate(points)[0][:, 0]


def own_loss(model: nn.Module) -> float:
    inputs, targets = samples()
    with torch.no_grad():
        return float(CrossEntropy()(copy.deepcopy(model).double()(inputs.double()), targets).mean)


def test_every_filter_has_the_norm_of_its_filter() -> None:
    model = net()
    found = random_slice(model, seed=3)
    theta = parameters_of(model)
    for direction in found.directions:
        assert set(direction) == {"0.weight", "5.weight"}
        for name, values in direction.items():
            ours, theirs = (t.reshape(len(t), -1).norm(dim=1) for t in (values, theta[name]))
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    expected = math.sqrt(sum(float(theta[name].square().sum()) for name in ("0.weight", "5.weight")))
    np.testing.assert_allclose(found.norms, expected, rtol=1e-12)
    first, second = found.directions
    assert found.cosine == pytest.approx(inner(first, second) / expected**2, abs=1e-12)


def test_a_filter_of_zeros_stays_zero() -> None:
    model = net()
    with torch.no_grad():
        model[5].weight[1].zero_()  # type: ignore[index, union-attr, operator]
    moved = random_slice(model, 1).directions[0]["5.weight"]
    assert not moved[1].any()
    assert moved.isfinite().all()


@pytest.mark.parametrize("keep_1d", [False, True])
def test_layers_have_the_norm_of_their_layer(keep_1d: bool) -> None:
    model = net()
    theta = parameters_of(model)
    direction = random_slice(model, 1, normalize="layer", keep_1d=keep_1d).directions[0]
    assert ("5.bias" in direction) is keep_1d
    for name, values in direction.items():
        assert float(values.norm()) == pytest.approx(float(theta[name].norm()), rel=1e-12)


def test_a_direction_depends_on_its_seed_and_number_alone() -> None:
    model = net()
    line, plane = random_slice(model, 1, seed=5), random_slice(model, 2, seed=5)
    kept = random_slice(model, 2, seed=5, keep_1d=True)
    assert torch.equal(line.directions[0]["0.weight"], plane.directions[0]["0.weight"])
    assert torch.equal(plane.directions[1]["5.weight"], kept.directions[1]["5.weight"])
    assert not torch.equal(plane.directions[0]["0.weight"], plane.directions[1]["0.weight"])
    assert not torch.equal(plane.directions[0]["0.weight"], random_slice(model, 1, seed=6).directions[0]["0.weight"])


def test_gaussian_directions_have_both_signs() -> None:
    values = random_slice(nn.Linear(300, 100), 1, normalize="none").directions[0]["weight"]
    assert abs(float(values.mean())) < 0.02
    assert float(values.std()) == pytest.approx(1.0, abs=0.02)


def test_directions_leave_the_model_as_it_was() -> None:
    model, other = net(), net(1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_slice(model, keep_1d=True)
    checkpoint_slice(model, [other], ["A", "B"], interpolate_buffers=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------------- eigenvectors


@dataclass(frozen=True, eq=False)
class Saddle(ClassificationLoss):
    """½(z₀² − z₁²) + z₀: of a linear model a quadratic function with as many negative as positive eigenvalues."""

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits[:, 0].square() - logits[:, 1].square()) / 2 + logits[:, 0]


def test_second_differences_along_eigenvectors_are_the_eigenvalues() -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2).double()
    with torch.no_grad():
        model.weight *= 100  # far enough from 0 for steps of their full length
    inputs, targets = torch.randn(30, 4, dtype=torch.float64), torch.zeros(30, dtype=torch.int64)
    problem = Problem(model, Saddle(), Samples(inputs, targets), dtype=torch.float64)
    pairs = extreme_eigenpairs(HessianOperator(problem), 1, tol=1e-12)
    vectors = torch.as_tensor(pairs.vectors)
    high = Eigenvector("v_max", pairs.lambda_max, vectors[:, -1])
    low = Eigenvector("v_min", pairs.lambda_min, vectors[:, 0])
    assert pairs.lambda_min < 0 < pairs.lambda_max
    found = eigen_slice(model, [high, low], part="class/3", label="cat")
    assert found.axis_labels == ("v_max of cat", "v_min of cat")
    assert found.curvatures == {"class/3": (pairs.lambda_max, pairs.lambda_min)}
    evaluate = PlainPointLosses(model, Saddle(), inputs, targets, [torch.arange(30)], directions=found.moves)

    def loss(a1: float, a2: float) -> float:
        return float(evaluate(np.array([[a1, a2]]))[0][0, 0])

    for step in (0.01, 1.0):
        for k, value in enumerate((pairs.lambda_max, pairs.lambda_min)):
            ahead, behind = ([sign * step * (axis == k) for axis in range(2)] for sign in (1, -1))
            second = (loss(*ahead) - 2 * loss(0, 0) + loss(*behind)) / (step * found.norms[k]) ** 2
            assert second == pytest.approx(value, rel=1e-6)
    # The unit of a coordinate: half the second difference is a₁² − a₂² nats.
    for a1, a2 in itertools.product((-1.0, 0.4), (0.7, 1.0)):
        even = (loss(a1, a2) + loss(-a1, -a2)) / 2 - loss(0, 0)
        assert even == pytest.approx(a1**2 - a2**2, abs=1e-9)


def test_a_flat_eigenvector_is_not_followed_to_infinity() -> None:
    model = nn.Linear(3, 2)
    size = norm(parameters_of(model))
    unit = torch.zeros(8)
    unit[2] = 1
    for value in (0.0, 1e-9):
        assert eigen_slice(model, [Eigenvector("v_min", value, unit)]).norms == pytest.approx([0.1 * size])


def test_vectors_of_another_model_are_refused() -> None:
    with pytest.raises(LandscapeError, match="9 values, the model has 8"):
        eigen_slice(nn.Linear(3, 2), [Eigenvector("v_min", -1.0, torch.ones(9) / 3)])
    with pytest.raises(LandscapeError, match="not 1"):
        eigen_slice(nn.Linear(3, 2), [Eigenvector("v_min", -1.0, torch.ones(8))])


# ---------------------------------------------------------------------- between checkpoints


def test_a_plane_through_three_checkpoints_has_the_loss_of_each_at_its_mark() -> None:
    models = [net(seed) for seed in range(3)]
    found = checkpoint_slice(models[0], models[1:], ["A", "B", "C"], interpolate_buffers=True)
    np.testing.assert_allclose(
        losses_at(models[0], found, found.marks), [own_loss(model) for model in models], rtol=1e-6
    )
    assert found.cosine == pytest.approx(0, abs=1e-12)
    assert found.norms[1] == pytest.approx(found.norms[0], rel=1e-12)
    np.testing.assert_array_equal(found.marks[:2], [[0, 0], [1, 0]])
    # Coordinates are distances in units of ‖B − A‖, which is what keeps the picture unsheared.
    far = norm(displacement(models[1], models[2])) / found.norms[0]
    assert np.linalg.norm(found.marks[2] - found.marks[1]) == pytest.approx(far, rel=1e-12)
    for (low, high), column in zip(found.ranges, found.marks.T, strict=True):
        assert low < column.min()
        assert column.max() < high


def test_without_their_buffers_other_checkpoints_have_the_statistics_of_the_origin() -> None:
    first, second = net(0), net(1)
    found = checkpoint_slice(first, [second], ["A", "B"])
    mixed = copy.deepcopy(second)
    for name, buffer in mixed.named_buffers():
        buffer.copy_(dict(first.named_buffers())[name])
    at = losses_at(first, found, np.array([[0.0], [1.0]]))
    np.testing.assert_allclose(at, [own_loss(first), own_loss(mixed)], rtol=1e-6)
    assert abs(at[1] - own_loss(second)) > 1e-3
    assert found.ranges == ((-0.5, 1.5),)
    # Extrapolated variances become negative.
    assert checkpoint_slice(first, [second], ["A", "B"], interpolate_buffers=True).ranges == ((0.0, 1.0),)
    assert math.isnan(found.cosine)


def test_checkpoints_that_span_nothing_are_refused() -> None:
    first, second = net(0), net(1)
    with pytest.raises(LandscapeError, match="same parameters"):
        checkpoint_slice(first, [copy.deepcopy(first)], ["A", "B"])
    between = copy.deepcopy(first)
    with torch.no_grad():
        for own, other in zip(between.parameters(), second.parameters(), strict=True):
            own.copy_(3 * other - 2 * own)
    with pytest.raises(LandscapeError, match="one line"):
        checkpoint_slice(first, [second, between], ["A", "B", "C"])
    with torch.no_grad():
        between[0].weight[0] = math.nan  # type: ignore[index, union-attr, operator]
    with pytest.raises(LandscapeError, match="from A to B: one of them has weights that are not finite"):
        checkpoint_slice(first, [between], ["A", "B"])
    with pytest.raises(LandscapeError, match="no line leads"):
        checkpoint_slice(first, [nn.Linear(2, 2)], ["A", "B"])
