"""Where each group's loss is differentiated in every epoch of a training, as its optimiser says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from landscape.errors import LandscapeError
from landscape.optim import OPTIMIZERS, build_optimizer, settings_of
from landscape.optim.imbsam import GroupedSam
from landscape.optim.sam import Sam, Sgd


@dataclass(frozen=True)
class GroupAscents:
    """How far from the weights w a training takes the gradient of each group's loss: at w + ε, epoch by epoch."""

    head: tuple[float, ...]  # ‖ε_h‖, one an epoch; 0: at w
    tail: tuple[float, ...]  # ‖ε_t‖, likewise
    own: bool  # each ε climbs along the gradient of its own group's loss; else one ε along that of the whole loss
    eta: float | None  # η: a class is tail if it has fewer training images; None where the optimiser has no groups


def group_ascents(recipe: Mapping[str, Any]) -> GroupAscents:
    """Ask the optimiser of a recipe, epoch by epoch.

    Args:
        recipe: as a run holds it, with its defaults written out; of it ``optimizer`` and ``schedule.epochs``.

    Raises:
        LandscapeError: the optimiser does not take gradients at w + ε with ‖ε‖ = ρ (asam, lpf-sgd, pgd), or its
            settings are none.
    """
    given, epochs = recipe["optimizer"], recipe["schedule"]["epochs"]
    kind = OPTIMIZERS.get(given["name"])
    settings = {} if kind is None else {key: given[key] for key in settings_of(kind) if given.get(key) is not None}
    nothing = torch.zeros(1, requires_grad=True)
    optimizer = build_optimizer(
        given["name"], [("nothing", nothing)], lr=0.0, momentum=0.0, weight_decay=0.0, **settings
    )
    radii = []
    for epoch in range(epochs):
        optimizer.start_epoch(epoch, epochs)
        if isinstance(optimizer, GroupedSam):
            found = optimizer.group_radii
            radii.append((found["head"], found["tail"]))
        elif type(optimizer) in (Sgd, Sam):
            rho = optimizer.radii.get("rho", 0.0)
            radii.append((rho, rho))
        else:
            raise LandscapeError(
                f"optimizer '{given['name']}' has no radius ρ = ‖ε‖ to show by group: give sgd, sam, imbsam or sse-sam"
            )
    head, tail = zip(*radii, strict=True)
    return GroupAscents(head, tail, isinstance(optimizer, GroupedSam), given.get("eta"))
