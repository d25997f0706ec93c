"""The map of class and layer: every cell is its part's number, and what is not known is not coloured."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from support.pages import assert_drawn_again_alike, assert_legible
from support.spectra import CIFAR10_CLASSES, part_spectrum

from landscape.curvature.results import PartSpectrum, TraceEstimate
from landscape.errors import LandscapeError
from landscape.plotting.drawing import Drawing
from landscape.plotting.heat_map import class_layer_map
from landscape.plotting.quantities import QUANTITIES

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.bn1", "layer2.0.downsample.0", "head"]
FLOOR = 0.06


def cell(label: int, layer: str, *, lambda_min: float | None = None) -> PartSpectrum:
    name = CIFAR10_CLASSES[label % 10]
    found = part_spectrum(
        f"class/{label}/layer/{layer}", f"{name} · {layer}", rarity=min(1.0, label / 9), num_parameters=60,
        num_probes=2, num_steps=8, noise_floor=FLOOR, seed=10 * label + len(layer),
    )  # fmt: skip
    if lambda_min is None:
        return found
    return dataclasses.replace(found, saddle=dataclasses.replace(found.saddle, lambda_min=lambda_min))


GRID = [cell(label, layer) for label in (0, 3, 9) for layer in LAYERS]


def mesh(drawing: Drawing) -> QuadMesh:
    (found,) = [item for item in drawing.figure.axes[0].collections if isinstance(item, QuadMesh)]
    return found


@pytest.mark.parametrize("quantity", list(QUANTITIES))
def test_every_cell_is_the_number_of_its_part(quantity: str) -> None:
    drawing = class_layer_map(GRID, quantity)
    assert drawing.arrays["row_labels"].tolist() == ["airplane", "cat", "truck"]
    assert drawing.arrays["layers"].tolist() == LAYERS
    expected = [[QUANTITIES[quantity].read(part).value for part in GRID[5 * row : 5 * row + 5]] for row in range(3)]
    np.testing.assert_array_equal(drawing.arrays["values"], expected)
    shown = mesh(drawing)
    assert drawing.figure.axes[0].yaxis_inverted()  # the first row is the topmost
    np.testing.assert_array_equal(np.ma.filled(shown.get_array(), np.nan), expected)
    assert drawing.figure.axes[1].get_ylabel() == QUANTITIES[quantity].label


def test_dots_say_what_is_certified() -> None:
    parts = [cell(0, "conv1", lambda_min=-0.99 * FLOOR), cell(0, "head", lambda_min=-1.01 * FLOOR), cell(3, "head")]
    drawing = class_layer_map(parts)
    np.testing.assert_array_equal(drawing.arrays["certified"], [[False, True], [False, True]])
    dots = [tuple(point) for line in drawing.figure.axes[0].lines for point in line.get_xydata()]
    assert sorted(dots) == [(1.5, 0.5), (1.5, 1.5)]


def test_what_was_not_measured_has_no_colour() -> None:
    drawing = class_layer_map([part for part in GRID if part.part != "class/3/layer/head"])
    assert np.isnan(drawing.arrays["values"]).nonzero() == ([1], [4])
    assert np.ma.getmaskarray(mesh(drawing).get_array())[1, 4]
    assert drawing.figure.axes[0].patch.get_hatch()
    words = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert "no value" in words
    assert "no value" not in [text.get_text() for text in class_layer_map(GRID).figure.legends[0].get_texts()]


def test_a_ratio_of_nothing_to_nothing_has_no_value() -> None:
    flat = cell(0, "conv1", lambda_min=-0.001)
    flat = dataclasses.replace(flat, saddle=dataclasses.replace(flat.saddle, lambda_max=0.9 * FLOOR))
    values = class_layer_map([flat, cell(0, "head")], "curvature_ratio").arrays["values"]
    assert math.isnan(values[0, 0])
    assert values[0, 1] > 0


def test_signs_are_told_apart_by_colour() -> None:
    parts = [cell(0, "conv1", lambda_min=-8.0), cell(0, "head", lambda_min=8.0), cell(0, "fc", lambda_min=0.0)]
    drawing = class_layer_map(parts)
    assert drawing.settings["scale"] == "asinh"
    assert drawing.settings["linear_width"] == FLOOR
    shown = mesh(drawing)
    assert shown.norm(0.0) == pytest.approx(0.5)  # the middle of a diverging map
    assert shown.norm(-8.0) == 0.0
    assert shown.norm(8.0) == 1.0
    # Two decades above the floor are near the ends: the scale is logarithmic there.
    assert shown.norm(0.8) - 0.5 > 0.25


def test_noise_stays_pale() -> None:
    parts = [cell(label, "conv1", lambda_min=sign * 0.5 * FLOOR) for label, sign in ((0, -1), (3, 1))]
    drawing = class_layer_map(parts)
    assert drawing.settings["limits"] == [-10 * FLOOR, 10 * FLOOR]
    shown = mesh(drawing)
    np.testing.assert_allclose(shown.norm([-0.5 * FLOOR, 0.5 * FLOOR]), [0.42, 0.58], atol=0.005)
    assert shown.get_cmap().name == mesh(class_layer_map(parts[1:])).get_cmap().name  # diverging without a negative too
    ratio = class_layer_map(parts, "curvature_ratio")
    assert ratio.settings["limits"] == [0.0, 0.01]


def test_layers_are_in_the_order_of_the_modules_whatever_is_missing() -> None:
    scattered = [part for part in GRID if part.part != "class/0/layer/layer1.0.conv1"]
    assert class_layer_map(scattered).arrays["layers"].tolist() == LAYERS
    # A trace by layer knows the order even where no row has all layers.
    whole = traced("class/0", "airplane", dict.fromkeys(["conv1", "bn1", "head"], 1.0))
    parts = [whole, cell(0, "head"), cell(3, "conv1")]
    assert class_layer_map(parts).arrays["layers"].tolist() == ["conv1", "head"]


def traced(part: str, label: str, traces: dict[str, float]) -> PartSpectrum:
    values = np.array(list(traces.values()))
    trace = TraceEstimate(np.array([values.sum()] * 2), 0.0, tuple(traces), np.array([values, values]), 0 * values)
    found = part_spectrum(part, label, num_parameters=60, num_probes=2, num_steps=8, noise_floor=FLOOR)
    return dataclasses.replace(found, trace=trace)


def test_traces_of_layers_come_from_the_probes_of_a_class() -> None:
    classes = [traced("class/0", "airplane", {"conv1": 4.0, "head": 1.5}), traced("class/1", "car", {"conv1": 7.0})]
    drawing = class_layer_map(classes, "trace")
    np.testing.assert_array_equal(drawing.arrays["values"], [[4.0, 1.5], [7.0, np.nan]])
    assert drawing.arrays["row_labels"].tolist() == ["airplane", "car"]
    # What was measured for itself is not replaced, and no other layer is added.
    own = cell(0, "conv1")
    drawing = class_layer_map([*classes, own], "trace")
    np.testing.assert_array_equal(drawing.arrays["values"], [[own.saddle.trace], [7.0]])
    with pytest.raises(LandscapeError, match="--per-class --per-layer"):
        class_layer_map(classes, "lambda_max")


def test_rows_may_be_groups_or_all() -> None:
    parts = [
        part_spectrum("group/tail/layer/fc", "tail · fc", num_parameters=60, num_probes=2, num_steps=8),
        part_spectrum("layer/fc", "fc", num_parameters=60, num_probes=2, num_steps=8),
    ]
    drawing = class_layer_map(parts)
    assert drawing.arrays["row_labels"].tolist() == ["tail", "all"]
    assert drawing.figure.axes[0].get_ylabel() == "samples"
    assert class_layer_map(parts[:1]).figure.axes[0].get_ylabel() == "group"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: class_layer_map(GRID, "lambda_mim"), "no quantity 'lambda_mim'; did you mean 'lambda_min'"),
        (lambda: class_layer_map(GRID, "xyz"), "give one of lambda_max"),
        (lambda: class_layer_map([GRID[0], GRID[0]]), "'class/0/layer/conv1' appears twice"),
        (lambda: class_layer_map([]), "measures one part a class and layer"),
    ],
)
def test_what_cannot_be_drawn_says_so(make: object, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()  # type: ignore[operator]


def test_it_is_legible_with_a_hundred_classes_and_sixty_layers() -> None:
    assert_legible(class_layer_map(GRID))
    one = GRID[0]
    crowd = [
        dataclasses.replace(one, part=f"class/{c}/layer/layer3.{i}.conv1", label=f"class_{c} · layer3.{i}.conv1")
        for c in range(100)
        for i in range(60)
    ]
    assert_legible(class_layer_map(crowd))


def test_it_is_drawn_again_from_its_file(tmp_path: Path) -> None:
    assert_drawn_again_alike(class_layer_map(GRID[:-1]), tmp_path)
