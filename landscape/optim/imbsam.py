"""Imbalanced SAM: the tail classes alone are sharpness-aware."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial, reduce
from typing import Annotated

import torch
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.optim.base import BnUpdate, EscapeOptimizer, Gradient, Rho, add_gradients, ascent
from landscape.optim.objective import BatchLosses, Objective


class GroupedSam(EscapeOptimizer):
    """SAM on head and tail classes apart: G = ∇L_head(w + ε_h) + ∇κL_tail(w + ε_t).

    Args:
        base: the optimiser that applies the gradient.
        kappa: κ, factor of the tail loss.
        bn_update: see :class:`EscapeOptimizer`.

    Raises:
        LandscapeError: κ is not positive.
    """

    uses_groups = True

    def __init__(self, base: torch.optim.SGD, *, kappa: float = 1.0, bn_update: BnUpdate = "first") -> None:
        super().__init__(base, bn_update=bn_update)
        if not kappa > 0:
            raise LandscapeError(f"kappa = {kappa}: the factor of the tail loss must be positive (1 in the paper)")
        self.kappa = kappa

    @property
    @abstractmethod
    def group_radii(self) -> dict[str, float]:
        """‖ε_h‖ and ‖ε_t‖ of the current epoch as ``head`` and ``tail``; 0 leaves a group unperturbed."""

    def grouped_descent(self, objective: Objective, *, visit_all: bool = False) -> tuple[Tensor, Gradient]:
        """L(w) and ∇L_head(w + ε_h) + ∇κL_tail(w + ε_t), each group climbing along its own gradient.

        Costs a backward pass of the clean graph for each group in the batch, and a forward and a backward pass for each
        of them that is perturbed; where none is, one backward pass in all.

        Args:
            objective: the batch's loss.
            visit_all: the published loop forwards twice for each group, also for one that it does not perturb; matters
                for batch-norm statistics with ``bn_update="all"`` alone.

        Raises:
            LandscapeError: the objective knows no groups.
        """
        radii = self.group_radii
        losses = objective(update_statistics=True)
        clean = self._group_losses(losses)
        if not clean:
            raise LandscapeError(
                f"{type(self).__name__} needs to know the tail classes: "
                "give the objective is_tail=tail_classes(counts, eta)"
            )
        if any(radii[group] > 0 for group in clean):
            last = next(reversed(clean))
            gradients = {group: self.gradient(loss, retain_graph=group != last) for group, loss in clean.items()}
        else:
            gradients = {"all": self.gradient(torch.stack(list(clean.values())).sum())}
        # The published loop visits the groups in turn, each with a clean and a perturbed forward. Here one clean graph
        # serves both groups; what the spared forwards did to the batch-norm statistics is repeated on request.
        visited = 0
        for group, rho in radii.items():
            if rho == 0 and not visit_all:
                continue
            if visited > 0:
                self.repeat_clean_pass(objective)
            if rho > 0 and group in clean:
                pick = partial(self._group_loss, group)
                gradients[group] = self.perturbed_gradient(objective, ascent(gradients[group], rho), pick)
            else:
                self.repeat_clean_pass(objective)
            visited += 1
        return losses.total, reduce(add_gradients, gradients.values())

    def _group_losses(self, losses: BatchLosses) -> dict[str, Tensor]:
        """The losses of the groups that the batch has, the tail's times κ."""
        groups = {}
        if losses.head is not None:
            groups["head"] = losses.head
        if losses.tail is not None:
            groups["tail"] = self.kappa * losses.tail
        return groups

    def _group_loss(self, group: str, losses: BatchLosses) -> Tensor:
        return self._group_losses(losses)[group]


class ImbSam(GroupedSam):
    """ImbSAM: G = ∇L_head(w) + ∇κL_tail(w + ε), ε = ρ·∇L_tail(w)/‖∇L_tail(w)‖.

    Two forward and three backward passes a step. A batch without tail samples, or ρ = 0 with κ = 1, is plain SGD at
    plain SGD's cost. With ``normalization="group"`` in the objective each group's loss is divided by its own count.

    Args:
        base: the optimiser that applies the gradient.
        rho: ρ, length of the tail perturbation in parameter space.
        kappa: κ, factor of the tail loss; 1 is the paper's, 2 came into the authors' code later.
        bn_update: see :class:`EscapeOptimizer`; ``"all"`` moves the statistics twice a step.

    Raises:
        LandscapeError: ρ is not a radius, or κ is not positive.

    Source: Zhou et al. 2023, arXiv 2308.07815.
    """

    def __init__(
        self,
        base: torch.optim.SGD,
        *,
        rho: Rho,
        kappa: Annotated[float, "weight of the tail loss; 1 if not given"] = 1.0,
        bn_update: BnUpdate = "first",
    ) -> None:
        super().__init__(base, kappa=kappa, bn_update=bn_update)
        self.schedule_radius("rho", rho)

    @property
    def group_radii(self) -> dict[str, float]:
        """The tail's alone."""
        return {"head": 0.0, "tail": self.radius("rho")}

    def descent(self, objective: Objective) -> tuple[Tensor, Gradient]:
        """L(w) and ∇L_head(w) + ∇κL_tail(w + ε)."""
        return self.grouped_descent(objective)
