"""Several seeds: every run its own folder, and mean, s.d. and s.e. of the last epochs by the formula."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from support.command import Call
from support.runs import StopAfter, assert_same_tensors, files_below, tiny_recipe, write_image_folder

from landscape.errors import LandscapeError
from landscape.spread import Spread
from landscape.training import load_checkpoint, read_history, train
from landscape.training.loop import EpochRecord, Silent
from landscape.training.seeds import SeedSummary, train_seeds

RECIPE = tiny_recipe(schedule={"epochs": 2})
TRAIN = ("train", "--data", "digits", "--imbalance", "exp:10", "--model", "mlp", "--lr", 0.05, "--batch-size", 64)


def quietly(seed: int) -> nullcontext[Silent]:
    return nullcontext(Silent())


def record(accuracy: float, by_count: dict[str, float] | None = None, **groups: float) -> EpochRecord:
    return EpochRecord(7, 0.1, False, 1.0, accuracy, groups, (accuracy,), 1.0, groups_by_count=by_count or {})


def test_mean_deviation_and_error_are_those_of_the_formula() -> None:
    values = (0.712, 0.731, 0.705, 0.719)
    spread = Spread(values)
    assert spread.mean == pytest.approx(np.mean(values), rel=1e-14)
    assert spread.standard_deviation == pytest.approx(np.std(values, ddof=1), rel=1e-12)
    assert spread.standard_error == pytest.approx(np.std(values, ddof=1) / 2, rel=1e-12)
    assert Spread((0.5, 0.5, 0.5)).standard_error == 0
    assert Spread((0.5,)).mean == 0.5
    assert math.isnan(Spread((0.5,)).standard_error)


def test_a_summary_comes_back_and_leaves_empty_groups_out(tmp_path: Path) -> None:
    first = record(0.5, {"head": math.nan, "mid": 0.8, "tail": 0.2}, head=0.9, mid=math.nan, tail=0.1)
    second = record(0.7, {"head": math.nan, "mid": 0.6, "tail": 0.3}, head=1.0, mid=math.nan, tail=0.2)
    summary = SeedSummary.of({3: first, 1: second})
    assert summary.accuracy == {"all": Spread((0.5, 0.7)), "head": Spread((0.9, 1.0)), "tail": Spread((0.1, 0.2))}
    assert summary.accuracy_by_count == {"mid": Spread((0.8, 0.6)), "tail": Spread((0.2, 0.3))}
    # A run begun by a version that did not record them has no groups by count.
    assert SeedSummary.of({3: first, 1: record(0.7, head=1.0, mid=math.nan, tail=0.2)}).accuracy_by_count == {}
    summary.save(tmp_path / "seeds.json")
    assert SeedSummary.load(tmp_path / "seeds.json") == summary
    content = json.loads((tmp_path / "seeds.json").read_text())
    assert content["seeds"] == [3, 1]
    assert content["accuracy"]["all"]["mean"] == pytest.approx(0.6)
    assert content["accuracy"]["all"]["sd"] == pytest.approx(0.2 / math.sqrt(2))
    assert content["accuracy"]["all"]["se"] == pytest.approx(0.1)
    with pytest.raises(LandscapeError, match=r"no summary of seeds.*--seeds 0,1,2"):
        SeedSummary.load(tmp_path / "none.json")


def test_every_seed_is_the_run_of_that_seed(tmp_path: Path) -> None:
    summary = train_seeds(RECIPE, tmp_path / "all", [0, 2], progress=quietly)
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["seed-0", "seed-2", "seeds.json"]
    for number, seed in enumerate((0, 2)):
        alone = train(tiny_recipe(schedule={"epochs": 2}, run={"seed": seed}), tmp_path / str(seed))
        assert_same_tensors(
            load_checkpoint(tmp_path / "all" / f"seed-{seed}").state, load_checkpoint(alone.folder).state
        )
        for name, share in {"all": alone.last.accuracy, **alone.last.groups}.items():
            assert summary.accuracy[name].values[number] == share
    assert SeedSummary.load(tmp_path / "all" / "seeds.json") == summary


def test_stopped_in_the_second_seed_it_goes_on_there(tmp_path: Path) -> None:
    whole = train_seeds(RECIPE, tmp_path / "whole", [0, 1, 2], progress=quietly)
    heard = {0: Silent(), 1: StopAfter(epoch=1), 2: Silent()}
    with pytest.raises(KeyboardInterrupt):
        train_seeds(RECIPE, tmp_path / "run", [0, 1, 2], progress=lambda seed: nullcontext(heard[seed]))
    done = (tmp_path / "run" / "seed-0" / "resume.pt").stat().st_mtime_ns
    steps = StopAfter()
    resumed = train_seeds(RECIPE, tmp_path / "run", [0, 1, 2], resume=True, progress=lambda seed: nullcontext(steps))
    assert resumed == whole
    assert steps.steps == 8 + 2 * 8
    assert (tmp_path / "run" / "seed-0" / "resume.pt").stat().st_mtime_ns == done


def test_a_folder_in_use_is_refused_before_any_seed_is_trained(tmp_path: Path) -> None:
    train(RECIPE, tmp_path / "run" / "seed-2")
    before = files_below(tmp_path)
    with pytest.raises(LandscapeError, match=r"seed-2 already holds a run"):
        train_seeds(RECIPE, tmp_path / "run", [0, 1, 2], progress=quietly)
    assert files_below(tmp_path) == before


def test_nothing_to_resume_trains_nothing(call: Call, tmp_path: Path) -> None:
    outcome = call("train", "--seeds", "0,1", "--resume", "-o", tmp_path / "typo")
    assert outcome.code == 1
    assert "no run of these seeds" in outcome.err
    assert not (tmp_path / "typo").exists()


def test_the_command_prints_what_it_keeps(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = call(*TRAIN, "--epochs", 2, "--seeds", "0,1,5", "-o", run)
    assert outcome.code == 0, outcome.err
    summary = SeedSummary.load(run / "seeds.json")
    assert summary.seeds == (0, 1, 5)
    assert "last epoch 2, 3 seeds" in outcome.out
    for name in ("all", "head", "mid", "tail"):
        row = summary.accuracy[name]
        line = next(line for line in outcome.out.splitlines() if line.split()[:1] == [name])
        assert f"{100 * row.mean:.2f} ± {100 * row.standard_deviation:.2f}" in line
        assert line.split()[-2:] == [f"{100 * row.standard_error:.2f}", f"{200 * row.standard_error:.2f}"]
    for name, row in summary.accuracy_by_count.items():
        line = next(line for line in outcome.out.splitlines() if line.startswith(f"{name} by count"))
        assert f"{100 * row.mean:.2f} ± {100 * row.standard_deviation:.2f}" in line
    assert summary.accuracy_by_count
    assert "2 s.e. is nothing to claim" in outcome.out
    # --resume alone takes the recipe of the folders, and adds a seed.
    more = call("train", "--seeds", "0,1,5,6", "--resume", "-o", run)
    assert more.code == 0, more.err
    assert "already done" in more.out
    assert len(read_history(run / "seed-6")) == 2
    assert SeedSummary.load(run / "seeds.json").seeds == (0, 1, 5, 6)


def test_one_seed_has_no_spread_and_two_classes_no_middle(call: Call, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 6, "bee": 3})
    words = ("train", "--data", f"folder:{images}", "--model", "mlp", "--epochs", 1, "--seeds", 4)
    outcome = call(*words, "-o", tmp_path / "r")
    assert outcome.code == 0, outcome.err
    assert "nan" not in outcome.out.lower()
    assert "mid" not in outcome.out.split("1 seed")[1]
    assert json.loads((tmp_path / "r" / "seeds.json").read_text())["accuracy"]["all"]["sd"] is None


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--seeds", "0,,1"), "0,1,2"), (("--seeds", "a"), "0,1,2"), (("--seeds", "1,1"), "twice"),
     (("--seeds", "0,1", "--seed", 3), "leave --seed out"), (("--seeds", "0,1", "--set", "run.seed=3"), "leave --seed"),
     (("--resume", "--overwrite"), "one of them")],
)  # fmt: skip
def test_a_wrong_call_exits_with_2(call: Call, tmp_path: Path, words: tuple[object, ...], said: str) -> None:
    outcome = call(*TRAIN, *words, "-o", tmp_path / "r")
    assert outcome.code == 2
    assert said in outcome.err
    assert not (tmp_path / "r").exists()


def test_the_folder_of_several_seeds_is_not_taken_for_a_run(call: Call, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_seeds(RECIPE, run, [10, 2], progress=quietly)
    resumed = call("train", "--resume", "-o", run)
    assert resumed.code == 1
    assert "add --seeds 2,10" in resumed.err
    judged = call("evaluate", run)
    assert judged.code == 1
    assert f"such as {run / 'seed-10'}" in judged.err.replace("\n", "")
    assert call("train", "--resume", "--seeds", "2,10", "-o", run).code == 0
