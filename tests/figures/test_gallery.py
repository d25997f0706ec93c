"""The page of all figures: it says what the recipes say, and is made of figures of the smoke scale alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from landscape_figures import NAMES
from landscape_figures.gallery import page_text, write_gallery
from PIL import Image

from landscape.errors import LandscapeError
from landscape.plotting import write_drawing
from landscape.plotting.table import result_table

_DOCS = Path(__file__).parents[2] / "docs"


def _draw_all(folder: Path, scale: str) -> None:
    drawing = result_table(["a"], ["b"], [np.array([1.0])])
    for name in NAMES:
        write_drawing(drawing, folder / f"{name}.h5", origin={"scale": scale})


def test_the_page_is_that_of_the_recipes() -> None:
    """`make gallery` after a caption has changed."""
    assert (_DOCS / "gallery.md").read_text(encoding="utf-8") == page_text()


def test_what_the_page_links_to_is_there_and_small() -> None:
    links = re.findall(r"\]\((\S+)\)", page_text())
    assert len(links) == 2 * len(NAMES)
    assert all((_DOCS / link).is_file() for link in links)
    assert sum(path.stat().st_size for path in (_DOCS / "gallery").iterdir()) < 1_500_000


def test_every_figure_gets_an_image(tmp_path: Path) -> None:
    _draw_all(tmp_path, "smoke")
    page = write_gallery(tmp_path, tmp_path / "docs")
    assert page.read_text(encoding="utf-8") == page_text()
    for name in NAMES:
        with Image.open(tmp_path / "docs" / "gallery" / f"{name}.png") as image:
            assert image.width > 500


def test_figures_of_another_scale_or_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"S1\.h5"):
        write_gallery(tmp_path, tmp_path / "docs")
    _draw_all(tmp_path, "paper")
    with pytest.raises(LandscapeError, match="no figure of the smoke scale"):
        write_gallery(tmp_path, tmp_path / "docs")
    assert not list((tmp_path / "docs").rglob("*.png"))
