"""The grid: resuming, the file it leaves, and what may be claimed of it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score
from support.anomalies import write_table

from landscape.anomaly.checkpoint import is_detector, read_detector
from landscape.anomaly.grid import Grid, run_grid
from landscape.anomaly.protocol import draw, read_table
from landscape.anomaly.results import GridResults, RunResult, Sample, describe, signed_rank_p
from landscape.anomaly.training import DetectorRecipe, judge
from landscape.errors import LandscapeError


class Listener:
    """What was trained; stops after some runs."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.trained: list[str] = []
        self.there = 0
        self.stop_after = stop_after

    def cost(self, missing: int, there: int, seconds: float) -> None:
        self.there = there

    def run(self, table: str, recipe: DetectorRecipe) -> None:
        if self.stop_after is not None and len(self.trained) == self.stop_after:
            raise KeyboardInterrupt

    def done(self, result: RunResult) -> None:
        self.trained.append(result.checkpoint)


def tiny(tmp_path: Path, **changes: object) -> Grid:
    """Two tables, a method, two optimisers, two seeds."""
    paths = tuple(write_table(tmp_path / f"{name}.npz", seed=seed) for seed, name in enumerate(("one", "two")))
    values = {"methods": ("devnet",), "labelled": 0.3, "epochs": 1, **changes}
    return Grid(paths, optimizers=("sgd", "imbsam"), seeds=(0, 1), **values)  # type: ignore[arg-type]


