"""`landscape figures`: what it lists, what it announces, what it refuses, and figures of one's own."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
from landscape_figures import NAMES, load_figure, load_figures
from landscape_figures.making import Work, compute
from landscape_figures.scales import SMOKE, open_scale
from support.command import Call
from support.runs import files_below

from landscape.errors import LandscapeError
from landscape.store import SpectrumFile
from landscape.training import Recipe
from landscape.training.library import read_recipe


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
    assert str(importlib.resources.files("landscape_figures")) in listed.out.replace("\n", "")


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
        (["S1", "--scale", "paper", "--data", "cifar100=cifar100:x"], "cifar100=folder:PATH or cifar100:PATH"),
        (["S1", "--scale", "paper", "--data", "folder:"], "write folder:PATH"),
        (["S1", "--scale", "paper", "--data", "cifar100:x"], "--data folder:PATH"),
        (["S1", "--scale", "paper", "--data", "folder:x", "--data", "cifar10:y"], "CIFAR-10-LT are named twice"),
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


def test_every_name_is_taken_once_and_all_stands_for_ours(mine: Path) -> None:
    called = load_figures(["s2", "S2", str(mine), "all", str(mine)])
    assert [figure.name for figure in called] == ["S2", "mine", *(name for name in NAMES if name != "S2")]


def test_figures_that_would_be_the_same_files_are_refused(mine: Path) -> None:
    mine.write_text(mine.read_text().replace('name="mine"', 'name="e1"'))
    with pytest.raises(LandscapeError, match="two figures are called 'e1'"):
        load_figures(["E1", str(mine)])
    assert load_figures([str(mine)])[0].name == "e1"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import nowhere_to_be_found\n", r"mine\.py', line 1: ModuleNotFoundError"),
        ("\nFIGURE = (\n", r"mine\.py', line 2: '\(' was never closed"),
        ("from .e1 import needs\n\nFIGURE = len(5)\n", r"mine\.py', line 3: TypeError"),
        ("FIGURE = None\n", "declares no FIGURE"),
    ],
)
def test_a_file_that_is_no_figure_says_where(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(LandscapeError, match=error):
        load_figure(str(path))


@pytest.mark.parametrize("name", ["../E1", "a/b", "", "a b"])
def test_the_name_of_a_figure_is_that_of_its_files(mine: Path, name: str) -> None:
    mine.write_text(mine.read_text().replace('name="mine"', f'name="{name}"'))
    with pytest.raises(LandscapeError, match="names its files"):
        load_figure(str(mine))


def test_a_file_may_declare_steps_of_its_own_and_have_dots_in_its_name(tmp_path: Path, mine: Path) -> None:
    step = """
from dataclasses import dataclass
from typing import ClassVar

from .steps import Step


@dataclass(frozen=True)
class Mine(Step):
    shelf: ClassVar[str] = "mine"
