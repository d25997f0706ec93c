"""A drawing is its arrays: read back, it is the same figure byte for byte; several of them make one page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np
import pytest
from support.spectra import long_tailed_classes

from landscape.errors import LandscapeError
from landscape.plotting import class_bars
from landscape.plotting import drawing as drawing_module
from landscape.plotting.drawing import (
    Arrays,
    Canvas,
    Drawing,
    compose,
    new_figure,
    read_drawing,
    renders,
    save_drawing,
    write_drawing,
)
from landscape.plotting.style import Look


@pytest.fixture(autouse=True)
def bars() -> Iterator[None]:
    """A kind of figure for these tests alone."""

    @renders("test-bars")
    def render(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
        figure = new_figure(settings["height"])
        axes = figure.subplots()
        axes.bar([str(name) for name in arrays["names"]], arrays["classes/heights"])
        axes.set_title(settings["title"])
        return figure

    yield
    del drawing_module._RENDERERS["test-bars"]


def bars_of(title: str, height: float = 1.0) -> Drawing:
    arrays = {"names": np.array(["λ", "crane (bird)"]), "classes/heights": np.array([1.0, 2.5])}
    return Drawing("test-bars", arrays, {"title": title, "height": height})


@pytest.mark.parametrize("look", [Look(), Look("single", "neurips"), Look("wide")])
@pytest.mark.parametrize(("name", "suffix"), [("one", ".png"), ("one", ".pdf"), ("page", ".png"), ("page", ".pdf")])
def test_a_drawing_read_back_is_the_same_bytes(look: Look, name: str, suffix: str, tmp_path: Path) -> None:
    page = compose([[bars_of("left"), bars_of("right")], [bars_of("below", 2.0)]], widths=[[1, 2], [1]])
    drawing = page if name == "page" else bars_of("ν of the tail")
    first, arrays = save_drawing(drawing.looking(look), tmp_path / f"a{suffix}", origin={"command": "test"})
    second, _ = save_drawing(read_drawing(arrays), tmp_path / f"b{suffix}")
    assert first.read_bytes() == second.read_bytes()
    with h5py.File(arrays) as file:
        assert file.attrs["command"] == "test"


def test_what_is_stored_is_what_is_drawn(tmp_path: Path) -> None:
    path = write_drawing(bars_of("first"), tmp_path / "a.h5")
    with h5py.File(path, "r+") as file:
        file["arrays/classes/heights"][...] = [7.0, 3.0]
    heights = [bar.get_height() for bar in read_drawing(path).figure.axes[0].patches]
    assert heights == [7.0, 3.0]


def test_panels_share_the_page_as_told_and_are_lettered() -> None:
    page = compose([[bars_of("narrow"), bars_of("broad")], [bars_of("below")]], widths=[[1, 3], [1]], heights=[1, 2])
    figure = page.figure
    assert tuple(figure.get_size_inches()) == (Look().width, 3.0)
    narrow, broad, below = (
        axes.get_window_extent().transformed(figure.dpi_scale_trans.inverted()) for axes in figure.axes
    )
    assert [axes.get_title() for axes in figure.axes] == ["narrow", "broad", "below"]
    assert narrow.x1 < 0.25 * Look().width < broad.x0
    assert below.y1 < 2.0 < broad.y0
    words = [text.get_text() for strip in figure.subfigs for text in strip.texts]
    assert [word for word in words if word.startswith("(")] == ["(a)", "(b)", "(c)"]


def test_a_row_is_as_high_as_its_highest_panel() -> None:
    page = compose([[bars_of("low", 1.0), bars_of("high", 2.0)], [bars_of("below", 1.5)]], letters=False)
    assert page.figure.get_figheight() == pytest.approx(3.5)


def test_a_venue_has_its_own_width_and_letters() -> None:
    for venue, column, width in (("neurips", "double", 5.5), ("aaai", "single", 3.3), ("iccv", "double", 6.875)):
        figure = bars_of("t").looking(Look(column, venue)).figure  # type: ignore[arg-type]
        assert figure.get_figwidth() == pytest.approx(width, abs=0.01)
        family = figure.axes[0].title.get_fontfamily()
        assert family[0] != "DejaVu Sans"
        assert "DejaVu Sans" in family  # for what Times lacks
    assert bars_of("t").figure.axes[0].title.get_fontfamily()[0] == "DejaVu Sans"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Drawing("pie", {}), "no figure of kind 'pie'"),
        (lambda: compose([[compose([[bars_of("a")]])]]), "cannot be composed again"),
        (lambda: compose([[bars_of("a")]], widths=[[1, 2]]), "need a width for each"),
        (lambda: compose([[bars_of("a")]], heights=[1, 2]), "a height a row"),
        (lambda: Look("half"), "no column width 'half': give one of single, double, wide"),  # type: ignore[arg-type]
        (lambda: Look(venue="nips"), "no style 'nips'; did you mean 'neurips'"),  # type: ignore[arg-type]
        (lambda: Look("wide", "aaai"), "a page of aaai has no column 'wide'"),
    ],
)
def test_what_cannot_be_drawn_says_so(make: Any, message: str) -> None:
    with pytest.raises(LandscapeError, match=message):
        make()


def test_arrays_of_older_files_do_not_say_what_they_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs.update({"schema": "landscape-drawing", "schema_version": 1})
        file["mean"] = [1.0]
    with pytest.raises(LandscapeError, match="does not say how its arrays are drawn"):
        read_drawing(tmp_path / "old.h5")


@pytest.mark.parametrize("compose_it", [False, True])
def test_what_another_version_has_left_out_is_named(compose_it: bool, tmp_path: Path) -> None:
    drawing = bars_of("ν of the tail")
    whole = compose([[drawing]]) if compose_it else drawing
    path = write_drawing(whole, tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        settings = json.loads(file["settings"].asstr()[()])
        del (settings["panels"]["a"]["settings"] if compose_it else settings)["title"]
        file["settings"][()] = json.dumps(settings)
    with pytest.raises(LandscapeError, match=r"without 'title'.*make it again"):
        _ = read_drawing(path).figure


def test_drawing_leaves_the_users_parameters_alone() -> None:
    before = dict(matplotlib.rcParams)
    _ = bars_of("t").looking(Look("single", "icml")).figure
    assert dict(matplotlib.rcParams) == before


def test_a_drawing_saved_twice_has_files_that_do_not_know_of_each_other(tmp_path: Path) -> None:
    """Laid out again from where the first file left it, the second would not be what its arrays draw."""
    drawing = class_bars(long_tailed_classes(10, num_parameters=60, num_probes=2, num_steps=8))
    for name in ("one.png", "one.pdf", "again.png", "again.pdf"):
        save_drawing(drawing, tmp_path / name)
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "again.pdf").read_bytes()
    save_drawing(read_drawing(tmp_path / "one.pdf.h5"), tmp_path / "redrawn.pdf")
    assert (tmp_path / "one.pdf").read_bytes() == (tmp_path / "redrawn.pdf").read_bytes()


def test_panels_that_would_be_too_narrow_stand_one_above_the_other() -> None:
    page = compose([[bars_of("narrow", 1.0), bars_of("broad", 2.0)]], widths=[[1, 3]], letters=False)
    assert page.figure.get_figheight() == pytest.approx(2.0)
    single = page.looking(Look("single", "neurips")).figure
    assert single.get_figheight() == pytest.approx(3.0)
    assert [axes.get_title() for axes in single.axes] == ["narrow", "broad"]


def test_a_legend_as_wide_as_its_panel_leaves_the_letter_alone() -> None:
    @renders("test-legend")
    def render(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
        figure = new_figure(1.5)
        figure.subplots().plot([1, 2])
        figure.legend(figure.axes[0].lines, ["a legend that is about as wide as the panel"], loc="outside upper left")
        return figure

    figure = compose([[Drawing("test-legend", {})]]).looking(Look("single", "neurips")).figure
    del drawing_module._RENDERERS["test-legend"]
    head, body = figure.subfigs
    assert head.texts[0].get_window_extent().y0 >= body.subfigs[0].legends[0].get_window_extent().y1 - 1
