"""The epochs at which a training changes its rules (no torch)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def milestone(share: float, epochs: int) -> int:
    """The epoch index nearest to ``share`` of the run, but never past the last epoch of a run of two or more.

    ``milestone(0.8, 200) = 160``. In a two-epoch run the second epoch still belongs to the late phase, so that a short
    trial exercises what it is meant to try. A share of 1 is past the end: never.
    """
    if share >= 1:
        return epochs
    return min(round(share * epochs), epochs - 1) if epochs > 1 else round(share * epochs)


def stage_switch(gamma: float, epochs: int) -> int:
    """The epoch index with which stage II of SSE-SAM begins: round(γE).

    γE in floating point puts the switch one epoch late for shares such as 0.07 of 200.
    """
    return round(gamma * epochs)


def switches(recipe: Mapping[str, Any]) -> dict[str, int]:
    """What a run switches on its way, and after how many completed epochs; what holds throughout is no switch.

    ``DRW``: class weights come on. ``DRS``: classes are drawn in balance. ``stage II``: SSE-SAM no longer perturbs for
    the head classes. ``end of CE``: the loss proper follows plain cross-entropy.

    Args:
        recipe: as a run or a results file holds it, with its defaults written out.
    """
    loss, optimizer, epochs = recipe["loss"], recipe["optimizer"], recipe["schedule"]["epochs"]
    found = {}
    if loss.get("ce_epochs"):
        found["end of CE"] = loss["ce_epochs"]
    if optimizer["name"] == "sse-sam":
        found["stage II"] = stage_switch(optimizer["gamma"], epochs)
    if loss["reweight"] == "drw":
        found["DRW"] = milestone(loss["defer"], epochs)
    if recipe["data"].get("resample") == "deferred":
        found["DRS"] = milestone(loss["defer"], epochs)
    return {name: epoch for name, epoch in found.items() if 0 < epoch < epochs}