"""
    path = tmp_path / "my.own.py"
    path.write_text(mine.read_text() + step)
    assert load_figure(str(path)).name == "mine"


def test_every_recipe_draws_at_the_paper_scale_what_its_paper_has() -> None:
    """The row of methods.md, 5.4, where it names losses, radii, epochs or checkpoints."""
    scale = open_scale("paper", ["folder:images"])
    needs = {name: load_figure(name).needs(scale) for name in NAMES}

    def recipes(name: str) -> dict[str, Recipe]:
        spectra = {title: step.training.recipe for title, step in needs[name].spectra.items()}
        return {**spectra, **{title: step.recipe for title, step in needs[name].runs.items()}}

    everything = [recipe for name in NAMES for recipe in recipes(name).values()]
    assert {recipe.data.imbalance for recipe in everything} == {"exp:100"}
    assert {recipe.data.source for recipe in everything} == {"folder:images"}
    for name in ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "H1", "H2", "H3", "H4"):
        assert {(each.model.name, each.schedule.epochs) for each in recipes(name).values()} == {("resnet32", 200)}
    losses = {title: (each.loss.name, each.loss.reweight) for title, each in recipes("S2").items()}
    assert losses == {
        "CE": ("ce", "none"),
        "CE+DRW": ("ce", "drw"),
        "LDAM+DRW": ("ldam", "drw"),
        "VS": ("vs", "none"),
    }
    radii = {title: each.optimizer.rho for title, each in recipes("S3").items() if title.endswith("SAM")}
    assert radii == {"CE+SAM": 0.1, "CE+DRW+SAM": 0.5, "LDAM+DRW+SAM": 0.8, "VS+SAM": 0.5}
    for name in ("S4", "H3"):
        assert {step.epochs for step in needs[name].spectra.values()} == {tuple(range(10, 201, 10))}
    assert [float(rho) for rho in needs["S5"].spectra] == [0.05, 0.1, 0.2, 0.5, 0.8, 1.0]
    assert all(each.optimizer.rho == float(title.split()[0]) for title, each in recipes("S5").items())
    assert {each.optimizer.name for each in recipes("S6").values()} == {"sgd", "pgd", "lpf-sgd", "sam", "asam"}
    walks = needs["I1"].surfaces.values()
    assert {(walk.plan.points, walk.plan.along, walk.plan.normalize) for walk in walks} == {((51,), "random", "filter")}
    sse = recipes("E1")["SSE-SAM"]
    assert round(sse.optimizer.gamma * sse.schedule.epochs) == 350
    assert len({each.schedule.epochs for each in recipes("E2").values()}) == 1
    assert {step.plan.loss for name in NAMES for step in needs[name].spectra.values()} == {"ce"}


def test_another_data_set_is_shown_where_its_images_are_named() -> None:
    for words in ([], ["folder:images"]):  # `figures list` asks without images
        assert list(open_scale("paper", words).data_sets) == ["cifar10"]
    assert list(open_scale("paper", ["cifar100:c100"]).data_sets) == ["cifar10", "cifar100"]
    for words, source in (("cifar100:c100", "cifar100"), ("cifar100=folder:b=c", "folder:b=c")):
        scale = open_scale("paper", ["folder:images", words])
        runs = load_figure("S6").needs(scale).runs
        assert len(runs) == 2 * 5 * 3
        ten, hundred = (
            {name: run.recipe for name, run in runs.items() if f" on {each}," in name}
            for each in ("CIFAR-10-LT", "CIFAR-100-LT")
        )
        assert {each.data.source for each in ten.values()} == {"folder:images"}
        assert {each.data.source for each in hundred.values()} == {source}
        for on, recipes in (("cifar10-lt", ten), ("cifar100-lt", hundred)):
            for method, shipped in (("CE+DRW", "ce-drw"), ("CE+DRW+SAM", "ce-drw-sam")):
                (one,) = [
                    each for name, each in recipes.items() if name.startswith(f"{method} on ") and "seed 0" in name
                ]
                expected = read_recipe(f"{on}/{shipped}").values
                assert (one.optimizer.rho, one.loss.reweight) == (
                    expected["optimizer"].get("rho"), expected["loss"]["reweight"],
                )  # fmt: skip
        asam = [{each.optimizer.rho for name, each in found.items() if "ASAM" in name} for found in (ten, hundred)]
        assert asam == [{0.5}, {1.0}]
        # What one data set has is the same training, whether the other is shown or not.
        alone = load_figure("S6").needs(open_scale("paper", ["folder:images"])).runs
        assert {run.key for run in alone.values()} == {runs[name].key for name in ten}


@pytest.mark.parametrize("what", ["a file above", "not ours"])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    if what == "a file above":
        (tmp_path / "file").touch()
    else:
        monkeypatch.setattr("os.access", lambda path, mode: False)  # whoever runs the tests may write everywhere
    refused = call("figures", "make", "E1", "--work", tmp_path / "work", "-o", tmp_path / "file" / "out")
    assert refused.code == 1
    assert "give another -o" in refused.err
    assert not (tmp_path / "work").exists()


def test_what_is_there_is_listed_as_ready(call: Call, tmp_path: Path) -> None:
    step = load_figure("E1").needs(SMOKE).runs["SSE-SAM"]
    (tmp_path / "runs" / f"sse-sam-{step.key[:12]}").mkdir(parents=True)
    assert compute([step], Work(tmp_path))
    listed = call("figures", "list", "--work", tmp_path)
    row = next(line for line in listed.out.splitlines() if line.strip().startswith("E1"))
    assert row.split()[-2:] == ["ready", "0/1"]
