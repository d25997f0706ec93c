"""`landscape plot` on a figure's own arrays, the pages of venues, and the kinds that compare files."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from support.command import Call
from support.spectra import long_tailed_classes

from landscape.plotting import read_drawing
from landscape.store import SpectrumFile


@pytest.fixture
def results(tmp_path: Path) -> Path:
    file = SpectrumFile.create(tmp_path / "x.h5", {"class_groups": ["head", "tail", "tail"]})
    for spectrum in long_tailed_classes(3, num_parameters=80, num_probes=2, num_steps=8):
        file.write_part(spectrum)
    return file.path


def test_a_figure_is_drawn_again_from_its_arrays(call: Call, results: Path, tmp_path: Path) -> None:
    first, again = tmp_path / "a.png", tmp_path / "b.png"
    assert call("plot", results, "--column", "single", "-o", first).code == 0
    redrawn = call("plot", f"{first}.h5", "-o", again)
    assert redrawn.code == 0, redrawn.err
    assert first.read_bytes() == again.read_bytes()
    with h5py.File(f"{again}.h5") as file:
        assert file.attrs["command"] == f"landscape plot {results} --column single -o {first}"
        assert file.attrs["redrawn"] == f"landscape plot {first}.h5 -o {again}"
    described = call("info", f"{first}.h5").out
    for words in ("landscape-drawing 2", "density: one panel a part", "single column of landscape, 3.35 inches",
                  f"landscape plot {results}", "class/0, class/1, class/2"):  # fmt: skip
        assert words in described


def test_a_page_of_another_venue_is_one_option_away(call: Call, results: Path, tmp_path: Path) -> None:
    first = tmp_path / "a.png"
    assert call("plot", results, "--style", "neurips", "-o", first).code == 0
    assert read_drawing(f"{first}.h5").figure.get_figwidth() == pytest.approx(5.5)
    # A figure keeps of its look what is not named.
    assert call("plot", f"{first}.h5", "--column", "single", "-o", tmp_path / "b.png").code == 0
    assert read_drawing(tmp_path / "b.png.h5").look.venue == "neurips"
    assert read_drawing(tmp_path / "b.png.h5").figure.get_figwidth() == pytest.approx(2.75)
    refused = call("plot", f"{first}.h5", "--column", "wide", "-o", tmp_path / "c.png")
    assert (refused.code, "a page of neurips has no column 'wide'" in refused.err) == (1, True)


@pytest.mark.parametrize(
    "words",
    [("--kind", "density"), ("--parts", "class/*"), ("--epoch", 1), ("--names", "a"), ("--quantities", "trace")],
)
def test_what_a_figure_shows_is_not_chosen_again(
    call: Call, results: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    assert call("plot", results, "-o", tmp_path / "a.png").code == 0
    refused = call("plot", tmp_path / "a.png.h5", *words, "-o", tmp_path / "b.png")
    assert refused.code == 1
    assert "give the results it was made from" in refused.err
    both = call("plot", tmp_path / "a.png.h5", results, "-o", tmp_path / "b.png")
    assert (both.code, "give that one file" in both.err) == (1, True)
    assert not (tmp_path / "b.png").exists()


def test_files_lie_over_each_other_and_are_counted(call: Call, results: Path, tmp_path: Path) -> None:
    other = tmp_path / "y.h5"
    other.write_bytes(results.read_bytes())
    over = call("plot", results, other, "--kind", "density-overlay", "--names", "SGD,SAM", "-o", tmp_path / "o.png")
    assert over.code == 0, over.err
    assert read_drawing(tmp_path / "o.png.h5").arrays["methods"].tolist() == ["SGD", "SAM"]
    counted = call("plot", results, "--kind", "density-cumulative", "--parts", "class/2", "-o", tmp_path / "c.png")
    assert counted.code == 0, counted.err
    assert read_drawing(tmp_path / "c.png.h5").arrays["parts"].tolist() == ["class/2"]
    refused = call("plot", results, other, "--kind", "density-cumulative", "-o", tmp_path / "d.png")
    assert (refused.code, "--kind density-overlay" in refused.err) == (1, True)


def test_panels_of_classes_are_chosen(call: Call, results: Path, tmp_path: Path) -> None:
    words = ("plot", results, "--kind", "classes", "--quantities", "accuracy, lambda_min", "-o", tmp_path / "a.png")
    assert call(*words).code == 0
    drawing = read_drawing(tmp_path / "a.png.h5")
    assert drawing.settings["quantities"] == ["accuracy", "lambda_min"]
    assert drawing.settings["groups"] == [["head", ["class/0"]], ["tail", ["class/1", "class/2"]]]
    refused = call("plot", results, "--quantities", "accuracy", "-o", tmp_path / "b.png")
    assert (refused.code, "--kind classes" in refused.err) == (1, True)
    refused = call("plot", results, "--kind", "classes", "--quantities", "acuracy", "-o", tmp_path / "b.png")
    assert (refused.code, "did you mean 'accuracy'" in refused.err) == (1, True)
