"""The figure of anomaly detection: what it draws is what the results say."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from landscape.anomaly.results import GridResults, RunResult
from landscape.errors import LandscapeError
from landscape.plotting import Look, detection_panels, save_drawing

GAINS = {"one": (0.1, 0.11, 0.12), "two": (-0.1, 0.0, 0.2), "three": (-0.03, -0.02, -0.03)}


def results(optimizers: tuple[str, ...] = ("sgd", "imbsam")) -> GridResults:
    runs = [
        RunResult(data, method, optimizer, seed, 0.9, 0.5 + (gain if optimizer == "imbsam" else 0.0), 0.1, 1, 1, "x")
        for data, gains in GAINS.items()
        for seed, gain in enumerate(gains)
        for method in ("devnet", "prenet")
        for optimizer in optimizers
    ]
    return GridResults(tuple(runs), {}, "")


def test_arrays_are_those_of_the_results() -> None:
    arrays = detection_panels(results()).arrays
    assert arrays["methods"].tolist() == ["devnet", "prenet"]
    assert arrays["data"].tolist() == list(GAINS)
    gains = np.array(list(GAINS.values()))
    for m in range(2):
        assert arrays["auc_pr"][m, :, 1] == pytest.approx(0.5 + gains.mean(1))
        assert arrays["auc_pr_sd"][m, :, 1] == pytest.approx(gains.std(1, ddof=1))
        assert arrays["difference"][m, :, 1] == pytest.approx(gains.mean(1))
        assert arrays["difference_se"][m, :, 1] == pytest.approx(gains.std(1, ddof=1) / 3**0.5)
        assert arrays["claimed"][m, :, 1].tolist() == [1, 0, 1]
        assert np.isnan(arrays["difference"][m, :, 0]).all()
        assert arrays["p_wilcoxon"][m, 1] == 0.5  # means 0.11, 0.033, −0.027: W = 1 of three, P = 4/8 two-sided
    assert arrays["prevalence"] == pytest.approx(0.1)


def test_points_lie_where_the_arrays_say() -> None:
    drawing = detection_panels(results())
    above, below = drawing.figure.axes[0], drawing.figure.axes[2]
    drawn = {tuple(np.round(x, 6)) for line in above.lines if len(x := line.get_xdata()) == 3}
    assert tuple(np.round(drawing.arrays["auc_pr"][0, :, 1], 6)) in drawn
    filled = {
        bool(line.get_markerfacecolor() != "white"): np.round(np.sort(line.get_xdata()), 6).tolist()
        for line in below.lines
        if line.get_marker() == "D"
    }
    means = 100 * np.mean(list(GAINS.values()), axis=1)
    assert filled == {True: np.round(sorted(means[[0, 2]]), 6).tolist(), False: np.round(means[[1]], 6).tolist()}
    assert below.get_title() == "ImbSAM p = 0.5"
    # Two standard errors of the paired difference either way, in percentage points.
    (errors,) = [found for found in below.containers if isinstance(found, ErrorbarContainer)]
    halves = [np.ptp(segment[:, 0]) / 2 for segment in errors.lines[2][0].get_segments()]
    assert halves == pytest.approx(200 * np.std(list(GAINS.values()), axis=1, ddof=1) / 3**0.5)


def test_without_sgd_there_is_no_difference() -> None:
    assert len(detection_panels(results(("imbsam",))).figure.axes) == 2


def test_it_is_saved_with_its_arrays(tmp_path: Path) -> None:
    _, arrays = save_drawing(detection_panels(results()).looking(Look("single")), tmp_path / "a.pdf")
    with h5py.File(arrays) as file:
        assert file["arrays/auc_pr"].shape == (2, 3, 2)


def test_nothing_to_draw() -> None:
    with pytest.raises(LandscapeError, match="no runs to draw"):
        detection_panels(GridResults((), {}, ""))
