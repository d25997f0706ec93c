"""HTR in the loop: no trace of it at γ = 0, the same run after an interruption, and what it cannot be combined with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.command import Call
from support.runs import StopAfter, assert_same_tensors, tiny_recipe

from landscape.errors import LandscapeError
from landscape.regularizers import Htr
from landscape.training import Recipe, load_checkpoint, read_history, train
from landscape.training.loop import EpochRecord

HTR: dict[str, Any] = {"name": "htr", "weight": 1e-3}
SHORT = {"epochs": 2, "batch_size": 128}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "last.safetensors")


def test_weight_0_is_the_baseline_bit_for_bit_and_makes_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Htr, "on", lambda *_: pytest.fail("a penalty was computed"))
    plain = train(tiny_recipe(model={"name": "convnet"}, schedule=SHORT), tmp_path / "plain")
    none = train(
        tiny_recipe(model={"name": "convnet"}, schedule=SHORT, regularizer={"name": "htr", "weight": 0.0}),
        tmp_path / "none",
    )
    assert_same_tensors(weights(tmp_path / "plain"), weights(tmp_path / "none"))
    assert plain.last.train_loss == none.last.train_loss
    assert (none.last.penalty, none.last.trace) == (None, None)


@pytest.mark.parametrize(
    ("optimizer", "regularizer"),
    [
        ({"name": "sgd"}, {"trace": "hessian"}),
        ({"name": "sam", "rho": 0.1, "bn_update": "all"}, {"trace": "gauss-newton", "probes": 2}),
        ({"name": "pgd", "noise_radius": 0.01}, {"form": "masked", "layers": "middle"}),
        ({"name": "asam", "rho": 0.5, "asam_form": "samsung"}, {"gradient": "finite-difference", "layers": "fc*"}),
    ],
)
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(
    optimizer: dict[str, Any], regularizer: dict[str, Any], tmp_path: Path
) -> None:
    recipe = tiny_recipe(
        model={"name": "mlp" if regularizer.get("layers") == "fc*" else "convnet"},
        optimizer=optimizer,
        schedule={"epochs": 3, "batch_size": 256},
        regularizer={**HTR, **regularizer},
    )
    whole = train(recipe, tmp_path / "whole")
    for stop, first in ((StopAfter(epoch=1), False), (StopAfter(step=1), True)):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "broken", resume=first, progress=stop)
    torch.manual_seed(99)
    resumed = train(recipe, tmp_path / "broken", resume=True)
    assert_same_tensors(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    kept = [[(r.penalty, r.trace, r.train_loss) for r in run.history] for run in (whole, resumed)]
    assert kept[0] == kept[1]
    assert all(penalty is not None for penalty, _, _ in kept[0])


def test_the_history_says_penalty_and_trace_and_the_loss_holds_the_penalty(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        optimizer={"lr": 1e-12, "weight_decay": 0.0},
        schedule={"epochs": 1, "batch_size": 128, "name": "constant"},
        regularizer={**HTR, "weight": 0.5, "trace": "gauss-newton"},
    )
    plain = train(
        Recipe.parse({**recipe.dump(), "regularizer": {"name": "none"}}), tmp_path / "plain"
    ).last  # at this rate the weights stay where they are
    train(recipe, tmp_path / "htr")
    (line,) = read_history(tmp_path / "htr")
    assert line["trace"] > 0
    assert line["penalty"] == pytest.approx(0.5 * line["trace"])
    assert line["train_loss"] == pytest.approx(plain.train_loss + line["penalty"])
    assert load_checkpoint(tmp_path / "htr").recipe.regularizer.trace == "gauss-newton"


def test_it_lowers_the_gauss_newton_trace(tmp_path: Path) -> None:
    ends = {}
    for weight in (1e-6, 3e-2):
        recipe = tiny_recipe(
            schedule={"epochs": 6, "batch_size": 128, "name": "constant"},
            regularizer={"name": "htr", "weight": weight, "trace": "gauss-newton"},
        )
        ends[weight] = train(recipe, tmp_path / str(weight)).last
    small, large = ends[1e-6].trace, ends[3e-2].trace
    assert small is not None
    assert large is not None
    assert large < 0.7 * small


def test_the_plain_penalty_runs_into_negative_curvature_and_the_others_are_never_a_reward(tmp_path: Path) -> None:
    ends = {}
    for trace in ("hessian", "clamped", "gauss-newton"):
        recipe = tiny_recipe(
            model={"name": "convnet"},
            schedule={"epochs": 2, "batch_size": 128, "name": "constant"},
            regularizer={**HTR, "weight": 3e-3, "trace": trace},
        )
        ends[trace] = train(recipe, tmp_path / trace).last
    assert ends["hessian"].trace < -100
    assert ends["hessian"].penalty == pytest.approx(3e-3 * ends["hessian"].trace)
    assert ends["clamped"].penalty >= 0
    assert ends["clamped"].trace > 0.1 * ends["hessian"].trace
    assert ends["gauss-newton"].penalty > 0


def test_a_history_from_before_it_still_loads() -> None:
    record = EpochRecord(1, 0.1, False, 1.0, 0.5, {}, (0.5,), 1.0)
    assert (record.penalty, record.trace) == (None, None)


def test_a_recipe_with_it_is_another_training_and_defaults_are_written_out() -> None:
    plain, with_it = tiny_recipe(), tiny_recipe(regularizer=HTR)
    assert plain.resolved.difference(with_it.resolved) is not None
    dumped = with_it.resolved.dump()["regularizer"]
    assert dumped == {
        "name": "htr", "weight": 1e-3, "layers": "all", "probes": 1, "form": "joint", "gradient": "exact",
        "trace": "clamped",
    }  # fmt: skip
    assert Recipe.parse(with_it.resolved.dump()).resolved == with_it.resolved
    other = tiny_recipe(regularizer={**HTR, "layers": "middle"})
    assert with_it.resolved.difference(other.resolved) == ("regularizer.layers", "all", "middle")
    # A run of a version that did not know it.
    old = {key: value for key, value in plain.resolved.dump().items() if key != "regularizer"}
    assert Recipe.parse(old).resolved.difference(plain.resolved) is None


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"regularizer": {"name": "htr"}}, "weight"),
        ({"regularizer": {"weight": 1e-3}}, "add name = 'htr'"),
        ({"regularizer": {**HTR, "weight": -1.0}}, "greater than or equal to 0"),
        ({"regularizer": {**HTR, "trace": "gauss-newton", "gradient": "finite-difference"}}, "leave gradient out"),
        ({"regularizer": HTR, "optimizer": {"name": "imbsam", "rho": 0.1}}, "sgd, sam, asam, pgd"),
        ({"regularizer": HTR, "optimizer": {"name": "sse-sam", "head_rho": 0.1, "tail_rho": 0.1, "gamma": 1.0}}, "sgd"),
        ({"regularizer": HTR, "optimizer": {"name": "lpf-sgd", "filter_noise": 0.1}}, "takes its loss apart"),
        ({"regularizer": HTR, "run": {"precision": "bf16"}}, "fp32"),
        ({"regularizer": HTR, "run": {"compile": True}}, "compile"),
        ({"regularizer": {**HTR, "trace": "gauss-newton"}, "loss": {"name": "focal"}}, "convex"),
    ],
)
def test_what_it_cannot_serve_is_refused_with_the_way_out(sections: dict[str, dict[str, Any]], words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        tiny_recipe(**sections)


def test_at_weight_0_nothing_is_refused() -> None:
    tiny_recipe(regularizer={**HTR, "weight": 0.0}, optimizer={"name": "imbsam", "rho": 0.1})


def test_the_command_trains_with_it_and_refuses_an_unknown_layer(call: Call, tmp_path: Path) -> None:
    words = ["--data", "digits", "--model", "mlp", "--epochs", 2, "--batch-size", 512, "--lr", 0.05]
    htr = ["--regularizer", "htr", "--htr-weight", "1e-3", "--htr-trace", "gauss-newton"]
    done = call("train", *words, *htr, "--htr-layers", "middle", "-o", tmp_path / "x")
    assert done.code == 0, done.err
    kept = load_checkpoint(tmp_path / "x").recipe.regularizer
    assert (kept.weight, kept.layers, kept.trace) == (1e-3, "middle", "gauss-newton")
    assert json.loads((tmp_path / "x" / "history.jsonl").read_text().splitlines()[0])["penalty"] > 0
    refused = call("train", *words, *htr, "--htr-layers", "fcx", "-o", tmp_path / "y")
    assert refused.code == 1
    assert "no layer matches 'fcx'" in refused.err
    assert not (tmp_path / "y").exists()
