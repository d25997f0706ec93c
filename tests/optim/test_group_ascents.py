"""What is said about where an optimiser takes the gradient of each group's loss, against the gradients it gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.optim import BatchLosses, build_optimizer
from landscape.optim.stages import GroupAscents, group_ascents
from landscape.plotting.stages import GROUPS, stage_bars
from landscape.switches import switches

EPOCHS = 10
# The loss of each group depends on two of four weights, so that of a gradient it can be told where each was taken.
CURVATURE = torch.tensor([[3.0, 0.5], [0.5, -1.0]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, -0.7, 1.1, 0.4], dtype=torch.float64)


class Quadratics:
    """½ xᵀAx of the first two weights for the head, and of the other two for the tail, three times as much."""

    has_head = has_tail = True

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, *, update_statistics: bool) -> BatchLosses:
        head, tail = (0.5 * part @ CURVATURE @ part for part in self.weights.split(2))
        return BatchLosses(head + 3 * tail, head, 3 * tail)

    def split(self, pieces: int) -> list[Quadratics]:
        return [self]


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd"},
    "sam": {"name": "sam", "rho": 0.05},
    "sam, off at first": {"name": "sam", "rho": "step:0,0.1@4/10"},
    "sam, growing": {"name": "sam", "rho": "linear:0.05:0.8"},
    "imbsam": {"name": "imbsam", "rho": 0.07, "eta": 100.0},
    "sse-sam": {"name": "sse-sam", "head_rho": 0.05, "tail_rho": 0.1, "gamma": 0.7, "eta": 100.0},
    "sse-sam, equal radii": {"name": "sse-sam", "head_rho": 0.1, "tail_rho": 0.1, "gamma": 0.5, "eta": 100.0},
    "sse-sam, shrinking": {
        "name": "sse-sam", "head_rho": 0.05, "tail_rho": "linear:0.4:0.1", "gamma": 0.3, "eta": 100.0
    },
    "sse-sam, one stage": {"name": "sse-sam", "head_rho": 0.05, "tail_rho": 0.1, "gamma": 1.0, "eta": 100.0},
    "sse-sam, the other": {"name": "sse-sam", "head_rho": 0.05, "tail_rho": 0.1, "gamma": 0.0, "eta": 100.0},
}  # fmt: skip


def recipe(optimizer: Mapping[str, Any], epochs: int = EPOCHS) -> dict[str, Any]:
    loss = {"reweight": "none", "ce_epochs": 0}
    return {"optimizer": dict(optimizer), "schedule": {"epochs": epochs}, "loss": loss, "data": {}}


def observed(optimizer: Mapping[str, Any]) -> NDArray[np.float64]:
    """``(E, 4)``: how far from the weights the optimiser's gradient was taken, weight by weight."""
    settings = {key: value for key, value in optimizer.items() if key not in ("name", "eta")}
    weights = WEIGHTS.clone().requires_grad_()
    stepper = build_optimizer(optimizer["name"], [weights], lr=0.1, momentum=0.9, weight_decay=0.05, **settings)
    found = []
    for epoch in range(EPOCHS):
        stepper.start_epoch(epoch, EPOCHS)
        _, (gradient,) = stepper.descent(Quadratics(weights))
        assert gradient is not None
        head, tail = gradient.split(2)
        places = [torch.linalg.solve(CURVATURE, head), torch.linalg.solve(3 * CURVATURE, tail)]
        found.append((torch.cat(places) - WEIGHTS).numpy())
    return np.array(found)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_taken_where_it_says(name: str) -> None:
    said, displacement = group_ascents(recipe(OPTIMIZERS[name])), observed(OPTIMIZERS[name])
    by_group = {"head": displacement[:, :2], "tail": displacement[:, 2:]}
    slopes = {"head": CURVATURE @ WEIGHTS[:2], "tail": 3 * CURVATURE @ WEIGHTS[2:]}
    whole = torch.cat(list(slopes.values()))
    for group in GROUPS:
        # The direction: that of the group's own loss, or its share of that of the whole loss.
        length = slopes[group].norm() if said.own else whole.norm()
        expected = np.outer(getattr(said, group), (slopes[group] / length).numpy())
        np.testing.assert_allclose(by_group[group], expected, atol=1e-9)
    assert said.eta == OPTIMIZERS[name].get("eta")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_bars_cover_every_epoch_with_what_was_observed(name: str) -> None:
    """Also told without the optimiser's word: by the lengths of the displacements seen."""
    optimizer, displacement = OPTIMIZERS[name], observed(OPTIMIZERS[name])
    own = optimizer["name"] in ("imbsam", "sse-sam")
    drawing = stage_bars({name: group_ascents(recipe(optimizer))}, {name: switches(recipe(optimizer))})
    assert drawing.settings["methods"][0]["own"] == own
    for group, columns in zip(GROUPS, (slice(0, 2), slice(2, 4)), strict=True):
        seen = np.linalg.norm(displacement[:, columns] if own else displacement, axis=1)
        spans, radii = (drawing.arrays[f"0/{group}/{key}"] for key in ("spans", "radii"))
        assert spans[0, 0] == 0
        assert spans[-1, 1] == EPOCHS
        np.testing.assert_array_equal(spans[1:, 0], spans[:-1, 1])
        for (start, end), (first, last) in zip(spans.astype(int), radii, strict=True):
            # Every schedule here that changes within a bar is a line.
            np.testing.assert_allclose(seen[start:end], np.linspace(first, last, end - start), atol=1e-9)


@pytest.mark.parametrize(
    ("gamma", "epochs", "switch"),
    [(0.7, 500, 350), (0.07, 200, 14), (0.14, 200, 28), (0.55, 200, 110), (0.5, 5, 2), (0.7, 7, 5), (0.01, 20, 0)],
)
def test_the_head_is_perturbed_up_to_the_rounded_switch(gamma: float, epochs: int, switch: int) -> None:
    sse = {"name": "sse-sam", "head_rho": 0.05, "tail_rho": 0.1, "gamma": gamma, "eta": 100.0}
    said = group_ascents(recipe(sse, epochs))
    assert said == GroupAscents((0.05,) * switch + (0.0,) * (epochs - switch), (0.1,) * epochs, True, 100.0)
    marks = switches(recipe(sse, epochs))
    drawing = stage_bars({"SSE-SAM": said}, {"SSE-SAM": marks})
    ends = [switch, epochs] if switch else [epochs]
    assert drawing.arrays["0/head/spans"][:, 1].tolist() == ends
    assert drawing.arrays["0/tail/spans"][:, 1].tolist() == ends  # the tail's bar ends there too, with the stage
    assert drawing.settings["methods"][0]["switches"] == ([["stage II", switch]] if switch else [])


def test_only_radii_that_are_lengths_are_told() -> None:
    with pytest.raises(LandscapeError, match=r"'asam' has no radius .* give sgd, sam, imbsam or sse-sam"):
        group_ascents(recipe({"name": "asam", "rho": 0.5, "asam_form": "davda54"}))
    with pytest.raises(LandscapeError, match="'pgd' has no radius"):
        group_ascents(recipe({"name": "pgd", "noise_radius": 0.1}))
    with pytest.raises(LandscapeError, match="unknown optimizer 'sams'"):
        group_ascents(recipe({"name": "sams"}))
    with pytest.raises(LandscapeError, match="needs a value for rho"):
        group_ascents(recipe({"name": "sam", "rho": None}))
