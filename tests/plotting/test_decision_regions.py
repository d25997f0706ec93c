"""Decision regions: what is filled is what the classifier says there, and the page can be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.contour import QuadContourSet
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from support.pages import assert_drawn_again_alike, assert_legible, drawn_texts

from landscape.errors import LandscapeError
from landscape.plotting import Drawing, Look, PlaneClassifier, decision_regions
from landscape.plotting.style import PALETTE

Array = NDArray[np.float64]

CENTRES = np.array([[0.0, 0.0], [3.0, 0.5], [0.5, 3.0], [-3.0, 1.0]])
COUNTS = [200, 60, 20, 5]
LABELS = np.repeat(np.arange(4), COUNTS)
POINTS = CENTRES[LABELS] + np.random.default_rng(0).normal(size=(len(LABELS), 2))
NAMES = ["class 0", "class 1", "class 2", "class 3"]


def nearest_centre(points: Array) -> Array:
    return -np.square(points[:, None] - CENTRES).sum(axis=2)


def rings(points: Array) -> Array:
    """Regions that are not convex, and none of the last class."""
    radius = np.linalg.norm(points, axis=1)
    return np.stack([-np.abs(radius - 1.5 * ring) for ring in range(3)] + [np.full(len(points), -99.0)], axis=1)


def generated() -> tuple[Array, NDArray[np.int64]]:
    labels = np.repeat([2, 3], [30, 90])
    return CENTRES[labels] + np.random.default_rng(1).normal(size=(len(labels), 2)), labels


def classifiers() -> list[PlaneClassifier]:
    return [
        PlaneClassifier("nearest", nearest_centre, [0.9, 0.8, 0.7, 0.25]),
        PlaneClassifier("rings", rings, [0.5, 0.5, 0.5, 0.0]),
        PlaneClassifier("generated", nearest_centre, [0.8, 0.8, 0.8, 0.8], generated()),
    ]


def drawing(number: int = 3) -> Drawing:
    return decision_regions(classifiers()[:number], POINTS, LABELS, NAMES)


def panels(drawing: Drawing) -> list[Axes]:
    return [axes for axes in drawing.figure.axes if axes.axison]


def test_the_arrays_are_the_classifiers_at_every_point_of_the_grid() -> None:
    arrays = drawing().arrays
    for place, classifier in enumerate(classifiers()):
        for row, column in ((0, 0), (80, 0), (13, 57), (40, 40), (79, 3)):
            alone = classifier.scores(np.array([[arrays["x"][column], arrays["y"][row]]]))[0]
            np.testing.assert_allclose(arrays["scores"][place, :, row, column], alone, rtol=1e-6, atol=1e-6)
    everything = np.concatenate([POINTS, arrays["generated"]])
    for axis, name in enumerate("xy"):
        assert arrays[name][0] < everything[:, axis].min() < everything[:, axis].max() < arrays[name][-1]
    assert arrays["class_counts"].tolist() == COUNTS


def covers(fill: QuadContourSet, point: Array) -> bool:
    """By the number of outlines around it: a region may have holes."""
    around = [Polygon(outline).contains_point(point) for outline in fill.get_paths()[0].to_polygons()]
    return sum(around) % 2 == 1


def test_what_is_filled_is_the_prediction_at_that_point() -> None:
    page = drawing()
    x, y = page.arrays["x"], page.arrays["y"]
    cell = max(x[1] - x[0], y[1] - y[0])
    places = np.random.default_rng(2).uniform([x[0], y[0]], [x[-1], y[-1]], size=(300, 2))
    for axes, classifier in zip(panels(page), classifiers(), strict=True):
        fills = [each for each in axes.collections if isinstance(each, QuadContourSet) and each.filled]
        # Between grid points scores are interpolated: within a cell of a boundary it may go either way.
        steps = cell * (np.array(list(np.ndindex(5, 5))) - 2)
        near = [classifier.scores(places + step).argmax(axis=1) for step in steps]
        clear = places[(np.stack(near) == near[0]).all(axis=0)]
        assert len(clear) > 200
        for point, label in zip(clear, classifier.scores(clear).argmax(axis=1), strict=True):
            inside = [fill for fill in fills if covers(fill, point)]
            assert len(inside) == 1
            pale, full = (np.array(to_rgb(color)) for color in (inside[0].get_facecolor()[0][:3], PALETTE[label]))
            np.testing.assert_allclose(1 - pale, 0.22 * (1 - full), atol=1e-6)


def test_a_class_that_is_predicted_nowhere_has_no_region() -> None:
    axes = panels(drawing())[1]
    assert sum(isinstance(each, QuadContourSet) and each.filled for each in axes.collections) == 3


def test_training_points_are_in_every_panel_and_generated_ones_where_they_were_used() -> None:
    page = drawing()
    for place, axes in enumerate(panels(page)):
        clouds = [np.asarray(each.get_offsets()) for each in axes.collections if isinstance(each, PathCollection)]
        shown = np.concatenate(clouds)
        assert len(shown) == len(POINTS) + (70 if place == 2 else 0)
        assert {tuple(point) for point in POINTS} <= {tuple(point) for point in shown}
    # All 30 of one class, and 40 of the 90 of the other.
    assert np.bincount(page.arrays["generated_labels"]).tolist() == [0, 0, 30, 40]
    assert {tuple(point) for point in page.arrays["generated"]} <= {tuple(point) for point in generated()[0]}
    assert page.arrays["generated_panels"].tolist() == [2] * 70


def test_classes_have_markers_of_their_own() -> None:
    axes = panels(drawing())[0]
    clouds = [each for each in axes.collections if isinstance(each, PathCollection) and len(each.get_offsets())]
    shapes = {each.get_paths()[0].vertices.tobytes() for each in clouds}
    assert len(shapes) == len(clouds) == 4


def test_titles_have_the_mean_over_classes_and_the_smallest_class() -> None:
    titles = [axes.get_title() for axes in panels(drawing())]
    assert titles[0] == "nearest\naccuracy 66.2 %, class 3: 25.0 %"
    assert titles[1].startswith("rings\naccuracy 37.5 %")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_page_can_be_read(number: int, tmp_path: Path) -> None:
    page = drawing(number)
    assert_legible(page)
    for look in (Look("single"), Look("double")):
        words = [text.get_text() for text in drawn_texts(page.looking(look).figure)]
        assert {"feature 1", "feature 2", "class 0 (200)"} <= set(words)
        assert ("generated" in words) == (number == 3)
    if number > 1:
        assert_drawn_again_alike(page, tmp_path)


@pytest.mark.parametrize("number", [2, 3])
def test_ten_classes_of_long_names_can_be_read(number: int) -> None:
    names = [f"$class_{label}$ of a name that is long for a legend" for label in range(10)]
    labels = np.repeat(np.arange(10), 4)
    points = np.random.default_rng(3).normal(size=(40, 2)) + 3 * np.c_[np.cos(labels), np.sin(labels)]
    line = PlaneClassifier("all", lambda at: at @ points[::4].T, [0.5] * 10, (points[4:], labels[4:]))
    page = decision_regions([line] * number, points, labels, names)
    assert_legible(page)
    figure = page.looking(Look("single")).figure
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    box = legends[0].get_window_extent()
    framed = [axes for axes in figure.axes if axes.axison]
    assert not any(box.overlaps(axes.get_window_extent()) for axes in framed)


def test_axes_stand_at_their_rounded_places_once_the_page_is_laid_out() -> None:
    figure = drawing().figure
    inches = figure.get_size_inches()
    for axes in (each for each in figure.axes if each.axison):
        given = axes.get_position(original=True).get_points()
        np.testing.assert_array_equal(given, np.round(given, 6))
        low, high = axes.get_position().get_points() * inches
        across, upwards = high - low
        assert upwards / across == pytest.approx(np.ptp(axes.get_ylim()) / np.ptp(axes.get_xlim()), rel=1e-6)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(LandscapeError, match=r"scores of 4 classes .* the figure has 3"):
        decision_regions(classifiers(), POINTS[LABELS < 3], LABELS[LABELS < 3], NAMES[:3])
    with pytest.raises(LandscapeError, match=r"at most 10 classes, got 1 and 11"):
        decision_regions(classifiers()[:1], POINTS, LABELS, ["x"] * 11)
    with pytest.raises(LandscapeError, match="one classifier or more"):
        decision_regions([], POINTS, LABELS, NAMES)
    column = np.c_[np.zeros(len(POINTS)), POINTS[:, 1]]
    for points, labels in (
        (column, LABELS), (np.where(POINTS.max() == POINTS, np.nan, POINTS), LABELS), (POINTS[:0], LABELS[:0]),
        (POINTS, LABELS + 1), (POINTS, LABELS - 1),
    ):  # fmt: skip
        with pytest.raises(LandscapeError, match="differ in both features, and labels from 0 to 3"):
            decision_regions(classifiers(), points, labels, NAMES)
