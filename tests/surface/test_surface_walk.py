"""The walk: which loss stands where, what survives an interruption, what is not finite."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.point_losses import PlainPointLosses
from torch import nn

from landscape.errors import LandscapeError
from landscape.losses import CrossEntropy
from landscape.surface.directions import Slice, random_slice
from landscape.surface.results import Surface
from landscape.surface.walk import axis, coordinates, unwalked, walk

PARTS = ("all", "class/0", "class/1", "class/2")


def a_slice(dims: int = 2) -> Slice:
    return random_slice(nn.Linear(3, 3), dims)


def empty(nx: int, ny: int | None = None, parts: int = 1) -> Surface:
    axes = [axis(-1, 1, nx)] + ([] if ny is None else [axis(0, 3, ny)])
    return unwalked(a_slice(len(axes)), axes, PARTS[:parts], PARTS[:parts], [10] * parts)


class Formula:
    """f_p(a₁, a₂) = p + a₁ + 10 a₂ + …, and what was asked."""

    def __init__(self, points_per_pass: int = 4, parts: int = 1, stop_after: int | None = None) -> None:
        self.points_per_pass, self.parts, self.stop_after, self.asked = points_per_pass, parts, stop_after, 0

    def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.stop_after is not None and self.asked >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += len(places)
        weights = np.array([1.0, 10.0])[: places.shape[1]]
        losses = (places @ weights)[:, None] + np.arange(self.parts)
        return losses, losses / 100


def test_every_loss_stands_at_its_own_point() -> None:
    surface = walk(empty(5, 3, parts=2), Formula(parts=2))
    assert surface.losses.shape == surface.accuracies.shape == (2, 3, 5)
    assert surface.complete
    for row, a2 in enumerate([0.0, 1.5, 3.0]):
        for column, a1 in enumerate([-1.0, -0.5, 0.0, 0.5, 1.0]):
            np.testing.assert_allclose(surface.losses[:, row, column], a1 + 10 * a2 + np.arange(2))
    np.testing.assert_allclose(surface.accuracies, surface.losses / 100)
    np.testing.assert_array_equal(coordinates(surface)[:6, 0], [-1, -0.5, 0, 0.5, 1, -1])


def test_a_line_has_one_axis() -> None:
    surface = walk(empty(5), Formula(points_per_pass=2))
    assert surface.y is None
    np.testing.assert_allclose(surface.losses[0], surface.x)


@pytest.mark.parametrize("stop_after", [1, 8, 12])
def test_stopped_and_taken_up_again_is_as_if_never_stopped(stop_after: int) -> None:
    kept: list[Surface] = []
    with pytest.raises(KeyboardInterrupt):
        walk(empty(5, 3), Formula(stop_after=stop_after), save=kept.append, seconds_between_saves=0)
    assert not kept[-1].complete
    assert np.isnan(kept[-1].losses[0][~kept[-1].done]).all()
    again = Formula()
    resumed = walk(kept[-1], again, save=kept.append)
    assert again.asked == 15 - int(kept[-2].done.sum())  # nothing twice
    whole = walk(empty(5, 3), Formula())
    for name in ("losses", "accuracies", "done"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    assert kept[-1].complete


def test_what_an_error_stops_is_kept_too() -> None:
    kept: list[Surface] = []

    class Full(Formula):
        def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            if self.asked:
                raise MemoryError
            return super().__call__(places)

    with pytest.raises(MemoryError):
        walk(empty(5, 3), Full(), save=kept.append)
    assert [int(surface.done.sum()) for surface in kept] == [4]


def test_nothing_is_saved_twice_or_before_its_time() -> None:
    kept: list[Surface] = []
    walk(empty(5, 3), Formula(), save=kept.append)
    assert [surface.complete for surface in kept] == [True]
    walk(kept[0], Formula(), save=kept.append)
    assert len(kept) == 1


def test_what_is_not_finite_stays_and_is_done() -> None:
    class Broken(Formula):
        def __call__(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            losses, shares = super().__call__(places)
            losses[places[:, 0] == 1, 0] = np.nan
            losses[places[:, 0] == -1, 0] = np.inf
            return losses, shares

    surface = walk(empty(5, 3, parts=2), Broken(parts=2))
    assert surface.complete
    assert np.isnan(surface.losses[0, :, 4]).all()
    assert np.isposinf(surface.losses[0, :, 0]).all()
    assert np.isfinite(surface.losses[0, :, 1:4]).all()
    assert np.isfinite(surface.losses[1]).all()


def test_the_price_is_of_what_is_left() -> None:
    said: list[float] = []
    points: list[int] = []
    walk(empty(5, 3), Formula(), on_price=said.append, on_points=points.append)
    assert len(said) == 1
    assert said[0] >= 0
    assert points == [4, 4, 4, 3]
    walk(empty(2), Formula(), on_price=said.append)
    assert said[1] == 0


def test_the_origin_and_both_checkpoints_are_points_of_their_axis() -> None:
    for count in (11, 21, 41, 51, 101):
        assert 0.0 in axis(-1, 1, count)
    assert {0.0, 1.0} <= set(axis(-0.5, 1.5, 41))
    np.testing.assert_array_equal(axis(-1e30, 1e30, 3), [-1e30, 0.0, 1e30])
    for low, high, count in ((1, 1, 5), (1, -1, 5), (0, np.inf, 5), (0, 1, 1)):
        with pytest.raises(LandscapeError):
            axis(low, high, count)


def test_classes_weighted_by_their_counts_are_the_whole_and_the_origin_is_the_model() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    labels = torch.tensor([0] * 9 + [1] * 4 + [2])
    inputs = torch.randn(14, 6, dtype=torch.float64)
    members = [torch.arange(14), *(torch.nonzero(labels == c).flatten() for c in range(3))]
    found = random_slice(model, 2, seed=1)
    start = unwalked(found, [axis(-1, 1, 5), axis(-1, 1, 3)], PARTS, PARTS, [len(index) for index in members])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    surface = walk(start, PlainPointLosses(model, CrossEntropy(), inputs, labels, members, directions=found.moves))
    shares = surface.num_samples[1:] / surface.num_samples[0]
    for values in (surface.losses, surface.accuracies):
        np.testing.assert_allclose(np.tensordot(shares, values[1:], 1), values[0], rtol=1e-12)
    with torch.no_grad():
        outputs = model(inputs)
    assert surface.losses[0, 1, 2] == pytest.approx(float(CrossEntropy()(outputs, labels).mean), rel=1e-12)
    assert surface.accuracies[0, 1, 2] == float((outputs.argmax(1) == labels).double().mean())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_known_curvatures_stand_with_their_part() -> None:
    found = replace(a_slice(), curvatures={"class/1": (4.0, -2.0)})
    surface = unwalked(found, [axis(-1, 1, 3)] * 2, PARTS, PARTS, [1] * 4)
    assert surface.curvatures is not None
    np.testing.assert_array_equal(surface.curvatures[2], [4, -2])
    assert np.isnan(np.delete(surface.curvatures, 2, axis=0)).all()
    assert empty(3, 3).curvatures is None
    assert unwalked(found, [axis(-1, 1, 3)] * 2, ["class/2"], ["2"], [1]).curvatures is None
