"""The escape plot: points are the losses measured along ±v_min, lines what slope and curvature predict."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from support.certified import with_certificates
from support.spectra import part_spectrum

from landscape.curvature.results import Descent, PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.drawing import compose, read_drawing, save_drawing
from landscape.plotting.escape import escape_lines, slope_along
from landscape.plotting.style import Look

STEPS = np.concatenate([-np.geomspace(0.01, 3.0, 8)[::-1], [0.0], np.geomspace(0.01, 3.0, 8)])


def escaping(
    part: str = "class/9", *, loss: float = 0.5, slope: float = 0.02, lambda_min: float = -1.5, cubic: float = 0.0,
    quartic: float = 0.4, convex: float = 0.1,
) -> PartSpectrum:  # fmt: skip
    """A part whose losses along v are L + slope·a + λ a²/2 + cubic·a³ + quartic·a⁴."""
    losses = loss + slope * STEPS + lambda_min * STEPS**2 / 2 + cubic * STEPS**3 + quartic * STEPS**4
    spectrum = part_spectrum(part, "truck", num_samples=50, num_parameters=60, num_probes=1, num_steps=5)
    saddle = dataclasses.replace(
        spectrum.saddle,
        loss=loss,
        lambda_min=lambda_min,
        gradient_norm=0.4,
        gradient_alignment=abs(slope) / 0.4,
        sam_threshold=2 * 0.4 / abs(lambda_min),
    )
    return with_certificates(
        dataclasses.replace(spectrum, saddle=saddle), descent=Descent(STEPS, losses), gauss_newton_curvature=convex
    )


def points(axes: Axes, marker: str = "o") -> np.ndarray:
    return np.concatenate([np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() == marker])


def curves(axes: Axes) -> list[Line2D]:
    return [line for line in axes.lines if len(np.atleast_1d(line.get_xdata())) > 100]


@pytest.mark.parametrize("slope", [0.02, -0.02, 1e-5, -1e-5])
def test_the_sign_of_the_slope_is_the_one_of_the_measured_losses(slope: float) -> None:
    spectrum = escaping(slope=slope)
    assert slope_along(spectrum) == pytest.approx(slope)
    # The eigenvector of the other sign: the same line, walked the other way.
    descent = spectrum.saddle.certificates.descent  # type: ignore[union-attr]
    mirrored = with_certificates(spectrum, descent=Descent(STEPS, descent.losses[::-1]))
    assert slope_along(mirrored) == pytest.approx(-slope)


def test_without_a_gradient_there_is_no_slope() -> None:
    spectrum = escaping()
    still = dataclasses.replace(spectrum.saddle, gradient_norm=0.0, gradient_alignment=math.nan)
    assert slope_along(dataclasses.replace(spectrum, saddle=still)) == 0.0


def test_the_sign_is_told_next_to_theta_and_not_far_away() -> None:
    assert slope_along(escaping(slope=0.02, cubic=-0.6)) == pytest.approx(0.02)


def test_points_are_measured_losses_and_lines_predictions() -> None:
    spectrum = escaping()
    drawing = escape_lines([spectrum])
    (axes,) = drawing.figure.axes
    descent = spectrum.saddle.certificates.descent  # type: ignore[union-attr]
    high = drawing.arrays["limits"][0, 1]
    seen = descent.losses <= high
    np.testing.assert_allclose(points(axes), np.column_stack([descent.steps, descent.losses])[seen])
    assert points(axes, "^")[:, 0].tolist() == descent.steps[~seen].tolist() != []
    assert set(points(axes, "^")[:, 1]) == {high}
    for line, curvature in zip(curves(axes), (-1.5, 0.1), strict=True):
        a, prediction = line.get_xydata().T  # type: ignore[union-attr]
        known = np.isfinite(prediction)
        assert known.sum() > 100
        np.testing.assert_allclose(prediction[known], (0.5 + 0.02 * a + curvature * a**2 / 2)[known])
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert sorted(float(np.asarray(line.get_xdata())[0]) for line in dashed) == pytest.approx([-0.8 / 1.5, 0.8 / 1.5])


def test_the_best_decrease_is_printed() -> None:
    spectrum = escaping()
    losses = spectrum.saddle.certificates.descent.losses  # type: ignore[union-attr]
    drawing = escape_lines([spectrum])
    step, share = STEPS[losses.argmin()], 100 * (0.5 - losses.min()) / 0.5
    (text,) = drawing.figure.axes[0].texts
    assert text.get_text() == f"λ$_{{min}}$ = −1.5\n−{share:.3g} % at a = {step:.2g}".replace("-", "−")
    assert drawing.arrays["decrease"][0] == pytest.approx(0.5 - losses.min())
    uphill = escape_lines([escaping(slope=0.0, lambda_min=0.5)])
    assert uphill.figure.axes[0].texts[0].get_text().endswith("no lower loss")
    assert uphill.arrays["decrease"].tolist() == [0.0]


def test_of_losses_that_have_vanished_the_nearest_step_is_the_best() -> None:
    flat = with_certificates(
        escaping(), descent=Descent(np.array([-2.0, -1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 2.0]))
    )
    assert escape_lines([flat]).arrays["best_step"].tolist() == [-1.0]


def test_infinite_losses_are_arrows_and_nan_is_nothing() -> None:
    losses = escaping().saddle.certificates.descent.losses.copy()  # type: ignore[union-attr]
    losses[0], losses[-1] = math.inf, math.nan
    (axes,) = escape_lines([with_certificates(escaping(), descent=Descent(STEPS, losses))]).figure.axes
    assert STEPS[0] in points(axes, "^")[:, 0]
    assert STEPS[-1] not in np.concatenate([points(axes), points(axes, "^")])[:, 0]


@pytest.mark.parametrize("look", [Look("single"), Look("double", "neurips")])
def test_the_outermost_markers_are_not_cut(look: Look) -> None:
    losses = escaping().saddle.certificates.descent.losses.copy()  # type: ignore[union-attr]
    losses[[0, -1]] = math.inf
    (axes,) = escape_lines([with_certificates(escaping(), descent=Descent(STEPS, losses))]).looking(look).figure.axes
    places = axes.transAxes.inverted().transform(axes.transData.transform(points(axes, "^")))[:, 0]
    half = 2.0 / 72 / (axes.bbox.width / axes.figure.dpi)  # of a marker, as a share of the panel
    assert half < places.min() < places.max() < 1 - half


def test_panels_share_an_axis_only_where_both_can_be_read() -> None:
    alike = escape_lines([escaping("class/1"), escaping("class/2", loss=0.6)])
    apart = escape_lines(
        [escaping("class/1"), escaping("class/2", loss=1e-3, slope=0.0, lambda_min=-1e-4, quartic=1e-4)]
    )
    assert [drawing.settings["shared"] for drawing in (alike, apart)] == [True, False]
    first, second = alike.figure.axes
    assert first.get_ylim() == second.get_ylim()
    low, high = apart.figure.axes[1].get_ylim()
    assert high - low < 0.01


def test_a_class_has_its_colour() -> None:
    one, other = (escape_lines([escaping(part)]).figure.axes[0].lines for part in ("class/3", "class/13"))
    colors = [next(line.get_color() for line in lines if line.get_marker() == "o") for lines in (one, other)]
    assert colors[0] == colors[1]


def test_an_escape_plot_read_back_is_the_same_bytes(tmp_path: Path) -> None:
    drawing = escape_lines([escaping(), escaping("group/tail", loss=3.0)]).looking(Look("single", "icml"))
    first, arrays = save_drawing(drawing, tmp_path / "one.png")
    second, _ = save_drawing(read_drawing(arrays), tmp_path / "two.png")
    assert first.read_bytes() == second.read_bytes()
    assert compose([[drawing, drawing]]).figure


def test_what_cannot_be_drawn_says_so() -> None:
    with pytest.raises(LandscapeError, match="no spectra to draw"):
        escape_lines([])
    with pytest.raises(LandscapeError, match=r"part 'class/3' has no losses along v_min.*`landscape spectrum"):
        escape_lines([part_spectrum(num_parameters=60, num_probes=1, num_steps=5)])
    with pytest.raises(LandscapeError, match="31 parts do not fit on a page of 30 panels"):
        escape_lines([escaping()] * 31)
