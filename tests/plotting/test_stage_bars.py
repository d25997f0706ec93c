"""Bars of stages: what is drawn is what the arrays say, in grey too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from support.pages import assert_drawn_again_alike, assert_legible

from landscape.errors import LandscapeError
from landscape.optim.stages import GroupAscents
from landscape.plotting import Drawing, Look, stage_bars
from landscape.plotting.colors import GROUP_COLORS, WHOLE_COLOR

METHODS = {
    "SGD": GroupAscents((0.0,) * 20, (0.0,) * 20, own=False, eta=None),
    "SAM": GroupAscents((0.05,) * 20, (0.05,) * 20, own=False, eta=None),
    "ImbSAM": GroupAscents((0.0,) * 20, (0.05,) * 20, own=True, eta=1000.0),
    "SSE-SAM": GroupAscents((0.05,) * 14 + (0.0,) * 6, (0.1,) * 20, own=True, eta=1000.0),
}
MARKS = {"SSE-SAM": {"stage II": 14}}


def drawn() -> Drawing:
    return stage_bars(METHODS, MARKS)


def bars(axes: Axes) -> list[tuple[Any, ...]]:
    """(from, to, row it begins in, rows, colour) of each."""
    return [
        (bar.get_x(), bar.get_x() + bar.get_width(), round(bar.get_y() + 0.42), round(bar.get_height() + 0.16),
         to_rgb(bar.get_facecolor()))
        for bar in axes.patches if isinstance(bar, Rectangle)
    ]  # fmt: skip


def words(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_bars_stand_where_the_arrays_say_and_in_the_colours_of_what_is_climbed() -> None:
    sgd, sam, imbsam, sse = drawn().figure.axes
    white, black = to_rgb("white"), to_rgb(WHOLE_COLOR)
    head, tail = to_rgb(GROUP_COLORS["head"]), to_rgb(GROUP_COLORS["tail"])
    assert bars(sgd) == [(0, 20, 0, 1, white), (0, 20, 1, 1, white)]
    assert bars(sam) == [(0, 20, 0, 2, black)]  # one ε for both groups
    assert bars(imbsam) == [(0, 20, 0, 1, white), (0, 20, 1, 1, tail)]
    assert bars(sse) == [(0, 14, 0, 1, head), (14, 20, 0, 1, white), (0, 14, 1, 1, tail), (14, 20, 1, 1, tail)]
    assert words(sgd) == ["plain", "plain", "SGD"]
    assert words(sam) == ["ρ = 0.05", "SAM"]
    assert words(imbsam) == ["plain", "ρ = 0.05", "ImbSAM"]
    assert words(sse) == ["ρ = 0.05", "plain", "ρ = 0.1", "ρ = 0.1", "stage II", "SSE-SAM"]
    assert [tick.get_text() for tick in sse.get_yticklabels()] == ["head", "tail"]


def test_what_is_perturbed_differs_in_grey_from_what_is_not() -> None:
    luminance = {
        name: float(np.dot(to_rgb(color), [0.2126, 0.7152, 0.0722]))
        for name, color in {**GROUP_COLORS, "whole": WHOLE_COLOR}.items()
    }
    assert max(luminance["head"], luminance["tail"], luminance["whole"]) < 0.55  # of an empty bar: 1


def test_the_line_of_a_switch_is_that_of_its_method_alone() -> None:
    sgd, sam, imbsam, sse = drawn().figure.axes
    assert [len(axes.lines) for axes in (sgd, sam, imbsam)] == [0, 0, 0]
    (line,) = sse.lines
    assert list(line.get_xdata()) == [14, 14]
    assert line.get_linestyle() == "--"


def test_the_legend_tells_what_is_there_and_how_groups_are_parted() -> None:
    def legend(drawing: Drawing) -> list[str]:
        return [text.get_text() for text in drawing.figure.legends[0].get_texts()]

    own, whole, plain, eta = legend(drawn())
    assert "group's own gradient" in own
    assert "whole gradient" in whole
    assert plain == "plain: at w"
    assert eta == "tail: fewer than η = 1,000 images"
    assert legend(stage_bars({"SAM": METHODS["SAM"]})) == [whole]
    assert legend(stage_bars({"SGD": METHODS["SGD"]})) == [plain]


def test_a_radius_that_grows_is_one_bar_and_one_that_jumps_several() -> None:
    growing = tuple(np.linspace(0.05, 0.8, 10))
    jumping = (0.0,) * 2 + (0.1,) * 3 + (0.5,) * 5
    drawing = stage_bars({"one": GroupAscents(growing, jumping, own=True, eta=5.0)}, {"one": {"DRW": 4}})
    assert drawing.arrays["0/head/spans"].tolist() == [[0, 4], [4, 10]]
    assert drawing.arrays["0/head/radii"].tolist() == [[growing[0], growing[3]], [growing[4], growing[9]]]
    assert drawing.arrays["0/tail/spans"].tolist() == [[0, 2], [2, 4], [4, 5], [5, 10]]
    assert drawing.arrays["0/tail/radii"][:, 0].tolist() == [0, 0.1, 0.1, 0.5]
    assert "ρ = 0.05 → 0.3" in words(drawing.figure.axes[0])


def test_a_radius_that_grows_from_zero_or_shrinks_to_it_is_plain_there() -> None:
    growing = tuple(np.linspace(0, 0.9, 10))
    drawing = stage_bars({"one": GroupAscents(growing, growing[::-1], own=True, eta=5.0)})
    assert drawing.arrays["0/head/spans"].tolist() == [[0, 1], [1, 10]]
    assert drawing.arrays["0/head/radii"].tolist() == [[0, 0], [growing[1], growing[9]]]
    assert drawing.arrays["0/tail/spans"].tolist() == [[0, 9], [9, 10]]
    assert drawing.arrays["0/tail/radii"].tolist() == [[growing[9], growing[1]], [0, 0]]


def test_words_that_a_bar_has_no_room_for_are_left_out() -> None:
    brief = GroupAscents((0.05,) * 1 + (0.0,) * 99, (0.123456,) * 100, own=True, eta=5.0)
    axes = stage_bars({"SSE-SAM": brief}, {"SSE-SAM": {"stage II": 1}}).figure.axes[0]
    assert words(axes)[:2] == ["plain", "ρ = 0.123456"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stage_bars({}), "no method to draw"),
        (lambda: stage_bars(METHODS, {"SSE": {}}), "switches of 'SSE', which is not drawn"),
        (lambda: stage_bars(METHODS, {"SSE-SAM": {"DRW": 30}}), "'DRW' of 'SSE-SAM' after 30 epochs: .* its 20 epochs"),
        (lambda: stage_bars(METHODS, {"SSE-SAM": {"DRW": 13.5}}), "after 13.5 epochs: give a whole number"),
        (lambda: stage_bars({"x": GroupAscents((), (), own=True, eta=None)}), "'x' has radii of 0 epochs"),
        (lambda: stage_bars({"x": GroupAscents((0.1,), (), own=True, eta=None)}), "1 epochs .* 0 for the tail"),
        (
            lambda: stage_bars({**METHODS, "x": GroupAscents((0.0,), (0.1,), own=True, eta=20.0)}),
            "parted at η = 20, 1000",
        ),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_it_is_legible_and_drawn_again_from_its_file(tmp_path: Path) -> None:
    assert_legible(drawn())
    assert_drawn_again_alike(drawn(), tmp_path)
    for switch in (1, 3, 10, 17, 19):
        early = GroupAscents((0.05,) * switch + (0.0,) * (20 - switch), (0.1,) * 20, own=True, eta=100.0)
        assert_legible(stage_bars({"SSE-SAM": early}, {"SSE-SAM": {"stage II": switch}}))
    assert_legible(stage_bars({"a method with a long name, $\\rho$ and all its settings in it": METHODS["SAM"]}))


def test_words_lie_within_their_bars() -> None:
    for look in (Look("single"), Look("double"), Look("single", "neurips"), Look("double", "neurips")):
        figure = drawn().looking(look).figure
        for axes in figure.axes:
            boxes = [bar.get_window_extent() for bar in axes.patches]
            for text in axes.texts:
                if text.get_text() == "plain" or text.get_text().startswith("ρ"):
                    found = text.get_window_extent()
                    # A line box is higher than its letters by about a point on either side.
                    slack = figure.dpi / 72
                    assert any(
                        box.x0 <= found.x0 and found.x1 <= box.x1
                        and box.y0 - slack <= found.y0 and found.y1 <= box.y1 + slack
                        for box in boxes
                    ), (look, text.get_text())  # fmt: skip
