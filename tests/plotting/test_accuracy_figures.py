"""Class sizes and accuracies: bars, steps and lines have the heights of their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.patches import StepPatch
from support.pages import assert_drawn_again_alike, assert_legible
from support.spectra import CIFAR10_CLASSES

from landscape.errors import LandscapeError
from landscape.plotting.accuracy import MOST_BARS, accuracy_bars, class_sizes
from landscape.plotting.colors import GROUP_COLORS
from landscape.plotting.drawing import Drawing
from landscape.plotting.style import PALETTE

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
GROUPS = {"head": [0, 1, 2], "mid": [3, 4, 5, 6], "tail": [7, 8, 9]}
MANY = np.geomspace(1280, 5, 100).astype(int).tolist()
MANY_GROUPS = {"head": range(36), "mid": range(36, 71), "tail": range(71, 100)}


def bars(axes: Axes) -> list[BarContainer]:
    return [found for found in axes.containers if isinstance(found, BarContainer)]


def lines_of_means(axes: Axes) -> list[float]:
    """Heights of the coloured lines, each of which has a white one below it."""
    flat = [found for found in axes.lines if len(found.get_xdata()) == 2]
    return [float(found.get_ydata()[0]) for found in flat if to_rgb(found.get_color()) != (1.0, 1.0, 1.0)]


@pytest.mark.parametrize("rotated", [False, True])
def test_bars_of_sizes_are_the_counts_in_the_colours_of_their_groups(rotated: bool) -> None:
    axes = class_sizes(COUNTS, CIFAR10_CLASSES, GROUPS, rotated=rotated).figure.axes[0]
    (drawn,) = bars(axes)
    assert [bar.get_width() if rotated else bar.get_height() for bar in drawn] == COUNTS
    expected = [GROUP_COLORS[group] for group, members in GROUPS.items() for _ in members]
    assert [to_rgb(bar.get_facecolor()[:3]) for bar in drawn] == [to_rgb(color) for color in expected]
    assert [text.get_text() for text in axes.texts] == [str(count) for count in COUNTS]
    if rotated:
        assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first class on top


@pytest.mark.parametrize("rotated", [False, True])
def test_many_classes_are_steps_cut_between_the_groups(rotated: bool) -> None:
    axes = class_sizes(MANY, None, MANY_GROUPS, rotated=rotated).figure.axes[0]
    steps = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    np.testing.assert_array_equal(np.concatenate([patch.get_data().values for patch in steps]), MANY)
    assert [(patch.get_data().edges[0], patch.get_data().edges[-1]) for patch in steps] == [
        (0, 36),
        (36, 71),
        (71, 100),
    ]
    cuts = [line.get_ydata()[0] if rotated else line.get_xdata()[0] for line in axes.lines]
    assert cuts == [36, 71]
    assert [text.get_text() for text in axes.texts] == ["head", "mid", "tail"]
    assert (axes.get_ylabel() if rotated else axes.get_xlabel()) == "class, sorted by size"
    unsorted = class_sizes(MANY[::-1], None, None).figure.axes[0]
    assert unsorted.get_xlabel() == "class"


def test_bars_of_accuracy_are_means_over_seeds_side_by_side() -> None:
    rng = np.random.default_rng(0)
    tables = {"CE": rng.uniform(0, 1, (3, 10)), "SAM": rng.uniform(0, 1, 10)}
    drawing = accuracy_bars(tables, CIFAR10_CLASSES, GROUPS, COUNTS)
    np.testing.assert_allclose(drawing.arrays["mean"], [tables["CE"].mean(axis=0), tables["SAM"]])
    np.testing.assert_allclose(drawing.arrays["deviation"][0], tables["CE"].std(axis=0, ddof=1))
    assert np.isnan(drawing.arrays["deviation"][1]).all()
    axes, below = drawing.figure.axes
    first, second = bars(axes)
    np.testing.assert_allclose([bar.get_height() for bar in first], tables["CE"].mean(axis=0))
    np.testing.assert_allclose([bar.get_height() for bar in second], tables["SAM"])
    places = [[bar.get_x() + bar.get_width() / 2 for bar in each] for each in (first, second)]
    np.testing.assert_allclose(np.mean(places, axis=0), np.arange(10))
    assert all(left < right for left, right in zip(*places, strict=True))
    assert [to_rgb(each[0].get_facecolor()[:3]) for each in (first, second)] == [to_rgb(c) for c in PALETTE[:2]]
    assert first[0].get_hatch() != second[0].get_hatch()
    assert first.errorbar is not None
    assert second.errorbar is None
    segments = first.errorbar.lines[2][0].get_segments()
    np.testing.assert_allclose(np.ptp(segments, axis=1)[:, 1], 2 * tables["CE"].std(axis=0, ddof=1))
    assert [bar.get_height() for bar in bars(below)[0]] == COUNTS
    assert below.get_yscale() == "log"


@pytest.mark.parametrize("count", [10, MOST_BARS + 40])
def test_lines_are_the_means_of_groups(count: int) -> None:
    accuracies = np.linspace(0.9, 0.1, count)
    accuracies[-1] = np.nan  # a class without test images
    groups = GROUPS if count == 10 else MANY_GROUPS
    drawing = accuracy_bars({"CE": accuracies}, None, groups)
    expected = [np.nanmean(accuracies[list(members)]) for members in groups.values()]
    np.testing.assert_allclose(drawing.arrays["group_mean"], [expected])
    np.testing.assert_allclose(lines_of_means(drawing.figure.axes[0]), expected)
    assert not bars(drawing.figure.axes[0]) if count > MOST_BARS else bars(drawing.figure.axes[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: class_sizes([], None), "no class to draw"),
        (lambda: class_sizes(COUNTS, ["cat"]), "10 classes have 1 names"),
        (
            lambda: class_sizes(COUNTS, None, {"tail": [9, 10]}),
            "group 'tail' has class 10, but there are classes 0 to 9",
        ),
        (lambda: accuracy_bars({}), "got no method"),
        (lambda: accuracy_bars({"CE": [0.1, 0.2], "SAM": [0.1]}), "same classes"),
        (lambda: accuracy_bars({"CE": [71.7, 52.3]}), r"'CE' run from 52.3 to 71.7: expected shares in \[0, 1\]"),
        (lambda: accuracy_bars({"CE": [0.1, 0.2]}, counts=[5]), "2 classes have 1 counts"),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_they_are_legible_and_drawn_again_from_their_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    methods = {name: rng.uniform(0, 1, (2, 10)) for name in ("CE", "CE + DRW", "CE + DRW + SAM")}
    many = {name: rng.uniform(0, 1, 100) for name in methods}
    drawings = [
        class_sizes(COUNTS, CIFAR10_CLASSES, GROUPS),
        class_sizes(COUNTS, CIFAR10_CLASSES, GROUPS, rotated=True),
        class_sizes(MANY, None, MANY_GROUPS, rotated=True),
        class_sizes(MANY[:50], [f"class_number_{c}" for c in range(50)]),
        accuracy_bars(methods, CIFAR10_CLASSES, GROUPS, COUNTS),
        accuracy_bars(many, None, MANY_GROUPS, MANY),
    ]
    for drawing in drawings:
        assert_legible(drawing)
    for number in (1, 4):
        assert_drawn_again_alike(drawings[number], tmp_path)


def test_counts_below_are_the_images_in_the_colours_of_their_groups() -> None:
    drawing = accuracy_bars({"CE": [0.5] * 10, "SAM": [0.6] * 10}, CIFAR10_CLASSES, GROUPS, COUNTS)
    (counts,) = bars(drawing.figure.axes[1])
    assert [bar.get_height() for bar in counts] == COUNTS
    expected = [to_rgb(GROUP_COLORS[group]) for group, members in GROUPS.items() for _ in members]
    assert [to_rgb(bar.get_facecolor()) for bar in counts] == expected


@pytest.mark.parametrize("rotated", [False, True])
def test_classes_without_names_are_said_to_be_classes(rotated: bool) -> None:
    def label(drawing: Drawing) -> str:
        axes = drawing.figure.axes[-1]
        return (axes.yaxis if rotated and drawing.kind == "class-sizes" else axes.xaxis).get_label_text()

    assert label(class_sizes([5, 3], rotated=rotated)) == label(accuracy_bars({"CE": [0.5, 0.2]})) == "class"
    assert label(class_sizes([5, 3], ["cat", "7"], rotated=rotated)) == ""
    assert label(accuracy_bars({"CE": [0.5, 0.2]}, names=["cat", "7"])) == ""


def test_percent_labels_have_the_digits_that_the_ticks_need() -> None:
    axes = accuracy_bars({"CE": [0.012, 0.009]}).figure.axes[0]
    shown = {label.get_text(): share for label, share in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}
    assert len(shown) == len(axes.get_yticks())
    assert all(100 * share == pytest.approx(float(words)) for words, share in shown.items())
