"""The step that every escape optimiser shares: gradients somewhere near the weights, one SGD step at the weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from landscape.errors import LandscapeError
from landscape.optim.objective import BatchLosses, Objective

BnUpdate = Literal["first", "all"]
Gradient = list[
    Tensor | None
]  # one entry a trainable parameter; None where the loss does not reach it, as in ``p.grad``


class EscapeOptimizer(ABC):
    """SGD whose gradient is taken at perturbed weights: w ← SGD(w, G) with G from :meth:`descent_gradient`.

    Momentum and coupled weight decay are those of ``base``: they enter once, at the unperturbed weights, and never the
    perturbation. The trainable parameters are those of ``base`` with ``requires_grad``.

    Args:
        base: the optimiser that applies the gradient.
        bn_update: ``"first"``: batch-norm running statistics come from the pass at the unperturbed weights alone, which
            is where the network is evaluated. ``"all"``: they move in every pass of the published training loop, also
            in those that this implementation could spare; for runs that repeat a paper.

    Raises:
        LandscapeError: unknown ``bn_update``.
    """

    uses_groups: ClassVar[bool] = False  # whether a step needs an objective that knows head and tail classes

    def __init__(self, base: torch.optim.SGD, *, bn_update: BnUpdate = "first") -> None:
        if bn_update not in get_args(BnUpdate):
            raise LandscapeError(f"bn_update '{bn_update}': batch norm is updated in the first pass or in all passes")
        self.base = base
        self.bn_update = bn_update

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable parameters, in the order of the base optimiser's groups."""
        return [p for group in self.base.param_groups for p in group["params"] if p.requires_grad]

    def step(self, objective: Objective) -> Tensor:
        """Make one step on one batch.

        Args:
            objective: the batch's loss; evaluated once at the weights and as often near them as the method asks.

        Returns:
            ``()``, the loss at the weights before the step, detached, in nats.
        """
        losses = objective(update_statistics=True)
        gradient = self.descent_gradient(objective, losses)
        for parameter, entry in zip(self.parameters, gradient, strict=True):
            parameter.grad = entry
        self.base.step()
        return losses.total.detach()

    @abstractmethod
    def descent_gradient(self, objective: Objective, losses: BatchLosses) -> Gradient:
        """The gradient G to step along; on return the parameters hold bitwise the values they had.

        Args:
            objective: the batch's loss, to be evaluated at perturbed weights.
            losses: the clean pass, its graph alive.
        """

    def start_epoch(self, epoch: int, epochs: int) -> None:  # noqa: B027  (most methods do the same in every epoch)
        """Say that epoch ``epoch`` (0-based) of ``epochs`` begins; call it before its first step, also on resuming."""

    def set_lr(self, lr: float) -> None:
        """Set the learning rate of every parameter group."""
        for group in self.base.param_groups:
            group["lr"] = lr

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs: the base optimiser's momenta and settings; loads with ``weights_only=True``."""
        return {"base": self.base.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.base.load_state_dict(state["base"])

    def gradient(self, loss: Tensor, *, retain_graph: bool = False) -> Gradient:
        """∇loss with respect to the trainable parameters at their current values; one backward pass."""
        return list(torch.autograd.grad(loss, self.parameters, retain_graph=retain_graph, allow_unused=True))

    def perturbed_gradient(
        self, objective: Objective, ascent: Gradient, rho: float, select: Callable[[BatchLosses], Tensor]
    ) -> Gradient:
        """∇L(w + ε) with ε = ρ·g/(‖g‖₂ + 1e-12); one forward and one backward pass.

        Args:
            objective: the batch's loss.
            ascent: g, whose norm is taken over all parameters together.
            rho: ρ, the length of ε in parameter space.
            select: which loss of the perturbed pass to differentiate.
        """
        with self._perturbed(ascent, rho):
            return self.gradient(select(objective(update_statistics=self.bn_update == "all")))

    def repeat_clean_pass(self, objective: Objective) -> None:
        """Move the batch-norm statistics as a pass of the published loop would that no gradient is needed from.

        Nothing happens with ``bn_update="first"``.
        """
        if self.bn_update == "all":
            with torch.no_grad():
                objective(update_statistics=True)

    @contextmanager
    def _perturbed(self, ascent: Gradient, rho: float) -> Iterator[None]:
        parameters, direction = [], []
        for parameter, entry in zip(self.parameters, ascent, strict=True):
            if entry is not None:
                parameters.append(parameter)
                direction.append(entry)
        # Subtracting ε again would leave a rounding error in the weights at every step; a copy does not.
        saved = [parameter.detach().clone() for parameter in parameters]
        with torch.no_grad():
            # The scale stays a tensor: reading it would wait for the device.
            scale = rho / (get_total_norm(direction) + 1e-12)
            torch._foreach_add_(parameters, torch._foreach_mul(direction, scale))
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parameters, saved)


def add_gradients(first: Gradient, second: Gradient) -> Gradient:
    """The sum of two gradients; an entry is ``None`` only where both are."""
    return [b if a is None else a if b is None else a + b for a, b in zip(first, second, strict=True)]


def check_radius(name: str, rho: float) -> float:
    """``rho`` itself if it is a length; raises ``LandscapeError`` under the setting's ``name`` if not."""
    if not (math.isfinite(rho) and rho >= 0):
        raise LandscapeError(f"{name} = {rho}: the perturbation radius must be 0 or more (0.05 is usual)")
    return rho
