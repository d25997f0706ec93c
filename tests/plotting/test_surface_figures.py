"""Lines, contours and reliefs are the losses they stand for, on scales that panels share, and holes stay holes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.contour import QuadContourSet
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy.interpolate import RegularGridInterpolator
from support.surfaces import LABELS, PARTS, line, loss_at, plane, trajectory, with_holes

from landscape.errors import LandscapeError
from landscape.plotting.drawing import Drawing, compose, read_drawing, save_drawing, save_figure
from landscape.plotting.style import Look
from landscape.plotting.surface import loss_levels, surface_contours, surface_lines, surface_relief
from landscape.surface.results import Surface

TAILS = ["group/head", "group/tail"]


def methods(make: Callable[[float], Surface]) -> dict[str, Surface]:
    return {"SGD": make(1.0), "SAM": make(0.1), "ImbSAM": make(0.3)}


def contours(axes: Axes) -> list[QuadContourSet]:
    return [item for item in axes.collections if isinstance(item, QuadContourSet)]


def shown(drawing: Drawing) -> list[Axes]:
    """Panels, without the colour bar and empty places."""
    every = [axes for axes in drawing.figure.axes if axes.get_label() != "<colorbar>"]
    return [axes for axes in every if axes.axison or axes.name == "3d"]


# ---------------------------------------------------------------------- lines


def test_lines_are_losses_and_accuracies_over_the_steps() -> None:
    surfaces = methods(line)
    drawing = surface_lines(surfaces, TAILS)
    losses, accuracies = drawing.figure.axes
    curves = [curve for curve in losses.lines if len(np.atleast_1d(curve.get_xdata())) == 21]
    assert len(curves) == 6
    expected = [(surface, part) for surface in surfaces.values() for part in TAILS]
    for curve, rate, (surface, part) in zip(curves, accuracies.lines, expected, strict=False):
        row = PARTS.index(part)
        np.testing.assert_array_equal(curve.get_xdata(), surface.x)
        np.testing.assert_array_equal(curve.get_ydata(), surface.losses[row])
        np.testing.assert_array_equal(rate.get_ydata(), 100 * surface.accuracies[row])
    styles = {curve.get_linestyle() for curve in curves}
    assert len(styles) == 3, "a method has its own style of line"
    assert len({curve.get_color() for curve in curves}) == 2, "a part has its own colour"
    assert losses.get_yscale() == "log"
    assert drawing.settings["axis"] == "filter-normalised random direction 1, ‖d‖ = 8.5"


def test_losses_within_a_decade_are_on_a_linear_axis() -> None:
    flat = dataclasses.replace(line(), losses=line().losses * 0 + np.linspace(1, 2, 21))
    assert surface_lines(flat).figure.axes[0].get_yscale() == "linear"


def test_no_line_crosses_a_hole_and_an_infinite_loss_is_an_arrow_at_the_edge() -> None:
    drawing = surface_lines(with_holes(line()), ["group/tail"])
    axes = drawing.figure.axes[0]
    curve, alone, arrow = axes.lines[:3]
    assert np.flatnonzero(np.isnan(np.asarray(curve.get_ydata()))).tolist() == [1, 3, 20]
    assert alone.get_marker() == "."
    assert np.asarray(alone.get_xdata()).tolist() == pytest.approx([-1.0, -0.8])  # each between two holes
    assert (arrow.get_marker(), np.asarray(arrow.get_ydata()).tolist()) == ("^", [1.0])
    assert np.asarray(arrow.get_xdata()).tolist() == pytest.approx([-0.7])
    assert arrow.get_transform() == axes.get_xaxis_transform()
    assert "infinite loss" in [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert np.isposinf(drawing.arrays["0/losses"][0, 3]), "kept as it came"


def test_checkpoints_on_a_line_are_named_where_they_lie() -> None:
    between = dataclasses.replace(
        line(), kind="checkpoints", x=np.linspace(-0.5, 1.5, 21), axis_labels=("from sgd to sam",),
        marks=np.array([[0.0], [1.0]]), mark_labels=("sgd", "sam"), mark_distances=np.zeros(2),
    )  # fmt: skip
    axes = surface_lines(between).figure.axes[0]
    assert {text.get_text(): text.xy[0] for text in axes.texts} == {"sgd": 0.0, "sam": 1.0}  # type: ignore[attr-defined]
    assert [text.get_text() for text in surface_lines(line()).figure.axes[0].texts] == ["θ"]
    beyond = dataclasses.replace(line(), x=np.linspace(0.5, 1, 21))
    assert not surface_lines(beyond).figure.axes[0].texts


@pytest.mark.parametrize("look", [Look("single"), Look("single", "neurips"), Look()])
def test_long_names_of_checkpoints_stand_apart(look: Look) -> None:
    between = dataclasses.replace(
        line(), kind="checkpoints", x=np.linspace(-0.5, 1.5, 21), marks=np.array([[0.0], [1.0]]),
        mark_labels=("cifar10-lt-ce-drw-resnet20-seed0", "cifar10-lt-ce-drw-sam-resnet20-seed0"),
    )  # fmt: skip
    figure = surface_lines(between).looking(look).figure
    first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert 0 < first.x0 < first.x1 < second.x0 < second.x1 < figure.bbox.x1


# ---------------------------------------------------------------------- contours


def test_contours_are_of_the_losses_the_right_way_round_on_common_levels() -> None:
    surfaces = methods(plane)
    drawing = surface_contours(surfaces, TAILS)
    assert [axes.get_title() for axes in shown(drawing)] == ["SGD", "SAM", "ImbSAM", "", "", ""]
    # Narrow panels have no numbers in their lines, which would be cut for them; methods are rows there.
    panels = shown(drawing.looking(Look("single")))
    bands = [contours(axes)[0].levels for axes in panels]
    assert all(np.array_equal(bands[0], other) for other in bands)
    everything = np.concatenate([s.losses[[1, 3]].ravel() for s in surfaces.values()])
    np.testing.assert_allclose(10 ** np.array([bands[0][0], bands[0][-1]]), [everything.min(), everything.max()])
    for number, axes in enumerate(panels):
        surface = list(surfaces.values())[number // 2]
        row = PARTS.index(TAILS[number % 2])
        # A vertex lies on an edge of the grid, where the interpolation of log L is that of the contour.
        log_loss = RegularGridInterpolator((surface.y, surface.x), np.log10(surface.losses[row]))
        lines = contours(axes)[1]
        for level, path in zip(lines.levels, lines.get_paths(), strict=True):
            vertices = np.clip(path.vertices[:, ::-1], [surface.y[0], surface.x[0]], [surface.y[-1], surface.x[-1]])
            np.testing.assert_allclose(log_loss(vertices), level, atol=1e-9)
    assert len({tuple(np.round(10**level, 12) for level in contours(axes)[1].levels) for axes in panels}) > 1


def test_losses_that_are_not_finite_are_hatched_and_none_is_filled() -> None:
    holed = with_holes(plane())
    drawing = surface_contours(holed, ["group/tail"])
    (axes,) = shown(drawing)
    assert [patch.get_hatch() for patch in axes.patches if isinstance(patch, Rectangle)] == ["//////"]
    filled = contours(axes)[0]
    for column, free in ((1, False), (3, False), (5, True)):
        place = (holed.x[column], 0.05)
        assert any(path.contains_point(place) for path in filled.get_paths()) == free
    words = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert words == ["not finite", "not computed yet"]
    assert not any(axes.patches for axes in shown(surface_contours(plane(), ["group/tail"])))


def test_cells_with_a_corner_that_is_not_computed_are_grey() -> None:
    done = np.ones((7, 9), dtype=bool)
    done[2, 4] = False
    losses = np.where(done, plane().losses, np.nan)
    (axes,) = shown(surface_contours(dataclasses.replace(plane(), losses=losses, done=done), ["all"]))
    (mesh,) = (item for item in axes.collections if isinstance(item, QuadMesh))
    grey = ~np.ma.getmaskarray(np.ma.asarray(mesh.get_array()))
    assert np.argwhere(grey).tolist() == [[1, 3], [1, 4], [2, 3], [2, 4]]
    assert not [patch for patch in axes.patches if isinstance(patch, Rectangle)], "nothing is hatched"


def test_theta_is_marked_in_every_panel() -> None:
    for axes in shown(surface_contours(methods(plane), TAILS)):
        (theta,) = (line for line in axes.lines if line.get_marker() == "P")
        np.testing.assert_array_equal(theta.get_xydata(), [[0, 0]])


def test_a_trajectory_ends_at_theta_and_says_what_its_plane_explains() -> None:
    drawing = surface_contours({"SGD": trajectory(), "SAM": trajectory(0.1)}, ["group/tail"])
    axes = shown(drawing)[0]
    path = next(line for line in axes.lines if len(np.asarray(line.get_xdata())) == 5)
    np.testing.assert_array_equal(path.get_xydata(), trajectory().marks)
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and line.get_marker() == "o"]
    np.testing.assert_array_equal(hollow[0].get_xydata(), [[-0.6, 0.1]])
    assert [text.get_text() for text in drawing.figure.legends[0].get_texts()] == [
        "epochs",
        "off the plane, L$_2$ distance up to 0.5",
    ]
    assert [text.get_text() for text in axes.texts if text.get_text().startswith("epoch")] == [
        "epoch 0",
        "epoch 40 (θ)",
    ]
    assert drawing.figure.get_supxlabel() == "PC 1 (83 %), ‖d‖ = 1"
    assert drawing.figure.get_supylabel() == "PC 2 (9.3 %), ‖d‖ = 1"


def test_far_is_judged_by_distances_in_parameter_space() -> None:
    # In units of d the marks are as far out as before; d is ten times as long, so 0.5 is near now.
    longer = dataclasses.replace(trajectory(), norms=np.array([10.0, 10.0]))
    assert surface_contours(trajectory()).arrays["0/far"].tolist() == [False, True, False, False, False]
    assert not surface_contours(longer).arrays["0/far"].any()
    # Of directions that are no right angle: (1, 1) is at √(1 + 1 + 2 · 0.99), and 0.19 less than a tenth of that.
    marked = {"marks": np.ones((1, 2)), "mark_labels": ("A",), "mark_distances": np.array([0.19])}
    for cosine, is_far in ((0.0, True), (0.99, False)):
        oblique = dataclasses.replace(trajectory(), **marked, cosine=cosine)
        assert surface_contours(oblique).arrays["0/far"].tolist() == [is_far]


def test_planes_of_their_own_have_their_own_axes() -> None:
    other = dataclasses.replace(trajectory(0.1), x=2 * trajectory().x, explained_variance=np.array([0.7, 0.2]))
    panels = shown(surface_contours({"SGD": trajectory(), "SAM": other}, TAILS))
    assert [axes.get_xlabel() for axes in panels] == ["", "", "PC 1 (83 %)", "PC 1 (70 %)"]
    assert [axes.get_ylabel() for axes in panels] == ["PC 2 (9.3 %)", "PC 2 (20 %)"] * 2
    assert [axes.get_xlim() for axes in panels[:2]] == [(-1, 1), (-2, 2)]


def test_axes_of_one_unit_have_one_scale() -> None:
    equal, stretched = plane(), dataclasses.replace(plane(), norms=np.array([1.0, 3.0]))
    assert shown(surface_contours(equal))[0].get_aspect() == 1.0
    assert shown(surface_contours(stretched))[0].get_aspect() == "auto"


def test_a_narrow_page_turns_the_grid() -> None:
    drawing = surface_contours(methods(plane), TAILS).looking(Look("single"))
    assert [axes.get_title() for axes in shown(drawing)] == ["head", "tail", "", "", "", ""]


def test_a_direction_whose_norm_nobody_knows_has_no_unit() -> None:
    imported = dataclasses.replace(plane(), norms=np.full(2, np.nan), axis_labels=("direction 1", "direction 2"))
    drawing = surface_contours(imported)
    assert (drawing.figure.get_supxlabel(), drawing.figure.get_supylabel()) == ("direction 1", "direction 2")
    other = surface_contours({"a": imported, "b": dataclasses.replace(imported, x=2 * imported.x)})
    assert other.figure.get_supxlabel() == ""
    one = dataclasses.replace(line(), norms=np.full(1, np.nan), axis_labels=("direction 1",))
    assert surface_lines(one).settings["axis"] == "direction 1"


def test_all_of_the_variance_is_a_hundred_per_cent() -> None:
    whole = dataclasses.replace(trajectory(), explained_variance=np.array([0.99999, 1e-5]))
    assert surface_contours(whole).settings["shared_axes"] == ["PC 1 (100 %)", "PC 2 (0.001 %)"]


@pytest.mark.parametrize("draw", [surface_contours, surface_relief])
def test_thirty_panels_are_one_page(draw: Callable[..., Drawing]) -> None:
    figure = draw({str(number): plane() for number in range(3)}, [*PARTS[:4], *PARTS[:4], *PARTS[:2]]).figure
    assert figure.get_figheight() < 9.6


@pytest.mark.parametrize(
    ("low", "high", "scale", "levels"),
    [
        (0.9e-3, 1.1e1, "log", [1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10]),
        (0.03, 0.9, "log", [0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7]),
        (1.05, 2.05, "linear", [1.2, 1.4, 1.6, 1.8, 2.0]),
    ],
)
def test_levels_are_round(low: float, high: float, scale: str, levels: list[float]) -> None:
    got, lines, limits = loss_levels(np.array([low, np.nan, high, np.inf]), 10 if scale == "log" else 6)
    assert (got, limits.tolist()) == (scale, [low, high])
    np.testing.assert_allclose(lines, levels)


def test_numbers_in_contour_lines_are_round_and_not_cut() -> None:
    axes = shown(surface_contours(dataclasses.replace(plane(), losses=1000 * plane().losses), ["all"]))[0]
    numbers = [text for text in axes.texts if text.get_visible() and text.get_text() != "θ"]
    assert len(numbers) >= 2
    assert {text.get_text() for text in numbers} <= {"20", "50", "100", "200", "500", "1000", "2000"}
    for text in numbers:
        x, y = text.get_position()
        assert abs(x) < 0.87
        assert abs(y) < 0.7


def test_a_vanishing_loss_does_not_stretch_the_levels() -> None:
    scale, _, limits = loss_levels(np.array([0.0, 1e-30, 1e-3, 10.0]))
    assert (scale, limits.tolist()) == ("log", pytest.approx([1e-5, 10.0]))
    drawing = surface_contours(dataclasses.replace(plane(), losses=plane().losses * 0), ["all"])
    assert drawing.settings["scale"] == "linear"
    assert drawing.figure, "a flat surface is a picture of one colour"


# ---------------------------------------------------------------------- reliefs


def test_a_relief_stands_on_the_losses_of_its_cells() -> None:
    drawing = surface_relief(methods(plane), TAILS)
    panels = shown(drawing)
    assert len(panels) == 6
    meshes = [item for item in panels[4].collections if isinstance(item, Poly3DCollection)]
    corners = np.array(meshes[0]._faces)  # type: ignore[attr-defined]
    assert corners.shape == (8 * 6, 4, 3)
    heights = loss_at(corners[..., 0], corners[..., 1], 1.0, 0.1)  # the tail of SAM
    np.testing.assert_allclose(10 ** corners[..., 2], heights)
    assert len({axes.get_zlim() for axes in panels}) == 1  # type: ignore[attr-defined]


def test_a_relief_leaves_out_cells_with_a_hole() -> None:
    (axes,) = shown(surface_relief(with_holes(plane()), ["group/tail"]))
    corners = np.array(next(item for item in axes.collections if isinstance(item, Poly3DCollection))._faces)  # type: ignore[attr-defined]
    assert np.isfinite(corners).all()
    # Of eight columns of cells, two a hole inside and one at the edge are gone.
    assert sorted({round(float(x), 9) for x in corners[:, 0, 0]}) == [0.0, 0.25, 0.5]


def test_many_cells_are_an_image_in_a_page_with_letters(tmp_path: Path) -> None:
    fine = plane(num_x=51, num_y=51)
    drawing = surface_relief(dict.fromkeys("abcdef", fine), ["all"])
    path = save_figure(drawing.figure, tmp_path / "relief.pdf")
    assert path.stat().st_size < 1_000_000
    assert b"/Type3" not in path.read_bytes()
    meshes = [c for axes in shown(drawing) for c in axes.collections if isinstance(c, Poly3DCollection)]
    assert all(mesh.get_rasterized() for mesh in meshes)
    few = shown(surface_relief(plane(), ["all"]))[0]
    assert not any(c.get_rasterized() for c in few.collections)


# ---------------------------------------------------------------------- all of them


def every_kind() -> dict[str, Drawing]:
    return {
        "line": surface_lines({"SGD": with_holes(line()), "$\\frac$": line(0.1)}, TAILS),
        "contours": surface_contours(methods(lambda s: with_holes(trajectory(s))), TAILS),
        "relief": surface_relief(with_holes(plane()), ["all", "group/tail"]),
    }


@pytest.mark.parametrize("kind", ["line", "contours", "relief"])
def test_a_surface_read_back_is_the_same_bytes(kind: str, tmp_path: Path) -> None:
    drawing = every_kind()[kind].looking(Look("single", "neurips"))
    first, arrays = save_drawing(drawing, tmp_path / "one.png")
    second, _ = save_drawing(read_drawing(arrays), tmp_path / "two.png")
    assert first.read_bytes() == second.read_bytes()


def test_surfaces_are_panels_of_a_page() -> None:
    kinds = every_kind()
    page = compose([[kinds["line"], kinds["relief"]], [kinds["contours"]]]).figure
    assert page.get_figwidth() == Look().width


@pytest.mark.parametrize("kind", ["line", "contours"])
@pytest.mark.parametrize("look", [Look("single"), Look(), Look("double", "neurips")])
def test_every_letter_is_on_the_page(kind: str, look: Look) -> None:
    figure = every_kind()[kind].looking(look).figure
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    page = figure.bbox
    places = [text.get_window_extent(renderer) for text in figure.texts]
    places += [legend.get_window_extent(renderer) for legend in figure.legends]
    places += [axes.get_tightbbox(renderer) for axes in figure.axes]  # with titles, names and the numbers at its ticks
    assert len(places) > 3
    for box in places:
        assert page.x0 - 1 <= box.x0 < box.x1 <= page.x1 + 1
        assert page.y0 - 1 <= box.y0 < box.y1 <= page.y1 + 1
    above = min(legend.get_window_extent(renderer).y0 for legend in figure.legends)
    assert all(axes.title.get_window_extent(renderer).y1 <= above for axes in figure.axes)


# ---------------------------------------------------------------------- errors


def test_parts_are_the_groups_where_there_are_any() -> None:
    assert surface_contours(plane()).arrays["parts"].tolist() == ["group/head", "group/mid", "group/tail"]
    assert surface_contours(plane()).arrays["labels"].tolist() == ["head", "mid", "tail"]
    only = dataclasses.replace(
        plane(), parts=PARTS[4:], labels=LABELS[4:], losses=plane().losses[4:], accuracies=plane().accuracies[4:]
    )
    assert surface_contours({"a": plane(), "b": only}).arrays["parts"].tolist() == ["class/0", "class/3"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: surface_lines({}), "no surface to draw"),
        (lambda: surface_lines(plane()), "the surface has two dimensions: draw it with --kind surface"),
        (lambda: surface_contours({"SGD": line()}), "the surface of 'SGD' has one dimension"),
        (lambda: surface_relief(plane(), ["class/7"]), "no part 'class/7': it holds all, group/head"),
        (lambda: surface_contours(plane(), []), "no part to draw was chosen"),
        (lambda: surface_contours({str(n): plane() for n in range(11)}), "33 panels do not fit on a page, at most 30"),
        (lambda: surface_lines({str(n): line() for n in range(6)}), "18 lines cannot be told apart, at most 16"),
        (lambda: surface_contours(plane(), levels=1), "levels = 1: give at least 2"),
        (lambda: surface_contours(plane(), levels=[0.0, 1.0]), "give finite numbers above 0"),
        (
            lambda: surface_contours(dataclasses.replace(plane(), losses=plane().losses * np.nan)),
            "no loss of these parts is finite",
        ),
        (
            lambda: surface_lines(dataclasses.replace(line(), losses=line().losses * np.nan)),
            "no loss of these parts is finite",
        ),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_names_of_eigenvectors_are_set_as_formulas() -> None:
    surface = dataclasses.replace(plane(), kind="eigen", axis_labels=("v_max of truck", "v_min of v_min"))
    assert surface_contours(surface).settings["axes"] == [["v$_{max}$ of truck"], ["v$_{min}$ of v_min"]]
