"""`landscape anomaly` and what follows it, end to end on a tiny table."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from landscape_cli.anomaly import _print_method
from rich.console import Console
from support.anomalies import write_table
from support.command import Call

from landscape.anomaly.results import GridResults, RunResult
from landscape.store import SpectrumFile

MEASURE = ("--pairs", 1, "--tol", 0.05, "--max-matvecs", 30, "--probes", 2, "--max-probes", 2, "--steps", 6)
TRAIN = ("--method", "deepsad", "--seeds", "0,1,2", "--epochs", 2, "--labelled", 0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path / "data" / "pump.npz", rows=300, anomalies=30)
    return tmp_path


def test_from_table_to_verdict(call: Call, folder: Path) -> None:
    out, data = folder / "out", folder / "data"
    outcome = call("anomaly", "--data", data, *TRAIN, "-o", out)
    assert outcome.code == 0
    assert "9 runs to train, about" in outcome.out
    results = json.loads((out / "results.json").read_text())
    rows = {row["optimizer"]: row for row in results["cells"] if row["metric"] == "auc_pr"}
    assert sorted(rows) == ["imbsam", "sam", "sgd"]
    for row in rows.values():
        assert f"{100 * row['mean']:.1f}±{100 * row['sd']:.1f}" in outcome.out
    assert "ImbSAM − SGD" in outcome.out
    assert f"landscape plot {out}/results.json --kind anomaly" in outcome.out

    # Resuming: what is there stays, what is missing is trained, and the table is the same.
    victim = out / "pump" / "deepsad-sam" / "seed-1.safetensors"
    kept = victim.with_name("seed-0.safetensors").stat().st_mtime_ns
    before = victim.read_bytes()
    victim.unlink()
    again = call("anomaly", "--data", data, *TRAIN, "-o", out)
    assert "1 run to train" in again.out
    assert "8 already there" in again.out
    assert victim.read_bytes() == before
    assert victim.with_name("seed-0.safetensors").stat().st_mtime_ns == kept
    assert json.loads((out / "results.json").read_text())["runs"] == results["runs"]

    fewer = call("anomaly", "--data", data, *TRAIN, "--optimizer", "sgd", "-o", out)
    assert len(json.loads((out / "results.json").read_text())["runs"]) == 3
    assert "6 runs of the folder were not asked for" in fewer.out
    assert "not asked for" not in again.out
    call("anomaly", "--data", data, *TRAIN, "-o", out)

    refused = call("anomaly", "--data", data, *TRAIN, "--rho", 0.5, "-o", out)
    assert refused.code == 1
    assert "rho = 0.05, not 0.5" in refused.err

    assert "deepsad" in call("info", out).out
    told = call("info", victim).out
    assert "optimizer = sam, rho = 0.05" in told
    assert "labelled anomalies" in told

    drawn = call("plot", out / "results.json", "--kind", "anomaly", "-o", folder / "a.png")
    assert drawn.code == 0
    assert (folder / "a.png").stat().st_size > 10_000
    assert call("plot", out / "results.json", "--kind", "anomaly", "--parts", "all", "-o", folder / "b.png").code == 1

    spectrum = call("spectrum", victim, "--per-class", *MEASURE, "-o", folder / "x.h5")
    assert spectrum.code == 0
    file = SpectrumFile.open(folder / "x.h5")
    assert [s.label for s in file.read_all()] == ["normal", "anomaly"]
    assert (file.meta["loss"], file.meta["model"]) == ("training", "deepsad")
    saddle = call("saddle", folder / "x.h5")
    assert saddle.code == 0
    assert "anomaly" in saddle.out
    assert call("plot", folder / "x.h5", "--kind", "classes", "-o", folder / "x.pdf").code == 0


def test_a_table_fits_an_ordinary_terminal_with_all_its_marks() -> None:
    """80 columns; long names, three digits before the point, and a mark on either side."""
    offsets = {"sgd": 0.0, "sam": -0.01, "imbsam": 0.01}
    runs = tuple(
        RunResult("mammography", "devnet", name, seed, 1.0, 0.3 + 0.2 * seed + off * (1 + seed), 0.1, 1, 1, "x")
        for name, off in offsets.items()
        for seed in range(3)
    )
    out = io.StringIO()
    _print_method(GridResults(runs, {}, ""), "devnet", "auc_pr", Console(file=out, width=80))
    (row,) = (line for line in out.getvalue().splitlines() if "mammography" in line)
    assert row.split() == ["mammography", "10.0", "50.0±20.0", "48.0±19.0", "▼", "52.0±21.0", "▲"]
    assert max(map(len, out.getvalue().splitlines())) <= 80
    _print_method(GridResults(runs, {}, ""), "devnet", "auc_roc", Console(file=out, width=80))
    row = [line for line in out.getvalue().splitlines() if "mammography" in line][-1]
    assert row.split() == ["mammography", "50.0", *["100.0±0.0"] * 3]


def test_what_is_refused(call: Call, folder: Path) -> None:
    out, data = folder / "out", folder / "data"
    assert call("anomaly", "--data", data, *TRAIN, "--optimizer", "sgd", "-o", out).code == 0
    one, other = (out / "pump" / "deepsad-sgd" / f"seed-{seed}.safetensors" for seed in (0, 1))
    for words, message in (
        (("anomaly", "--data", folder / "none.npz", "-o", out), "no data set at"),
        (("evaluate", one), "is an anomaly detector, not a classifier"),
        (("spectrum", one, other, "-o", folder / "x.h5"), "measured by itself"),
        (("spectrum", one, "--loss", "ce", "-o", folder / "x.h5"), "leave --loss out"),
        (("spectrum", one, "--imbalance", "exp:10", "-o", folder / "x.h5"), "takes --data FILE.npz alone"),
        (("spectrum", one, "--data", folder / "none.npz", "-o", folder / "x.h5"), "no data set at"),
    ):
        outcome = call(*words)
        assert outcome.code == 1, words
        assert message in " ".join(outcome.err.split()), words
    (data / "pump.npz").rename(data / "moved.npz")
    assert "name it with --data" in call("spectrum", one, "-o", folder / "x.h5").err
    moved = call("spectrum", one, "--data", data / "moved.npz", *MEASURE, "-o", folder / "x.h5")
    assert moved.code == 0
    largest = ("--seeds", 2**63 - 1, *TRAIN[:2], "--epochs", 1)
    assert call("anomaly", "--data", data, *largest, "-o", folder / "largest").code == 0
    for flag, value in (("--seeds", "0,0"), ("--seeds", 2**63), ("--labelled", 0), ("--method", "ganomaly")):
        assert call("anomaly", "--data", data, flag, value, "-o", out).code == 2
