"""The loop: what it computes, what it keeps, and that an interruption leaves no trace in the result."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from support.runs import StopAfter, assert_same_tensors, files_below, tiny_recipe, write_image_folder

from landscape.errors import LandscapeError
from landscape.losses import LOSSES, effective_number_weights
from landscape.optim import OPTIMIZERS, GroupedObjective, Sgd
from landscape.training import Recipe, evaluate, load_checkpoint, read_history, train
from landscape.training import loop as training_loop
from landscape.training.checkpoint import model_for
from landscape.training.loop import EpochRecord, TrainingResult

SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {"name": "sgd"},
    "sam": {"name": "sam", "rho": 0.2},
    "imbsam": {"name": "imbsam", "rho": 0.2},
    "sse-sam": {"name": "sse-sam", "head_rho": 0.2, "tail_rho": 0.4, "gamma": 1.0},
    "asam": {"name": "asam", "rho": 0.5, "asam_form": "samsung"},
    # So little noise that one step is the same to rounding on devices that draw other numbers.
    "lpf-sgd": {"name": "lpf-sgd", "filter_noise": 1e-5, "splits": 2},
    "pgd": {"name": "pgd", "noise_radius": 1e-4},
}

RESUMED = {
    "sgd": tiny_recipe(model={"name": "convnet"}, loss={"reweight": "drw"}),
    "sam": tiny_recipe(optimizer={**SETTINGS["sam"], "lr": 0.05}, data={"augment": "crop-flip"}),
    # Stage I for two epochs, stage II for two.
    "sse-sam": tiny_recipe(
        model={"name": "convnet"}, optimizer={**SETTINGS["sse-sam"], "gamma": 0.5, "bn_update": "all"}
    ),
    "asam": tiny_recipe(optimizer={**SETTINGS["asam"], "rho": "linear:0.1:0.9"}),
    "lpf-sgd": tiny_recipe(model={"name": "convnet"}, optimizer={**SETTINGS["lpf-sgd"], "filter_noise": 0.01}),
    "pgd": tiny_recipe(optimizer={**SETTINGS["pgd"], "noise_radius": 0.01, "noise_every": 3}),
    "resampled": tiny_recipe(data={"resample": "deferred", "augment": "crop-flip"}, loss={"defer": 0.5}),
}


def without_clock(records: list[EpochRecord]) -> list[EpochRecord]:
    return [replace(record, seconds=0.0) for record in records]


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    recipe = RESUMED[name]
    whole = train(recipe, tmp_path / "whole")
    broken = tmp_path / "broken"
    # After an epoch, in the middle of the next, and after the last but one: 8 steps an epoch.
    for stop, first in ((StopAfter(epoch=1), False), (StopAfter(step=3), True), (StopAfter(epoch=3), True)):
        with pytest.raises(KeyboardInterrupt):
            train(recipe, broken, resume=first, progress=stop)
    assert len(read_history(broken)) == 3
    # What the caller's own random numbers are doing in between must not matter.
    torch.manual_seed(99)
    resumed = train(recipe, broken, resume=True)
    assert without_clock(resumed.history) == without_clock(whole.history)
    for file in ("last.safetensors", "best.safetensors"):
        assert_same_tensors(load_file(broken / file), load_file(tmp_path / "whole" / file))
    states = [torch.load(folder / "resume.pt", weights_only=True) for folder in (broken, tmp_path / "whole")]
    momenta = [state["optimizer"]["base"]["state"] for state in states]
    assert len(momenta[0]) > 0
    for key in momenta[0]:
        assert torch.equal(momenta[0][key]["momentum_buffer"], momenta[1][key]["momentum_buffer"])
    assert torch.equal(states[0]["generator"], states[1]["generator"])


def test_the_stage_switch_is_felt(tmp_path: Path) -> None:
    # Otherwise the test above would not notice a resumed run that stays in stage I.
    late = tiny_recipe(model={"name": "convnet"}, optimizer={**SETTINGS["sse-sam"], "bn_update": "all"})
    train(RESUMED["sse-sam"], tmp_path / "half")
    train(late, tmp_path / "late")
    half, full = (load_file(tmp_path / name / "last.safetensors") for name in ("half", "late"))
    assert any(not torch.equal(half[key], full[key]) for key in half)


def test_a_run_killed_without_warning_resumes_bit_for_bit(tmp_path: Path) -> None:
    recipe = tiny_recipe(
        model={"name": "convnet"}, optimizer={"name": "sam", "rho": 0.1, "lr": 0.05}, schedule={"epochs": 40}
    )
    (tmp_path / "recipe.toml").write_text(recipe.to_toml())
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = "import sys; from landscape_cli.main import main; sys.argv[0] = 'landscape'; main()"
    threads = str(torch.get_num_threads())  # sums are split by threads, and so is their rounding
    process = subprocess.Popen(
        [sys.executable, "-c", command, "train", str(tmp_path / "recipe.toml"), "-o", str(killed)],
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "CUDA_VISIBLE_DEVICES": ""},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (killed / "history.jsonl").exists() and len(read_history(killed)) >= 3:
                break
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = len(read_history(killed))
    assert 3 <= done < 40, "the run was to be killed in the middle"
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"device": "cpu"})})
    train(recipe, killed, resume=True)
    train(recipe, whole)
    assert_same_tensors(load_file(killed / "last.safetensors"), load_file(whole / "last.safetensors"))
    assert [line | {"seconds": 0} for line in read_history(killed)] == [
        line | {"seconds": 0} for line in read_history(whole)
    ]


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    first = train(tiny_recipe(), tmp_path / "run")
    weights = (tmp_path / "run" / "last.safetensors").read_bytes()
    again = train(tiny_recipe(), tmp_path / "run", resume=True)
    assert again.history == first.history
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("section", "key", "old", "new"),
    [("optimizer", "lr", 0.05, 0.1), ("schedule", "epochs", 4, 8), ("data", "imbalance", "'exp:10'", "none"),
     ("loss", "reweight", "'none'", "rw"), ("optimizer", "bn_update", None, "all"),
     ("data", "normalize", "'0.5/0.5'", "none")],
)  # fmt: skip
def test_another_recipe_is_refused_and_named(tmp_path: Path, section: str, key: str, old: Any, new: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), tmp_path / "run", progress=StopAfter(epoch=1))
    before = files_below(tmp_path)
    with pytest.raises(LandscapeError) as caught:
        train(tiny_recipe(**{section: {key: new}}), tmp_path / "run", resume=True)
    assert f"{section}.{key} = {old}, not {new!r}" in str(caught.value)
    assert files_below(tmp_path) == before


def test_what_does_not_change_the_method_may_change_on_resuming(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), tmp_path / "run", progress=StopAfter(epoch=1))
    result = train(tiny_recipe(run={"device": "cpu", "save_every": 1}), tmp_path / "run", resume=True)
    assert len(result.history) == 4
    assert (tmp_path / "run" / "epoch-0002.safetensors").exists()


@pytest.mark.parametrize("below_root", [True, False])
def test_a_run_goes_on_where_its_images_have_moved(tmp_path: Path, below_root: bool) -> None:
    write_image_folder(tmp_path / "old" / "images", {"ant": 8, "bee": 4})

    def recipe(root: str) -> Recipe:
        place = {"source": "folder:images", "root": tmp_path / root}
        if not below_root:
            place = {"source": f"folder:{tmp_path / root / 'images'}"}
        data = {**place, "imbalance": "none", "download": root == "old"}
        return tiny_recipe(data=data, schedule={"epochs": 2, "batch_size": 4})

    whole = train(recipe("old"), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe("old"), tmp_path / "run", progress=StopAfter(epoch=1))
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(LandscapeError, match="no folder"):
        train(recipe("old"), tmp_path / "run", resume=True)
    train(recipe("new"), tmp_path / "run", resume=True)
    assert_same_tensors(load_checkpoint(tmp_path / "run").state, load_checkpoint(whole.folder).state)


def test_nothing_to_resume_and_damaged_state(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"nothing to resume.*without --resume"):
        train(tiny_recipe(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()
    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "run")
    state = tmp_path / "run" / "resume.pt"
    for content in (state.read_bytes()[:300], b"", b"words"):
        state.write_bytes(content)
        with pytest.raises(LandscapeError, match=r"resume\.pt is damaged") as caught:
            train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "run", resume=True)
        assert "\n" not in str(caught.value)


def test_a_state_from_another_kind_of_device_still_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), tmp_path / "run", progress=StopAfter(epoch=2))
    path = tmp_path / "run" / "resume.pt"
    state = torch.load(path, weights_only=True)
    # As a GPU run leaves it: a generator state of 16 bytes.
    torch.save({**state, "device": "cuda", "generator": torch.zeros(16, dtype=torch.uint8)}, path)
    result = train(tiny_recipe(run={"device": "cpu"}), tmp_path / "run", resume=True)
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]


# ---------------------------------------------------------------------- what is computed


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    class Second:
        def start(self, **_: int) -> None:
            with pytest.raises(LandscapeError, match=rf"another run writes .*\(process {os.getpid()}\)"):
                train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "run", overwrite=True)

        def step(self) -> None:
            pass

        def epoch(self, record: EpochRecord) -> None:
            pass

    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "run", progress=Second())
    assert not (tmp_path / "run" / ".lock").exists()
    assert len(read_history(tmp_path / "run")) == 1


def test_one_seed_one_result(tmp_path: Path) -> None:
    runs = [load_file(_run(tmp_path / str(i), seed) / "last.safetensors") for i, seed in enumerate((3, 3, 4))]
    assert_same_tensors(runs[0], runs[1])
    assert not torch.equal(runs[0]["fc1.weight"], runs[2]["fc1.weight"])


def _run(folder: Path, seed: int) -> Path:
    return train(tiny_recipe(run={"seed": seed}, schedule={"epochs": 1}), folder).folder


@pytest.mark.parametrize("reweight", ["none", "rw"])
def test_the_training_loss_is_that_of_the_formula(tmp_path: Path, reweight: str) -> None:
    # One step over all images with a learning rate that moves nothing: the loss of the initial weights.
    recipe = tiny_recipe(
        loss={"reweight": reweight, "beta": 0.99},
        optimizer={"lr": 1e-30},
        schedule={"epochs": 1, "batch_size": 10_000, "name": "constant"},
    )
    result = train(recipe, tmp_path / "run")
    model, data = load_checkpoint(tmp_path / "run").build_model(), recipe.data.open()
    logits = model(recipe.data.normalization(data.train.images))
    weights = effective_number_weights(data.counts, 0.99).float() if reweight == "rw" else None
    expected = F.cross_entropy(logits, data.train.labels, weight=weights).item()
    assert result.last.train_loss == pytest.approx(expected, rel=1e-5)


def test_deferred_weights_and_rates_reach_the_history(tmp_path: Path) -> None:
    recipe = tiny_recipe(loss={"reweight": "drw"}, schedule={"epochs": 10})
    history = train(recipe, tmp_path / "run").history
    assert [record.reweighted for record in history] == [False] * 8 + [True] * 2
    assert [record.lr for record in history] == pytest.approx([0.05] * 8 + [5e-4, 5e-6])
    assert [record.epoch for record in history] == list(range(1, 11))


def test_the_first_epochs_of_a_mixed_start_are_cross_entropy(tmp_path: Path) -> None:
    vs = {"name": "vs", "tau": 2.0}
    train(tiny_recipe(loss={"name": "ce"}, run={"save_every": 1}), tmp_path / "ce")
    train(tiny_recipe(loss={**vs, "ce_epochs": 2}, run={"save_every": 1}), tmp_path / "mixed")
    weights = [
        [load_file(tmp_path / run / f"epoch-000{e}.safetensors")["fc1.weight"] for e in (1, 2, 3)]
        for run in ("ce", "mixed")
    ]
    assert [torch.equal(one, other) for one, other in zip(*weights, strict=True)] == [True, True, False]


def test_the_radii_reach_the_history(tmp_path: Path) -> None:
    for name, settings in SETTINGS.items():
        train(tiny_recipe(optimizer={**settings, "lr": 0.05}, schedule={"epochs": 1}), tmp_path / name)
        (line,) = read_history(tmp_path / name)
        assert set(line["radii"].values()) >= {v for k, v in settings.items() if k.endswith("rho")}
        assert name != "sgd" or not line["radii"]


def test_history_agrees_with_an_evaluation_of_the_checkpoint(tmp_path: Path) -> None:
    recipe = tiny_recipe(model={"name": "convnet"}, schedule={"epochs": 6})
    result = train(recipe, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run")
    data = checkpoint.recipe.data.open()
    evaluation = evaluate(checkpoint.build_model(), data.test, checkpoint.recipe.data.normalization)
    last = result.last
    assert last.per_class == evaluation.per_class
    sizes = torch.bincount(data.test.labels).tolist()
    right = [share * size for share, size in zip(last.per_class, sizes, strict=True)]
    assert 0.1 < last.accuracy < 1
    assert last.accuracy == pytest.approx(sum(right) / sum(sizes))
    # exp:10 falls with the label, so by index head, mid and tail are 0-2, 3-6 and 7-9.
    for name, classes in {"head": range(3), "mid": range(3, 7), "tail": range(7, 10)}.items():
        assert last.groups[name] == pytest.approx(sum(right[c] for c in classes) / sum(sizes[c] for c in classes))
    line = read_history(tmp_path / "run")[-1]
    assert line["groups"] == last.groups
    assert tuple(line["per_class"]) == last.per_class


@pytest.fixture(scope="module")
def all_combinations(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], TrainingResult]:
    folder = tmp_path_factory.mktemp("combinations")
    return {
        (optimizer, loss): train(
            tiny_recipe(
                loss={"name": loss, "reweight": "rw"},
                optimizer=SETTINGS[optimizer],
                schedule={"epochs": 1, "batch_size": 128},
            ),
            folder / optimizer / loss,
        )
        for optimizer, loss in itertools.product(OPTIMIZERS, LOSSES)
    }


def test_every_optimizer_is_tried() -> None:
    assert set(SETTINGS) == set(OPTIMIZERS)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_combination_trains_and_evaluates(
    all_combinations: dict[tuple[str, str], TrainingResult], optimizer: str, loss: str
) -> None:
    result = all_combinations[optimizer, loss]
    checkpoint = load_checkpoint(result.folder)
    data = checkpoint.recipe.data.open()
    evaluation = evaluate(checkpoint.build_model(), data.test, checkpoint.recipe.data.normalization)
    assert evaluation.per_class == result.last.per_class
    torch.manual_seed(0)
    start = model_for(checkpoint.recipe, 10, 1, 8).state_dict()
    assert all(not torch.equal(checkpoint.state[name], start[name]) for name in start)
    assert result.last.train_loss > 0


def test_no_two_combinations_are_the_same(all_combinations: dict[tuple[str, str], TrainingResult]) -> None:
    weights = {key: load_file(result.folder / "last.safetensors") for key, result in all_combinations.items()}
    for first, second in itertools.combinations(weights, 2):
        assert not torch.equal(weights[first]["fc1.weight"], weights[second]["fc1.weight"]), (first, second)


def test_a_folder_of_images_from_end_to_end(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"ant": 20, "bee": 20, "cat": 20})
    recipe = Recipe.parse(
        {
            "data": {"source": f"folder:{root}", "imbalance": "exp:5"},
            "model": {"name": "convnet"},
            "optimizer": {"lr": 0.05},
            "schedule": {"epochs": 15, "batch_size": 8},
        }
    )
    result = train(recipe, tmp_path / "run")
    info = load_checkpoint(tmp_path / "run").info
    assert (info.class_names, info.class_counts, info.in_channels, info.image_size) == (
        ["ant", "bee", "cat"],
        [20, 8, 4],
        3,
        8,
    )
    assert info.recipe["data"]["augment"] == "crop-flip"
    assert result.last.accuracy == 1.0


def test_two_classes_have_no_middle_and_the_history_is_still_json(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"ant": 6, "bee": 3})
    recipe = Recipe.parse({"data": {"source": f"folder:{root}"}, "model": {"name": "mlp"}, "schedule": {"epochs": 1}})
    result = train(recipe, tmp_path / "run")
    assert math.isnan(result.last.groups["mid"])
    text = (tmp_path / "run" / "history.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert line["groups"]["mid"] is None
    assert set(load_checkpoint(tmp_path / "run").info.metrics) == {"accuracy", "head", "tail"}
    assert train(recipe, tmp_path / "run", resume=True).history[0].epoch == 1


# ---------------------------------------------------------------------- what is kept


def test_last_best_and_every_so_many_are_kept(tmp_path: Path) -> None:
    recipe = tiny_recipe(schedule={"epochs": 7}, run={"save_every": 3})
    result = train(recipe, tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "best.safetensors",
        "epoch-0003.safetensors",
        "epoch-0006.safetensors",
        "history.jsonl",
        "last.safetensors",
        "recipe.toml",
        "resume.pt",
    ]
    accuracies = [record.accuracy for record in result.history]
    best = load_checkpoint(tmp_path / "run" / "best.safetensors").info
    assert best.epoch == result.best.epoch == accuracies.index(max(accuracies)) + 1
    assert best.metrics["accuracy"] == max(accuracies)
    last = load_checkpoint(tmp_path / "run").info
    assert (last.epoch, last.metrics["accuracy"]) == (7, accuracies[-1])
    assert load_checkpoint(tmp_path / "run" / "epoch-0003.safetensors").info.epoch == 3
    # The same seed and schedule: epoch 6 of 7 is what a run interrupted after it holds.
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "short", progress=StopAfter(epoch=6))
    assert_same_tensors(
        load_file(tmp_path / "run" / "epoch-0006.safetensors"), load_file(tmp_path / "short" / "last.safetensors")
    )


def test_of_equally_good_epochs_the_first_is_the_best_everywhere(tmp_path: Path) -> None:
    result = train(tiny_recipe(optimizer={"lr": 1e-30}), tmp_path / "run")
    assert len({record.accuracy for record in result.history}) == 1
    assert result.best.epoch == load_checkpoint(tmp_path / "run" / "best.safetensors").info.epoch == 1


def test_the_kept_recipe_repeats_the_run(tmp_path: Path) -> None:
    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "first")
    again = Recipe.parse(Recipe.load(tmp_path / "first" / "recipe.toml"))
    train(again, tmp_path / "second")
    assert_same_tensors(
        load_file(tmp_path / "first" / "last.safetensors"), load_file(tmp_path / "second" / "last.safetensors")
    )


def test_a_second_run_in_the_folder_is_refused_or_replaces_all_of_the_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(tiny_recipe(run={"save_every": 1}), run)
    before = files_below(run)
    with pytest.raises(LandscapeError, match=r"already holds a run.*--resume.*--overwrite"):
        train(tiny_recipe(), run)
    assert files_below(run) == before
    train(tiny_recipe(schedule={"epochs": 2}), run, overwrite=True)
    assert not list(run.glob("epoch-*"))
    assert len(read_history(run)) == 2


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"data": {"source": "cifar10", "imbalance": "none"}}, "--root"),
        ({"model": {"name": "resnet33"}}, "unknown model"),
        ({"optimizer": {"name": "sam"}}, "needs a value for rho"),
        ({"optimizer": {"name": "sgd", "rho": 0.1}}, "optimizer 'sgd' has no setting 'rho'"),
        ({"optimizer": {"name": "sgd", "eta": 5.0}}, "optimizer 'sgd' has no setting 'eta'"),
        ({"optimizer": {"name": "adam"}}, "unknown optimizer 'adam'"),
        ({"data": {"normalize": "cifar"}}, "3 channels"),
        ({"data": {"imbalance": "exp:100000"}}, "with 0 images"),
        ({"run": {"device": "toaster"}}, "unknown device"),
    ],
)
def test_a_run_that_cannot_start_leaves_the_old_one_and_no_new_folder(
    tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "old")
    before = files_below(tmp_path)
    for folder in ("old", "new"):
        with pytest.raises(LandscapeError, match=words):
            train(tiny_recipe(**sections), tmp_path / folder, overwrite=True)
    assert files_below(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_images_that_do_not_fit_the_model_are_refused_in_one_line(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"ant": 4, "bee": 4}, size=(8, 12))
    recipe = Recipe.parse({"data": {"source": f"folder:{root}"}, "model": {"name": "mlp"}})
    with pytest.raises(LandscapeError, match="Mlp cannot take images of 3×8×12") as caught:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(LandscapeError, match="is a file"):
        train(tiny_recipe(), tmp_path / "run")


# ---------------------------------------------------------------------- the size of batches


def _small_folder(tmp_path: Path, model: str, batch_size: int) -> Recipe:
    root = write_image_folder(tmp_path / "images", {"ant": 5, "bee": 5}, test=1)
    schedule = {"epochs": 1, "batch_size": batch_size}
    return Recipe.parse({"data": {"source": f"folder:{root}"}, "model": {"name": model}, "schedule": schedule})


def test_a_net_with_maps_of_one_pixel_trains_on_a_remainder_of_one(tmp_path: Path) -> None:
    recipe = _small_folder(tmp_path, "resnet18", 9)
    steps = StopAfter()
    train(recipe, tmp_path / "run", progress=steps)
    assert steps.steps == 1
    assert int(load_file(tmp_path / "run" / "last.safetensors")["bn1.num_batches_tracked"]) == 1


def test_batches_of_one_are_refused_where_batch_norm_refuses_them(tmp_path: Path) -> None:
    recipe = _small_folder(tmp_path, "resnet18", 1)
    train(_small_folder(tmp_path / "other", "convnet", 9), tmp_path / "old")
    before = files_below(tmp_path / "old")
    for folder in ("old", "new"):
        with pytest.raises(LandscapeError, match=r"ResNet cannot be trained on a batch of one image.*--batch-size 2"):
            train(recipe, tmp_path / folder, overwrite=True)
    assert files_below(tmp_path / "old") == before
    assert not (tmp_path / "new").exists()


def test_the_trial_of_one_image_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    recipe = _small_folder(tmp_path, "convnet", 1)
    train(recipe, tmp_path / "run")
    state = load_file(tmp_path / "run" / "last.safetensors")
    counters = [int(state[name]) for name in state if name.endswith("num_batches_tracked")]
    assert counters
    assert set(counters) == {10}


# ---------------------------------------------------------------------- head and tail of a batch


@pytest.mark.parametrize("optimizer", ["imbsam", "sse-sam"])
def test_the_groups_of_a_batch_are_given_and_not_asked_of_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    found = []

    class Recorded(GroupedObjective):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            in_tail = kwargs["is_tail"][self.labels]
            found.append((kwargs["present"], (not bool(in_tail.all()), bool(in_tail.any()))))

    monkeypatch.setattr(training_loop, "GroupedObjective", Recorded)
    settings = SETTINGS[optimizer] | {"lr": 0.05, "eta": 15.0}
    train(tiny_recipe(optimizer=settings, schedule={"epochs": 2, "batch_size": 5}), tmp_path / "run")
    assert all(given == true for given, true in found)
    assert {true for _, true in found} >= {(True, True), (True, False)}


# ---------------------------------------------------------------------- which images are drawn


def test_deferred_resampling_is_plain_until_the_switch_and_balanced_from_it_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    class Recorded(GroupedObjective):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            drawn.append(self.labels)

    monkeypatch.setattr(training_loop, "GroupedObjective", Recorded)
    kept = {}
    for rule in ("none", "deferred", "balanced"):
        drawn.clear()
        recipe = tiny_recipe(data={"resample": rule}, loss={"defer": 0.5, "beta": 0.9999}, run={"save_every": 1})
        result = train(recipe, tmp_path / rule)
        switched = {"none": 4, "deferred": 2, "balanced": 0}[rule]
        assert [record.resampled for record in result.history] == [epoch >= switched for epoch in range(4)]
        counts = recipe.data.open().counts
        for epoch in range(4):
            labels = torch.cat(drawn[8 * epoch : 8 * (epoch + 1)])
            assert len(labels) == sum(counts)
            seen = torch.bincount(labels, minlength=10)
            if epoch < switched:
                assert tuple(seen.tolist()) == counts
            else:
                # Ten classes alike, 49 images each, give or take five standard deviations.
                assert (seen - sum(counts) / 10).abs().max() < 5 * math.sqrt(0.09 * sum(counts))
        kept[rule] = [load_file(tmp_path / rule / f"epoch-000{epoch}.safetensors") for epoch in (1, 2, 3)]
    assert_same_tensors(kept["deferred"][1], kept["none"][1])
    assert not torch.equal(kept["deferred"][2]["fc1.weight"], kept["none"][2]["fc1.weight"])
    assert not torch.equal(kept["balanced"][0]["fc1.weight"], kept["none"][0]["fc1.weight"])


def test_a_run_begun_before_groups_by_count_were_recorded_resumes(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), tmp_path / "run", progress=StopAfter(epoch=2))
    path = tmp_path / "run" / "resume.pt"
    state = torch.load(path, weights_only=True)
    for entry in state["history"]:
        del entry["groups_by_count"], entry["resampled"]
    torch.save(state, path)
    history = train(tiny_recipe(), tmp_path / "run", resume=True).history
    assert [set(record.groups_by_count) for record in history] == [set()] * 2 + [{"head", "mid", "tail"}] * 2


# ---------------------------------------------------------------------- LDAM on a model of the user's own

HEADS = """
from torch import nn
from landscape.models import build_model

