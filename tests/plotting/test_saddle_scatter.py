"""Saddle scatter: every marker is a method's tail, or a class, at its two numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from scipy import stats
from support.spectra import long_tailed_classes, part_spectrum

from landscape.curvature.results import Interval, PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.drawing import compose, read_drawing, save_drawing
from landscape.plotting.scatter import saddle_scatter
from landscape.plotting.style import PALETTE, Look

SMALL: dict[str, int] = {"num_parameters": 80, "num_probes": 2, "num_steps": 8}
NAMES = ["SGD", "SAM", "ASAM", "ImbSAM", "PGD"]
ACCURACY = {name: {"group/tail": share} for name, share in zip(NAMES, (0.2, 0.5, 0.4, 0.35, 0.1), strict=True)}
TAIL = {"head": ["class/0"], "tail": ["class/2", "class/3"]}


@pytest.fixture(scope="module")
def methods() -> dict[str, list[PartSpectrum]]:
    return {
        name: [part_spectrum("group/tail", "tail", rarity=rarity, seed=seed, **SMALL)]
        for seed, (name, rarity) in enumerate(zip(NAMES, (1.0, 0.3, 0.5, 0.6, 0.9), strict=True))
    }


@pytest.fixture(scope="module")
def classes() -> list[PartSpectrum]:
    return long_tailed_classes(6, **SMALL)


def markers(axes: Axes) -> np.ndarray:
    return np.array([[line.get_xdata()[0], line.get_ydata()[0]] for line in axes.lines])  # type: ignore[index]


def whiskers(axes: Axes) -> list[np.ndarray]:
    return [segment for item in axes.collections if isinstance(item, LineCollection) for segment in item.get_segments()]


def test_a_marker_is_a_method_at_its_share_and_tail_accuracy(methods: dict[str, list[PartSpectrum]]) -> None:
    drawing = saddle_scatter(methods, ACCURACY)
    (axes,) = drawing.figure.axes
    fractions = [parts[0].saddle.negative_fraction for parts in methods.values()]
    expected = [[f.value, 100 * ACCURACY[name]["group/tail"]] for f, name in zip(fractions, NAMES, strict=True)]
    np.testing.assert_allclose(markers(axes), expected)
    np.testing.assert_allclose(
        [[segment[0, 0], segment[1, 0]] for segment in whiskers(axes)],
        np.clip([[f.low, f.high] for f in fractions], *axes.get_xlim()),
    )
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("negative share ν of the tail", "accuracy of the tail (%)")
    assert len({line.get_marker() for line in axes.lines}) == 5
    assert [text.get_text() for text in drawing.figure.legends[0].get_texts()] == NAMES
    rho = stats.spearmanr(*np.transpose(expected)).statistic
    assert [text.get_text() for text in axes.texts] == [f"Spearman ρ = {rho:.2f}, n = 5".replace("-", "−")]


def test_four_methods_have_no_correlation(methods: dict[str, list[PartSpectrum]]) -> None:
    drawing = saddle_scatter(dict(list(methods.items())[:4]), ACCURACY)
    assert not drawing.figure.axes[0].texts
    assert (math.isnan(drawing.arrays["spearman"][0]), drawing.arrays["spearman_n"].tolist()) == (True, [4])


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("lambda_min", lambda s: s.lambda_min),
        ("negative_mass", lambda s: s.negative_mass.value),
        ("curvature_ratio", lambda s: abs(s.lambda_min / s.lambda_max)),
    ],
)
def test_either_axis_takes_any_quantity(
    methods: dict[str, list[PartSpectrum]], name: str, read: Callable[[Any], float]
) -> None:
    expected = [read(parts[0].saddle) for parts in methods.values()]
    across, up = saddle_scatter(methods, ACCURACY, x=name), saddle_scatter(methods, x="negative_fraction", y=name)
    np.testing.assert_allclose(markers(across.figure.axes[0])[:, 0], expected)
    np.testing.assert_allclose(markers(up.figure.axes[0])[:, 1], expected)


def test_numbers_over_decades_have_round_ticks(methods: dict[str, list[PartSpectrum]]) -> None:
    spread = {
        name: [dataclasses.replace(p[0], saddle=dataclasses.replace(p[0].saddle, lambda_min=-(10.0 ** (k / 2))))]
        for k, (name, p) in enumerate(methods.items())
    }
    axes = saddle_scatter(spread, ACCURACY, x="lambda_min").figure.axes[0]
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["−100", "−10", "−1"]


def test_a_tail_that_was_not_measured_is_the_mean_of_its_classes(classes: list[PartSpectrum]) -> None:
    accuracy = {"CE": {f"class/{c}": 0.9 - 0.1 * c for c in range(6)}}
    drawing = saddle_scatter({"CE": classes}, accuracy, groups=TAIL)
    tail = [classes[c].saddle.negative_fraction for c in (2, 3)]
    for end, field in (("x", "value"), ("x_low", "low"), ("x_high", "high")):
        assert drawing.arrays[end][0, 0] == pytest.approx(np.mean([getattr(f, field) for f in tail]))
    assert drawing.arrays["y"][0, 0] == pytest.approx(100 * (0.7 + 0.6) / 2)
    whole = [*classes, part_spectrum("group/tail", "tail", rarity=0.9, **SMALL)]
    measured = saddle_scatter({"CE": whole}, accuracy, groups=TAIL)
    assert measured.arrays["x"][0, 0] == whole[-1].saddle.negative_fraction.value


def test_classes_are_points_of_their_colour_and_size(classes: list[PartSpectrum]) -> None:
    drawing = saddle_scatter({"CE": classes, "SAM": classes[:5]}, by="class")
    (axes,) = drawing.figure.axes
    first = axes.lines[:6]
    expected = [[s.saddle.negative_fraction.value, 100 * float(s.accuracy or 0)] for s in classes]
    np.testing.assert_allclose(markers(axes)[:6], expected)
    assert [line.get_color() for line in first] == PALETTE[:6]
    sizes = [line.get_markersize() for line in first]
    assert sizes == sorted(sizes, reverse=True)  # 5000 samples first, 50 last
    assert sizes[0] > 2 * sizes[-1]
    assert np.isnan(drawing.arrays["x"][1, 5]), "a class that a method lacks is no point"
    words = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    rho = stats.spearmanr(*np.transpose(expected)).statistic
    assert words[0] == f"CE: Spearman ρ = {rho:.2f}, n = 6".replace("-", "−")
    assert words[2:] == [*(s.label for s in classes), "50 samples", "5000 samples"]


def test_of_one_method_the_correlation_over_classes_stands_in_the_panel(classes: list[PartSpectrum]) -> None:
    drawing = saddle_scatter({"CE": classes}, by="class")
    (text,) = drawing.figure.axes[0].texts
    assert text.get_text().startswith("Spearman ρ = ")
    assert text.get_text().endswith(", n = 6")
    assert drawing.figure.legends[0].get_texts()[0].get_text() == "CE"


def test_an_interval_without_end_reaches_the_edge(methods: dict[str, list[PartSpectrum]]) -> None:
    part = methods["SGD"][0]
    open_ended = dataclasses.replace(part.saddle, negative_mass=Interval(10.0, 5.0, math.inf))
    wide = {"SGD": [dataclasses.replace(part, saddle=open_ended)], "SAM": methods["SAM"]}
    (axes,) = saddle_scatter(wide, ACCURACY, x="negative_mass").figure.axes
    np.testing.assert_allclose(whiskers(axes)[0][:, 0], [5.0, axes.get_xlim()[1]])


def test_per_cent_end_at_a_hundred(methods: dict[str, list[PartSpectrum]]) -> None:
    right = {name: {"group/tail": share} for name, share in zip(NAMES, (1.0, 0.2, 0.9, 0.5, 0.4), strict=True)}
    assert saddle_scatter(methods, right).figure.axes[0].get_ylim()[1] <= 102


@pytest.mark.parametrize("by", ["method", "class"])
def test_a_scatter_read_back_is_the_same_bytes(by: Any, classes: list[PartSpectrum], tmp_path: Path) -> None:
    drawing = saddle_scatter({"CE": classes, "_$x$": classes}, by=by, groups=TAIL).looking(Look("single", "aaai"))
    first, arrays = save_drawing(drawing, tmp_path / "one.png")
    second, _ = save_drawing(read_drawing(arrays), tmp_path / "two.png")
    assert first.read_bytes() == second.read_bytes()
    assert compose([[drawing, drawing]]).figure


def test_what_cannot_be_drawn_says_so(methods: dict[str, list[PartSpectrum]], classes: list[PartSpectrum]) -> None:
    for make, message in (
        (lambda: saddle_scatter({}), "no spectra to draw"),
        (lambda: saddle_scatter(methods, x="negative_fractoin"), "did you mean 'negative_fraction'"),
        (lambda: saddle_scatter({"SGD": methods["SGD"]}, {"SGD": {}}), "'SGD' has no part 'group/tail'"),
        (lambda: saddle_scatter(methods, {"SGD": {"group/tail": 0.1}}), "no accuracy of 'SAM': have SGD"),
        (lambda: saddle_scatter({"CE": classes}), "'CE' has no part 'group/tail': `landscape spectrum .* --per-group`"),
        (lambda: saddle_scatter({"CE": classes}, groups={"tail": ["class/9"]}), "and no 'class/9'"),
        (lambda: saddle_scatter(methods, by="class"), "no class was measured: .* --per-class"),
    ):
        with pytest.raises(LandscapeError, match=message):
            make()
