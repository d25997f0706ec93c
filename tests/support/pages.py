"""What a reviewer would circle, found among the words that are drawn; and that a figure is drawn again alike."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from landscape.plotting.drawing import Drawing, compose, read_drawing, save_figure, write_drawing
from landscape.plotting.style import Look, style

LOOKS = [Look("single"), Look("double"), Look("single", "neurips"), Look("double", "neurips"), Look("single", "aaai")]


def drawn_texts(figure: Figure) -> list[Text]:
    """Every piece of text that is drawn, in the order of drawing."""
    found: list[Text] = []
    original = RendererAgg.draw_text

    def draw_text(self: RendererAgg, *arguments: Any, mtext: Text | None = None, **options: Any) -> None:
        if mtext is not None and mtext.get_text().strip() and mtext not in found:
            found.append(mtext)
        original(self, *arguments, mtext=mtext, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RendererAgg, "draw_text", draw_text)
        figure.canvas.draw()
    return found


def assert_legible(drawing: Drawing, looks: list[Look] = LOOKS) -> None:
    """No word is cut by the edge of the page, lies on another, or is set in less than five points."""
    for look in looks:
        figure = drawing.looking(look).figure
        with style(look):
            texts = drawn_texts(figure)
        boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
        page = figure.bbox
        for words, box in boxes:
            where = f"{words!r} at {look}"
            beyond = max(page.x0 - box.x0, box.x1 - page.x1, page.y0 - box.y0, box.y1 - page.y1)
            assert beyond < 1, f"{where} is cut by the edge of the page"
        for (one, first), (other, second) in itertools.combinations(boxes, 2):
            across = min(first.x1, second.x1) - max(first.x0, second.x0)
            up = min(first.y1, second.y1) - max(first.y0, second.y0)
            # Line boxes are higher than their letters, by about a point on either side.
            assert across < 1 or up < 0.03 * figure.dpi, f"{one!r} and {other!r} overlap at {look}"
        assert min(text.get_fontsize() for text in texts) >= 4.99


def assert_drawn_again_alike(drawing: Drawing, folder: Path) -> None:
    """Read back from its file it is the same PNG byte for byte, alone and as a panel of a page."""
    for name, one in {"alone": drawing, "page": compose([[drawing, drawing]])}.items():
        again = read_drawing(write_drawing(one.looking(Look("double", "neurips")), folder / f"{name}.h5"))
        first = save_figure(one.looking(Look("double", "neurips")).figure, folder / f"{name}.png")
        second = save_figure(again.figure, folder / f"{name}-again.png")
        assert first.read_bytes() == second.read_bytes()
