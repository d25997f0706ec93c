"""The spectrum of a detector against its dense Hessian, and what is special about it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.anomalies import write_table
from torch.func import functional_call, hessian

from landscape.anomaly.grid import Grid, run_grid
from landscape.anomaly.methods import METHODS
from landscape.anomaly.subject import DetectorSubject, open_detector
from landscape.curvature import MeasureSettings
from landscape.errors import LandscapeError
from landscape.study import StudyPlan, open_subject, run_study

SETTINGS = MeasureSettings(num_pairs=1, tol=1e-6, max_matvecs=300, num_probes=1, max_probes=1, num_steps=10)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detectors")
    table = write_table(folder / "a.npz", rows=1000, anomalies=100, features=2)
    run_grid(Grid((table,), tuple(METHODS), ("imbsam",), (0,), labelled=0.2, epochs=3), folder / "out")
    return folder / "out" / "a"


def dense(subject: DetectorSubject, label: int | None) -> tuple[np.ndarray, float]:
    """Eigenvalues of ∇² of a part's mean loss, and that loss; the whole is the mean of both groups' means."""
    samples = subject.data.split("train")
    detector = subject.model.double()
    names = [name for name, _ in detector.named_parameters()]
    values = [p.detach() for p in detector.parameters()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        pieces = flat.split([v.numel() for v in values])
        shaped = {n: piece.reshape(v.shape) for n, piece, v in zip(names, pieces, values, strict=True)}
        outputs = functional_call(detector, {**shaped, **dict(detector.named_buffers())}, (samples.inputs.double(),))
        losses = detector.loss.per_sample(outputs, samples.kinds)
        head, tail = losses[samples.labels == 0].mean(), losses[samples.labels == 1].mean()
        return (head + tail) / 2 if label is None else (head, tail)[label]

    flat = torch.cat([v.flatten() for v in values])
    matrix = hessian(loss)(flat)
    return np.linalg.eigvalsh(matrix.numpy()), float(loss(flat))


@pytest.mark.parametrize("method", list(METHODS))
def test_spectrum_of_a_detector_is_that_of_its_dense_hessian(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("landscape.anomaly.methods.FROZEN_PAIRS", 400)
    checkpoint = runs / f"{method}-imbsam" / "seed-0.safetensors"
    plan = StudyPlan(whole=True, per_class=True, loss="training", dtype="float64", device="cpu", settings=SETTINGS)
    file = run_study(open_detector(checkpoint), plan, tmp_path / "x.h5")
    spectra = {spectrum.part: spectrum for spectrum in file.read_all()}
    assert {part: spectrum.label for part, spectrum in spectra.items()} == {
        "all": "all",
        "class/0": "normal",
        "class/1": "anomaly",
    }
    for part, label in (("all", None), ("class/0", 0), ("class/1", 1)):
        eigenvalues, loss = dense(open_detector(checkpoint), label)
        saddle = spectra[part].saddle
        scale = np.abs(eigenvalues).max()
        assert saddle.loss == pytest.approx(loss, rel=1e-6)
        assert saddle.lambda_max == pytest.approx(eigenvalues[-1], abs=1e-5 * scale)
        assert saddle.lambda_min == pytest.approx(eigenvalues[0], abs=1e-5 * scale)
        assert spectra[part].accuracy is None
        if method != "deepsad":
            # Linear in the score, which is bilinear in the layers: the eigenvalues come in pairs ±λ.
            assert np.abs(eigenvalues + eigenvalues[::-1]).max() < 1e-10 * scale
            assert eigenvalues[0] < 0
    assert list(file.meta["class_counts"]) == list(open_detector(checkpoint).data.counts)
    assert list(file.meta["class_groups"]) == ["head", "tail"]


def test_parts_of_a_detector(runs: Path) -> None:
    """Rows of DevNet by label; pairs of PReNet by whether a labelled anomaly takes part."""
    rows = open_detector(runs / "devnet-imbsam" / "seed-0.safetensors")
    drawn = rows.data.drawn
    assert rows.data.counts == (700 - 14, 14)
    assert torch.equal(rows.data.split("train").inputs, drawn.train)
    assert torch.equal(rows.data.split("test").labels, drawn.test_labels)
    pairs = open_detector(runs / "prenet-imbsam" / "seed-0.safetensors")
    assert pairs.data.counts == (2048, 2048)
    one, again = (pairs.data.split("train").fingerprint() for _ in range(2))
    assert one == again


def test_what_a_detector_does_not_have(runs: Path) -> None:
    path = runs / "devnet-imbsam" / "seed-0.safetensors"
    with pytest.raises(LandscapeError, match="no cross-entropy: leave --loss out"):
        open_detector(path).loss("ce")
    with pytest.raises(LandscapeError, match="is an anomaly detector, not a classifier"):
        open_subject(path)
    with pytest.raises(LandscapeError, match="no checkpoint at"):
        open_detector(runs / "nothing.safetensors")


def test_a_table_that_has_moved(runs: Path, tmp_path: Path) -> None:
    path = runs / "deepsad-imbsam" / "seed-0.safetensors"
    table = runs.parent.parent / "a.npz"
    moved = tmp_path / "elsewhere.npz"
    moved.write_bytes(table.read_bytes())
    one, other = (open_detector(path, data=place).data.split("train").fingerprint() for place in (None, moved))
    assert one == other
    with pytest.raises(LandscapeError, match="is not what"):
        open_detector(path, data=write_table(tmp_path / "other.npz", features=2, seed=1))
