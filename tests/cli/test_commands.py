"""The commands on tiny data: what they write, what they print, and that they can be stopped."""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rich_click as click
import torch
from landscape_cli.main import cli
from landscape_cli.plot_kinds import matches
from support.certified import with_certificates, with_layer_traces
from support.command import Call
from support.runs import StopAfter, files_below, tiny_recipe, write_image_folder
from support.spectra import part_spectrum

from landscape.curvature.results import Descent, Interval
from landscape.models import build_model
from landscape.store import SpectrumFile
from landscape.training import evaluate, evaluate_with_flips, load_checkpoint, read_history, train

MEASURE = ("--pairs", 1, "--tol", 0.05, "--max-matvecs", 12, "--probes", 2, "--max-probes", 2, "--steps", 6)
TRAIN = ("--data", "digits", "--imbalance", "exp:10", "--model", "mlp", "--lr", 0.05, "--batch-size", 64)
COMMANDS = [
    "demo", "train", "evaluate", "spectrum", "saddle", "surface", "plot", "features", "calibrate", "figures", "anomaly",
    "info",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    train(tiny_recipe(), folder)
    return folder


@pytest.fixture(scope="module")
def spectra(run: Path) -> Path:
    from landscape.curvature import MeasureSettings
    from landscape.study import StudyPlan, open_subject, run_study

    settings = MeasureSettings(num_pairs=1, tol=0.05, max_matvecs=12, num_probes=2, max_probes=2, num_steps=6)
    path = run.parent / "x.h5"
    run_study(open_subject(run), StudyPlan(whole=True, classes="0,5,9", settings=settings), path)
    return path


def strict_json(text: str) -> Any:
    return json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_the_four_commands_on_a_folder_of_images(call: Call, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 20, "bee": 20, "cat": 20}, size=(32, 32))
    run, file, figure = tmp_path / "runs" / "x", tmp_path / "x.h5", tmp_path / "x.pdf"
    trained = call(
        "train", "--data", f"folder:{images}", "--imbalance", "exp:5", "--model", "convnet", "--loss", "ce",
        "--reweight", "drw", "--optimizer", "sam", "--rho", 0.5, "--epochs", 2, "-o", run,
    )  # fmt: skip
    assert trained.code == 0, trained.err
    assert "2 epochs of 1 step" in trained.out
    assert f"landscape spectrum {run} --per-class -o {run / 'classes.h5'}" in trained.out
    assert [line["reweighted"] for line in read_history(run)] == [False, True]
    measured = call("spectrum", run, "--per-class", *MEASURE, "-o", file)
    assert measured.code == 0, measured.err
    assert "3 parts, 32 images" in measured.out
    assert f"landscape plot {file} -o {figure}" in measured.out
    table = call("saddle", file)
    assert table.code == 0
    assert [name for name in ("ant", "bee", "cat") if name in table.out] == ["ant", "bee", "cat"]
    drawn = call("plot", file, "-o", figure)
    assert drawn.code == 0, drawn.err
    assert figure.read_bytes().startswith(b"%PDF")
    assert str(figure) in drawn.out


