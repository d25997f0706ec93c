"""Every kind of figure, drawn again from the file of its arrays, is the same image byte for byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.spectra import long_tailed_classes, part_spectrum

from landscape.anomaly.results import GridResults, RunResult
from landscape.curvature.results import PartSpectrum
from landscape.optim.stages import GroupAscents
from landscape.plotting import (
    Drawing,
    Look,
    PlaneClassifier,
    class_bars,
    compose,
    decision_regions,
    density_cumulative,
    density_grid,
    density_overlay,
    detection_panels,
    layer_densities,
    layer_distance,
    layer_training,
    nearest_class_matrix,
    read_drawing,
    save_drawing,
    stage_bars,
    tsne_map,
    write_drawing,
)
from landscape.store.calibration_file import CalibrationFile


def classes() -> list[PartSpectrum]:
    return long_tailed_classes(3, num_parameters=80, num_probes=2, num_steps=8)


def sweep() -> dict[int | None, list[PartSpectrum]]:
    names = ("all", "layer/conv1", "layer/fc")
    return {
        epoch: [
            part_spectrum(name, name.removeprefix("layer/"), num_parameters=90 - 20 * place, num_steps=8, seed=epoch)
            for place, name in enumerate(names)
        ]
        for epoch in (1, 2)
    }


def calibration(path: Path) -> CalibrationFile:
    rng = np.random.default_rng(0)
    points = {
        kind: {
            "features": rng.normal(size=(12, 3)).astype(np.float32),
            "labels": np.repeat([0, 1, 2], 4),
            "nearest_sample": rng.integers(0, 3, 12),
        }
        for kind in ("real", "generated")
    }
    meta = {"method": "tailcalibx", "class_names": ["a", "b", "$c$"], "class_counts": [40, 20, 4]}
    accuracy = {"seeds": np.array([0]), "correct": np.zeros((1, 3)), "before": np.zeros(3), "total": np.ones(3)}
    return CalibrationFile.write(path, meta, accuracy, {}, points)


def stages() -> Drawing:
    methods = {
        "_SAM": GroupAscents((0.05,) * 4, (0.05,) * 4, own=False, eta=None),
        "$SSE$": GroupAscents((0.05, 0.05, 0.0, 0.0), (0.1, 0.2, 0.3, 0.4), own=True, eta=100.0),
    }
    return stage_bars(methods, {"$SSE$": {"stage II": 2}})


def anomalies() -> GridResults:
    runs = [
        RunResult(data, "devnet", optimizer, seed, 0.9, 0.5 + 0.1 * seed, 0.1, 1, 1, "x")
        for data in ("one", "two")
        for optimizer in ("sgd", "imbsam")
        for seed in (0, 1)
    ]
    return GridResults(tuple(runs), {}, "")


def classifiers() -> list[PlaneClassifier]:
    line = PlaneClassifier("line", lambda points: np.c_[points[:, 0], points[:, 1], 0 * points[:, 0]], [1.0, 0.5, 0.0])
    crosses = (np.array([[0.5, 0.5], [1.5, -1.0]]), np.array([1, 2]))
    return [line, dataclasses.replace(line, title="$more$", generated=crosses)]


KINDS: dict[str, Callable[[Path], Drawing]] = {
    "density": lambda _: density_grid(classes()),
    "density-overlay": lambda _: density_overlay({"CE": classes(), "_SAM": classes()[1:]}),
    "density-cumulative": lambda _: density_cumulative(classes()),
    "classes": lambda _: class_bars(
        {"CE": classes(), "_SAM": classes()[:2]}, groups={"head": ["class/0"], "tail": ["class/1", "class/2"]}
    ),
    "layer-densities": lambda _: layer_densities(sweep()),
    "layer-distance": lambda _: layer_distance(sweep()),
    "layer-training": lambda _: layer_training(sweep(), switches={"stage II": 1.5}),
    "tsne": lambda folder: tsne_map(calibration(folder / "c.h5")),
    "nearest-class": lambda folder: nearest_class_matrix(calibration(folder / "c.h5")),
    "stages": lambda _: stages(),
    "decision-regions": lambda _: decision_regions(
        classifiers(), np.array([[-1.0, 2.0], [2.0, 1.0], [0.0, -1.0]]), np.array([0, 1, 2]), ["a", "b", "$c$"]
    ),
    "anomaly": lambda _: detection_panels(anomalies()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_of_its_arrays_draws_the_same_image(kind: str, tmp_path: Path) -> None:
    drawing = KINDS[kind](tmp_path)
    assert drawing.kind == kind
    figure, arrays = save_drawing(drawing, tmp_path / "a.png")
    again, _ = save_drawing(read_drawing(arrays), tmp_path / "b.png")
    assert figure.read_bytes() == again.read_bytes()
    # A panel of a page is drawn within other bounds; its arrays are read back under the panel's letter.
    page = compose([[drawing]]).looking(Look("double", "neurips"))
    first, _ = save_drawing(page, tmp_path / "page.png")
    second, _ = save_drawing(read_drawing(write_drawing(page, tmp_path / "page.h5")), tmp_path / "again.png")
    assert first.read_bytes() == second.read_bytes()


def test_what_was_read_has_the_same_arrays(tmp_path: Path) -> None:
    drawing = density_grid([dataclasses.replace(classes()[0], part="class/0/layer/layer1.0.conv1")])
    found = read_drawing(write_drawing(drawing, tmp_path / "a.h5"))
    assert sorted(found.arrays) == sorted(drawing.arrays)
    assert found.settings == drawing.settings
    for name, values in drawing.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values)
