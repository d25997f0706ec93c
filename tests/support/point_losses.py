"""The losses on a slice, computed in the plainest way."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.losses import ClassificationLoss


class PlainPointLosses:
    """One forward pass in float64 over every part, point by point."""

    def __init__(
        self,
        model: nn.Module,
        loss: ClassificationLoss,
        inputs: Tensor,
        targets: Tensor,
        members: Sequence[Tensor],
        *,
        directions: Sequence[dict[str, Tensor]],
        device: torch.device | str | None = None,
        chunk: int | None = None,
        points_per_pass: int = 3,
    ) -> None:
        self.model = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.origin = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.loss, self.members, self.directions = loss.to(dtype=torch.float64), members, directions
        self.inputs, self.targets = (t.double() if t.is_floating_point() else t for t in (inputs, targets))
        self.points_per_pass, self.chunk, self.points_seen = points_per_pass, chunk or len(inputs), 0

    def __call__(self, coordinates: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Mean losses and accuracies ``(K, P)``."""
        found = [self._at(point) for point in coordinates]
        self.points_seen += len(found)
        return np.array([losses for losses, _ in found]), np.array([shares for _, shares in found])

    def describe(self) -> str:
        return "plain, in float64"

    def _at(self, point: NDArray[Any]) -> tuple[list[float], list[float]]:
        state = dict(self.origin)
        for step, direction in zip(point, self.directions, strict=True):
            for name, change in direction.items():
                state[name] = state[name] + float(step) * change
        self.model.load_state_dict(state)
        losses, shares = [], []
        for index in self.members:
            outputs, targets = self.model(self.inputs[index]), self.targets[index]
            losses.append(float(self.loss(outputs, targets).mean))
            shares.append(float((outputs.argmax(1) == targets).double().mean()))
        return losses, shares
