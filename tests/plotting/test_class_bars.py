"""Class bars: every bar is the number it stands for."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from support.spectra import long_tailed_classes, with_lambda_min

from landscape import plotting
from landscape.curvature.results import Interval, PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting import Look

FIVE = ("lambda_min", "negative_mass", "negative_fraction", "gradient_norm", "num_samples")
class_bars = functools.partial(plotting.class_bars, quantities=FIVE)


@pytest.fixture(scope="module")
def classes() -> list[PartSpectrum]:
    parts = long_tailed_classes(10, num_parameters=100, num_probes=3, num_steps=10)
    return [with_lambda_min(parts[0], -5e-5), *parts[1:]]  # the head's sign cannot be told


def scaled(parts: list[PartSpectrum], factor: float) -> list[PartSpectrum]:
    return [
        dataclasses.replace(
            part,
            saddle=dataclasses.replace(part.saddle, lambda_min=factor * part.saddle.lambda_min, gradient_norm=factor),
        )
        for part in parts
    ]


def bars(axes: Axes) -> list[BarContainer]:
    return [item for item in axes.containers if isinstance(item, BarContainer)]


def heights(container: BarContainer) -> list[float]:
    return [bar.get_height() for bar in container]


def error_ends(container: BarContainer) -> np.ndarray:
    assert container.errorbar is not None
    return np.array([segment[:, 1] for segment in container.errorbar.lines[2][0].get_segments()])


def test_bars_dashes_and_errors_are_the_numbers(classes: list[PartSpectrum]) -> None:
    ends, mass, fraction, gradient, count = class_bars(classes).figure.axes
    saddles = [part.saddle for part in classes]
    (lambda_min,) = bars(ends)
    np.testing.assert_allclose(heights(lambda_min), [abs(s.lambda_min) for s in saddles])
    expected = [[abs(s.lambda_min) - s.lambda_min_residual, abs(s.lambda_min) + s.lambda_min_residual] for s in saddles]
    np.testing.assert_allclose(error_ends(lambda_min)[1:], expected[1:])
    dashes = next(item for item in ends.containers if isinstance(item, ErrorbarContainer) and len(item.lines[2]) == 2)
    np.testing.assert_allclose(
        [segment[0, 1] for segment in dashes.lines[2][0].get_segments()], [s.lambda_max for s in saddles]
    )
    widths = [np.ptp(segment[:, 0]) for segment in dashes.lines[2][0].get_segments()]
    np.testing.assert_allclose(widths, [bar.get_width() for bar in lambda_min])
    np.testing.assert_allclose(heights(bars(mass)[0]), [s.negative_mass.value for s in saddles])
    np.testing.assert_allclose(
        error_ends(bars(mass)[0]), [[s.negative_mass.low, s.negative_mass.high] for s in saddles]
    )
    np.testing.assert_allclose(heights(bars(fraction)[0]), [s.negative_fraction.value for s in saddles])
    np.testing.assert_allclose(
        error_ends(bars(fraction)[0]), [[s.negative_fraction.low, s.negative_fraction.high] for s in saddles]
    )
    np.testing.assert_allclose(heights(bars(gradient)[0]), [s.gradient_norm for s in saddles])
    np.testing.assert_allclose(heights(bars(count)[0]), [part.num_samples for part in classes])
    assert [axes.get_yscale() for axes in (ends, mass, fraction, gradient, count)] == [
        "log",
        "log",
        "linear",
        "log",
        "log",
    ]
    assert [label.get_text() for label in count.get_xticklabels()] == [part.label for part in classes]


def test_only_the_uncertain_sign_is_hatched(classes: list[PartSpectrum]) -> None:
    drawing = class_bars(classes)
    (lambda_min,) = bars(drawing.figure.axes[0])
    assert [bar.get_hatch() is not None for bar in lambda_min] == [True] + [False] * 9
    assert drawing.arrays["certified"].tolist() == [[0.0] + [1.0] * 9]


def test_methods_stand_side_by_side_under_their_names(classes: list[PartSpectrum]) -> None:
    methods = {"CE": classes, "CE-DRW": scaled(classes, 2.0)[:-1], "SAM": scaled(classes, 0.1)}
    drawing = class_bars(methods)
    containers = bars(drawing.figure.axes[0])
    assert len(containers) == 3
    np.testing.assert_allclose(heights(containers[2]), [0.1 * abs(part.saddle.lambda_min) for part in classes])
    centres = np.array([[bar.get_x() + bar.get_width() / 2 for bar in container] for container in containers])
    assert (np.diff(centres, axis=0) >= [[bar.get_width() for bar in containers[0]]]).all()
    np.testing.assert_allclose(centres.mean(axis=0), np.arange(10), atol=1e-12)
    assert np.isnan(drawing.arrays["lambda_min"][1, -1]), "a class that a method lacks is a gap"
    texts = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert texts[:3] == ["CE", "CE-DRW", "SAM"]
    colours = [container[1].get_facecolor() for container in containers]
    assert colours == [container[1].get_facecolor() for container in bars(drawing.figure.axes[3])]
    assert len(set(colours)) == 3
    assert len(bars(drawing.figure.axes[4])) == 1, "equal class sizes are drawn once"


def test_unequal_class_sizes_are_drawn_for_each_method(classes: list[PartSpectrum]) -> None:
    fewer = [dataclasses.replace(part, num_samples=part.num_samples // 2) for part in classes]
    containers = bars(class_bars({"all": classes, "half": fewer}).figure.axes[4])
    assert [heights(container) for container in containers] == [
        [part.num_samples for part in parts] for parts in (classes, fewer)
    ]


def test_groups_are_bands_with_names(classes: list[PartSpectrum]) -> None:
    groups = {"head": ["class/0", "class/1", "class/2"], "tail": ["class/8", "class/9", "class/5"]}
    axes = class_bars(classes, groups=groups).figure.axes[0]
    placed = sorted((text.get_text(), float(text.xy[0])) for text in axes.texts)  # type: ignore[attr-defined]
    assert placed == [("head", 1.0), ("tail", 5.0), ("tail", 8.5)]
    with pytest.raises(LandscapeError, match="group 'mid' has part 'class/77'"):
        class_bars(classes, groups={"mid": ["class/3", "class/77"]})


@pytest.mark.parametrize("count", [1, 2, 10])
def test_class_names_stay_apart_and_on_the_page(classes: list[PartSpectrum], count: int) -> None:
    for name in ("x", "Passerculus sandwichensis princeps"):
        figure = class_bars([dataclasses.replace(part, label=f"{name} {part.part}") for part in classes[:count]]).figure
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        boxes = [label.get_window_extent(renderer) for label in figure.axes[4].get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
        assert min(box.y0 for box in boxes) >= 0


def test_a_hundred_classes_label_every_few(classes: list[PartSpectrum]) -> None:
    many = [dataclasses.replace(classes[i % 10], part=f"class/{i}", label=f"class name {i}") for i in range(100)]
    figure = class_bars(many).figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [label.get_window_extent(renderer) for label in figure.axes[4].get_xticklabels()]
    assert 20 < len(boxes) < 100
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_a_convex_class_has_a_hatched_bar_and_a_zero_none(classes: list[PartSpectrum]) -> None:
    (container,) = bars(
        class_bars([with_lambda_min(classes[1], 0.02), with_lambda_min(classes[2], 0.0)]).figure.axes[0]
    )
    assert container[0].get_hatch()
    assert heights(container) == [0.02, 0.0]


def test_what_cannot_be_drawn_is_said(classes: list[PartSpectrum]) -> None:
    nowhere: list[Any] = [[], {}, {"CE": []}]
    for nothing in nowhere:
        with pytest.raises(LandscapeError, match="no spectra to draw"):
            class_bars(nothing)
    with pytest.raises(LandscapeError, match="part 'class/1' appears twice in 'CE'"):
        class_bars({"CE": [classes[1], classes[1]]})


def with_saddle(part: PartSpectrum, **fields: Any) -> PartSpectrum:
    return dataclasses.replace(part, saddle=dataclasses.replace(part.saddle, **fields))


def test_intervals_lie_within_the_axis(classes: list[PartSpectrum]) -> None:
    wide = with_saddle(classes[3], negative_mass=Interval(10.0, 0.5, 9e4), lambda_max_residual=700.0)
    ends, mass, *_ = class_bars([classes[2], wide]).figure.axes
    assert mass.get_ylim()[1] > 9e4
    assert ends.get_ylim()[1] > 700 + classes[3].saddle.lambda_max


def test_an_unbounded_interval_is_an_arrow_over_the_whole_height(classes: list[PartSpectrum]) -> None:
    unbounded = with_saddle(classes[3], negative_mass=Interval(10.0, 0.5, math.inf))
    drawing = class_bars([classes[2], unbounded])
    mass = drawing.figure.axes[1]
    (arrow,) = [line for line in mass.lines if line.get_marker() == "^"]
    assert (list(arrow.get_xdata()), list(arrow.get_ydata())) == ([1.0], [mass.get_ylim()[1]])  # type: ignore[arg-type]
    np.testing.assert_allclose(error_ends(bars(mass)[0])[1], [0.5, mass.get_ylim()[1]])
    assert drawing.arrays["negative_mass_high"][0, 1] == math.inf


def test_log_panels_within_a_decade_have_two_labels(classes: list[PartSpectrum]) -> None:
    for gradient_norm in (1.0, 1.24, 3.0, 9.9, 2e-7):
        figure = class_bars([with_saddle(classes[3], gradient_norm=gradient_norm)]).figure
        axes = figure.axes[3]
        low, high = axes.get_ylim()
        ticks = axes.yaxis.get_major_ticks()
        labels = [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high]
        assert len(set(labels) - {""}) >= 2, (gradient_norm, labels)


def test_panels_of_zeros_say_so_without_a_warning(classes: list[PartSpectrum]) -> None:
    nothing = Interval(0.0, 0.0, 0.0)
    zero = with_saddle(
        classes[0],
        lambda_min=0.0,
        lambda_max=0.0,
        lambda_min_residual=0.0,
        lambda_max_residual=0.0,
        gradient_norm=0.0,
        negative_mass=nothing,
        negative_fraction=Interval(math.nan, math.nan, math.nan),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        panels = class_bars([zero]).figure.axes
    words = [[text.get_text() for text in axes.texts] for axes in panels]
    assert words == [["every value is 0"]] * 2 + [["not defined: every eigenvalue is 0"], ["every value is 0"], []]


@pytest.mark.parametrize("column", ["single", "double"])
def test_forty_parts_are_all_named(classes: list[PartSpectrum], column: str) -> None:
    many = [
        dataclasses.replace(classes[i % 10], part=f"class/{i}/layer/fc", label=f"class {i}, layer1.0.conv1")
        for i in range(40)
    ]
    figure = class_bars(many).looking(Look(column)).figure  # type: ignore[arg-type]
    labels = figure.axes[4].get_xticklabels()
    assert [label.get_text() for label in labels] == [part.label for part in many]
    boxes = [label.get_window_extent(figure.canvas.get_renderer()) for label in labels]  # type: ignore[attr-defined]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


def test_method_and_class_names_are_no_formulas(classes: list[PartSpectrum]) -> None:
    named = [dataclasses.replace(classes[1], label=r"a$\frac$")]
    figure = class_bars({r"$\frac$": named, "_sam": named}, groups={"$x$": ["class/1"]}).figure
    texts = [*figure.legends[0].get_texts()[:2], *figure.axes[4].get_xticklabels(), *figure.axes[0].texts]
    shown = [text._preprocess_math(text.get_text()) for text in texts]  # type: ignore[attr-defined]
    assert shown == [(r"$\frac$", False), ("_sam", False), (r"a$\frac$", False), ("$x$", False)]


# ---------------------------------------------------------------------- quantities


def panels_of(drawing: plotting.Drawing) -> dict[str, Axes]:
    return {axes.get_ylabel(): axes for axes in drawing.figure.axes}


def test_trace_and_accuracy_are_drawn_with_the_error_that_is_known(classes: list[PartSpectrum]) -> None:
    one_probe = with_saddle(classes[4], trace_standard_error=math.inf)
    drawing = plotting.class_bars([*classes[:4], one_probe])
    panels = panels_of(drawing)
    assert list(panels)[3:] == ["tr H", "‖∇L‖", "accuracy (%)", "samples\nmeasured"]
    (trace,) = bars(panels["tr H"])
    np.testing.assert_allclose(heights(trace), [part.saddle.trace for part in [*classes[:4], one_probe]])
    saddles = [part.saddle for part in classes[:4]]
    assert trace.errorbar is not None
    whiskers = [segment[:, 1] for segment in trace.errorbar.lines[2][0].get_segments() if len(segment)]
    np.testing.assert_allclose(
        whiskers, [[s.trace - s.trace_standard_error, s.trace + s.trace_standard_error] for s in saddles]
    )
    (accuracy,) = bars(panels["accuracy (%)"])
    np.testing.assert_allclose(heights(accuracy), [100 * part.accuracy for part in classes[:5]])  # type: ignore[operator]
    assert accuracy.errorbar is None
    assert bars(panels["‖∇L‖"])[0].errorbar is None


def test_panels_are_those_asked_for_and_what_no_part_has_is_left_out(classes: list[PartSpectrum]) -> None:
    drawing = plotting.class_bars(classes, quantities=["accuracy", "lambda_min"])
    assert list(panels_of(drawing)) == ["accuracy (%)", "|λ$_{min}$| (bar), λ$_{max}$ (dash)"]
    unknown = [dataclasses.replace(part, accuracy=None) for part in classes]
    assert "accuracy (%)" not in panels_of(plotting.class_bars(unknown))
    assert "accuracy (%)" in panels_of(plotting.class_bars({"a": unknown, "b": classes}))
    with pytest.raises(LandscapeError, match="no part has accuracy"):
        plotting.class_bars(unknown, quantities=["accuracy"])
    with pytest.raises(LandscapeError, match="no quantity 'acuracy'; did you mean 'accuracy'"):
        plotting.class_bars(classes, quantities=["acuracy"])
    with pytest.raises(LandscapeError, match="name each once"):
        plotting.class_bars(classes, quantities=["trace", "trace"])


def test_a_trace_of_both_signs_has_labels_that_stay_apart(classes: list[PartSpectrum]) -> None:
    parts = [with_saddle(part, trace=trace) for part, trace in zip(classes, (-90.0, -4.0, 0.3, 5.0), strict=False)]
    figure = plotting.class_bars(parts, quantities=["trace"]).figure
    axes = figure.axes[0]
    assert heights(bars(axes)[0]) == [-90.0, -4.0, 0.3, 5.0]
    assert axes.get_ylim()[0] < -90
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = sorted((label.get_window_extent(renderer) for label in axes.get_yticklabels()), key=lambda box: box.y0)
    assert len(boxes) >= 3
    assert all(lower.y1 < upper.y0 for lower, upper in itertools.pairwise(boxes))


def test_methods_differ_by_more_than_colour(classes: list[PartSpectrum]) -> None:
    figure = class_bars({"CE": classes, "SAM": classes, "ImbSAM": classes}).figure
    hatches = [container[1].get_hatch() for container in bars(figure.axes[1])]
    assert len(set(hatches)) == 3
    assert "//////" not in hatches


def test_training_images_are_shown_where_fewer_were_measured(classes: list[PartSpectrum]) -> None:
    sizes = {part.part: part.num_samples for part in classes}
    measured = [dataclasses.replace(part, num_samples=50) for part in classes[1:]]
    drawing = plotting.class_bars(measured, class_sizes=sizes)
    assert drawing.settings["quantities"][-2:] == ["num_samples", "class_size"]
    *_, samples, images = drawing.figure.axes
    assert heights(bars(samples)[0]) == [50] * 9
    assert heights(bars(images)[0]) == [part.num_samples for part in classes[1:]]
    # What both panels would say is said once.
    assert plotting.class_bars(classes, class_sizes=sizes).settings["quantities"][-2:] == ["accuracy", "class_size"]
    assert "class_size" not in plotting.class_bars(classes).settings["quantities"]


def test_training_images_of_methods_are_their_own(classes: list[PartSpectrum]) -> None:
    sizes = {"CE": {"class/0": 5000, "class/1": 70}, "SAM": {"class/0": 5000}}
    drawing = plotting.class_bars({"CE": classes[:2], "SAM": classes[:2]}, class_sizes=sizes)
    np.testing.assert_array_equal(drawing.arrays["class_size"], [[5000, 70], [5000, math.nan]])
    assert heights(bars(drawing.figure.axes[-1])[0]) == [5000, 70]
    sizes["SAM"]["class/1"] = 7
    drawing = plotting.class_bars({"CE": classes[:2], "SAM": classes[:2]}, class_sizes=sizes)
    assert [heights(found) for found in bars(drawing.figure.axes[-1])] == [[5000, 70], [5000, 7]]


def test_classes_that_are_called_by_numbers_are_said_to_be_classes(classes: list[PartSpectrum]) -> None:
    numbered = [dataclasses.replace(part, label=str(number)) for number, part in enumerate(classes)]
    assert class_bars(numbered).figure.axes[-1].get_xlabel() == "class"
    assert class_bars([dataclasses.replace(numbered[0], label="cat"), *numbered[1:]]).figure.axes[-1].get_xlabel() == ""
