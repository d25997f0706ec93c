"""Curves over a setting: means and deviations of the seeds that are there, at the places of the values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from support.pages import assert_drawn_again_alike, assert_legible

from landscape.errors import LandscapeError
from landscape.plotting.colors import GROUP_COLORS
from landscape.plotting.setting import setting_curves

RADII = [0.05, 0.1, 0.2, 0.5, 0.8]
SEEDS = np.array([[60.0, 62.0], [64.0, 66.0], [np.nan, 70.0], [np.nan, np.nan], [70.0, 74.0]])
PANELS = {
    "test accuracy (%)": {"head": [91.0, 91.2, 91.1, 90.9, 90.0], "tail": SEEDS},
    "|λ$_{min}$/λ$_{max}$| of the tail": {"tail": [0.5, 0.4, 0.3, 0.2, 0.1]},
}


def test_points_are_means_and_bars_deviations_of_the_seeds_that_are_there() -> None:
    drawing = setting_curves(RADII, PANELS)
    np.testing.assert_array_equal(drawing.arrays["0/1/mean"], [61, 65, 70, np.nan, 72])
    np.testing.assert_allclose(drawing.arrays["0/1/deviation"], [2**0.5, 2**0.5, np.nan, np.nan, 8**0.5])
    axes = drawing.figure.axes[0]
    head, tail = (line for line in axes.lines if line.get_linestyle() != "None")
    np.testing.assert_array_equal(tail.get_xdata(), RADII)
    np.testing.assert_array_equal(tail.get_ydata(), [61, 65, 70, np.nan, 72])  # NaN: no line across the gap
    (segments,) = [
        bars.get_segments() for container in axes.containers for bars in container.lines[2] if len(bars.get_segments())
    ]
    np.testing.assert_allclose([end[0] for segment in segments for end in segment[:1]], [0.05, 0.1, 0.8])
    assert to_rgb(tail.get_color()) == to_rgb(GROUP_COLORS["tail"])
    assert head.get_marker() != tail.get_marker()
    # The same part looks the same in the other panel.
    assert drawing.figure.axes[1].lines[0].get_marker() == tail.get_marker()


@pytest.mark.parametrize("spacing", ["log", "even", "linear"])
def test_every_value_is_named_where_it_lies(spacing: Any) -> None:
    axes = setting_curves(RADII, PANELS, spacing=spacing).figure.axes[0]
    places = axes.lines[0].get_xdata()
    np.testing.assert_array_equal(places, range(5) if spacing == "even" else RADII)
    assert axes.get_xscale() == ("log" if spacing == "log" else "linear")
    formatter = axes.xaxis.get_major_formatter()
    ticks = axes.xaxis.get_major_locator()()
    assert [float(formatter(tick, 0)) for tick in ticks] == [RADII[list(places).index(tick)] for tick in ticks]
    if spacing != "linear":
        assert len(ticks) == 5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: setting_curves([0.2, 0.1], {"y": {"all": [1, 2]}}), "ρ must ascend, got 0.2, 0.1"),
        (lambda: setting_curves([0.0, 0.1], {"y": {"all": [1, 2]}}), "ρ = 0 has no logarithm: give spacing 'even'"),
        (lambda: setting_curves([0.1], {"y": {"all": [1, 2]}}), "'all' has 2 values for 1 of ρ"),
        (lambda: setting_curves([0.1], {"y": {}}), "no curve to draw"),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_it_is_legible_and_drawn_again_from_its_file(tmp_path: Path) -> None:
    drawing = setting_curves(RADII, PANELS)
    assert_legible(drawing)
    crowd = [0.01 * 1.3**k for k in range(20)]
    assert_legible(setting_curves(crowd, {"test accuracy (%)": {"all": np.linspace(60, 70, 20)}}))
    assert_legible(setting_curves([0.5], {"test accuracy (%)": {"all": [60.0], "tail": [30.0]}}))
    assert_drawn_again_alike(drawing, tmp_path)
