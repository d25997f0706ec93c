"""When a training changes its rules, read from its recipe; and what it wrote down of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from landscape.errors import LandscapeError
from landscape.store.history import read_history
from landscape.switches import stage_switch, switches
from landscape.training import Recipe
from landscape.training.finished import FinishedRun, finished_runs


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


def test_a_damaged_line_of_a_history_is_named(tmp_path: Path) -> None:
    (tmp_path / "history.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "los')
    with pytest.raises(LandscapeError, match=r"line 2 of .*history\.jsonl is damaged"):
        read_history(tmp_path)


def test_runs_of_seeds_are_those_named_by_a_number(tmp_path: Path) -> None:
    for name in ("seed-10", "seed-2", "seed-x", "seed-2-old", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "history.jsonl").write_text("")
    found = finished_runs(tmp_path)
    assert [run.folder.name for run in found] == ["seed-2", "seed-10"]
    with pytest.raises(LandscapeError, match=r"no epoch of the run in .* is finished"):
        found[0].accuracies  # noqa: B018
    assert finished_runs(tmp_path / "seed-x") == [FinishedRun(tmp_path / "seed-x")]
    with pytest.raises(LandscapeError, match="no run in"):
        finished_runs(tmp_path / "nothing")