def test_a_recipe_file_flags_and_assignments(call: Call, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(tiny_recipe(optimizer={"lr": 0.3, "momentum": 0.5}, schedule={"epochs": 1}).to_toml())
    outcome = call(
        "train",
        recipe,
        "--lr",
        0.2,
        "--seed",
        4,
        "--set",
        "run.seed=5",
        "--set",
        "loss.reweight=rw",
        "-o",
        tmp_path / "r",
    )
    assert outcome.code == 0, outcome.err
    kept = load_checkpoint(tmp_path / "r").recipe
    assert (kept.optimizer.momentum, kept.optimizer.lr, kept.run.seed, kept.loss.reweight) == (0.5, 0.2, 5, "rw")


def test_resume_alone_takes_the_recipe_of_the_folder(call: Call, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(optimizer={"lr": 0.123}), tmp_path / "run", progress=StopAfter(epoch=1))
    outcome = call("train", "--resume", "-o", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "3 epochs of 8 steps, after 1 already done" in outcome.out
    assert len(read_history(tmp_path / "run")) == 4
    finished = call("train", "--resume", "-o", tmp_path / "run")
    assert (finished.code, "4 epochs already done" in finished.out) == (0, True)


# ---------------------------------------------------------------------- evaluate, info, saddle


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluate_as_json_and_as_tables(call: Call, run: Path, split: str) -> None:
    outcome = call("evaluate", run, "--split", split, "--json")
    assert outcome.code == 0
    report = strict_json(outcome.out)
    checkpoint = load_checkpoint(run)
    data = checkpoint.recipe.data.open()
    result = evaluate(checkpoint.build_model(), data.split(split), checkpoint.recipe.data.normalization)  # type: ignore[arg-type]
    assert report["split"] == split
    assert report["accuracy"] == result.accuracy
    assert list(report["classes"]) == [str(c) for c in range(10)]
    assert tuple(report["classes"].values()) == result.per_class
    assert set(report["groups"]) == {"index 3/4/3", "count >100/<20"}
    assert report["groups"]["index 3/4/3"] == result.per_group(data.groups[0])
    table = call("evaluate", run, "--split", split)
    assert table.code == 0
    for shown in (result.accuracy, *result.per_group(data.groups[0]).values(), *result.per_class):
        assert f"{shown:.1%}" in table.out
    rows = re.findall(r"│ (\d)\s+│\s+(\d+) │", table.out)
    assert [int(count) for _, count in rows] == list(data.counts)


def test_a_row_for_every_class_is_a_choice(call: Call, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "by class" not in call("evaluate", run, "--no-by-class").out
    monkeypatch.setattr("landscape_cli.evaluate._MOST_ROWS", 3)
    few = call("evaluate", run).out
    assert "by class" not in few
    assert "--by-class shows them" in few
    assert "by class" in call("evaluate", run, "--by-class").out


def test_a_run_is_evaluated_in_four_cells_and_the_last_epoch_without_flips_is_marked(
    call: Call, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    # A rate so large that the last epoch is not the best.
    train(tiny_recipe(schedule={"epochs": 6, "name": "constant"}, optimizer={"lr": 0.2}), run)
    data = load_checkpoint(run).recipe.data.open()
    report = strict_json(call("evaluate", run, "--json").out)
    cells = report["cells"]
    assert [(cell["which"], cell["flips"], cell["primary"]) for cell in cells] == [
        ("last", False, True), ("last", True, False), ("best", False, False), ("best", True, False)
    ]  # fmt: skip
    for name, pair in (("last", cells[:2]), ("best", cells[2:])):
        checkpoint = load_checkpoint(run / f"{name}.safetensors")
        results = evaluate_with_flips(checkpoint.build_model(), data.test, checkpoint.recipe.data.normalization)
        for cell, result in zip(pair, results, strict=True):
            assert cell["epoch"] == checkpoint.info.epoch
            assert cell["accuracy"] == result.accuracy
            assert cell["groups"] == {groups.convention: result.per_group(groups) for groups in data.groups}
            assert tuple(cell["classes"].values()) == result.per_class
    assert len({cell["accuracy"] for cell in cells}) == 4
    assert all(report[key] == cells[0][key] for key in ("accuracy", "groups", "classes", "checkpoint"))
    table = call("evaluate", run).out
    marked = [line for line in table.splitlines() if line.lstrip().startswith("★") and "%" in line]
    assert len(marked) == 2  # one a convention
    assert all(f"{report['accuracy']:.1%}" in line and "last, 6 of 6" in line for line in marked)
    for cell in cells:
        assert table.count(f"{cell['accuracy']:.1%}") >= 2


def test_one_checkpoint_is_marked_only_if_it_is_the_end_of_its_training(call: Call, tmp_path: Path) -> None:
    train(tiny_recipe(schedule={"epochs": 2}, run={"save_every": 1}), tmp_path / "run")
    for epoch, primary in ((1, False), (2, True)):
        report = strict_json(call("evaluate", tmp_path / "run" / f"epoch-000{epoch}.safetensors", "--json").out)
        assert [cell["primary"] for cell in report["cells"]] == [primary, False]
        assert [cell["which"] for cell in report["cells"]] == [None, None]
        table = call("evaluate", tmp_path / "run" / f"epoch-000{epoch}.safetensors").out
        assert ("★" in table) == primary
        assert f"{epoch} of 2" in table


def test_a_run_that_was_stopped_has_no_result_yet(call: Call, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), tmp_path / "run", progress=StopAfter(epoch=2))
    assert not any(cell["primary"] for cell in strict_json(call("evaluate", tmp_path / "run", "--json").out)["cells"])
    table = call("evaluate", tmp_path / "run").out
    assert "★" not in table
    assert "no result yet: the training stopped after 2 of 4 epochs" in table


def test_groups_are_those_of_the_training_whatever_is_judged(call: Call, run: Path) -> None:
    counts = load_checkpoint(run).info.class_counts
    usual, whole = (strict_json(call("evaluate", run, *words, "--json").out) for words in ((), ("--imbalance", "none")))
    assert whole["groups"] == usual["groups"]
    rows = re.findall(r"│ (\d)\s+│\s+(\d+) │", call("evaluate", run, "--imbalance", "none").out)
    assert [int(count) for _, count in rows] == counts


def test_a_foreign_checkpoint_has_no_epoch_and_no_mark(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_judged.py").write_text(
        "from landscape.models import build_model\n"
        "def mlp():\n    return build_model('mlp', num_classes=10, in_channels=1, image_size=8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.save(load_checkpoint(run).state, tmp_path / "theirs.pt")
    named = ("--model", "nets_judged:mlp", "--data", "digits", "--normalize", "0.5/0.5")
    ours = strict_json(call("evaluate", run, "--json").out)
    theirs = strict_json(call("evaluate", tmp_path / "theirs.pt", *named, "--json").out)
    assert [cell["accuracy"] for cell in theirs["cells"]] == [cell["accuracy"] for cell in ours["cells"][:2]]
    assert [(cell["epoch"], cell["primary"]) for cell in theirs["cells"]] == [(None, False)] * 2
    assert "★" not in call("evaluate", tmp_path / "theirs.pt", *named).out


def test_tables_of_an_evaluation_fit_a_terminal_of_80_columns(call: Call, run: Path) -> None:
    lines = call("evaluate", run).out.splitlines()
    table = [line for line in lines if "%" in line or "head (" in line]
    assert len(table) == 2 * 5 + 10
    assert max(map(len, table)) <= 80


def test_an_empty_group_is_null_in_json_and_a_dash_in_tables(call: Call, tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 6, "[bold]bee": 3})
    run = tmp_path / "run"
    trained = call("train", "--data", f"folder:{images}", "--model", "mlp", "--epochs", 1, "-o", run)
    assert trained.code == 0, trained.err
    assert "nan" not in trained.out.lower()
    assert strict_json(call("evaluate", run, "--json").out)["groups"]["index 1/0/1"]["mid"] is None
    table = call("evaluate", run).out
    assert "nan" not in table
    assert "–" in table
    # A class may be called anything; square brackets are no markup.
    assert "[bold]bee" in table
    assert "[bold]bee" in call("info", run).out


def test_info_describes_a_checkpoint_a_folder_and_results(call: Call, run: Path, spectra: Path) -> None:
    for path in (run, run / "last.safetensors"):
        outcome = call("info", path)
        assert outcome.code == 0
        for words in ("6, 8,970 values", "494: 122, 94", "name = mlp", "epoch", "torch"):
            assert words in outcome.out
    outcome = call("info", spectra)
    assert outcome.code == 0
    for words in ("landscape-spectra", "4 complete", "[optimizer]", 'source = "digits"', "class_counts"):
        assert words in outcome.out


def test_info_of_a_foreign_file_names_the_way_on(call: Call, tmp_path: Path) -> None:
    import torch

    torch.save({"net": {"w": torch.zeros(3, 4)}}, tmp_path / "net.pth")
    outcome = call("info", tmp_path / "net.pth")
    assert outcome.code == 0
    assert "1, 12 values" in outcome.out
    assert "--model package.module:factory" in outcome.out


def test_info_of_hdf5_that_is_not_ours_names_what_would_be(call: Call, tmp_path: Path) -> None:
    for schema in (None, "another-tool", np.arange(2)):
        with h5py.File(tmp_path / "junk.h5", "w") as file:
            if schema is not None:
                file.attrs["schema"] = schema
        outcome = call("info", tmp_path / "junk.h5")
        assert outcome.code == 1
        for words in ("none of landscape's", "landscape-spectra", "landscape-surface", "landscape-drawing"):
            assert words in outcome.err


def test_saddle_prints_every_number_as_json(call: Call, spectra: Path) -> None:
    report = strict_json(call("saddle", spectra, "--json").out)
    stored = SpectrumFile.open(spectra).read_all()
    assert [part["part"] for part in report] == ["all", "class/0", "class/5", "class/9"]
    for part, spectrum in zip(report, stored, strict=True):
        assert part["loss"] == spectrum.saddle.loss
        assert part["lambda_min"] == spectrum.saddle.lambda_min
        assert part["negative_fraction"]["value"] == spectrum.saddle.negative_fraction.value
        assert part["eigenvalues"] == spectrum.pairs.values.tolist()
        assert part["verdict"] == spectrum.saddle.verdict
    reasons = call("saddle", spectra, "--reasons").out
    assert all(spectrum.saddle.reason in reasons for spectrum in stored)


def test_a_single_probe_has_no_interval_and_json_says_null(call: Call, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "one.h5"
    few = ("--pairs", 1, "--tol", 0.05, "--max-matvecs", 12, "--probes", 1, "--max-probes", 1, "--steps", 4)
    assert call("spectrum", run, "--classes", 9, *few, "-o", file).code == 0
    (report,) = strict_json(call("saddle", file, "--json").out)
    assert report["negative_mass"]["high"] is None
    assert not re.search("nan|inf", call("saddle", file, "--errors").out)


def test_spectrum_goes_on_with_what_is_missing(call: Call, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    assert call("spectrum", run, "--classes", "0", *MEASURE, "-o", file).code == 0
    second = call("spectrum", run, "--classes", "0,9", *MEASURE, "-o", file)
    assert second.code == 0
    assert "0: already there" in second.out
    assert "1 part, 12 images" in second.out
    assert SpectrumFile.open(file).complete_parts() == ["class/0", "class/9"]
    runs = SpectrumFile.open(file).runs()
    assert [f"--classes {classes} " in runs[number]["command"] for number, classes in ((1, "0"), (2, "0,9"))] == [
        True
    ] * 2
    info = call("info", file).out
    for number, part in ((1, "class/0"), (2, "class/9")):
        assert re.search(rf"^run {number} +landscape spectrum ", info, flags=re.MULTILINE)
        assert re.search(rf"^  made +{part} *$", info, flags=re.MULTILINE)


# ---------------------------------------------------------------------- sweeps, mini-batches, budgets


@pytest.fixture(scope="module")
def epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("epochs") / "run"
    train(tiny_recipe(schedule={"epochs": 3}, run={"save_every": 1}), folder)
    return folder


def test_a_sweep_from_the_shell_and_the_epoch_that_came_later(call: Call, epochs: Path, tmp_path: Path) -> None:
    files, sweep = [epochs / f"epoch-000{n}.safetensors" for n in (1, 2, 3)], tmp_path / "sweep.h5"
    first = call("spectrum", *files[:2], "--classes", "0,9", *MEASURE, "-o", sweep)
    assert first.code == 0, first.err
    assert "4 parts over 2 checkpoints, 268 images" in first.out
    assert "  epoch 2, 9 (4/4)" in first.out
    assert "epoch 2 of 2; all of them: landscape saddle" in first.out
    # One more checkpoint for a file that is a sweep.
    later = call("spectrum", files[2], "--classes", "0,9", *MEASURE, "-o", sweep)
    assert later.code == 0, later.err
    assert SpectrumFile.open(sweep).measured_epochs() == [1, 2, 3]

    table = call("saddle", sweep)
    assert [line.split()[:2] for line in table.out.splitlines() if re.match(r" *\d", line)] == [
        [str(epoch), c] for epoch in (1, 2, 3) for c in ("0", "9")
    ]
    assert re.search(r"^ *epoch +part", table.out, flags=re.MULTILINE)
    only = strict_json(call("saddle", sweep, "--epoch", 2, "--json").out)
    assert [(part["part"], part["epoch"]) for part in only] == [("epoch/2/class/0", 2), ("epoch/2/class/9", 2)]
    info = call("info", sweep).out
    assert "1 (2), 2 (2), 3 (2)" in info
    refused = call("saddle", sweep, "--epoch", 8)
    assert (refused.code, "has no epoch 8: it has 1, 2, 3" in refused.err) == (1, True)

    drawn = call("plot", sweep, "-o", tmp_path / "f.png")
    assert drawn.code == 0, drawn.err
    assert "is a sweep: drawn is epoch 3, --epoch N takes another" in drawn.out
    for kind in ("density", "classes"):
        chosen = call("plot", sweep, "--epoch", 1, "--kind", kind, "--parts", "class/*", "-o", tmp_path / f"{kind}.png")
        assert chosen.code == 0, chosen.err
        assert "is a sweep" not in chosen.out
    with h5py.File(tmp_path / "classes.png.h5") as arrays:
        smallest = SpectrumFile.open(sweep).read_part("epoch/1/class/9").saddle.lambda_min
        assert arrays["arrays/lambda_min"][0, 1] == smallest
    refused = call("plot", sweep, "--epoch", 8, "-o", tmp_path / "g.png")
    assert (refused.code, "has no epoch 8" in refused.err) == (1, True)


def test_mini_batches_from_the_shell(call: Call, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    sharp = ("--pairs", 1, "--tol", 1e-6, "--max-matvecs", 12, "--probes", 2, "--max-probes", 9)
    words = ("spectrum", run, "--batch-size", 50, "--weight-decay", 0.25, *sharp, "-o", file)
    first = call(*words, "--per-batch", 2)
    assert first.code == 0, first.err
    assert "2 mini-batches: " in first.out
    assert "landscape info" in first.out
    second = call(*words, "--per-batch", 4)
    assert second.code == 0, second.err
    assert "mini-batches 3 to 4" in second.out
    record = SpectrumFile.open(file).read_batches()
    assert record is not None
    table = call("saddle", file)
    assert re.search(r" 4 +50 +λ_max", table.out)
    # Probes belong to parts: no density, no more probes.
    assert "times as much" not in first.out
    missed = int((~record.converged.all(axis=1)).sum())
    assert 0 < missed == record.num_unconverged
    assert (
        f"{missed} of 4 batches did not converge: an eigenvalue missed the tolerance 1e-06 in 12 products" in table.out
    )
    assert "--max-matvecs" in table.out
    drawn = call("plot", file, "-o", tmp_path / "x.pdf")
    assert (drawn.code, "holds mini-batches only" in drawn.err) == (1, True)
    assert f"`landscape saddle {file}`" in drawn.err
    for value in (record.lambda_max.max(), record.lambda_min.min()):
        assert f"{value:.3g}" in table.out
    share = f"λ_min < −floor in {record.share_negative:.0%} of the batches; with the penalty of weight decay 0.25"
    assert share in table.out
    (report,) = strict_json(call("saddle", file, "--json").out)
    assert report["part"] == "batches"
    assert report["values"] == record.values.tolist()
    assert (report["weight_decay"], report["batch_size"]) == (0.25, 50)
    refused = call("spectrum", run, "--per-batch", 2, "--batch-size", 500, *MEASURE, "-o", tmp_path / "y.h5")
    assert (refused.code, "batch size 500: there are 494 images" in refused.err) == (1, True)
    assert not (tmp_path / "y.h5").exists()


def test_a_budget_from_the_shell(call: Call, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.h5"
    words = ("spectrum", run, "--classes", "0,9", "--pairs", 1, "--tol", 0.05, "--max-matvecs", 12, "--probes", 2,
             "--steps", 6, "--target", 0.001, "-o", file)  # fmt: skip
    refused = call(*words, "--budget", "1passes")
    assert refused.code == 1
    assert "the budget of 1 pass does not hold the least that is measured: 2 parts of about " in refused.err
    assert "--budget" in refused.err.splitlines()[1]
    assert not file.exists()
    held = call(*words, "--budget", "60passes")
    assert held.code == 0, held.err
    assert "data passes" in held.out
    meta = SpectrumFile.open(file).meta
    assert (meta["max_probes"], meta["target"]) == (12, 0.001)
    assert SpectrumFile.open(file).runs()[1]["budget"] == "60 passes"
    before = file.read_bytes()
    again = call(*words, "--budget", "900passes", "--vectors")
    assert again.code == 0, again.err
    assert "nothing is left to measure: a budget adds no probes to parts that are there; --overwrite" in again.out
    for part in SpectrumFile.open(file).read_all():
        width = f"±{100 * part.density.relative_width():.2g} % with {len(part.density.probe_mass)} probes"
        line = f"{part.label}: already there, M₋ {width}, has no vectors: --overwrite measures it again"
        assert line in again.out
    assert file.read_bytes() == before


def test_layers_by_unit_from_the_shell(call: Call, run: Path, tmp_path: Path) -> None:
    words = ("spectrum", run, "--max-samples", 20, *MEASURE)
    assert call(*words, "--layers", "fc*.bias", "--layer-unit", "tensor", "-o", tmp_path / "x.h5").code == 0
    assert SpectrumFile.open(tmp_path / "x.h5").complete_parts() == ["layer/fc1.bias", "layer/fc2.bias"]
    refused = call(*words, "--layer-unit", "stage", "-o", tmp_path / "y.h5")
    assert (refused.code, "add --per-layer or --layers" in refused.err) == (1, True)


# ---------------------------------------------------------------------- errors, layers, reasons


@pytest.fixture
def certified(tmp_path: Path) -> Path:
    """Two parts with every further check, one without."""
    file = SpectrumFile.create(tmp_path / "c.h5", {"loss": "ce"})
    small = {"num_parameters": 60, "num_probes": 3, "num_steps": 8}
    file.write_part(with_layer_traces(with_certificates(part_spectrum("class/0", "ant", **small))))
    file.write_part(with_layer_traces(with_certificates(part_spectrum("class/1", "bee", **small)), scale=2.0))
    file.write_part(part_spectrum("class/2", "cat", **small))
    return file.path


def test_the_two_kinds_of_error_are_told_apart(call: Call, certified: Path) -> None:
    ant, _, cat = SpectrumFile.open(certified).read_all()
    table = call("saddle", certified, "--errors")
    assert table.code == 0
    rows = {line.split()[0]: line for line in table.out.split("M₋")[1].splitlines() if line.strip()}
    saddle, sampling = ant.saddle, ant.saddle.certificates.sampling
    mass, _ = ant.density.integrate(lambda x: np.maximum(-x, 0.0))
    expected = [
        (saddle.lambda_max, saddle.lambda_max_residual, sampling.lambda_max),
        (saddle.lambda_min, saddle.lambda_min_residual, sampling.lambda_min),
        (saddle.trace, saddle.trace_standard_error, sampling.trace),
        (saddle.negative_mass.value, mass.std(ddof=1) / 3**0.5, sampling.negative_mass),
    ]
    found = re.findall(r"(-?[\d.e+]+) ±([\d.e-]+) ±([\d.e-]+)", rows["ant"])
    assert len(found) == 4
    for texts, numbers in zip(found, expected, strict=True):
        assert [float(text) for text in texts] == pytest.approx(numbers, rel=0.06)
    # What was not measured is a dash, never a zero.
    assert rows["cat"].count("±–") == 4
    assert f"{cat.saddle.lambda_max:.3g}" in rows["cat"]
    assert "12 blocks" in table.out


@pytest.mark.parametrize("width", ["60", "80", "200"])
def test_no_table_is_wider_than_the_terminal(
    call: Call, certified: Path, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    outcome = call("saddle", certified, "--errors", "--layers")
    assert outcome.code == 0
    assert max(len(line) for line in outcome.out.splitlines()) <= int(width)
    for name in ("ant", "bee", "cat", "λ_min", "conv1"):
        assert name in outcome.out


def test_traces_of_all_layers_with_their_errors(call: Call, certified: Path) -> None:
    out = call("saddle", certified, "--layers").out
    assert re.search(r"layer +ant +bee *$", out, flags=re.MULTILINE)
    # Layers of 40 in all; the name with brackets is no markup.
    assert re.search(r"conv1 +11±1 +28% +22±2 +28%", out)
    assert re.search(r"bn1 +-1±1 +-2% +-2±2 +-2%", out)
    assert re.search(r"\[odd\] name +2±1 +5% +4±2 +5%", out)
    assert re.search(r"fc +28±2 +70% +56±4 +70%", out)


def test_a_file_without_layer_traces_says_so(call: Call, tmp_path: Path) -> None:
    file = SpectrumFile.create(tmp_path / "x.h5", {})
    file.write_part(part_spectrum("all", "all", num_parameters=60, num_probes=2, num_steps=6))
    assert "no layer traces in this file" in call("saddle", file.path, "--layers").out


def test_a_share_never_leaves_its_range(call: Call, tmp_path: Path) -> None:
    file = SpectrumFile.create(tmp_path / "x.h5", {})
    shares = [(0.28, 0.0, 0.92), (0.28, 0.21, 0.35), (0.9, 0.7, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)]
    for number, share in enumerate(shares):
        part = part_spectrum(f"class/{number}", f"c{number}", num_parameters=60, num_probes=2, num_steps=6)
        saddle = dataclasses.replace(part.saddle, negative_fraction=Interval(*share))
        file.write_part(dataclasses.replace(part, saddle=saddle))
    out = call("saddle", file.path).out
    cells = ["28 (0–92)%", "28±7%", "90 (70–100)%", "0±0%", "100±0%"]
    for number, cell in enumerate(cells):
        assert re.search(rf"^ ?c{number} .* {re.escape(cell)} ", out, flags=re.MULTILINE), cell


def test_reasons_list_every_check(call: Call, certified: Path) -> None:
    out = call("saddle", certified, "--reasons").out
    low = SpectrumFile.open(certified).read_part("class/0").saddle.lambda_min
    for words in (
        f"ε² = {1.0001 * low:.3g} along v_min, as λ_min = {low:.3g}",
        "a step of -0.1 along v_min lowers the loss by 0.05",
        "below −1.5e-03: between 1.00% and 1.50% of the eigenvalues",
        f"vᵀGv = 0.25 along v_min, vᵀ(H−G)v = {low - 0.25:.3g}",
        "tr G = 123±4",
        f"{low:.3g} where the direction was sought, {0.5 * low:.3g}±",
        "on the 250 other images (p = 2e-07 that it is not negative)",
        "move λ_max by 6.5, λ_min by 0.75, the trace by 31, M₋ by 2.2 (12 blocks left out in turn)",
    ):
        assert words in out, words
    # A part without the checks has its reason alone.
    assert out.count("without derivatives") == 2


def test_reasons_say_when_a_check_fails(call: Call, tmp_path: Path) -> None:
    part = part_spectrum("all", "all", num_parameters=60, num_probes=2, num_steps=6)
    level = Descent(np.array([-0.1, 0.0, 0.1]), np.array([2.0, 1.0, 3.0]))
    failed = with_certificates(
        part, second_difference=0.3, second_difference_error=0.01, descent=level, split_half=None, sampling=None
    )
    file = SpectrumFile.create(tmp_path / "x.h5", {})
    file.write_part(failed)
    out = call("saddle", file.path, "--reasons").out
    assert "0.3±0.01 along v_min, not λ_min" in out
    assert "no step along ±v_min lowers the loss" in out
    assert "split half" not in out
    assert "another draw" not in out


def test_reasons_say_what_was_not_done_in_the_usual_way(call: Call, tmp_path: Path) -> None:
    part = part_spectrum("all", "all", num_parameters=60, num_probes=2, num_steps=6)
    density = dataclasses.replace(part.density, reorthogonalized=False)
    why = "not known to be traceable: cumsum"
    file = SpectrumFile.create(tmp_path / "x.h5", {})
    file.write_part(dataclasses.replace(part, density=density, engine="double-backward", untraced_reason=why))
    out = call("saddle", file.path, "--reasons").out
    assert f"products: differentiated twice, not traced: {why}" in out
    assert "density: two Lanczos vectors at a time" in out
    (report,) = strict_json(call("saddle", file.path, "--json").out)
    assert (report["engine"], report["untraced_reason"], report["reorthogonalized"]) == ("double-backward", why, False)
    file.write_part(dataclasses.replace(part, engine="traced", untraced_reason=why))
    out = call("saddle", file.path, "--reasons").out
    assert f"products: differentiated twice for some chunks of images, not traced: {why}" in out
    assert "two Lanczos vectors" not in out
    file.write_part(dataclasses.replace(part, engine="traced"))
    assert "not traced" not in call("saddle", file.path, "--reasons").out


def test_json_holds_the_checks_and_the_layers(call: Call, certified: Path) -> None:
    ant, bee, cat = strict_json(call("saddle", certified, "--json").out)
    assert ant["certificates"]["descent"]["steps"] == [-0.2, -0.1, 0.0, 0.1, 0.2]
    assert ant["certificates"]["fraction_below"] == {"value": 0.0125, "low": 0.01, "high": 0.015}
    assert ant["certificates"]["sampling"]["num_blocks"] == 12
    assert bee["layer_traces"][2] == {"layer": "[odd] name", "trace": 4.0, "standard_error": pytest.approx(2.0)}
    assert (cat["certificates"], cat["layer_traces"], cat["functional_share"]) == (None, None, None)


# ---------------------------------------------------------------------- plot


@pytest.mark.parametrize("kind", ["density", "classes"])
def test_plot_draws_both_kinds_as_pdf_and_png(call: Call, spectra: Path, tmp_path: Path, kind: str) -> None:
    pdf, png = tmp_path / "f.pdf", tmp_path / "f.png"
    outcome = call("plot", spectra, "--kind", kind, "--parts", "class/*", "-o", pdf, "-o", png)
    assert outcome.code == 0, outcome.err
    assert pdf.read_bytes().startswith(b"%PDF")
    assert png.read_bytes().startswith(b"\x89PNG")
    for figure in (pdf, png):
        assert str(figure) in outcome.out
        with h5py.File(f"{figure}.h5") as arrays:
            assert len(arrays) + len(arrays.attrs) > 0


@pytest.mark.parametrize(
    ("glob", "taken"),
    [
        ("class/*", ["class/0", "class/12"]),
        ("class/?/layer/*", ["class/0/layer/layer1.0.conv1"]),
        ("class/*/layer/*", ["class/0/layer/layer1.0.conv1"]),
        ("*", ["all"]),
        ("group/tail", ["group/tail"]),
    ],
)
def test_a_star_in_parts_stays_within_one_level(glob: str, taken: list[str]) -> None:
    parts = ["all", "group/tail", "class/0", "class/12", "class/0/layer/layer1.0.conv1"]
    assert [part for part in parts if matches(part, glob)] == taken


def test_plot_puts_two_files_side_by_side(call: Call, spectra: Path, tmp_path: Path) -> None:
    other = tmp_path / "y.h5"
    other.write_bytes(spectra.read_bytes())
    words = ("plot", spectra, other, "--kind", "classes", "--parts", "class/*")
    assert call(*words, "--names", "SGD,SAM", "-o", tmp_path / "f.pdf").code == 0
    refused = call(*words, "--names", "SGD", "-o", tmp_path / "g.pdf")
    assert (refused.code, "--names" in refused.err) == (1, True)
    refused = call("plot", spectra, other, "--kind", "density", "-o", tmp_path / "g.pdf")
    assert (refused.code, "--kind classes" in refused.err) == (1, True)
    assert not (tmp_path / "g.pdf").exists()


def test_neither_plot_nor_saddle_nor_help_waits_for_torch(spectra: Path, tmp_path: Path) -> None:
    script = """
import sys
from landscape_cli.main import main
for words in {calls!r}:
    sys.argv = ["landscape", *words]
    try:
        main()
    except SystemExit as stopped:
        assert stopped.code == 0, (words, stopped.code)
    loaded = [name for name in sys.modules if name.split(".")[0] in ("torch", "torchvision")]
    assert not loaded, (words, loaded[:3])
"""
    calls = [["--help"], ["saddle", str(spectra)], ["saddle", str(spectra), "--json"], ["info", str(spectra)],
             ["plot", str(spectra), "-o", str(tmp_path / "f.png")], ["plot", "--help"]]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script.format(calls=calls)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------------- help, exit codes, interruption


def test_the_list_of_commands_is_complete(call: Call) -> None:
    outcome = call("--help")
    assert outcome.code == 0
    listed = [name for name in COMMANDS if re.search(rf"^│ {name} ", outcome.out, flags=re.MULTILINE)]
    assert listed == cli.list_commands(click.Context(cli)) == COMMANDS
    assert call("--version").code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_help_mentions_every_option(call: Call, name: str) -> None:
    outcome = call(name, "--help")
    assert outcome.code == 0
    for parameter in importlib.import_module(f"landscape_cli.{name}").command.params:
        if isinstance(parameter, click.Option):
            assert all(flag in outcome.out for flag in parameter.opts), parameter.opts
    assert call(name, "-h").out == outcome.out


def test_stars_of_a_glob_survive_the_help(call: Call) -> None:
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", call("plot", "--help").out).split())
    assert "'class/*', 'group/tail' or 'class/3/layer/*'; a * stays" in words
    assert "for example 'layer3.*'" in " ".join(re.sub("│", " ", call("spectrum", "--help").out).split())


@pytest.mark.parametrize(
    "words",
    ["frobnicate", "train --frobnicate", "train", "spectrum", "plot x.h5", "train --lr fast -o x",
     "train --loss hinge -o x", "train a b -o x", "spectrum x --tol 0 -o x.h5", "spectrum x --probes 0 -o x.h5",
     "plot x.h5 --kind pie -o x.pdf", "spectrum x --budget 10 -o x.h5", "spectrum x --budget 5parsecs -o x.h5",
     "spectrum x --probes 5 --max-probes 4 -o x.h5", "spectrum x --layer-unit block -o x.h5",
     "spectrum x --per-batch 0 -o x.h5", "spectrum x --target 0 -o x.h5", "saddle x.h5 --epoch -1"],
)  # fmt: skip
def test_a_wrong_call_exits_with_2(call: Call, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call(*words.split())
    assert outcome.code == 2
    assert "Usage" in outcome.out + outcome.err
    assert files_below(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "hint"), [("train", "--resume goes on"), ("spectrum", "the same command"), ("info", "stopped")]
)
def test_interrupting_exits_with_1_and_says_how_to_go_on(
    call: Call, run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, hint: str
) -> None:
    module = importlib.import_module(f"landscape_cli.{name}")

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(
        module, {"train": "train", "spectrum": "run_study", "info": "_describe_checkpoint"}[name], interrupted
    )
    words = {"train": (*TRAIN, "-o", tmp_path / "r"), "spectrum": (run, "-o", tmp_path / "x.h5"), "info": (run,)}[name]
    # Before anything was kept there is nothing to go on with.
    outcome = call(name, *words)
    assert outcome.code == 1
    assert outcome.err.strip() == "stopped"
    kept = {"train": tmp_path / "r" / "resume.pt", "spectrum": tmp_path / "x.h5"}.get(name)
    if kept is not None:
        kept.parent.mkdir(exist_ok=True)
        if name == "spectrum":
            SpectrumFile.create(kept, {})
        kept.touch()
    outcome = call(name, *words)
    assert outcome.code == 1
    assert "stopped" in outcome.err
    assert hint in outcome.err


def test_the_layers_that_help_and_readme_name_exist(call: Call) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    layers = [name for name, _ in build_model("resnet32", num_classes=10).named_modules()]
    for text in (readme, call("spectrum", "--help").out):
        globs = re.findall(r"'(\w+\.\*)'", text)
        assert globs
        assert all(fnmatch.filter(layers, pattern) for pattern in globs), globs


def test_the_scale_of_a_foreign_checkpoint_reaches_the_file(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_scaled.py").write_text(
        "from landscape.models import build_model\n"
        "def mlp():\n    return build_model('mlp', num_classes=10, in_channels=1, image_size=8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    few = ("--pairs", 1, "--max-matvecs", 6, "--probes", 1, "--max-probes", 1, "--steps", 2, "--max-samples", 8)
    named = ("--model", "nets_scaled:mlp", "--data", "digits", "--normalize", "0.5/0.5", "--logit-scale", 30)
    assert call("spectrum", run, *named, *few, "-o", tmp_path / "x.h5").code == 0
    assert SpectrumFile.open(tmp_path / "x.h5").meta["logit_scale"] == 30.0


def test_a_training_that_is_stopped_goes_on_as_the_hint_says(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from landscape_cli.progress import TrainingBar

    usual = TrainingBar.epoch

    def stop_at_two(bar: TrainingBar, record: Any) -> None:
        usual(bar, record)
        if record.epoch == 2:
            raise KeyboardInterrupt

    words = ("train", *TRAIN, "--epochs", 4, "-o", tmp_path / "r")
    with monkeypatch.context() as patch:
        patch.setattr(TrainingBar, "epoch", stop_at_two)
        assert call(*words).code == 1
    assert len(read_history(tmp_path / "r")) == 2
    assert call(*words, "--resume").code == 0
    assert len(read_history(tmp_path / "r")) == 4


def test_a_full_memory_is_said_in_a_line(call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    module = importlib.import_module("landscape_cli.train")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")):

        def full(*args: Any, error: Exception = error, **kwargs: Any) -> None:
            raise error

        monkeypatch.setattr(module, "train", full)
        outcome = call("train", *TRAIN, "-o", tmp_path / "r")
        assert (outcome.code, "out of memory" in outcome.err, "--batch-size" in outcome.err) == (1, True, True)


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from landscape_cli.main import main

    from landscape.errors import LandscapeError

    for words in (["--debug", "saddle", "none.h5"], ["saddle", "none.h5", "--debug"]):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["landscape", *words])
        with pytest.raises(LandscapeError, match="no file"):
            main()


def test_a_defect_of_ours_is_not_dressed_up_as_a_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from landscape_cli.main import main

    def broken(*args: Any, **kwargs: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(importlib.import_module("landscape_cli.train"), "train", broken)
    monkeypatch.setattr(sys, "argv", ["landscape", "train", *map(str, TRAIN), "-o", str(tmp_path / "r")])
    with pytest.raises(ZeroDivisionError):
        main()
