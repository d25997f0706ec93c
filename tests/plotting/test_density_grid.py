"""Density curves against spectra known in closed form, and what a grid of panels shows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from scipy import stats
from support.spectra import class_eigenvalues, long_tailed_classes, part_spectrum, quadrature_of, with_lambda_min

from landscape.curvature.results import Interval, PartSpectrum, SpectralDensity
from landscape.errors import LandscapeError
from landscape.plotting import Look, density_curve, density_grid
from landscape.plotting.density import KERNEL_WIDTH, plain_or_power, with_error

LONG_NAMES = ["Passerculus sandwichensis princeps", "great white shark, man-eater", "layer4.1.downsample.0.weight"]


@pytest.fixture(scope="module")
def classes() -> list[PartSpectrum]:
    return long_tailed_classes(12, num_parameters=400, num_probes=3, num_steps=25)


def exact_quadrature(eigenvalues: np.ndarray, masses: tuple[float, ...] | None = None) -> SpectralDensity:
    """A quadrature that is the spectrum itself: one node an eigenvalue, equal weights."""
    n = eigenvalues.size
    mass = np.array(masses or (float(n),))
    rows = (mass.size, 1)
    nodes, weights = np.tile(np.sort(eigenvalues), rows), np.full((mass.size, n), 1 / n)
    return SpectralDensity(nodes, weights, nodes, nodes, np.full(mass.size, n), mass, np.empty(0), n, 0)


def area(curve_values: np.ndarray, grid: np.ndarray) -> float:
    return float(np.trapezoid(curve_values, grid) / math.log(10))


def test_area_is_the_number_of_eigenvalues() -> None:
    eigenvalues = class_eigenvalues(0.8, 500, seed=1)
    density = quadrature_of(eigenvalues, num_probes=5, num_steps=40, deflate=(4, 9))
    for threshold in (1e-6, 1e-3, 1.0):
        curve = density_curve(density, threshold)
        for probe, mass in zip(curve.probes, density.probe_mass, strict=True):
            assert area(probe, curve.grid) == pytest.approx(mass, rel=1e-5)
    exact = density_curve(exact_quadrature(eigenvalues), 1e-3)
    assert area(exact.mean, exact.grid) == pytest.approx(500, rel=1e-5)


def test_area_left_of_zero_is_the_number_of_negative_eigenvalues() -> None:
    eigenvalues = np.concatenate([-np.geomspace(0.01, 5, 30), np.geomspace(0.01, 50, 170)])
    curve = density_curve(exact_quadrature(eigenvalues), 1e-3)
    left = curve.grid <= 0
    assert area(curve.mean[left], curve.grid[left]) == pytest.approx(30, rel=1e-3)


def test_a_sparse_positive_spectrum_casts_no_weight_below_zero() -> None:
    """Wide kernels of isolated Ritz values must not fake a negative side."""
    curve = density_curve(exact_quadrature(np.array([2.0, 30.0, 4000.0])), 1.0)
    assert curve.mean[curve.eigenvalues < -1].max() < 0.02 * curve.mean.max()


def test_log_uniform_spectrum_is_flat_at_its_count_per_decade() -> None:
    eigenvalues = 10 ** np.linspace(-2, 3, 2001)[:-1]  # 400 a decade
    curve = density_curve(exact_quadrature(eigenvalues), 1e-4)
    inside = (curve.eigenvalues > 0.1) & (curve.eigenvalues < 100)
    np.testing.assert_allclose(curve.mean[inside], 400, rtol=5e-3)
    np.testing.assert_allclose(curve.eigenvalues, 1e-4 * np.sinh(curve.grid))


def test_band_is_the_student_interval_over_probes() -> None:
    density = exact_quadrature(np.geomspace(0.1, 10, 50), masses=(40.0, 50.0, 66.0))
    curve = density_curve(density, 0.01)
    middle = np.searchsorted(curve.eigenvalues, 1.0)
    expected = stats.t.interval(0.95, 2, loc=curve.probes[:, middle].mean(), scale=stats.sem(curve.probes[:, middle]))
    assert (curve.low[middle], curve.high[middle]) == pytest.approx((max(expected[0], 0), expected[1]))
    np.testing.assert_allclose(curve.mean, curve.probes.mean(axis=0))
    assert np.isnan(density_curve(exact_quadrature(np.ones(3)), 0.01).high).all()


def test_steps_after_breakdown_add_nothing() -> None:
    density = exact_quadrature(np.array([1.0, 2.0, 3.0]))
    padded = dataclasses.replace(
        density, nodes=np.c_[density.nodes, [[np.nan] * 2]], weights=np.c_[density.weights, [[0.0] * 2]]
    )
    np.testing.assert_allclose(density_curve(padded, 0.1).mean, density_curve(density, 0.1).mean)


@pytest.mark.parametrize("bad", [{"threshold": 0.0}, {"threshold": float("nan")}, {"threshold": 1.0, "width": -1.0}])
def test_meaningless_scales_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(LandscapeError, match="must be positive"):
        density_curve(exact_quadrature(np.ones(3)), **bad)


def boxes(texts: list, figure: Figure) -> list:
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return [text.get_window_extent(renderer) for text in texts if text.get_visible() and text.get_text()]


def assert_nothing_collides(figure: Figure) -> None:
    """Tick labels, panel titles, numbers, axis labels and the legend neither overlap nor leave the page."""
    everything: list = []
    for axes in figure.axes:
        if not axes.axison:
            continue
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            everything += boxes([tick.label1 for tick in ticks], figure)
        everything += boxes([axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts], figure)
    everything += boxes(list(figure.texts), figure)
    everything += boxes(figure.legends[0].get_texts(), figure)
    page = figure.bbox
    for i, box in enumerate(everything):
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y0 >= page.y0 - 1
        assert box.y1 <= page.y1 + 1
        for other in everything[:i]:
            overlap = min(box.x1, other.x1) - max(box.x0, other.x0), min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(overlap) < 1, "two texts overlap"


@pytest.mark.parametrize(
    ("count", "column", "shape"),
    [
        (1, "double", (1, 1)),
        (2, "double", (1, 2)),
        (3, "double", (1, 3)),
        (4, "single", (2, 2)),
        (7, "double", (3, 3)),  # the labels of two decades a side need more than a quarter of the width
        (10, "double", (2, 5)),
        (12, "wide", (3, 4)),
    ],
)
def test_panels_share_axes_and_do_not_collide(
    classes: list[PartSpectrum], count: int, column: str, shape: tuple[int, int]
) -> None:
    named = [
        dataclasses.replace(s, label=LONG_NAMES[i] if i < 3 and count > 6 else s.label)
        for i, s in enumerate(classes[:count])
    ]
    drawing = density_grid(named).looking(Look(column))  # type: ignore[arg-type]
    panels = [axes for axes in drawing.figure.axes if axes.axison]
    assert len(panels) == count
    gridspec = panels[0].get_gridspec()
    assert gridspec is not None
    assert gridspec.get_geometry() == shape
    assert len({(axes.get_xlim(), axes.get_ylim(), axes.get_xscale(), axes.get_yscale()) for axes in panels}) == 1
    assert panels[0].get_ylim()[0] == 0.5
    assert [axes.get_title().rpartition(", N = ")[2] for axes in panels] == [str(s.num_samples) for s in named]
    assert all(any(tick == 0 for tick in axes.get_xticks()) for axes in panels)
    assert len(panels[0].get_xticks()) >= 3
    assert_nothing_collides(drawing.figure)


def test_the_numbers_stand_above_every_curve(classes: list[PartSpectrum]) -> None:
    drawing = density_grid(classes[:10])
    for axes, spectrum in zip(drawing.figure.axes, classes, strict=False):
        box = boxes(list(axes.texts), drawing.figure)[0]
        peak = np.nanmax(np.r_[drawing.arrays[f"{spectrum.part}/mean"], drawing.arrays[f"{spectrum.part}/high"]])
        assert axes.transData.transform((0, peak))[1] <= box.y0
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1
        assert with_error(spectrum.saddle.lambda_max, spectrum.saddle.lambda_max_residual) in axes.texts[0].get_text()


def test_panels_show_outliers_curve_and_sides(classes: list[PartSpectrum]) -> None:
    spectrum = classes[5]
    drawing = density_grid([spectrum])
    axes = drawing.figure.axes[0]
    stems = next(item for item in axes.collections if isinstance(item, LineCollection)).get_segments()
    np.testing.assert_allclose([stem[0][0] for stem in stems], spectrum.density.deflated)
    assert all(stem[1][1] == 1.0 for stem in stems)
    curve = density_curve(spectrum.density, float(drawing.arrays["threshold"]))
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_xdata(), dtype=float), curve.eigenvalues)
    visible = curve.mean > 0.5
    np.testing.assert_allclose(np.asarray(axes.lines[0].get_ydata())[visible], curve.mean[visible])
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (shaded.x0, shaded.x1) == pytest.approx((axes.get_xlim()[0], 0.0), abs=1e-9)
    low, high = axes.get_xlim()
    assert low < min(spectrum.saddle.lambda_min, spectrum.density.nodes.min())
    assert high > spectrum.saddle.lambda_max


@pytest.mark.parametrize(("lambda_min", "certified"), [(-2e-4, True), (-0.9e-4, False), (3e-5, False)])
def test_lambda_min_is_filled_only_below_the_noise_floor(lambda_min: float, certified: bool) -> None:
    spectrum = with_lambda_min(part_spectrum(num_parameters=100, num_steps=10, noise_floor=1e-4), lambda_min)
    drawing = density_grid([spectrum])
    marker = next(line for line in drawing.figure.axes[0].lines if line.get_marker() == "v")
    assert marker.get_xdata()[0] == lambda_min  # type: ignore[index]
    assert (marker.get_markerfacecolor() != "white") is certified
    assert drawing.arrays["certified"].tolist() == [certified]


def test_linear_threshold_is_the_largest_noise_floor_or_a_tenthousandth(classes: list[PartSpectrum]) -> None:
    head, tail = classes[0], classes[11]
    assert density_grid([head, tail]).arrays["threshold"] == pytest.approx(1e-4 * tail.saddle.lambda_max)
    noisy = dataclasses.replace(head, saddle=dataclasses.replace(head.saddle, noise_floor=0.3))
    assert density_grid([noisy, tail]).arrays["threshold"] == 0.3


def test_a_spectrum_of_zeros_and_a_positive_one_are_drawn() -> None:
    base = part_spectrum(num_parameters=100, num_steps=10)
    zero = dataclasses.replace(
        base,
        density=exact_quadrature(np.zeros(4)),
        saddle=dataclasses.replace(base.saddle, lambda_min=0.0, lambda_max=0.0, noise_floor=0.0),
    )
    assert density_grid([zero]).arrays["threshold"] == 1.0
    convex = dataclasses.replace(base, density=exact_quadrature(np.geomspace(1e-3, 9, 50)))
    axes = density_grid([with_lambda_min(convex, 1e-3)]).figure.axes[0]
    assert axes.get_xlim()[0] < 0


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(LandscapeError, match="no spectra to draw"):
        density_grid([])
    with pytest.raises(LandscapeError, match="ncols = 0"):
        density_grid([part_spectrum(num_parameters=60, num_steps=5)], ncols=0)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-59.01, 0.02, "−59.0 ± 0.02"),
        (28.1234, 1.2, "28.1 ± 1"),
        (1234.0, 15.0, "1.23e3 ± 2e1"),
        (-5e-5, 6e-5, "−5e−5 ± 6e−5"),
        (120.0, 0.0, "120 ± 0"),
    ],
)
def test_numbers_for_small_spaces(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


@pytest.mark.parametrize(("count", "column"), [(1, "double"), (4, "single"), (10, "double"), (12, "wide")])
def test_the_axis_says_that_it_is_logarithmic(classes: list[PartSpectrum], count: int, column: str) -> None:
    drawing = density_grid(classes[:count]).looking(Look(column))  # type: ignore[arg-type]
    axes = drawing.figure.axes[0]
    (low, high), ticks = axes.get_xlim(), np.asarray(axes.get_xticks())
    assert sum((low <= ticks) & (ticks < 0)) >= 2
    assert sum((ticks > 0) & (ticks <= high)) >= 2
    assert np.log10(np.abs(ticks[ticks != 0])) == pytest.approx(np.round(np.log10(np.abs(ticks[ticks != 0]))))
    assert axes.xaxis.get_transform().linear_width == drawing.arrays["threshold"]  # type: ignore[attr-defined]
    words = drawing.figure.get_supxlabel()
    assert words.startswith("eigenvalue λ (linear within ±")
    assert "logarithmic outside" in words


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (-0.01, "−0.01"), (100, "100"), (-1e-5, "−$10^{-5}$"), (1e5, "$10^{5}$"), (2e-4, r"$2{\times}10^{-4}$")],
)
def test_labels_of_powers(value: float, text: str) -> None:
    assert plain_or_power(value) == text


@pytest.mark.parametrize(("num_steps", "num_probes"), [(4, 2), (6, 1), (25, 3)])
def test_every_curve_ends_inside_its_frame(num_steps: int, num_probes: int) -> None:
    """Few Ritz values have wide kernels; curve and band must sink below the axis before they reach the frame."""
    parts = long_tailed_classes(2, num_parameters=3000, num_steps=num_steps, num_probes=num_probes)
    drawing = density_grid(parts)
    for axes, part in zip(drawing.figure.axes, parts, strict=False):
        curve = {name: drawing.arrays[f"{part.part}/{name}"] for name in ("eigenvalues", "mean", "high")}
        upper = np.fmax(curve["mean"], curve["high"])
        low, high = axes.get_xlim()
        outside = (curve["eigenvalues"] < low) | (curve["eigenvalues"] > high)
        assert upper[outside].max(initial=0.0) < axes.get_ylim()[0]
        assert max(upper[0], upper[-1]) < axes.get_ylim()[0], "the curve stops in mid-air"


def test_kernels_stay_within_the_ritz_values() -> None:
    nodes = np.array([-30.0, -0.1, 0.2, 40.0])
    curve = density_curve(exact_quadrature(nodes), 1e-3)
    outside = np.abs(curve.grid) > np.arcsinh(40 / 1e-3) + 4 * KERNEL_WIDTH
    assert curve.mean[outside].max() < 1e-3 * curve.mean.max()


def test_the_curve_of_the_negated_spectrum_is_its_mirror_image() -> None:
    density = long_tailed_classes(1, num_parameters=200, num_probes=3, num_steps=12)[0].density
    negated = dataclasses.replace(density, nodes=-density.nodes[:, ::-1], weights=density.weights[:, ::-1])
    curve, mirrored = density_curve(density, 1e-3), density_curve(negated, 1e-3)
    np.testing.assert_allclose(mirrored.grid, -curve.grid[::-1], atol=1e-9)
    np.testing.assert_allclose(mirrored.probes, curve.probes[:, ::-1], rtol=1e-6, atol=1e-9)


def test_a_zero_hessian_of_a_large_network_is_one_whole_peak() -> None:
    zero = zero_part(mass=2e6)
    drawing = density_grid([part_spectrum("class/1", num_parameters=100, num_steps=10), zero])
    mean = drawing.arrays["class/0/mean"]
    assert max(mean[0], mean[-1]) < 0.5 < mean.max()
    words = drawing.figure.axes[1].texts[0].get_text()
    assert "nan" not in words
    assert words.endswith("ν –")


def zero_part(mass: float) -> PartSpectrum:
    base = part_spectrum("class/0", num_parameters=100, num_steps=10)
    undefined = Interval(math.nan, math.nan, math.nan)
    saddle = dataclasses.replace(base.saddle, lambda_min=0.0, lambda_max=0.0, negative_fraction=undefined)
    return dataclasses.replace(base, density=exact_quadrature(np.zeros(1), masses=(mass, mass)), saddle=saddle)


def test_more_parts_than_a_page_holds_are_refused(classes: list[PartSpectrum]) -> None:
    with pytest.raises(LandscapeError, match=r"31 parts do not fit .* 30 panels.*--parts.*--kind classes"):
        density_grid([classes[0]] * 31)


@pytest.mark.parametrize("name", [r"a$\frac$", "$x_1$", "cost in $", r"\$a$"])
def test_names_are_shown_as_they_are(name: str) -> None:
    drawing = density_grid([part_spectrum(label=name, num_parameters=60, num_steps=5)])
    title = drawing.figure.axes[0].title
    shown, is_formula = title._preprocess_math(title.get_text())  # type: ignore[attr-defined]
    assert (shown, is_formula) == (f"{name}, N = 500", False)


def test_a_part_is_drawn_once(classes: list[PartSpectrum]) -> None:
    """Its arrays have its name: a second part of that name would take the place of the first."""
    with pytest.raises(LandscapeError, match=r"part 'class/0' appears twice: give each once"):
        density_grid([*classes, classes[0]])
