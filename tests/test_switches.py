"""When a training changes its rules, read from its recipe; and what it wrote down of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from landscape.store.history import read_history
from landscape.switches import stage_switch, switches
from landscape.training import Recipe


def recipe(**sections: dict[str, Any]) -> dict[str, Any]:
    return Recipe.parse({"data": {"source": "digits"}, **sections}, where="a test").resolved.dump()


def test_what_holds_throughout_is_no_switch() -> None:
    assert switches(recipe()) == {}
    assert switches(recipe(loss={"reweight": "drw", "defer": 1.0})) == {}
    sse = {"name": "sse-sam", "head_rho": 0.05, "tail_rho": 0.1}
    assert switches(recipe(optimizer={**sse, "gamma": 0.0})) == {}
    assert switches(recipe(optimizer={**sse, "gamma": 1.0})) == {}


def test_switches_are_those_of_the_recipe() -> None:
    drw = {"reweight": "drw", "defer": 0.8}
    assert switches(recipe(loss=drw, schedule={"epochs": 200})) == {"DRW": 160}
    assert switches(recipe(data={"source": "digits", "resample": "deferred"}, schedule={"epochs": 24})) == {"DRS": 19}
    sse = {"name": "sse-sam", "head_rho": 0.05, "tail_rho": 0.1, "gamma": 0.7}
    mixed = {"name": "vs", "ce_epochs": 6}
    both = switches(recipe(loss=mixed, optimizer=sse, schedule={"epochs": 500}))
    assert both == {"end of CE": 6, "stage II": 350}  # the figure of SSE-SAM marks its stages at 350 of 500


def test_no_share_switches_an_epoch_late() -> None:
    for gamma in (0.07, 0.14, 0.28, 0.55, 0.56):
        assert stage_switch(gamma, 200) == round(100 * gamma) * 2


def test_no_history_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the folder of a run"):
        read_history(tmp_path)
