"""Stage-wise SAM: head and tail both escape first, then the tail alone."""

from __future__ import annotations

import torch

from landscape.errors import LandscapeError
from landscape.optim.base import BnUpdate, Gradient, check_radius
from landscape.optim.imbsam import ImbSam
from landscape.optim.objective import BatchLosses, Objective


class SseSam(ImbSam):
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
        bn_update: see :class:`EscapeOptimizer`; ``"all"`` moves the statistics 4 times a step in stage I, then twice.

    Raises:
        LandscapeError: a negative radius, or γ outside [0, 1].

    Source: Lyu et al. 2025, arXiv 2412.13715.
    """

    def __init__(
        self,
        base: torch.optim.SGD,
        *,
        head_rho: float,
        tail_rho: float,
        gamma: float,
        bn_update: BnUpdate = "first",
    ) -> None:
        super().__init__(base, rho=check_radius("tail_rho", tail_rho), bn_update=bn_update)
        if not 0 <= gamma <= 1:
            raise LandscapeError(
                f"gamma = {gamma}: the share of the epochs in stage I lies between 0 and 1 (0.7 is usual)"
            )
        self.head_rho = check_radius("head_rho", head_rho)
        self.gamma = gamma
        self.stage: int | None = None  # 1 or 2; None before the first epoch

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Enter stage I or II: II from epoch index round(γ·epochs) on."""
        # γE in floating point puts the switch one epoch late for shares such as 0.07 of 200.
        self.stage = 1 if epoch < round(self.gamma * epochs) else 2

    def descent_gradient(self, objective: Objective, losses: BatchLosses) -> Gradient:
        """The gradient of the current stage."""
        if self.stage is None:
            raise RuntimeError("SSE-SAM needs to know its stage: call start_epoch(epoch, epochs) before the first step")
        head_rho = self.head_rho if self.stage == 1 else 0.0
        return self.grouped_gradient(objective, losses, head_rho=head_rho, tail_rho=self.rho)
