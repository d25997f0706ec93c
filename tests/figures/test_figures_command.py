"""`landscape figures`: what it lists, what it announces, what it refuses, and figures of one's own."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
from landscape_figures import NAMES, load_figure
from landscape_figures.making import Work, compute
from landscape_figures.scales import SMOKE
from support.command import Call
from support.runs import files_below

from landscape.errors import LandscapeError
from landscape.store import SpectrumFile


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A copy of E1 whose training has another second stage and two epochs."""
    text = (importlib.resources.files("landscape_figures") / "e1.py").read_text()
    changed = text.replace('train(scale, "SSE-SAM")', 'train(scale, "SSE-SAM", schedule__epochs=2)')
    assert changed != text
    path = tmp_path / "mine.py"
    path.write_text(changed.replace('name="E1"', 'name="mine"'))
    return path


def test_the_list_names_every_figure_with_its_paper(call: Call, tmp_path: Path) -> None:
    listed = call("figures", "list", "--work", tmp_path)
    assert listed.code == 0, listed.err
    rows = {line.split()[0]: line for line in listed.out.splitlines() if line.strip()}
    assert set(NAMES) <= set(rows)
    assert "Zhou et al., ICCV 2023" in rows["I1"]
    assert rows["E1"].split()[-2:] == ["0/1", "0/1"]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(call: Call, tmp_path: Path) -> None:
    said = call("figures", "make", "S1", "s4", "--work", tmp_path / "work", "-o", tmp_path / "out", "--dry-run")
    assert said.code == 0, said.err
    assert "7 steps, 0 there, 7 to do" in said.out
    assert "train CE+DRW: convnet, 20 epochs" in said.out
    assert files_below(tmp_path) == {}


def test_the_paper_scale_trains_the_recipes_that_ship(call: Call, tmp_path: Path) -> None:
    words = ("--scale", "paper", "--data", "folder:images", "--work", tmp_path, "-o", tmp_path, "--dry-run")
    said = call("figures", "make", "all", *words)
    assert said.code == 0, said.err
    assert "train CE+DRW+SAM: resnet32, 200 epochs" in said.out
    assert "train SSE-SAM: resnet34-cifar, 500 epochs" in said.out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["S22"], "no figure 'S22'; did you mean 'S2'?"),
        (["mine.py"], "no file 'mine.py'"),
        (["S1", "--scale", "paper"], "--data folder:PATH"),
        (["S1", "--data", "folder:x"], "add --scale paper"),
        (["S1", "--scale", "paper", "--data", "imagenet:x"], "write folder:PATH, or cifar10:PATH"),
        (["S1", "--style", "neurips", "--column", "wide"], "give single or double"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is(
    call: Call, tmp_path: Path, words: list[str], error: str
) -> None:
    refused = call("figures", "make", *words, "--work", tmp_path / "work", "-o", tmp_path / "out")
    assert refused.code == 1
    assert error in refused.err
    assert files_below(tmp_path) == {}


def test_results_are_never_replaced_by_a_figure(call: Call, tmp_path: Path) -> None:
    SpectrumFile.create(tmp_path / "E1.h5", {"loss": "ce"})
    before = files_below(tmp_path)
    refused = call("figures", "make", "E1", "--work", tmp_path / "work", "-o", tmp_path)
    assert refused.code == 1
    assert "give another -o" in refused.err
    assert files_below(tmp_path) == before


def test_a_figure_of_ones_own_is_a_file_like_ours(call: Call, tmp_path: Path, mine: Path) -> None:
    made = call("figures", "make", mine, "--work", tmp_path / "work", "-o", tmp_path / "out", "--device", "cpu")
    assert made.code == 0, made.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mine.pdf", "mine.png", "mine.h5"}
    ours, theirs = (load_figure(name).needs(SMOKE).runs["SSE-SAM"] for name in ("E1", str(mine)))
    assert ours.key != theirs.key
    assert "landscape plot" in made.out


def test_a_file_without_a_figure_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.py"
    path.write_text("FIGURE = None\n")
    with pytest.raises(LandscapeError, match="declares no FIGURE"):
        load_figure(str(path))


def test_what_is_there_is_listed_as_ready(call: Call, tmp_path: Path) -> None:
    step = load_figure("E1").needs(SMOKE).runs["SSE-SAM"]
    (tmp_path / "runs" / f"sse-sam-{step.key[:12]}").mkdir(parents=True)
    assert compute([step], Work(tmp_path))
    listed = call("figures", "list", "--work", tmp_path)
    row = next(line for line in listed.out.splitlines() if line.strip().startswith("E1"))
    assert row.split()[-2:] == ["ready", "0/1"]
