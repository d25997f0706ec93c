"""`landscape features` and `landscape calibrate` on digits: files, tables, figures and refusals."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from landscape_cli.calibrate import _table
from rich.console import Console
from support.command import Call
from support.runs import files_below, tiny_recipe

from landscape.data.longtailed import class_groups
from landscape.plotting.features import nearest_class_matrix
from landscape.store.calibration_file import CalibrationFile
from landscape.store.features_file import FeaturesFile
from landscape.training import load_checkpoint, train
from landscape.training.evaluation import Evaluation
from landscape.twostage import SeedOutcome


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, imbalance 10, on an MLP whose features end in a ReLU."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny_recipe(), folder)
    return folder


@pytest.fixture
def features(run: Path, call: Call, tmp_path: Path) -> Path:
    path = tmp_path / "features.h5"
    outcome = call("features", run, "-o", path)
    assert outcome.code == 0, outcome.err
    assert "64 features, the input of 'head' (linear head)" in outcome.out
    assert f"landscape calibrate {path} --method tailcalibx" in outcome.out
    return path


def test_the_features_file_describes_itself(features: Path, run: Path, call: Call) -> None:
    file = FeaturesFile.open(features)
    checkpoint = load_checkpoint(run)
    assert file.meta["checkpoint_sha256"] == checkpoint.sha256
    assert file.class_counts == tuple(checkpoint.info.class_counts)
    assert file.splits == ("train", "test")
    train_split = file.read("train")
    assert train_split.features.shape == (sum(file.class_counts), 64)
    assert np.bincount(train_split.labels).tolist() == list(file.class_counts)
    np.testing.assert_array_equal(file.head["weight"], checkpoint.state["head.weight"].numpy())
    told = call("info", features).out
    for word in ("landscape-features 1", "head", "train", "64 features", str(checkpoint.sha256)[:20]):
        assert word in told


def test_calibrate_end_to_end(features: Path, run: Path, call: Call, tmp_path: Path) -> None:
    path, figure = tmp_path / "out.h5", tmp_path / "tsne.png"
    outcome = call("calibrate", features, "--epochs", 3, "-o", path)
    assert outcome.code == 0, outcome.err
    assert "published constants for 10 are the nearest" in outcome.out
    for word in ("head (3)", "before: the checkpoint", "tailcalibx, 3 seeds", "±", "kept in", "--kind tsne"):
        assert word in outcome.out
    file = CalibrationFile.open(path)
    assert file.meta["method"] == "tailcalibx"
    assert (file.meta["power"], file.meta["neighbors"]) == (0.9, 2)
    before = file.accuracy["before"].sum() / file.accuracy["total"].sum()
    assert before == pytest.approx(load_checkpoint(run).info.metrics["accuracy"])
    made, real = file.points["generated"], file.points["real"]
    np.testing.assert_allclose(np.linalg.norm(made["features"], axis=1), 1, atol=1e-5)
    stored = FeaturesFile.open(features).read("train")
    np.testing.assert_array_equal(stored.labels[made["seeds"]], made["labels"])
    np.testing.assert_array_equal(stored.labels[real["index"]], real["labels"])
    counts = np.array(file.meta["class_counts"])
    np.testing.assert_array_equal(np.bincount(made["labels"], minlength=10), counts.max() - counts)
    assert made["neighbors"].shape == (len(made["labels"]), 2)
    with h5py.File(path) as raw:
        assert raw["classifier/weight"].shape == (3, 10, 64)
    assert "landscape-calibration 1" in call("info", path).out

    drawn = call("plot", path, "--kind", "tsne", "-o", figure)
    assert drawn.code == 0, drawn.err
    assert figure.read_bytes().startswith(b"\x89PNG")
    with h5py.File(f"{figure}.h5") as arrays:
        points = arrays["arrays/points"][...]
        assert set(arrays["arrays/labels"][...]) == set(range(10))
    embedding = CalibrationFile.open(path).embedding(0)
    assert embedding is not None
    np.testing.assert_array_equal(embedding["points"], points)  # kept, so that it is not computed again
    before_bytes = path.read_bytes()
    assert call("plot", path, "--kind", "tsne", "-o", tmp_path / "again.png").code == 0
    assert path.read_bytes() == before_bytes
    assert (tmp_path / "again.png").read_bytes() == figure.read_bytes()


def test_the_schema_page_names_everything_in_both_files(features: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    assert call("calibrate", features, "--epochs", 1, "--seeds", 0, "-o", path).code == 0
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    for file, schema in ((features, "landscape-features"), (path, "landscape-calibration")):
        section = page[page.index(f"`{schema}`\n") :].split("\n## ")[0]
        with h5py.File(file) as held:
            names: list[str] = [*held, *held["meta"].attrs, *held.get("head", held).attrs]
            held.visit(lambda name, found=names: found.append(name.split("/")[-1]))
        names.remove("schema") if "schema" in names else None
        unknown = {name for name in names if not re.search(rf"[`/]{name}[`/]", section)} - {"schema_version"}
        assert unknown == set()


def test_the_matrix_of_nearest_classes_is_that_of_the_points(features: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    assert call("calibrate", features, "--epochs", 1, "--seeds", 4, "-o", path).code == 0
    assert call("plot", path, "--kind", "nearest-class", "-o", tmp_path / "near.pdf").code == 0
    file = CalibrationFile.open(path)
    drawing = nearest_class_matrix(file)
    order = drawing.arrays["classes"]
    assert list(drawing.arrays["class_counts"]) == sorted(file.meta["class_counts"], reverse=True)
    matrix, made = drawing.arrays["generated"], file.points["generated"]
    assert np.isnan(matrix[0]).all()  # nothing is made for the largest class
    np.testing.assert_allclose(matrix[1:].sum(1), 1)
    for row, column in ((9, 0), (9, 9), (5, 5)):
        mine = made["nearest_sample"][made["labels"] == order[row]]
        assert matrix[row, column] == pytest.approx((mine == order[column]).mean())
    own = {kind: np.nanmean(np.diag(drawing.arrays[kind])) for kind in ("generated", "real")}
    assert own["real"] > 0.5  # digits are easy, so a wrong matrix would show


@pytest.mark.parametrize("method", ["tailcalib", "modals", "crt", "lws", "tau-norm", "ncm"])
def test_every_method_runs_and_keeps_what_it_found(method: str, features: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    trained = ["--epochs", 6, "--batch-size", 16] if method not in ("tau-norm", "ncm") else []
    outcome = call("calibrate", features, "--method", method, *trained, "--seeds", "0,1", "--json", "-o", path)
    assert outcome.code == 0, outcome.err
    told: dict[str, Any] = json.loads(outcome.out)
    assert told["method"] == method
    after = told["after"]["index 3/4/3"]
    seeds = 1 if method == "ncm" else 2
    assert len(after["all"]["values"]) == seeds
    file = CalibrationFile.open(path)
    shares = file.accuracy["correct"].sum(1) / file.accuracy["total"].sum()
    np.testing.assert_allclose(shares, after["all"]["values"])
    assert after["all"]["mean"] > 0.5
    assert ("generated" in file.points) == (method in ("tailcalib", "modals"))
    if method == "tau-norm":
        assert file.accuracy["tau"].shape == (2,)
        refused = call("plot", path, "--kind", "tsne", "-o", tmp_path / "x.png")
        assert refused.code == 1
        assert "'tau-norm' makes none" in refused.err


def test_ctrl_c_keeps_the_seeds_that_are_finished(
    features: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landscape.twostage import SecondStage

    plain = SecondStage.run

    def run(self: SecondStage, seed: int, *rest: Any) -> Any:
        if seed == 2:
            raise KeyboardInterrupt
        return plain(self, seed, *rest)

    monkeypatch.setattr(SecondStage, "run", run)
    stopped = call("calibrate", features, "--epochs", 1, "-o", tmp_path / "out.h5")
    assert stopped.code == 1
    assert "2 of 3 seeds finished and kept in" in stopped.err
    assert "tailcalibx, 2 seeds" in stopped.out
    told = call("calibrate", features, "--epochs", 1, "--json", "-o", tmp_path / "json.h5")
    assert (told.code, json.loads(told.out)["seeds"]) == (1, [0, 1])
    assert CalibrationFile.open(tmp_path / "out.h5").accuracy["seeds"].tolist() == [0, 1]
    monkeypatch.setattr(SecondStage, "run", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert call("calibrate", features, "--epochs", 1, "-o", tmp_path / "none.h5").code == 1
    assert not (tmp_path / "none.h5").exists()


@pytest.mark.parametrize("width", [40, 60, 100])
def test_a_narrow_terminal_cuts_no_number_short(width: int) -> None:
    outcomes = [
        SeedOutcome(seed, Evaluation((60 + 13 * seed, 20, 7), (100, 100, 100)), {}, None, None) for seed in (0, 1, 2)
    ]
    groups = class_groups((500, 50, 5))[0]
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(_table(Evaluation((90, 30, 1), (100, 100, 100)), outcomes, groups, "tailcalibx"))
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    for number in ("40.3%", "90.0%", "30.0%", "1.0%", "33.3", "4.3%", "73.0", "13.0%", "20.0", "0.0%", "7.0"):
        assert re.search(rf"(?<![\d.]){re.escape(number)}", printed), (number, printed)


def test_a_split_alone_is_not_enough_to_calibrate(run: Path, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "test.h5"
    written = call("features", run, "--split", "test", "-o", path)
    assert written.code == 0
    assert f"next: landscape info {path}" in written.out
    refused = call("calibrate", path, "-o", tmp_path / "out.h5")
    assert refused.code == 1
    assert "no train split" in refused.err


CASES: dict[str, tuple[list[str], int, list[str]]] = {
    "another schema": (["calibrate", "other.h5", "-o", "new.h5"], 1, ["landscape-spectra", "landscape features"]),
    "a missing file": (["calibrate", "gone.h5", "-o", "new.h5"], 1, ["gone.h5", "landscape features"]),
    "no HDF5": (["calibrate", "words.h5", "-o", "new.h5"], 1, ["words.h5", "not an HDF5 file"]),
    "a newer version": (["calibrate", "newer.h5", "-o", "new.h5"], 1, ["version 99", "upgrade"]),
    "too many neighbours": (["calibrate", "features.h5", "--neighbors", "11", "-o", "new.h5"], 1, ["only 10 classes"]),
    "a setting of another method": (
        ["calibrate", "features.h5", "--method", "ncm", "--lr", "1", "-o", "new.h5"],
        1,
        ["'ncm' has no --lr"],
    ),
    "a table for a method without": (
        ["calibrate", "features.h5", "--method", "ncm", "--imbalance-table", "50", "-o", "new.h5"],
        1,
        ["'ncm' has no --imbalance-table"],
    ),
    "a seed of many digits": (
        ["calibrate", "features.h5", "--seeds", "0,9" + 19 * "9", "-o", "new.h5"],
        2,
        ["64 bits"],
    ),
    "augmentation where there is none": (["features", "RUN", "--augment", "-o", "new.h5"], 1, ["digits", "--augment"]),
    "augmentation of the test split": (
        ["features", "RUN", "--augment", "--split", "test", "-o", "new.h5"],
        2,
        ["--split test"],
    ),
    "names of one file's points": (
        ["plot", "second.h5", "--kind", "nearest-class", "--names", "A", "-o", "x.png"],
        1,
        ["--names"],
    ),
    "seeds that are none": (["calibrate", "features.h5", "--seeds", "a", "-o", "new.h5"], 2, ["0,1,2"]),
    "a foreign file as output": (
        ["calibrate", "features.h5", "--overwrite", "-o", "other.h5"],
        1,
        ["other.h5", "not replaced"],
    ),
    "the features as output": (
        ["calibrate", "features.h5", "--overwrite", "-o", "features.h5"],
        1,
        ["features.h5", "not replaced"],
    ),
    "features that are there": (["features", "RUN", "-o", "features.h5"], 1, ["--overwrite"]),
    "another suffix": (["features", "RUN", "-o", "features.npz"], 1, [".h5"]),
    "an unknown layer": (["features", "RUN", "--layer", "hed", "-o", "new.h5"], 1, ["'hed'", "'head'"]),
    "a plot of features": (["plot", "features.h5", "--kind", "tsne", "-o", "x.png"], 1, ["landscape calibrate"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_said_in_a_line_and_nothing_is_written(
    case: str, run: Path, features: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.h5").write_text("words")
    for name, schema, version in (("other", "landscape-spectra", 3), ("newer", "landscape-features", 99)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.attrs["schema"], file.attrs["schema_version"] = schema, version
    before = files_below(tmp_path)
    words, code, expected = CASES[case]
    outcome = call(*(str(run) if word == "RUN" else word for word in words))
    assert outcome.code == code
    assert [word for word in expected if word not in outcome.err] == [], outcome.err
    assert files_below(tmp_path) == before


def test_a_foreign_checkpoint_gives_features(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from landscape.models import build_model

    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text(
        "from landscape.models import build_model\n"
        "def net():\n    return build_model('mlp', num_classes=10, in_channels=1, image_size=8)\n"
    )
    torch.save({"state_dict": build_model("mlp", num_classes=10, in_channels=1, image_size=8).state_dict()}, "n.pt")
    outcome = call("features", "n.pt", "--model", "theirs:net", "--data", "digits", "--normalize", "none", "-o", "f.h5")
    assert outcome.code == 0, outcome.err
    file = FeaturesFile.open("f.h5")
    assert (file.meta["epoch"], file.meta["recipe"], file.head["kind"]) == (-1, "", "linear")
