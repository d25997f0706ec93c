"""The checkpoints that ship: readable, trained as their README says, and no larger than they should be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from landscape.training import load_checkpoint
from landscape.training.library import read_recipe
from landscape.training.recipe import Recipe

FOLDER = Path(__file__).parents[2] / "checkpoints"
ROWS = re.findall(
    r"^\| `([\w-]+)\.safetensors` \| `([\w/-]+)`(?: with ρ = ([\d.]+))? \| ([\d.]+) \(([\d.]+)/([\d.]+)/([\d.]+)\) \|$",
    (FOLDER / "README.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


def test_the_readme_lists_every_file() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(path.stem for path in FOLDER.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 5e6


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_checkpoint_is_what_the_readme_says(row: tuple[str, ...]) -> None:
    name, recipe, rho, *shares = row
    checkpoint = load_checkpoint(FOLDER / f"{name}.safetensors")
    assert sum(parameter.numel() for parameter in checkpoint.build_model().parameters()) == 269_722
    assert checkpoint.info.epoch == checkpoint.recipe.schedule.epochs == 24
    assert checkpoint.info.class_counts == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    said = [100 * checkpoint.info.metrics[key] for key in ("accuracy", "head", "mid", "tail")]
    assert said == pytest.approx([float(share) for share in shares], abs=0.051)
    shipped = read_recipe(recipe).values
    changed = {
        **shipped,
        "data": {**shipped["data"], "source": "folder:cifar10-jpeg"},
        "model": {**shipped["model"], "name": "resnet20"},
        "schedule": {**shipped["schedule"], "epochs": 24},
        "optimizer": {**shipped["optimizer"], **({"rho": float(rho)} if rho else {})},
    }
    assert Recipe.parse(changed).difference(checkpoint.recipe) is None
    assert checkpoint.recipe.data.root is None  # a path of the machine that trained it would help nobody
