"""Methods in one frame, and counts of eigenvalues from either end: what is drawn is what was measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.axes import Axes
from support.spectra import class_eigenvalues, long_tailed_classes, part_spectrum, with_lambda_min

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting import Look, density_cumulative, density_curve, density_grid, density_overlay
from landscape.plotting.colors import METHOD_LINES
from landscape.plotting.density import with_error
from landscape.plotting.style import PALETTE


@pytest.fixture(scope="module")
def classes() -> list[PartSpectrum]:
    return long_tailed_classes(4, num_parameters=300, num_probes=3, num_steps=20)


def lines_of(axes: Axes, marker: str) -> list[np.ndarray]:
    return [np.asarray(line.get_xdata(), dtype=float) for line in axes.lines if line.get_marker() == marker]


# ---------------------------------------------------------------------- certified outliers in the grid


def test_outliers_of_the_grid_say_what_is_certain() -> None:
    spectrum = part_spectrum(num_parameters=100, num_steps=10, noise_floor=0.1)
    outliers = np.array([-3.0, -0.05, 0.05, 8.0])
    spectrum = dataclasses.replace(spectrum, density=dataclasses.replace(spectrum.density, deflated=outliers))
    axes = density_grid([spectrum]).figure.axes[0]
    dots = {
        (line.get_marker(), line.get_markerfacecolor() == "white"): np.asarray(line.get_xdata()).tolist()
        for line in axes.lines
        if line.get_marker() in (".", "o") and line.get_color() != PALETTE[3]
    }
    assert dots == {(".", False): [8.0], ("o", True): [-0.05, 0.05]}
    certified = [line for line in axes.lines if line.get_marker() == "." and line.get_color() == PALETTE[3]]
    assert [np.asarray(line.get_xdata()).tolist() for line in certified] == [[-3.0]]
    assert "M$_{−}$" in axes.texts[0].get_text()


# ---------------------------------------------------------------------- overlay


def test_each_method_has_its_curve_ticks_and_numbers(classes: list[PartSpectrum]) -> None:
    other = [with_lambda_min(part, -5e-5) for part in classes[1:3]]
    drawing = density_overlay({"CE": classes, "SAM": other})
    assert drawing.arrays["parts"].tolist() == [part.part for part in classes]
    assert np.isnan(drawing.arrays["lambda_min"][1]).tolist() == [True, False, False, True]
    threshold = float(drawing.arrays["threshold"])
    for place, axes in enumerate(drawing.figure.axes):
        curves = [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) > 40]
        methods = [0, 1] if place in (1, 2) else [0]
        assert [line.get_color() for line in curves] == [PALETTE[row] for row in methods]
        assert len({line.get_linestyle() for line in curves}) == len(methods)
        for row, line in zip(methods, curves, strict=True):
            spectrum = (classes, [None, *other, None])[row][place]
            assert spectrum is not None
            expected = density_curve(spectrum.density, threshold)
            np.testing.assert_allclose(np.asarray(line.get_xdata(), dtype=float), expected.eigenvalues)
            visible = expected.mean > 0.5
            np.testing.assert_allclose(np.asarray(line.get_ydata())[visible], expected.mean[visible])
            np.testing.assert_array_equal(lines_of(axes, "|")[row], spectrum.density.deflated)
            deflated = spectrum.density.deflated
            np.testing.assert_array_equal(lines_of(axes, ".")[row], deflated[deflated < -spectrum.saddle.noise_floor])
            legend = axes.get_legend()
            assert legend is not None
            numbers = legend.get_texts()[row].get_text()
            assert with_error(spectrum.saddle.lambda_min, spectrum.saddle.lambda_min_residual) in numbers
        faces = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() == "v"]
        assert [face != "white" for face in faces] == [True, False][: len(methods)]
        if len(methods) == 1:
            assert axes.get_legend().get_texts()[1].get_text() == "–"  # type: ignore[union-attr]


@pytest.mark.parametrize("look", [Look(), Look("single"), Look("double", "neurips"), Look("single", "neurips")])
def test_curves_stay_between_the_ticks_and_the_numbers(classes: list[PartSpectrum], look: Look) -> None:
    drawing = density_overlay({"CE": classes, "SAM": classes, "ImbSAM": classes}).looking(look)
    figure = drawing.figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axes, part in zip(figure.axes, classes, strict=True):
        legend = axes.get_legend()
        assert legend is not None
        box = legend.get_window_extent(renderer)
        assert axes.bbox.x0 <= box.x0
        assert box.x1 <= axes.bbox.x1 + 1
        peak = np.nanmax([drawing.arrays[f"{part.part}/{row}/high"] for row in range(3)])
        assert axes.transData.transform((0, peak))[1] <= box.y0 + 1
        foot = axes.transData.transform((0, 0.5))[1]
        ticks = [line for line in axes.lines if line.get_marker() == "|"]
        heights = [line.get_transform().transform((0, line.get_ydata()[0]))[1] for line in ticks]  # type: ignore[index]
        assert heights == sorted(heights, reverse=True)
        assert axes.bbox.y0 < heights[-1]
        assert heights[0] < foot
        assert legend.get_texts()[0].get_fontsize() >= 4.5


def test_dots_and_counts_stop_at_the_noise_floor() -> None:
    spectrum = part_spectrum(num_parameters=100, num_steps=10, noise_floor=0.1)
    outliers = np.array([-3.0, -0.05, 0.05, 8.0])
    spectrum = dataclasses.replace(spectrum, density=dataclasses.replace(spectrum.density, deflated=outliers))
    axes = density_overlay({"CE": [spectrum]}).figure.axes[0]
    assert [dots.tolist() for dots in lines_of(axes, ".")] == [[-3.0]]
    drawing = density_cumulative([spectrum])
    below, above = spectrum.density.cumulative(np.array([-0.1, 0.1]))
    assert drawing.arrays["negative_count"][0].tolist() == [below.low[0], below.high[0]]
    assert drawing.arrays["positive_count"][0].tolist() == [above.low[1], above.high[1]]


def test_numbers_have_one_form_in_all_panels(classes: list[PartSpectrum]) -> None:
    """With their errors in one panel and without in its neighbour they could not be compared."""
    wide = dataclasses.replace(classes[0].saddle, lambda_min=-1.234e-5, lambda_min_residual=1e-9)
    parts = [dataclasses.replace(classes[0], saddle=wide), *classes[1:]]
    for column in ("single", "double"):
        axes = density_overlay({"CE": parts}).looking(Look(column, "neurips")).figure.axes
        legends = [legend for panel in axes if (legend := panel.get_legend()) is not None]
        assert len(legends) == len(parts)
        assert len({legend.get_title().get_text() for legend in legends}) == 1
        assert len({text.get_fontsize() for legend in legends for text in legend.get_texts()}) == 1


def test_an_eigenvalue_that_is_no_number_is_named(classes: list[PartSpectrum]) -> None:
    broken = [classes[0], with_lambda_min(classes[1], np.nan)]
    for draw in (density_grid, density_cumulative, lambda parts: density_overlay({"CE": parts})):
        with pytest.raises(LandscapeError, match=f"part '{classes[1].part}' has an eigenvalue that is not finite"):
            draw(broken)


def test_what_does_not_fit_into_one_frame_is_refused(classes: list[PartSpectrum]) -> None:
    with pytest.raises(LandscapeError, match="no spectra to draw"):
        density_overlay({"CE": []})
    with pytest.raises(LandscapeError, match=f"{len(METHOD_LINES)} at most"):
        density_overlay({str(number): classes[:1] for number in range(len(METHOD_LINES) + 1)})
    with pytest.raises(LandscapeError, match="part 'class/0' appears twice in 'CE'"):
        density_overlay({"CE": [classes[0], classes[0]]})
    many = [dataclasses.replace(classes[0], part=f"class/{number}") for number in range(31)]
    for draw in (lambda: density_overlay({"CE": many}), lambda: density_cumulative(many)):
        with pytest.raises(LandscapeError, match="31 parts do not fit"):
            draw()


# ---------------------------------------------------------------------- counts


def test_counts_are_those_of_the_spectrum_from_either_end() -> None:
    eigenvalues = class_eigenvalues(0.5, 1500, seed=0)
    spectrum = part_spectrum(num_probes=4, num_steps=60)
    drawing = density_cumulative([spectrum])
    held = []
    for side, sign in (("below", 1), ("above", -1)):
        bounds = {
            name: drawing.arrays[f"class/3/{side}/{name}"] for name in ("points", "lower", "upper", "low", "high")
        }
        points = bounds["points"]
        assert (sign * points <= 0).all()
        exact = np.array([np.sum(sign * eigenvalues < sign * point) for point in points])
        held.append((bounds["low"] <= exact + 1e-6) & (exact <= bounds["high"] + 1e-6))
        assert (bounds["low"] <= bounds["lower"] + 1e-9).all()
        assert (bounds["lower"] <= bounds["upper"] + 1e-9).all()
        # Among what was deflated every step of one is sharp: the bounds hold it on both sides of every eigenvalue.
        deflated = spectrum.density.deflated
        known = deflated[sign * deflated < 0]
        outermost = known[np.argmax(np.abs(known))]
        beyond = np.nextafter(outermost, 0)
        assert bounds["lower"][points == beyond] >= 1
        assert bounds["low"][points == outermost * (1 + 1e-15)].sum() == 0
    assert np.mean(np.concatenate(held)) > 0.95
    floor = spectrum.saddle.noise_floor
    low, high = drawing.arrays["negative_count"][0]
    assert low <= np.sum(eigenvalues < -floor) <= high
    low, high = drawing.arrays["positive_count"][0]
    assert low <= np.sum(eigenvalues > floor) <= high


def test_bands_are_the_arrays(classes: list[PartSpectrum]) -> None:
    drawing = density_cumulative(classes[:2])
    for axes, part in zip(drawing.figure.axes, classes, strict=False):
        lines = [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) > 4]
        assert len(lines) == 4
        for line, (side, bound) in zip(
            lines, [(s, b) for s in ("below", "above") for b in ("lower", "upper")], strict=True
        ):
            np.testing.assert_array_equal(line.get_xdata(), drawing.arrays[f"{part.part}/{side}/points"])
            stored = drawing.arrays[f"{part.part}/{side}/{bound}"]
            np.testing.assert_allclose(np.asarray(line.get_ydata()), np.maximum(stored, 0.05))
        top = axes.transData.transform((0, part.num_parameters))[1]
        box = axes.texts[0].get_window_extent(drawing.figure.canvas.get_renderer())  # type: ignore[attr-defined]
        assert top <= box.y0 + 1
    assert drawing.figure.get_supylabel() == "eigenvalues below λ < 0, above λ > 0"


def test_no_spectra_no_counts() -> None:
    with pytest.raises(LandscapeError, match="no spectra to draw"):
        density_cumulative([])
