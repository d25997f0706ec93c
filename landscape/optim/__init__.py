"""How a training step escapes saddle points: SGD and the sharpness-aware steps built on it.

| name    | perturbed                       | passes (forward + backward)     | settings                |
|---------|---------------------------------|---------------------------------|-------------------------|
| sgd     | nothing                         | 1 + 1                           |                         |
| sam     | the whole loss                  | 2 + 2                           | rho                     |
| imbsam  | the tail classes' loss          | 2 + 3                           | rho, kappa              |
| sse-sam | head and tail, each on its own; | 3 + 4 in stage I, as imbsam     | head_rho, tail_rho,     |
|         | from a given epoch on tail only | in stage II                     | gamma                   |

All of them take ``bn_update``. A new method is a file with a subclass of :class:`EscapeOptimizer` and a line in
``OPTIMIZERS``; its keyword arguments become its settings.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from landscape.errors import LandscapeError, did_you_mean
from landscape.optim.base import EscapeOptimizer
from landscape.optim.imbsam import ImbSam
from landscape.optim.objective import BatchLosses, GroupedObjective, Objective, tail_classes
from landscape.optim.sam import Sam, Sgd
from landscape.optim.sse_sam import SseSam

__all__ = [
    "OPTIMIZERS",
    "BatchLosses",
    "EscapeOptimizer",
    "GroupedObjective",
    "ImbSam",
    "Objective",
    "Sam",
    "Sgd",
    "SseSam",
    "build_optimizer",
    "tail_classes",
]

OPTIMIZERS: dict[str, type[EscapeOptimizer]] = {
    "sgd": Sgd,
    "sam": Sam,
    "imbsam": ImbSam,
    "sse-sam": SseSam,
}


def build_optimizer(
    name: str,
    params: Iterable[Tensor] | Iterable[dict[str, Any]],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    **settings: Any,
) -> EscapeOptimizer:
    """The optimiser called ``name`` on a fresh SGD.

    Args:
        name: one of ``OPTIMIZERS``.
        params: parameters or parameter groups, as for ``torch.optim.SGD``.
        lr: learning rate.
        momentum: momentum factor.
        weight_decay: coupled weight decay, on every parameter.
        **settings: keyword arguments of the optimiser's class.

    Returns:
        The optimiser.

    Raises:
        LandscapeError: unknown name or setting, a setting missing, or one out of range.
    """
    if name not in OPTIMIZERS:
        raise LandscapeError(
            f"unknown optimizer '{name}'{did_you_mean(name, OPTIMIZERS)}; known: {', '.join(OPTIMIZERS)}"
        )
    kind = OPTIMIZERS[name]
    known = {key: spec for key, spec in inspect.signature(kind).parameters.items() if key != "base"}
    if unknown := [key for key in settings if key not in known]:
        raise LandscapeError(f"optimizer '{name}' has no setting '{unknown[0]}'; it knows {', '.join(known)}")
    if missing := [key for key, spec in known.items() if spec.default is spec.empty and key not in settings]:
        raise LandscapeError(f"optimizer '{name}' needs a value for {', '.join(missing)}")
    return kind(torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay), **settings)
