"""Every field of a recipe has one flag, and the flag sets that field."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

import pytest
import rich_click as click

from landscape.training.recipe import Recipe

train_command: click.Command = importlib.import_module("landscape_cli.train").command

# What each field can be set to on the command line, and what then stands in the recipe.
WORDS: dict[str, tuple[str, Any]] = {
    "data.source": ("folder:x", "folder:x"),
    "data.download": ("", True),
    "data.imbalance": ("exp:7", "exp:7"),
    "data.draw": ("file-order", "file-order"),
    "data.resample": ("deferred", "deferred"),
    "data.augment": ("none", "none"),
    "model.head": ("cosine", "cosine"),
    "loss.name": ("vs", "vs"),
    "loss.reweight": ("rw", "rw"),
    "loss.beta": ("0.9", 0.9),
    "loss.defer": ("0.5", 0.5),
    "optimizer.momentum": ("0.5", 0.5),
    "optimizer.gamma": ("0.25", 0.25),
    "optimizer.normalization": ("group", "group"),
    "optimizer.bn_update": ("all", "all"),
    "optimizer.asam_form": ("davda54", "davda54"),
    "optimizer.head_rho": ("step:0.05,0.5@160/200", "step:0.05,0.5@160/200"),
    "optimizer.filter_noise": ("cosine:0.0005:0.008", "cosine:0.0005:0.008"),
    "regularizer.name": ("htr", "htr"),
    "regularizer.layers": ("layer2.*,fc", "layer2.*,fc"),
    "regularizer.form": ("masked", "masked"),
    "regularizer.gradient": ("finite-difference", "finite-difference"),
    "regularizer.trace": ("gauss-newton", "gauss-newton"),
    "schedule.name": ("cosine", "cosine"),
    "run.precision": ("bf16", "bf16"),
    "run.compile": ("", True),
    "run.log": ("tensorboard", "tensorboard"),
}


def fields() -> list[str]:
    sections = Recipe.model_fields.items()
    return [f"{section}.{name}" for section, field in sections for name in field.annotation.model_fields]  # type: ignore[union-attr]


def flags_by_field() -> dict[str, list[str]]:
    return {p.name.replace("__", ".", 1): p.opts for p in train_command.params if p.name and "__" in p.name}


def test_every_field_has_a_flag_and_no_flag_has_two_meanings() -> None:
    flags = flags_by_field()
    assert sorted(flags) == sorted(fields())
    counted = Counter(
        flag for parameter in train_command.params for flag in (*parameter.opts, *parameter.secondary_opts)
    )
    assert [flag for flag, count in counted.items() if count > 1] == []


@pytest.mark.parametrize("field", fields())
def test_the_flag_sets_its_field(field: str) -> None:
    from landscape_cli.recipe_options import given_values

    (flag,) = flags_by_field()[field]
    word, expected = WORDS.get(field, ("64", None))
    arguments = [flag, *([word] if word else []), "-o", "x"]
    context = train_command.make_context("train", arguments)
    values = given_values(context.params)
    section, name = field.split(".")
    assert list(values) == [section]
    assert list(values[section]) == [name]
    value = values[section][name]
    assert value == expected if expected is not None else str(value).removesuffix(".0") == "64"
    # Some belong to some losses only, and the settings of a regulariser to one.
    if section != "regularizer" and field not in (
        "loss.gamma",
        "loss.tau",
        "loss.focal_gamma",
        "loss.max_margin",
        "loss.ce_epochs",
    ):
        recipe = Recipe.parse(values)
        assert str(getattr(getattr(recipe, section), name)) == str(value)


def test_flags_that_are_not_given_leave_no_trace() -> None:
    from landscape_cli.recipe_options import given_values

    assert given_values(train_command.make_context("train", ["-o", "x"]).params) == {}


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("data.source", "--data"),
        ("model.name", "--model"),
        ("loss.name", "--loss"),
        ("optimizer.name", "--optimizer"),
        ("optimizer.rho", "--rho"),
        ("schedule.epochs", "--epochs"),
        ("data.imbalance", "--imbalance"),
        ("loss.reweight", "--reweight"),
    ],
)
def test_the_flags_of_the_readme(field: str, flag: str) -> None:
    assert flags_by_field()[field] == [flag]
