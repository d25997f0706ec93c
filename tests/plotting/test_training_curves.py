"""Curves over training: every point is a record's number, and switches stand where the training made them."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from support.pages import assert_drawn_again_alike, assert_legible
from support.spectra import part_spectrum

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.colors import GROUP_COLORS
from landscape.plotting.curves import Curve, history_curves, sweep_curves, training_curves
from landscape.plotting.scales import set_log_ticks
from landscape.plotting.style import PALETTE

FLOOR = 0.05
GROUPS = {"head": 0.0, "mid": 0.5, "tail": 1.0}


def parts(step: int, shift: float = 0.0) -> list[PartSpectrum]:
    found = [
        part_spectrum(f"group/{group}", group, rarity=rarity, num_parameters=60, num_probes=2, num_steps=8,
                      noise_floor=FLOOR, seed=step)
        for group, rarity in GROUPS.items()
    ]  # fmt: skip
    return [
        dataclasses.replace(
            part,
            saddle=dataclasses.replace(
                part.saddle, lambda_min=-0.02 * 6.0**place * (step if place else 1) - shift,
                lambda_min_residual=0.003 * step, lambda_max=20.0 + step, lambda_max_residual=0.5,
            ),
        )
        for place, part in enumerate(found)
    ]  # fmt: skip


SWEEPS = {
    "CE": {epoch: parts(epoch) for epoch in (1, 2, 3, 4)},
    "CE + SAM": {epoch: parts(epoch, 0.5) for epoch in (2, 4)},
}


def line(epoch: int, accuracy: float, **more: Any) -> dict[str, Any]:
    record = {
        "epoch": epoch, "lr": 0.1 / epoch, "train_loss": 2.0 / epoch, "accuracy": accuracy,
        "groups": {"head": accuracy + 0.1, "mid": accuracy, "tail": None},
        "groups_by_count": {"head": accuracy + 0.2, "mid": accuracy, "tail": accuracy / 2},
        "per_class": [accuracy + 0.1, accuracy, None],
    }  # fmt: skip
    return record | more


RUNS = [[line(epoch, 0.1 * epoch + 0.01 * seed) for epoch in (1, 2, 3, 4)] for seed in range(3)]


def linked(axes: Axes) -> list[Line2D]:
    """The curves of a panel."""
    return [found for found in axes.lines if found.get_linestyle() != "None" and len(found.get_xdata()) > 2]


def named(curves: list[Curve], **wanted: str) -> Curve:
    (found,) = [curve for curve in curves if all(getattr(curve, key) == value for key, value in wanted.items())]
    return found


def test_points_of_a_sweep_are_its_records() -> None:
    curves = sweep_curves(SWEEPS, ("lambda_min", "curvature_ratio"))
    assert len(curves) == 2 * 2 * 3
    tail = named(curves, quantity="lambda_min", method="CE", part="group/tail")
    records = [SWEEPS["CE"][epoch][2].saddle for epoch in (1, 2, 3, 4)]
    np.testing.assert_array_equal(tail.epochs, [1, 2, 3, 4])
    np.testing.assert_array_equal(tail.values, [record.lambda_min for record in records])
    np.testing.assert_allclose(tail.high - tail.values, [0.003, 0.006, 0.009, 0.012], rtol=1e-9)
    ratio = named(curves, quantity="curvature_ratio", method="CE", part="group/tail")
    np.testing.assert_allclose(ratio.values, [record.curvature_ratio for record in records])
    # To first order, as finite differences of the ratio say.
    moved = (abs(records[1].lambda_min) + 0.006) / (records[1].lambda_max - 0.5)
    assert ratio.high[1] == pytest.approx(moved, rel=2e-3)
    np.testing.assert_array_equal(
        named(curves, quantity="lambda_min", method="CE + SAM", part="group/mid").epochs, [2, 4]
    )


def test_what_is_drawn_is_in_the_arrays() -> None:
    drawing = training_curves(sweep_curves(SWEEPS, ("lambda_min", "curvature_ratio")))
    for number, (quantity, _, _) in enumerate(drawing.settings["curves"]):
        axes = drawing.figure.axes[[panel["quantity"] for panel in drawing.settings["panels"]].index(quantity)]
        points = [np.asarray(found.get_xydata()) for found in axes.lines]
        own = np.column_stack([drawing.arrays[f"{number}/epochs"], drawing.arrays[f"{number}/values"]])
        assert any(drawn.shape == own.shape and np.array_equal(drawn, own) for drawn in points)


def test_colours_are_parts_and_lines_are_methods() -> None:
    axes = training_curves(sweep_curves(SWEEPS, ("lambda_max",))).figure.axes[0]
    curves = [found for found in axes.lines if found.get_linestyle() != "None"]
    assert [to_rgb(found.get_color()) for found in curves] == [to_rgb(GROUP_COLORS[group]) for group in GROUPS] * 2
    # So that all six differ in grey, too: lines are methods, markers are parts.
    assert [(found.get_linestyle(), found.get_marker()) for found in curves] == list(product(("-", "--"), "os^"))
    # A single part leaves the colours to the methods.
    axes = training_curves(sweep_curves(SWEEPS, ("lambda_max",), ["group/tail"])).figure.axes[0]
    curves = [found for found in axes.lines if found.get_linestyle() != "None"]
    assert [to_rgb(found.get_color()) for found in curves] == [to_rgb(PALETTE[0]), to_rgb(PALETTE[1])]


def test_classes_have_the_colours_of_their_numbers() -> None:
    axes = training_curves(history_curves({"CE": RUNS[:1]}, parts=["class/1", "class/0"])).figure.axes[0]
    assert [to_rgb(found.get_color()) for found in linked(axes)] == [to_rgb(PALETTE[1]), to_rgb(PALETTE[0])]


def test_parts_have_panels_of_their_own_where_asked_for() -> None:
    curves = history_curves({"CE": RUNS[:1]}, ("test_accuracy", "train_loss"), ("group/head", "group/mid"))
    drawing, together = training_curves(curves, by_part=True), training_curves(curves)
    figure = drawing.figure
    labels = ["head: test accuracy (%)", "mid: test accuracy (%)", "all: training loss (nats)"]
    assert [axes.get_ylabel() for axes in figure.axes[:3]] == labels
    assert not figure.legends  # the axes say it
    for number, axes in enumerate(figure.axes[:3]):
        (line,) = linked(axes)
        np.testing.assert_array_equal(line.get_ydata(), drawing.arrays[f"{number}/values"])
    assert sorted(together.arrays) == sorted(drawing.arrays)
    assert len(together.settings["panels"]) == 2


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (0.4, 0.9, 1.0), (0.05, 0.5, 0.998), (0.9, 0.97, 0.99)])
def test_no_tick_of_an_accuracy_lies_above_all(shares: tuple[float, ...]) -> None:
    run = [{**line, "accuracy": share} for line, share in zip(RUNS[0], shares, strict=False)]
    axes = training_curves(history_curves({"CE": [run]}, parts=["all"])).figure.axes[0]
    low, high = axes.get_ylim()
    assert low < min(shares[: len(run)])
    assert high <= 1.03
    ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert max(ticks) <= 1.0 + 1e-9
    if max(shares[: len(run)]) == 1.0:
        assert max(ticks) == pytest.approx(1.0)


def test_signs_of_lambda_min_have_a_scale_linear_within_the_noise() -> None:
    drawing = training_curves(sweep_curves(SWEEPS, ("lambda_min", "curvature_ratio")))
    signed, ratio = drawing.figure.axes
    assert signed.get_yscale() == "asinh"
    assert signed.yaxis.get_transform().linear_width == FLOOR
    assert ratio.get_yscale() == "linear"
    assert ratio.get_ylim()[0] == 0.0
    # −0.02 lies within the floor: its sign is not told, and its marker is open.
    head = drawing.settings["curves"].index(["lambda_min", "CE", "group/head"])
    assert not drawing.arrays[f"{head}/certified"].any()
    hollow = [found for found in signed.lines if found.get_markerfacecolor() == "white"]
    assert [found.get_ydata().tolist() for found in hollow] == [[-0.02] * 4]


def test_noise_does_not_fill_a_panel() -> None:
    noise = {epoch: [dataclasses.replace(part, saddle=dataclasses.replace(part.saddle, lambda_min=1e-4 * epoch))
                     for part in parts(epoch)[:1]] for epoch in (1, 2)}  # fmt: skip
    low, high = training_curves(sweep_curves({"CE": noise}, ("lambda_min",))).figure.axes[0].get_ylim()
    assert low < -FLOOR
    assert high > FLOOR


def test_an_axis_between_two_powers_of_ten_has_ticks_too() -> None:
    far = {epoch: parts(epoch, 20.0)[:1] for epoch in (1, 2)}
    axes = training_curves(sweep_curves({"CE": far}, ("lambda_min",))).figure.axes[0]
    low, high = axes.get_ylim()
    assert [tick for tick in axes.get_yticks() if low <= tick <= high]


@pytest.mark.parametrize(("low", "high"), [(0.58, 1.75), (1.1, 1.9), (3.11, 3.19), (2e-7, 3e-7), (0.5, 40.0), (1, 1e5)])
def test_a_logarithmic_axis_has_two_labels_at_least(low: float, high: float) -> None:
    axes = Figure().subplots()
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    set_log_ticks(axes.yaxis, low, high)
    axes.figure.draw_without_rendering()
    labels = [
        text.get_text()
        for place, text in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= place <= high and text.get_text()
    ]
    assert len(set(labels)) == len(labels) > 1


def test_parts_of_a_single_method_also_differ_in_grey() -> None:
    drawing = training_curves(sweep_curves({"CE": SWEEPS["CE"]}, ("lambda_min",)))
    looks = {(line.get_linestyle(), line.get_marker()) for line in linked(drawing.figure.axes[0])}
    assert len(looks) == 3
    legend = drawing.figure.legends[0].get_lines()
    assert {(line.get_linestyle(), line.get_marker()) for line in legend[:3]} == looks


def test_seeds_have_a_mean_and_a_deviation() -> None:
    curves = history_curves({"CE": RUNS}, ("test_accuracy", "train_loss"))
    assert [curve.part for curve in curves] == ["all", "group/head", "group/mid", "all"]  # an empty tail has no curve
    whole = curves[0]
    np.testing.assert_allclose(whole.values, [0.11, 0.21, 0.31, 0.41])
    np.testing.assert_allclose(whole.high - whole.values, [0.01] * 4)
    np.testing.assert_allclose(curves[3].values, [2.0, 1.0, 2 / 3, 0.5])
    by_count = history_curves({"CE": RUNS}, parts=["group/tail"], grouping="count")
    np.testing.assert_allclose(by_count[0].values, [0.055, 0.105, 0.155, 0.205])
    assert np.isnan(history_curves({"CE": RUNS[:1]})[0].high).all()  # one seed has no deviation
    short = history_curves({"CE": [RUNS[0], RUNS[1][:2]]})
    np.testing.assert_array_equal(short[0].epochs, [1, 2])


def test_long_histories_have_bands_and_few_markers_at_places_of_their_own() -> None:
    runs = [[line(epoch, 0.5 + 0.001 * epoch + 0.01 * seed) for epoch in range(1, 41)] for seed in range(2)]
    axes = training_curves(history_curves({"CE": runs}, parts=["all"])).figure.axes[0]
    assert [len(found.get_markevery()) for found in linked(axes)] == [7]
    two = training_curves(history_curves({"CE": runs, "SAM": runs}, parts=["all"])).figure.axes[0]
    places = [set(found.get_markevery()) for found in linked(two)]
    assert [min(7, len(each)) for each in places] == [7, 7]
    assert not places[0] & places[1]
    assert len({found.get_marker() for found in linked(two)}) == 2
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(0.501 + 0.005 - math.sqrt(0.00005))
    assert heights.max() == pytest.approx(0.54 + 0.005 + math.sqrt(0.00005))


def test_a_marker_of_a_long_curve_is_filled_where_all_epochs_up_to_the_next_are_certified() -> None:
    epochs = np.arange(40.0)
    values, certified = -1 - epochs, np.ones(40, dtype=bool)
    certified[[7, 12, 39]] = False
    curve = Curve("lambda_min", "CE", "class/0", "0", epochs, values, values, values, certified, 0.1)
    lines = training_curves([curve]).figure.axes[0].lines
    (filled,) = (each for each in lines if len(each.get_xdata()) == 40)
    (hollow,) = (each for each in lines if each.get_markerfacecolor() == "white")
    assert filled.get_markevery() == [0, 6, 12, 18, 24, 30, 36]
    assert hollow.get_xdata().tolist() == [6, 12, 36]


def test_an_unbounded_error_has_no_bar() -> None:
    curve = history_curves({"CE": RUNS[:1]}, parts=["all"])[0]
    unbounded = dataclasses.replace(curve, low=curve.values - 0.02, high=np.array([np.inf, 0.3, np.inf, np.inf]))
    axes = training_curves([unbounded]).figure.axes[0]
    (container,) = axes.containers
    ((ends,),) = [bars.get_segments() for bars in container.lines[2]]
    np.testing.assert_allclose(ends, [[2, 0.18], [2, 0.3]])


def test_switches_stand_at_their_epochs_in_every_panel() -> None:
    curves = sweep_curves(SWEEPS, ("lambda_min", "lambda_max"))
    figure = training_curves(curves, {"stage II": 2, "DRW": 3, "DRS": 3}).figure
    for axes in figure.axes:
        upright = sorted(found.get_xdata()[0] for found in axes.lines if found.get_linestyle() == "--"
                         and len(set(found.get_xdata())) == 1)  # fmt: skip
        assert upright == [2.0, 3.0]
        assert {text.get_text(): text.xy[0] for text in axes.texts} == {"stage II": 2, "DRW, DRS": 3}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sweep_curves(SWEEPS, ("lambda_mim",)), "did you mean 'lambda_min'"),
        (lambda: sweep_curves(SWEEPS, parts=["group/tial"]), "no part 'group/tial' at any epoch; did you mean"),
        (lambda: sweep_curves({"CE": {1: parts(1)}}), "needs two epochs or more"),
        (lambda: history_curves({"CE": RUNS}, ("accuracy",)), "no quantity 'accuracy'; did you mean 'test_accuracy'"),
        (lambda: history_curves({"CE": RUNS}, parts=["class/3"]), r"no accuracy of 'class/3' \(index\): give all"),
        (lambda: history_curves({"CE": []}), "run of 'CE' has no finished epoch"),
        (lambda: training_curves([]), "no curve to draw"),
        (lambda: training_curves(history_curves({"CE": RUNS}, ("penalty",))), "no curve to draw"),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_too_many_curves_are_refused() -> None:
    curve = history_curves({"CE": RUNS[:1]}, parts=["all"])[0]
    with pytest.raises(LandscapeError, match="11 curves in a panel"):
        training_curves([dataclasses.replace(curve, part=f"class/{number}") for number in range(11)])


def test_it_is_legible_and_drawn_again_from_its_file(tmp_path: Path) -> None:
    curves = sweep_curves(SWEEPS, ("lambda_min", "curvature_ratio", "negative_fraction"))
    curves += history_curves({"CE": RUNS, "CE + SAM": RUNS}, ("test_accuracy", "lr"))
    drawing = training_curves(curves, {"DRW": 3, "stage II": 3.2})
    assert_legible(drawing)
    assert_drawn_again_alike(drawing, tmp_path)


def test_histories_and_their_switches_are_read_without_torch() -> None:
    code = (
        "import sys, landscape.plotting.curves, landscape.plotting.heat_map, landscape.store.history, "
        "landscape.switches; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
