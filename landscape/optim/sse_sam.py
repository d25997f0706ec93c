"""Stage-wise SAM: head and tail both escape first, then the tail alone."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.optim.base import BnUpdate, Gradient
from landscape.optim.imbsam import GroupedSam
from landscape.optim.objective import Objective
from landscape.optim.radius import RadiusSetting
from landscape.switches import stage_switch


class SseSam(GroupedSam):
    """SSE-SAM: stage I G = ∇L_head(w + ε_h) + ∇L_tail(w + ε_t), stage II ImbSAM with ρ = ρ_t.

    Each group climbs along its own gradient, so stage I is not SAM even with ρ_h = ρ_t. Stage II begins with the epoch
    of index round(γE), the momentum going on: γ = 0 is ImbSAM throughout, γ = 1 stage I throughout. Stage I takes three
    forward and four backward passes a step where the published loop takes four of each; stage II costs what ImbSAM
    does.

    Args:
        base: the optimiser that applies the gradient.
        head_rho: ρ_h, length of the head perturbation in stage I (0.05 for CIFAR-100-LT); 0: ImbSAM throughout.
        tail_rho: ρ_t, length of the tail perturbation in both stages (0.10 for CIFAR-100-LT).
        gamma: γ in [0, 1], the share of the epochs in stage I (0.70 for CIFAR-100-LT).
        bn_update: see :class:`EscapeOptimizer`; ``"all"`` moves the statistics 4 times a step, in both stages.

    Raises:
        LandscapeError: a radius that is none, or γ outside [0, 1].

    Source: Lyu et al. 2025, arXiv 2412.13715.
    """

    def __init__(
        self,
        base: torch.optim.SGD,
        *,
        head_rho: Annotated[RadiusSetting, "head radius in stage I, written as rho is"],
        tail_rho: Annotated[RadiusSetting, "tail radius, written as rho is"],
        gamma: Annotated[float, "share of the epochs in stage I"],
        bn_update: BnUpdate = "first",
    ) -> None:
        super().__init__(base, bn_update=bn_update)
        if not 0 <= gamma <= 1:
            raise LandscapeError(
                f"gamma = {gamma}: the share of the epochs in stage I lies between 0 and 1 (0.7 is usual)"
            )
        self.schedule_radius("head_rho", head_rho)
        self.schedule_radius("tail_rho", tail_rho)
        self.gamma = gamma

    @property
    def stage(self) -> int:
        """1 or 2: II from epoch index round(γ·epochs) on.

        Raises:
            RuntimeError: no epoch was started.
        """
        epoch, epochs = self._current_epoch
        return 1 if epoch < stage_switch(self.gamma, epochs) else 2

    @property
    def group_radii(self) -> dict[str, float]:
        """Both in stage I, the tail's alone in stage II."""
        return {"head": self.radius("head_rho") if self.stage == 1 else 0.0, "tail": self.radius("tail_rho")}

    def descent(self, objective: Objective) -> tuple[Tensor, Gradient]:
        """L(w) and the gradient of the current stage."""
        return self.grouped_descent(objective, visit_all=True)
