"""Figures on disk: fonts that journals take, the arrays beside the figure, nothing half written, no global state."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from landscape.errors import LandscapeError
from landscape.plotting import Drawing, Look, save_drawing, save_figure, style
from landscape.plotting import drawing as drawing_module
from landscape.plotting.style import COLUMN_WIDTHS, shorten, text_width


@pytest.fixture
def figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().set_title("λ of the tail")
    return figure


def test_style_sets_sizes_and_restores_the_users_parameters() -> None:
    before = dict(matplotlib.rcParams)
    for column, width in COLUMN_WIDTHS.items():
        with style(Look(column)):  # type: ignore[arg-type]
            assert matplotlib.rcParams["figure.figsize"][0] == width
            assert matplotlib.rcParams["pdf.fonttype"] == matplotlib.rcParams["ps.fonttype"] == 42
            assert min(matplotlib.rcParams[name] for name in ("xtick.labelsize", "ytick.labelsize")) >= 6
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(LandscapeError, match="no column width 'half': give one of single, double, wide"):
        Look("half")  # type: ignore[arg-type]


def test_pdf_embeds_truetype_even_outside_the_style(figure: Figure, tmp_path: Path) -> None:
    content = save_figure(figure, tmp_path / "a.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content


@pytest.mark.parametrize(("suffix", "magic"), [(".pdf", b"%PDF"), (".png", b"\x89PNG"), (".SVG", b"<?xml")])
def test_each_format_is_itself_and_repeats_byte_for_byte(
    figure: Figure, tmp_path: Path, suffix: str, magic: bytes
) -> None:
    first, second = (save_figure(figure, tmp_path / f"{name}{suffix}").read_bytes() for name in "ab")
    assert first.startswith(magic)
    assert first == second


@pytest.mark.parametrize("name", ["figure.jpg", "figure", "figure.pdf.h5"])
def test_other_suffixes_are_refused(figure: Figure, tmp_path: Path, name: str) -> None:
    with pytest.raises(LandscapeError, match=rf"{name}': its suffix must be one of .pdf, .png, .svg"):
        save_figure(figure, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_failing_draw_keeps_the_old_figure(figure: Figure, tmp_path: Path) -> None:
    path = save_figure(figure, tmp_path / "a.pdf")
    before = path.read_bytes()
    figure.axes[0].set_title(r"$\nosuchcommand$")
    with pytest.raises(ValueError, match="nosuchcommand"):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_drawn_arrays_lie_beside_the_figure_and_not_on_the_spectra(
    figure: Figure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(drawing_module._RENDERERS, "given", lambda *_: figure)
    (tmp_path / "run.h5").write_text("the spectra")
    arrays = {"class/3/mean": np.array([1.0, np.nan]), "labels": np.array(["λ", "crane (bird)"]), "τ": np.array(0.5)}
    paths = save_drawing(Drawing("given", arrays), tmp_path / "run.pdf")
    assert [path.name for path in paths] == ["run.pdf", "run.pdf.h5"]
    assert (tmp_path / "run.h5").read_text() == "the spectra"
    with h5py.File(paths[1]) as file:
        np.testing.assert_array_equal(file["arrays/class/3/mean"][...], arrays["class/3/mean"])
        assert file["arrays/labels"].asstr()[...].tolist() == ["λ", "crane (bird)"]
        assert file["arrays/τ"][()] == 0.5


def test_shorten_fits_and_keeps_both_ends() -> None:
    name = "Passerculus sandwichensis princeps"
    short = shorten(name, 7, 0.8)
    assert text_width(short, 7) <= 0.8 < text_width(name, 7)
    assert short[:4] == name[:4]
    assert short[-4:] == name[-4:]
    assert "…" in short
    assert shorten("truck", 7, 0.8) == "truck"


def test_missing_glyphs_are_told_once(tmp_path: Path) -> None:
    """A private-use character is in no font; layout keeps quiet, and saving names it in one warning."""
    with warnings.catch_warnings(), style():
        warnings.filterwarnings("error", "no installed font")
        figure = Figure()
        figure.subplots(2)[0].set_title("a\U0010fff0\U0010fff1\U0010fff0")
        figure.draw_without_rendering()
    with pytest.warns(UserWarning, match="no installed font") as caught:
        save_figure(figure, tmp_path / "a.png")
    assert len(caught) == 1
    assert "no installed font shows \U0010fff0 \U0010fff1:" in str(caught[0].message)


def test_other_warnings_of_a_save_still_reach_the_user(figure: Figure, tmp_path: Path) -> None:
    class Loud(Figure):
        def savefig(self, *args: Any, **options: Any) -> None:
            warnings.warn("something else", stacklevel=1)
            figure.savefig(*args, **options)

    with pytest.warns(UserWarning, match="something else"):
        save_figure(Loud(), tmp_path / "a.png")