def linear():
    return build_model("mlp", num_classes=10, in_channels=1, image_size=8)

def cosine():
    return build_model("mlp", num_classes=10, in_channels=1, image_size=8, head="cosine")
"""


def test_ldam_is_refused_on_raw_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "heads_of_theirs.py").write_text(HEADS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "heads_of_theirs", raising=False)

    def recipe(name: str, loss: str, **model: str) -> Recipe:
        model = {"name": f"heads_of_theirs:{name}", **model}
        return tiny_recipe(model=model, loss={"name": loss}, schedule={"epochs": 1})

    for wrong in (recipe("linear", "ldam"), recipe("linear", "ce", head="cosine")):
        with pytest.raises(LandscapeError, match="LDAM needs a cosine head"):
            train(wrong, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    train(recipe("linear", "ce"), tmp_path / "plain")
    train(recipe("cosine", "ldam"), tmp_path / "margin")


# ---------------------------------------------------------------------- before the first epoch has ended


def test_a_run_without_an_epoch_leaves_its_recipe_and_resumes_from_the_start(tmp_path: Path) -> None:
    run, recipe = tmp_path / "run", tiny_recipe(schedule={"epochs": 2})
    with pytest.raises(KeyboardInterrupt):
        train(recipe, run, progress=StopAfter(step=2))
    assert [path.name for path in run.iterdir()] == ["recipe.toml"]
    with pytest.raises(LandscapeError, match=r"schedule\.epochs = 2, not 1"):
        train(tiny_recipe(schedule={"epochs": 1}), run, resume=True)
    resumed = train(recipe, run, resume=True)
    whole = train(recipe, tmp_path / "whole")
    assert without_clock(resumed.history) == without_clock(whole.history)


def test_a_run_without_an_epoch_is_none_that_a_new_one_would_replace(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="no epoch was finished"):
        train(tiny_recipe(optimizer={"lr": 1e30}), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["recipe.toml"]
    recipe = tiny_recipe(schedule={"epochs": 1})
    train(recipe, tmp_path / "run")
    assert Recipe.parse(Recipe.load(tmp_path / "run" / "recipe.toml")) == recipe.resolved


def test_a_run_killed_in_its_first_save_resumes(tmp_path: Path) -> None:
    recipe = tiny_recipe(schedule={"epochs": 1})
    train(recipe, tmp_path / "run")
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    (tmp_path / "run" / "resume.pt").unlink()
    with pytest.raises(LandscapeError, match="already holds a run"):
        train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused_before_an_epoch_is_spent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    heard = StopAfter(step=1)
    with pytest.raises(LandscapeError, match=r"cannot write .*it is a file"):
        train(tiny_recipe(), tmp_path / "file" / "run", progress=heard)
    assert heard.steps == 0


def test_the_same_training_gives_the_same_file(tmp_path: Path) -> None:
    recipe = tiny_recipe(schedule={"epochs": 1})
    contents = set()
    for number in range(4):
        train(recipe, tmp_path / str(number))
        contents.add((tmp_path / str(number) / "last.safetensors").read_bytes())
    assert len(contents) == 1


# ---------------------------------------------------------------------- divergence


def _diverging_rate(monkeypatch: pytest.MonkeyPatch, *, epoch: int, rate: float) -> None:
    usual = training_loop.learning_rate
    monkeypatch.setattr(
        training_loop, "learning_rate", lambda schedule, base, e: rate if e == epoch else usual(schedule, base, e)
    )


def test_a_loss_that_is_no_longer_finite_stops_the_run_and_keeps_the_last_good_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny_recipe(schedule={"epochs": 2, "name": "constant"}), tmp_path / "good")
    _diverging_rate(monkeypatch, epoch=2, rate=1e30)
    with pytest.raises(LandscapeError, match=r"loss is no longer finite: epoch 3, step 2.*\(epoch 2\)") as caught:
        train(tiny_recipe(schedule={"epochs": 4, "name": "constant"}), tmp_path / "run")
    for words in ("learning rate 1e+30", f"the last good checkpoint is {tmp_path / 'run' / 'last.safetensors'}"):
        assert words in str(caught.value)
    assert load_checkpoint(tmp_path / "run").info.epoch == 2
    assert_same_tensors(
        load_file(tmp_path / "run" / "last.safetensors"), load_file(tmp_path / "good" / "last.safetensors")
    )
    assert len(read_history(tmp_path / "run")) == 2


@pytest.mark.parametrize("bad", [0, 24, 25, 49, 50, 98])
def test_the_step_is_the_right_one_and_few_are_wasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    # 99 steps an epoch, looked at every 25; step `bad` (0-based) of the second epoch has no finite loss.
    monkeypatch.setattr(training_loop, "LOOK_EVERY", 25)
    usual, made = Sgd.step, []

    def step(optimizer: Sgd, objective: GroupedObjective) -> torch.Tensor:
        made.append(usual(optimizer, objective))
        return made[-1] if len(made) <= 99 + bad else made[-1] * math.inf

    monkeypatch.setattr(Sgd, "step", step)
    with pytest.raises(
        LandscapeError, match=rf"loss is no longer finite: epoch 2, step {bad + 1}, learning rate 0\.05;"
    ):
        train(tiny_recipe(schedule={"epochs": 3, "batch_size": 5, "name": "constant"}), tmp_path / "run")
    assert len(made) - 99 == min((bad // 25 + 1) * 25, 99)
    assert load_checkpoint(tmp_path / "run").info.epoch == 1


def test_weights_that_overflow_in_the_last_step_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One step an epoch: its loss is still finite, and only the weights after it are not.
    _diverging_rate(monkeypatch, epoch=1, rate=3e38)
    recipe = tiny_recipe(
        optimizer={"weight_decay": 100.0}, schedule={"epochs": 3, "batch_size": 10_000, "name": "constant"}
    )
    with pytest.raises(LandscapeError, match="weights are no longer finite: epoch 2, step 1"):
        train(recipe, tmp_path / "run")
    kept = load_checkpoint(tmp_path / "run")
    assert kept.info.epoch == 1
    assert all(tensor.isfinite().all() for tensor in kept.state.values())


def test_a_run_that_diverges_at_once_says_that_nothing_was_kept(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="no epoch was finished"):
        train(tiny_recipe(optimizer={"lr": 1e30}), tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()
    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "run")


def test_no_history(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="no history"):
        read_history(tmp_path)


# ---------------------------------------------------------------------- on a GPU


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_step_on_a_gpu_is_the_step_on_the_cpu(tmp_path: Path, optimizer: str) -> None:
    # One batch of everything: the order in which images are drawn differs between devices.
    sections = {
        "model": {"name": "convnet"},
        "optimizer": SETTINGS[optimizer],
        "schedule": {"epochs": 1, "batch_size": 10_000},
    }
    for device in ("cpu", "cuda"):
        train(tiny_recipe(**sections, run={"device": device}), tmp_path / device)
    cpu, cuda = (load_file(tmp_path / device / "last.safetensors") for device in ("cpu", "cuda"))
    for name in cpu:
        torch.testing.assert_close(cuda[name], cpu[name], rtol=2e-3, atol=2e-4)
    resumed = train(tiny_recipe(**sections, run={"device": "cpu"}), tmp_path / "cuda", resume=True)
    assert len(resumed.history) == 1