def test_an_interrupted_grid_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    grid = tiny(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_grid(grid, tmp_path / "cut", progress=Listener(stop_after=5))
    heard = Listener()
    resumed = run_grid(grid, tmp_path / "cut", progress=heard)
    assert (heard.there, len(heard.trained)) == (5, 3)
    whole = run_grid(grid, tmp_path / "whole")
    assert resumed.runs == whole.runs
    assert len(whole.runs) == 8
    one, other = (sorted((tmp_path / name).rglob("*.safetensors")) for name in ("cut", "whole"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
    again = Listener()
    assert run_grid(grid, tmp_path / "cut", progress=again).runs == whole.runs
    assert not again.trained
    assert GridResults.load(tmp_path / "whole").runs == whole.runs


def test_runs_of_another_recipe_are_not_mixed(tmp_path: Path) -> None:
    grid = tiny(tmp_path)
    run_grid(grid, tmp_path / "out")
    with pytest.raises(LandscapeError, match=r"rho = 0\.05, not 0\.5: give another -o, or --overwrite"):
        run_grid(dataclasses.replace(grid, rho=0.5), tmp_path / "out")
    write_table(tmp_path / "one.npz", seed=9)
    with pytest.raises(LandscapeError, match="trained on other values"):
        run_grid(grid, tmp_path / "out")
    with pytest.raises(LandscapeError, match="is not what"):
        read_detector(tmp_path / "out" / "one" / "devnet-sgd" / "seed-0.safetensors").open_data()
    heard = Listener()
    run_grid(grid, tmp_path / "out", overwrite=True, progress=heard)
    assert len(heard.trained) == 8


def test_a_checkpoint_gives_the_numbers_of_the_table(tmp_path: Path) -> None:
    """Weights, draw and recipe of the file alone give its AUCs and losses again."""
    grid = dataclasses.replace(tiny(tmp_path, methods=("prenet", "deepsad")), seeds=(3,))
    results = run_grid(grid, tmp_path / "out")
    for run in results.runs[:4]:
        path = tmp_path / "out" / run.checkpoint
        assert is_detector(path)
        file = read_detector(path)
        again = judge(file.build(), file.open_data(), file.recipe)
        assert (again.auc_roc, again.auc_pr) == (run.auc_roc, run.auc_pr)
        assert (again.head_loss, again.tail_loss) == (run.head_loss, run.tail_loss)
        assert (file.recipe.rho is None) == (run.optimizer == "sgd")


def test_optimisers_share_the_draw(tmp_path: Path) -> None:
    """Paired: of one seed the same test split, so the same prevalence; another table has another."""
    results = run_grid(tiny(tmp_path), tmp_path / "out")
    table = read_table(tmp_path / "one.npz")
    for seed in (0, 1):
        of_seed = {run.prevalence for run in results.runs if (run.data, run.seed) == ("one", seed)}
        assert of_seed == {draw(table, labelled=0.3, seed=seed).prevalence}


def test_random_scores_reach_the_prevalence(tmp_path: Path) -> None:
    """AUC-PR of random scores is the share of anomalies in the test split, within 4 s.e. over 200 draws."""
    data = draw(read_table(write_table(tmp_path / "a.npz", rows=3000, anomalies=240)), labelled=0.1, seed=0)
    random = np.random.default_rng(0)
    truth = data.test_labels.numpy()
    found = [average_precision_score(truth, random.normal(size=len(truth))) for _ in range(200)]
    assert data.prevalence == pytest.approx(0.08)
    # Average precision over finitely many rows exceeds the prevalence by O(log n / n).
    assert np.mean(found) == pytest.approx(data.prevalence, abs=4 * np.std(found) / 200**0.5 + np.log(900) / 900)


def made(differences: dict[str, list[float]]) -> GridResults:
    """Runs in which ImbSAM is better than SGD by these AUC-PR, seed by seed."""
    runs = [
        RunResult(data, "devnet", optimizer, seed, 0.9, 0.5 + (value if optimizer == "imbsam" else 0.0), 0.1, 1, 1, "x")
        for data, values in differences.items()
        for seed, value in enumerate(values)
        for optimizer in ("sgd", "imbsam")
    ]
    return GridResults(tuple(runs), {}, "")


def test_a_gain_below_two_standard_errors_is_not_claimed() -> None:
    """Differences 1, 2, 3 have mean 2 and s.e. 1/√3 = 0.577; −1, 2, 5 have s.e. √3."""
    assert Sample((1.0, 2.0, 3.0)).standard_error == pytest.approx(3**-0.5)
    assert Sample((1.0, 2.0, 3.0)).claim == "higher"
    assert Sample((-1.0, -2.0, -3.0)).claim == "lower"
    assert Sample((-1.0, 2.0, 5.0)).claim == ""
    assert Sample((2.0, 2.1)).claim == ""  # two seeds claim nothing
    assert Sample((0.0, 0.0, 0.0)).claim == ""


def test_the_test_over_data_sets_is_wilcoxons() -> None:
    """Ranks 1 … 5 of five gains, one of them negative with rank 1: W = 1, P(W ≤ 1) = 2/32, two-sided 4/32."""
    assert signed_rank_p([-0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx(4 / 32)
    assert signed_rank_p([0.01 * k for k in range(1, 10)]) == pytest.approx(2 / 2**9)
    assert signed_rank_p([0.0, 0.01, 0.02, 0.03]) == pytest.approx(2 / 2**3)  # a zero is left out
    assert np.isnan(signed_rank_p([0.0, 0.01]))
    gains = {f"set{k}": [0.01 * (k - 2) + 0.001 * seed for seed in range(3)] for k in range(7)}
    contrast = made(gains).contrast("devnet", "imbsam", "auc_pr")
    assert contrast is not None
    means = [float(np.mean(values)) for values in gains.values()]
    assert contrast.p_value == pytest.approx(stats.wilcoxon(means, method="exact").pvalue)
    assert contrast.mean == pytest.approx(np.mean(means))
    assert contrast.standard_error == pytest.approx(stats.sem(means))
    assert made(gains).contrast("devnet", "sam", "auc_pr") is None


def test_the_file_holds_table_and_tests(tmp_path: Path) -> None:
    results = made({"one": [0.01, 0.02, 0.03], "two": [-0.01, 0.02, 0.05]})
    results.save(tmp_path / "results.json")
    content = json.loads((tmp_path / "results.json").read_text())
    cell = next(c for c in content["cells"] if (c["data"], c["optimizer"], c["metric"]) == ("one", "imbsam", "auc_pr"))
    assert (cell["mean"], cell["sd"], cell["seeds"]) == (pytest.approx(0.52), pytest.approx(0.01), 3)
    contrast = next(c for c in content["contrasts"] if c["metric"] == "auc_pr")
    assert {name: row["claim"] for name, row in contrast["by_data"].items()} == {"one": "higher", "two": ""}
    assert dict(describe(tmp_path / "results.json"))["runs"] == "12"


def test_files_that_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(LandscapeError, match="no results at"):
        GridResults.load(path)
    path.write_text("{")
    with pytest.raises(LandscapeError, match="is not JSON"):
        GridResults.load(path)
    path.write_text('{"schema": "other"}')
    with pytest.raises(LandscapeError, match="has schema 'other', not 'landscape-anomaly'"):
        GridResults.load(path)
    path.write_text('{"schema": "landscape-anomaly", "schema_version": 9}')
    with pytest.raises(LandscapeError, match="upgrade"):
        GridResults.load(path)


def test_a_bad_optimizer(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="anomaly detection knows sgd, sam, imbsam"):
        run_grid(dataclasses.replace(tiny(tmp_path), optimizers=("adam",)), tmp_path / "out")
