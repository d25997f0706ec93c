"""Figures of second stages: many classes, long names, and classes without points."""

from __future__ import annotations

import operator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from landscape.errors import LandscapeError
from landscape.plotting import Look, save_drawing
from landscape.plotting.features import _shown, nearest_class_matrix, tsne_map
from landscape.plotting.style import Column
from landscape.store.calibration_file import CalibrationFile


def made_up(path: Path, num_classes: int, *, each: int = 12, generated: bool = True) -> CalibrationFile:
    """Real and generated points around one axis a class; a generated point is near class 0 one time in three."""
    noise = np.random.default_rng(0)
    counts = np.maximum(500 * 0.01 ** (np.arange(num_classes) / (num_classes - 1)), 1).astype(int)
    shuffled = noise.permutation(num_classes)
    groups = {}
    for kind, first in (("real", 0), ("generated", 1)):
        labels = np.repeat(np.arange(num_classes)[first:], each)
        points = np.eye(num_classes)[labels] + 0.3 * noise.normal(size=(len(labels), num_classes))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        nearest = np.where(np.arange(len(labels)) % 3 == 0, 0, labels)
        groups[kind] = {
            "features": points.astype(np.float32), "labels": shuffled[labels], "nearest_sample": shuffled[nearest],
        }  # fmt: skip
    sizes = np.empty_like(counts)
    sizes[shuffled] = counts
    meta = {
        "method": "tailcalibx",
        "class_names": [f"$class_{n}$ of a long name" if n % 7 == 0 else f"c{n}" for n in range(num_classes)],
        "class_counts": sizes.tolist(),
    }  # fmt: skip
    accuracy = {"seeds": np.array([0]), "correct": np.zeros((1, num_classes)), "before": np.zeros(num_classes)}
    accuracy["total"] = np.ones(num_classes)
    return CalibrationFile.write(path, meta, accuracy, {}, groups if generated else {})


def test_rows_are_classes_by_size_and_shares_of_their_points(tmp_path: Path) -> None:
    file = made_up(tmp_path / "c.h5", 10)
    arrays = nearest_class_matrix(file).arrays
    assert (np.diff(arrays["class_counts"]) <= 0).all()
    matrix = arrays["generated"]
    assert np.isnan(matrix[0]).all()
    np.testing.assert_allclose(np.diag(matrix)[1:], 2 / 3)
    np.testing.assert_allclose(matrix[1:, 0], 1 / 3)


def test_ten_of_many_classes_from_the_largest_to_the_smallest() -> None:
    counts = np.arange(100, 0, -1)
    shown = _shown(counts)
    assert len(shown) == 10
    assert (shown[0], shown[-1]) == (0, 99)
    assert _shown(np.array([3, 9, 5])).tolist() == [1, 2, 0]


@pytest.mark.parametrize("column", ["single", "double"])
@pytest.mark.parametrize("num_classes", [3, 10, 100])
def test_no_text_lies_over_another(num_classes: int, column: Column, tmp_path: Path) -> None:
    file = made_up(tmp_path / "c.h5", num_classes)
    for name, draw in (("near", nearest_class_matrix), ("tsne", tsne_map)):
        drawing = draw(file).looking(Look(column))
        figure = drawing.figure
        page = figure.bbox
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        for axes in figure.axes:
            for part in (axes.xaxis, axes.yaxis, axes.title):
                box = part.get_tightbbox(renderer)
                assert box is None or (box.x0 >= page.x0 - 1 and box.x1 <= page.x1 + 1), (name, part)
                assert box is None or (box.y0 >= page.y0 - 1 and box.y1 <= page.y1 + 1), (name, part)
            if axes.get_title() and len(figure.axes) > 1:
                others = [other.bbox for other in figure.axes if other is not axes]
                assert not any(axes.title.get_window_extent(renderer).overlaps(box) for box in others), name
        for words in ("title", "xaxis.label", "yaxis.label"):
            boxes = [operator.attrgetter(words)(axes).get_window_extent(renderer) for axes in figure.axes]
            shown = [box for box in boxes if box.width and box.height]
            assert not any(one.overlaps(other) for one, other in combinations(shown, 2)), (name, words)
        for legend in figure.legends:
            box = legend.get_window_extent(renderer)
            assert (page.x0 <= box.x0, box.x1 <= page.x1) == (True, True), name
        save_drawing(drawing, tmp_path / f"{name}.png")


def test_a_map_is_drawn_where_it_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made_up(tmp_path / "c.h5", 3)

    def refuse(*_: object) -> None:
        raise LandscapeError("cannot write 'c.h5': Permission denied")

    monkeypatch.setattr(CalibrationFile, "store_embedding", refuse)
    with pytest.warns(UserWarning, match="not kept.*Permission denied"):
        drawing = tsne_map(file)
    assert np.isfinite(drawing.arrays["points"]).all()


def test_nothing_generated_is_said(tmp_path: Path) -> None:
    file = made_up(tmp_path / "c.h5", 4, generated=False)
    for draw in (tsne_map, nearest_class_matrix):
        with pytest.raises(LandscapeError, match=r"no generated features.*tailcalibx"):
            draw(file)


def test_a_single_point_is_a_whole_row(tmp_path: Path) -> None:
    matrix = nearest_class_matrix(made_up(tmp_path / "c.h5", 4, each=1)).arrays["real"]
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
