"""A recipe says the same thing as TOML, as flags and as metadata, and refuses what it would have to ignore."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from landscape.errors import LandscapeError
from landscape.training.recipe import Recipe, parse_assignment, resolve_device, set_value

HTR = {"regularizer.name": "htr", "regularizer.weight": 1e-3}

# One value that is not the default for every field, with what else must be said for it to make sense.
OTHER: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.source": ("folder:/some/where", {}),
    "data.root": ("/data", {}),
    "data.download": (True, {}),
    "data.imbalance": ("step:50", {}),
    "data.draw": ("file-order", {}),
    "data.draw_seed": (7, {}),
    "data.resample": ("deferred", {}),
    "data.image_size": (64, {}),
    "data.normalize": ("imagenet", {}),
    "data.augment": ("none", {}),
    "data.workers": (2, {}),
    "model.name": ("package.module:factory", {}),
    "model.head": ("cosine", {}),
    "loss.name": ("vs", {}),
    "loss.reweight": ("drw", {}),
    "loss.beta": (0.999, {}),
    "loss.defer": (0.5, {}),
    "loss.logit_scale": (20.0, {}),
    "loss.max_margin": (0.4, {"loss.name": "ldam"}),
    "loss.gamma": (0.15, {"loss.name": "vs"}),
    "loss.tau": (1.25, {"loss.name": "la"}),
    "loss.focal_gamma": (2.0, {"loss.name": "focal"}),
    "loss.ce_epochs": (6, {"loss.name": "vs"}),
    "optimizer.name": ("sam", {}),
    "optimizer.lr": (0.03, {}),
    "optimizer.momentum": (0.0, {}),
    "optimizer.weight_decay": (5e-4, {}),
    "optimizer.rho": (0.8, {}),
    "optimizer.head_rho": (0.05, {}),
    "optimizer.tail_rho": (0.1, {}),
    "optimizer.gamma": (0.7, {}),
    "optimizer.eta": (200.0, {}),
    "optimizer.kappa": (2.0, {}),
    "optimizer.normalization": ("group", {}),
    "optimizer.bn_update": ("all", {}),
    "optimizer.asam_form": ("davda54", {}),
    "optimizer.filter_noise": ("cosine:0.0005:0.008", {}),
    "optimizer.splits": (8, {}),
    "optimizer.noise_radius": (0.01, {}),
    "optimizer.noise_below": (0.5, {}),
    "optimizer.noise_every": (10, {}),
    "regularizer.name": ("htr", {"regularizer.weight": 1e-3}),
    "regularizer.weight": (2e-3, HTR),
    "regularizer.layers": ("middle", HTR),
    "regularizer.probes": (2, HTR),
    "regularizer.form": ("masked", HTR),
    "regularizer.gradient": ("finite-difference", HTR),
    "regularizer.trace": ("gauss-newton", HTR),
    "schedule.name": ("cosine", {}),
    "schedule.epochs": (3, {}),
    "schedule.batch_size": (16, {}),
    "run.seed": (5, {}),
    "run.device": ("cpu", {}),
    "run.save_every": (10, {}),
    "run.precision": ("bf16", {}),
    "run.compile": (True, {}),
    "run.log": ("tensorboard", {}),
}


def field_names() -> list[str]:
    sections = Recipe.model_fields.items()
    return [f"{section}.{name}" for section, field in sections for name in field.annotation.model_fields]  # type: ignore[union-attr]


def nested(values: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        set_value(result, key, value)
    return result


def test_the_table_of_values_covers_every_field() -> None:
    assert sorted(OTHER) == sorted(field_names())


@pytest.mark.parametrize("key", OTHER)
def test_every_field_survives_toml_and_json(key: str) -> None:
    value, needed = OTHER[key]
    recipe = Recipe.parse(nested({**needed, key: value}))
    # The settings of a regulariser mean nothing without its name, and are refused.
    assert recipe != Recipe.parse(nested({} if key == "regularizer.name" else needed))
    for again in (tomllib.loads(recipe.to_toml()), json.loads(json.dumps(recipe.dump()))):
        assert Recipe.parse(again) == recipe
        section, name = key.split(".")
        assert again[section][name] == value


def test_the_defaults_are_those_of_the_ldam_family() -> None:
    recipe = Recipe()
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.optimizer.momentum) == ("sgd", 0.1, 0.9)
    assert recipe.optimizer.weight_decay == 2e-4
    assert (recipe.schedule.epochs, recipe.schedule.batch_size, recipe.schedule.name) == (200, 128, "step")
    assert (recipe.loss.beta, recipe.loss.defer, recipe.loss.logit_scale) == (0.9999, 0.8, 30.0)
    assert recipe.model.name == "resnet32"


def test_an_integer_is_a_number_too() -> None:
    assert Recipe.parse({"optimizer": {"lr": 1}}).optimizer.lr == 1.0


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("optimizer.roh", 0.5, ["unknown key 'optimizer.roh'", "'rho'"]),
        ("optimzer.rho", 0.5, ["unknown key 'optimzer'", "'optimizer'"]),
        ("schedule.zzz", 1, ["unknown key 'schedule.zzz'", "epochs"]),
        ("schedule.epochs", "many", ["schedule.epochs", "'many'", "integer"]),
        ("schedule.epochs", "5", ["schedule.epochs", "'5'", "integer"]),
        ("schedule.epochs", 2.5, ["schedule.epochs", "2.5", "integer"]),
        ("schedule.epochs", True, ["schedule.epochs", "True", "integer"]),
        ("schedule.epochs", 0, ["schedule.epochs", "greater than or equal to 1"]),
        ("optimizer.lr", True, ["optimizer.lr", "True", "number"]),
        ("optimizer.lr", -0.1, ["optimizer.lr", "-0.1", "greater than 0"]),
        ("optimizer.lr", float("nan"), ["optimizer.lr", "finite"]),
        ("optimizer.momentum", 1.0, ["optimizer.momentum", "less than 1"]),
        ("loss.beta", 1.0, ["loss.beta", "less than 1"]),
        ("loss.name", "cross", ["loss.name", "'cross'", "ce", "ldam"]),
        ("loss.defer", 1.5, ["loss.defer", "less than or equal to 1"]),
        ("data.download", "yes", ["data.download", "'yes'", "boolean"]),
        ("data", 3, ["'data' is a section", "[data]"]),
        ("model.head", "round", ["model.head", "linear", "cosine"]),
    ],
)
def test_a_bad_value_is_one_line_with_the_path_of_its_key(key: str, value: Any, words: list[str]) -> None:
    values = {key: value} if "." not in key else nested({key: value})
    with pytest.raises(LandscapeError) as caught:
        Recipe.parse(values, where="my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: ")
    assert "\n" not in message
    assert "pydantic" not in message
    for word in words:
        assert word in message


def test_several_faults_are_said_at_once() -> None:
    with pytest.raises(LandscapeError) as caught:
        Recipe.parse(nested({"optimizer.lr": -1.0, "loss.beta": 2.0}))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert {"optimizer.lr", "loss.beta"} == {line.split(": ")[1].split(" = ")[0] for line in lines}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.rho=0.5", ("optimizer.rho", 0.5)),
        ("optimizer.rho=.5", ("optimizer.rho", 0.5)),
        ("optimizer.weight_decay=5e-4", ("optimizer.weight_decay", 5e-4)),
        ("schedule.epochs=3", ("schedule.epochs", 3)),
        ("data.download=true", ("data.download", True)),
        ("data.imbalance=exp:100", ("data.imbalance", "exp:100")),
        ("data.source=folder:/a=b", ("data.source", "folder:/a=b")),
        ('loss.name="vs"', ("loss.name", "vs")),
        (" run.seed = 4 ", ("run.seed", 4)),
    ],
)
def test_an_assignment_is_a_key_and_a_typed_value(text: str, expected: tuple[str, Any]) -> None:
    key, value = parse_assignment(text)
    assert (key, value) == expected
    assert type(value) is type(expected[1])


@pytest.mark.parametrize("text", ["optimizer.rho", "rho=0.5", "=3", ""])
def test_an_assignment_without_section_or_value_is_refused(text: str) -> None:
    with pytest.raises(LandscapeError, match=r"section\.key=value"):
        parse_assignment(text)


def test_setting_below_a_value_is_refused() -> None:
    with pytest.raises(LandscapeError, match=r"'data' in 'data\.source' is a value"):
        set_value({"data": 3}, "data.source", "digits")


def test_ldam_takes_a_cosine_head_and_refuses_a_linear_one() -> None:
    assert Recipe.parse({"loss": {"name": "ldam"}}).head == "cosine"
    assert Recipe.parse({"loss": {"name": "ldam"}}).logit_scale == 30.0
    with pytest.raises(LandscapeError, match=r"ldam.*model\.head = 'cosine'") as caught:
        Recipe.parse({"loss": {"name": "ldam"}, "model": {"head": "linear"}})
    assert "\n" not in str(caught.value)


def test_the_scale_belongs_to_cosine_heads_of_any_loss() -> None:
    assert Recipe.parse({"loss": {"name": "ce"}}).logit_scale == 1.0
    assert Recipe.parse({"loss": {"name": "ce", "logit_scale": 16.0}, "model": {"head": "cosine"}}).logit_scale == 16.0


@pytest.mark.parametrize(
    ("loss", "setting", "owner"),
    [("ce", "gamma", "vs"), ("la", "gamma", "cdt"), ("cdt", "tau", "la"), ("vs", "max_margin", "ldam"),
     ("ce", "focal_gamma", "focal")],
)  # fmt: skip
def test_a_setting_that_the_loss_would_ignore_is_refused(loss: str, setting: str, owner: str) -> None:
    with pytest.raises(LandscapeError, match=f"loss '{loss}' has no setting '{setting}'.*{owner}"):
        Recipe.parse({"loss": {"name": loss, setting: 0.5}})


def test_cross_entropy_before_cross_entropy_is_refused() -> None:
    with pytest.raises(LandscapeError, match=r"loss\.ce_epochs is the start of another loss"):
        Recipe.parse({"loss": {"name": "ce", "ce_epochs": 6}})


@pytest.mark.parametrize(("setting", "value"), [("eta", 50.0), ("normalization", "batch")])
def test_a_tail_setting_is_refused_where_there_is_no_tail(setting: str, value: Any) -> None:
    for name in ("sgd", "sam"):
        with pytest.raises(LandscapeError, match=f"optimizer '{name}' has no setting '{setting}'.*imbsam, sse-sam"):
            _ = Recipe.parse({"optimizer": {"name": name, setting: value}}).resolved
    resolved = Recipe.parse({"optimizer": {"name": "imbsam", "rho": 0.1, setting: value}}).resolved
    assert getattr(resolved.optimizer, setting) == value


def test_resolving_writes_the_published_tail_threshold_out() -> None:
    resolved = Recipe.parse({"optimizer": {"name": "imbsam", "rho": 0.1}}).resolved.optimizer
    assert (resolved.eta, resolved.normalization) == (100.0, "batch")
    assert Recipe.parse({"optimizer": {"name": "sam", "rho": 0.1}}).resolved.optimizer.eta is None


@pytest.mark.parametrize(
    ("source", "normalize", "augment"),
    [
        ("digits", "0.5/0.5", "none"),
        ("fashion-mnist", "0.5/0.5", "none"),
        ("cifar100", "cifar", "crop-flip"),
        ("folder:x", "cifar", "crop-flip"),
        ("list:a.txt,b.txt", "imagenet", "resized-crop"),
        ("mini-imagenet", "imagenet", "resized-crop"),
    ],
)
def test_resolving_writes_the_defaults_of_the_source_out(source: str, normalize: str, augment: str) -> None:
    resolved = Recipe.parse({"data": {"source": source}}).resolved.data
    assert (resolved.normalize, resolved.augment) == (normalize, augment)


def test_resolving_makes_folders_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resolved = Recipe.parse({"data": {"source": "folder:images", "root": "files"}}).resolved.data
    assert (resolved.source, resolved.root) == ("folder:images", tmp_path / "files")
    for source in ("folder:images", f"folder:{tmp_path / 'images'}"):
        resolved = Recipe.parse({"data": {"source": source}}).resolved.data
        assert (resolved.source, resolved.root) == ("folder:images", tmp_path)
        assert resolved.resolved == resolved
    lists = Recipe.parse({"data": {"source": "list:lists/a.txt,/b.txt"}}).resolved.data
    assert lists.source == f"list:{tmp_path / 'lists' / 'a.txt'},/b.txt"
    assert Recipe.parse(Recipe(data=resolved).resolved.dump()).resolved.data == resolved


def test_a_recipe_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\nsource = 3")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00data")
    for path, word in ((tmp_path / "none.toml", "no recipe"), (tmp_path, "is a folder"),
                       (broken, "not TOML"), (binary, "not TOML")):  # fmt: skip
        with pytest.raises(LandscapeError, match=word) as caught:
            Recipe.load(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda")
    with pytest.raises(LandscapeError, match=r"unknown device 'gpu'.*auto"):
        resolve_device("gpu")
    with pytest.raises(LandscapeError, match="device 'cuda:99' cannot be used"):
        resolve_device("cuda:99")
