"""The layer-wise study from end to end, small: train with and without HTR, sweep by layer, draw the three figures."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from support.command import Call

from landscape.training import read_history


def test_train_with_and_without_then_sweep_layers_and_draw(call: Call, tmp_path: Path) -> None:
    common = ["--data", "digits", "--imbalance", "exp:10", "--model", "mlp", "--epochs", 4, "--batch-size", 64]
    common += ["--lr", 0.05, "--schedule", "constant", "--save-every", 2]
    methods = {"none": [], "htr": ["--regularizer", "htr", "--htr-weight", 0.03, "--htr-trace", "gauss-newton"]}
    ends = {}
    for name, words in methods.items():
        done = call("train", *common, *words, "-o", tmp_path / name)
        assert done.code == 0, done.err
        checkpoints = sorted((tmp_path / name).glob("epoch-*.safetensors"))
        sweep = tmp_path / f"{name}.h5"
        done = call(
            "spectrum", *checkpoints, "--whole", "--per-layer", "--max-samples", 100, "--pairs", 1, "--max-matvecs",
            30, "--probes", 2, "--max-probes", 2, "--steps", 12, "-o", sweep,
        )  # fmt: skip
        assert done.code == 0, done.err
        for kind in ("layer-densities", "layer-distance", "layer-training"):
            drawn = call("plot", sweep, "--kind", kind, "-o", tmp_path / f"{name}-{kind}.png")
            assert drawn.code == 0, drawn.err
        with h5py.File(tmp_path / f"{name}-layer-training.png.h5") as file:
            assert file["arrays/parts"].asstr()[...].tolist() == ["all", "layer/fc1", "layer/fc2", "layer/head"]
            assert file["arrays/epochs"][...].tolist() == [2, 4]
            trace, error = file["arrays/trace"][...], file["arrays/trace_standard_error"][...]
            # The blocks of the layers make up the diagonal of the whole.
            off = np.abs(trace[:, 1:].sum(axis=1) - trace[:, 0])
            assert (off <= 4 * np.sqrt((error**2).sum(axis=1)) + 1e-4 * trace[:, 0]).all()
            ends[name] = trace[-1, 0]
        with h5py.File(tmp_path / f"{name}-layer-distance.png.h5") as file:
            distance = file["arrays/distance"][...]
            assert distance.shape == (2, 3)
            assert ((distance > 0) & (distance < 2)).all()
    assert ends["htr"] < 0.8 * ends["none"]
    assert read_history(tmp_path / "htr")[-1]["trace"] > 0
