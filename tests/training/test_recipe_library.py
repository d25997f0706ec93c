"""The recipes that ship are whole, say where their numbers come from, and agree with the papers' settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.command import Call
from support.photographs import write_photographs
from support.runs import tiny_recipe, write_image_folder

from landscape.data import class_counts, groups_by_count, groups_by_index
from landscape.errors import LandscapeError
from landscape.models import model_names
from landscape.optim import build_optimizer
from landscape.training import Recipe, load_checkpoint
from landscape.training.library import TAGS, PaperRow, _shipped_names, read_recipe, shipped_recipes
from landscape.training.schedules import learning_rate, milestone

SHIPPED = {recipe.name: recipe for recipe in shipped_recipes()}


def parsed(name: str) -> Recipe:
    return Recipe.parse(read_recipe(name).values, where=name)


# ---------------------------------------------------------------------- what ships


def test_families_methods_and_data_sets() -> None:
    small = {"ce", "ce-sam", "ce-drw", "ce-drw-sam", "ldam-drw", "ldam-drw-sam", "vs", "vs-sam"}
    large = {"ce", "ce-drw", "ce-drw-sam", "ldam-drw", "ldam-drw-sam"}
    for folder, names in {
        "cifar10-lt": small | {"cosine-ce", "cosine-ce-legacy"},
        "cifar100-lt": small | {"cosine-ce", "cosine-ce-legacy"},
        "cifar10-lt-htr": {"ce-htr", "ce-htr-middle", "ce-htr-gauss-newton"},
        "cifar10-lt-resnet34": {"ce", "ce-sam", "ce-imbsam", "ce-sse-sam"},
        "cifar100-lt-resnet34": {
            "ce", "ce-sam", "ce-imbsam", "ce-imbsam-group", "ce-imbsam-kappa2", "ce-sse-sam",
        },
        "imagenet-lt": large,
        "inaturalist2018": large,
        "mini-imagenet-lt": {"ce"},
    }.items():  # fmt: skip
        assert {name.split("/")[1] for name in SHIPPED if name.split("/")[0] == folder} == names
    assert {name for name in _shipped_names() if name not in SHIPPED} == {
        "base/family-a", "base/family-b", "base/large-scale",
    }  # fmt: skip


@pytest.mark.parametrize("name", _shipped_names())
def test_a_shipped_recipe_is_strictly_valid_and_can_be_built(name: str) -> None:
    recipe = parsed(name).resolved
    assert recipe.model.name in model_names()
    section = recipe.optimizer
    parameters = [("weight", torch.zeros(1, requires_grad=True))]
    optimizer = build_optimizer(
        section.name, parameters, lr=section.lr, momentum=section.momentum, weight_decay=section.weight_decay,
        **section.settings(),
    )  # fmt: skip
    assert optimizer.base.param_groups[0]["weight_decay"] == section.weight_decay
    assert Recipe.parse(recipe.dump()) == recipe


@pytest.mark.parametrize(("name", "row"), [(r.name, row) for r in SHIPPED.values() for row in r.paper])
def test_a_number_has_a_source_and_groups_agree_with_it(name: str, row: PaperRow) -> None:
    assert row.tag in TAGS
    assert "arXiv" in row.reference or "ICVGIP" in row.reference
    if row.all is None or row.groups is None:
        return
    recipe = parsed(name)
    if row.convention == "index":
        total = {"imagenet-lt": 1000, "inaturalist2018": 8142, "cifar100-lt": 100, "cifar10-lt": 10}[name.split("/")[0]]
        groups = groups_by_index(range(total, 0, -1))
    else:
        groups = groups_by_count(class_counts(recipe.data.imbalance, [500] * 100))
    sizes = [len(members) for _, members in groups.items()]
    mean = sum(size * share for size, share in zip(sizes, row.groups, strict=True)) / sum(sizes)
    # Test sets are balanced, so the mean over classes is the overall accuracy; tables round to 0.1.
    assert mean == pytest.approx(row.all, abs=0.15 if sum(sizes) > 100 else 0.1)


def test_family_a_is_the_published_schedule() -> None:
    recipe = parsed("cifar100-lt/ldam-drw-sam")
    rates = [learning_rate(recipe.schedule, recipe.optimizer.lr, e) for e in (0, 4, 5, 159, 160, 179, 180, 199)]
    assert rates == pytest.approx([0.02, 0.1, 0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5])
    assert milestone(recipe.loss.defer, recipe.schedule.epochs) == 160
    assert (recipe.data.source, recipe.data.imbalance, recipe.data.draw) == ("cifar100", "exp:100", "shuffled")
    assert (recipe.loss.name, recipe.loss.reweight, recipe.head, recipe.logit_scale) == ("ldam", "drw", "cosine", 30.0)
    assert recipe.loss.max_margin == 0.5
    assert (recipe.model.name, recipe.schedule.batch_size, recipe.optimizer.weight_decay) == ("resnet32", 128, 2e-4)


@pytest.mark.parametrize(
    ("name", "rho"),
    [("cifar10-lt/ce-sam", 0.1), ("cifar10-lt/ce-drw-sam", 0.5), ("cifar10-lt/ldam-drw-sam", 0.8),
     ("cifar100-lt/ce-sam", 0.2), ("cifar100-lt/ce-drw-sam", 0.8), ("cifar100-lt/ldam-drw-sam", 0.8)],
)  # fmt: skip
def test_the_radii_are_those_of_the_shipped_commands(name: str, rho: float) -> None:
    optimizer = parsed(name).optimizer
    assert (optimizer.name, optimizer.rho, optimizer.bn_update) == ("sam", rho, "all")


def test_cosine_ce_is_the_first_stage_of_tailcalibx() -> None:
    recipe, legacy = (parsed(f"cifar100-lt/{name}") for name in ("cosine-ce", "cosine-ce-legacy"))
    assert (recipe.model.name, recipe.head, recipe.loss.name, recipe.logit_scale) == (
        "bbn-resnet32", "learned-cosine", "ce", 1.0,
    )  # fmt: skip
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.2, 0.9, 5e-4)
    assert (schedule.name, schedule.epochs, schedule.batch_size) == ("cosine", 150, 128)
    assert (recipe.data.source, parsed("cifar10-lt/cosine-ce").data.source) == ("cifar100", "cifar10")
    assert recipe.difference(legacy) == ("model.head", "learned-cosine", "learned-cosine-legacy")
    assert learning_rate(legacy.schedule, 0.2, 149) == 0.0


def test_sse_sam_is_the_readmes_command() -> None:
    recipe = parsed("cifar100-lt-resnet34/ce-sse-sam")
    optimizer = recipe.optimizer
    assert (optimizer.head_rho, optimizer.tail_rho, optimizer.gamma, optimizer.eta) == (0.05, 0.1, 0.7, 100.0)
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.01, 0.9, 1e-3)
    assert (recipe.schedule.name, recipe.schedule.epochs, recipe.schedule.batch_size) == ("cosine", 200, 64)
    assert recipe.data.draw == "file-order"


@pytest.mark.parametrize("folder", ["imagenet-lt", "inaturalist2018"])
def test_large_scale_defers_to_epoch_60_of_90_and_keeps_its_margin_and_rates(folder: str) -> None:
    for name in ("ce-drw-sam", "ldam-drw-sam"):
        recipe = parsed(f"{folder}/{name}")
        assert milestone(recipe.loss.defer, recipe.schedule.epochs) == 60
        assert (recipe.schedule.name, recipe.schedule.batch_size, recipe.model.name) == ("cosine", 256, "resnet50")
        assert recipe.optimizer.lr == (0.2 if folder == "imagenet-lt" else 0.1)
    assert parsed(f"{folder}/ldam-drw").loss.max_margin == 0.3
    decay = {"imagenet-lt": 2e-4, "inaturalist2018": 1e-4}[folder]
    assert parsed(f"{folder}/ldam-drw-sam").optimizer.weight_decay == decay
    assert parsed(f"{folder}/ce-drw-sam").optimizer.weight_decay == 2e-4


# ---------------------------------------------------------------------- reading


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    write(tmp_path / "base.toml", 'extends = "cifar10-lt/ldam-drw-sam"\n[optimizer]\nrho = 0.3\n[run]\nseed = 4\n')
    file = write(tmp_path / "mine.toml", 'extends = "base.toml"\n[optimizer]\nlr = 0.05\n')
    found, shipped = Recipe.parse(read_recipe(file).values), parsed("cifar10-lt/ldam-drw-sam")
    assert (found.optimizer.lr, found.optimizer.rho, found.run.seed) == (0.05, 0.3, 4)
    changed = shipped.optimizer.model_copy(update={"lr": 0.05, "rho": 0.3})
    assert found == shipped.model_copy(update={"optimizer": changed, "run": found.run})
    assert read_recipe(file).paper == (), "the numbers are those of the file that is extended"


def test_a_file_wins_over_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10-lt").mkdir()
    write(tmp_path / "cifar10-lt" / "ce", "[run]\nseed = 9\n")
    assert read_recipe("cifar10-lt/ce").values == {"run": {"seed": 9}}
    # Nothing in the current folder gets between two recipes that ship.
    assert read_recipe("cifar10-lt/vs") == SHIPPED["cifar10-lt/vs"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('extends = "cifar10-lt/lda-drw"', ["mine.toml", "no recipe 'cifar10-lt/lda-drw'", "cifar10-lt/ldam-drw"]),
        ('extends = "none.toml"', ["mine.toml", "no recipe at", "none.toml"]),
        ('extends = "mine.toml"', ["extends itself"]),
        ('extends = "other.toml"', ["extends itself", "other.toml"]),
        ("extends = 3", ["extends = 3", "name one recipe"]),
        ('[paper]\nreference = "x"', ["[[paper]]"]),
        ('[[paper]]\nreference = "x"\nrow = "y"\ntag = "R"', ["paper", "'all' and 'tag' belong together"]),
        ('[[paper]]\nreference = "x"\nrow = "y"\ntag = "?"\nall = 3.0', ["'all' and 'tag' belong together"]),
        ('[[paper]]\nreference = "x"\nrow = "y"\ntag = "Q"\nall = 3.0', ["paper.tag"]),
        ('[[paper]]\nreference = "x"\nrow = "y"\ntag = "?"\nauthor = "z"', ["paper.author"]),
        ('[[paper]]\nreference = "x"\nrow = "y"\ntag = "R"\nall = 3.0\ngroups = [1.0, 2.0, 3.0]', ["'groups_tag'"]),
    ],
)
def test_a_fault_is_one_line_that_names_the_file(tmp_path: Path, text: str, words: list[str]) -> None:
    write(tmp_path / "other.toml", 'extends = "mine.toml"')
    with pytest.raises(LandscapeError) as caught:
        read_recipe(write(tmp_path / "mine.toml", text))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_key_of_an_extending_file_is_still_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.toml", 'extends = "cifar10-lt/ce"\n[optimizer]\nroh = 1.0\n')
    with pytest.raises(LandscapeError, match=r"unknown key 'optimizer\.roh'.*'rho'"):
        Recipe.parse(read_recipe(file).values)


# ---------------------------------------------------------------------- the command


def test_the_list_has_every_recipe_with_its_numbers_and_sources(call: Call) -> None:
    outcome = call("train", "--list")
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    for recipe in SHIPPED.values():
        # The name alone on its line, whole whatever the width of the terminal.
        first = lines[lines.index(recipe.name) + 1]
        assert recipe.paper[0].numbers in first
        assert recipe.paper[0].row in first
    for tag, meaning in TAGS.items():
        assert f"{tag} {meaning}" in outcome.out


def test_a_recipe_by_name_on_images_of_ones_own(call: Call, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 6, "bee": 3})
    words: tuple[Any, ...] = ("--data", f"folder:{images}", "--imbalance", "none", "--model", "mlp", "--epochs", 1)
    outcome = call("train", "cifar10-lt/ldam-drw-sam", *words, "-o", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "CIFAR-10-LT, IF 100: LDAM + DRW + SAM" in outcome.out
    assert "81.9 [R] (91.0/79.2/76.4 [M✓])" in outcome.out
    for key in ("with another", "data.source", "data.imbalance", "model.name", "schedule.epochs", "not the published"):
        assert key in outcome.out
    kept = load_checkpoint(tmp_path / "run").recipe
    assert (kept.optimizer.rho, kept.loss.name, kept.schedule.batch_size) == (0.8, "ldam", 128)


def test_an_unknown_name_is_told_of_its_neighbour(call: Call, tmp_path: Path) -> None:
    outcome = call("train", "cifar10-lt/ldam-sam", "-o", tmp_path / "run")
    assert outcome.code == 1
    assert "did you mean 'cifar10-lt/ldam" in outcome.err
    assert "landscape train --list" in outcome.err


def test_the_run_keeps_a_recipe_that_stands_alone(call: Call, tmp_path: Path) -> None:
    write(tmp_path / "base.toml", tiny_recipe(schedule={"epochs": 1}).to_toml())
    file = write(tmp_path / "mine.toml", 'extends = "base.toml"\n[run]\nseed = 3\n')
    assert call("train", file, "-o", tmp_path / "run").code == 0
    text = (tmp_path / "run" / "recipe.toml").read_text()
    assert "extends" not in text
    assert Recipe.parse(Recipe.load(tmp_path / "run" / "recipe.toml")).run.seed == 3


def test_a_shipped_recipe_called_by_its_file_is_told_its_name() -> None:
    with pytest.raises(LandscapeError, match=r"no file cifar10-lt/vs\.toml.*called 'cifar10-lt/vs'"):
        read_recipe("cifar10-lt/vs.toml")


def test_only_what_is_another_setting_is_called_one(call: Call, tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "photographs", {0: 6, 1: 3})
    file = write(
        tmp_path / "mine.toml",
        '[data]\nsource = "list:train.txt,test.txt"\nimage_size = 8\n[model]\nname = "mlp"\n[schedule]\nepochs = 1\n'
        '[[paper]]\nreference = "x"\nrow = "y"\ntag = "R"\nall = 3.0\n',
    )
    words = (file, "--data", source, "--workers", 0, "--seed", 3, "--epochs", 1)
    outcome = call("train", *words, "-o", tmp_path / "same")
    assert outcome.code == 0, outcome.err
    assert "answers to y" in outcome.out
    assert "with another" not in outcome.out
    outcome = call("train", *words, "--batch-size", 4, "-o", tmp_path / "other")
    assert "with another schedule.batch_size, so not the published setting" in outcome.out
