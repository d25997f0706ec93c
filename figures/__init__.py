"""The figures of the papers, one short file each: what is trained and measured for it, and how it is drawn.

Each file declares a ``FIGURE``; :func:`load_figure` finds it by name. A copy of one of them, changed, is a figure of
one's own: ``landscape figures make mine.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from landscape.errors import LandscapeError, did_you_mean

from .figure import Figure

NAMES = ("S1", "S2", "S3", "S4", "S5", "S6", "S7", "I1", "E1", "E2", "T1", "H1", "H2", "H3", "H4")


def load_figure(name: str) -> Figure:
    """The figure of this name, or the one that a Python file declares.

    Raises:
        LandscapeError: there is none.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    known = {each.lower(): each for each in NAMES}
    if name.lower() not in known:
        raise LandscapeError(
            f"no figure '{name}'{did_you_mean(name.upper(), NAMES)}; `landscape figures list` shows {', '.join(NAMES)}"
        )
    figure = importlib.import_module(f"landscape_figures.{name.lower()}").FIGURE
    assert isinstance(figure, Figure)
    return figure


def _from_file(path: Path) -> Figure:
    if not path.is_file():
        raise LandscapeError(f"no file '{path}': a figure of your own is a Python file that declares FIGURE")
    # As a module of this package, so that its imports stay as they are in the file that it is a copy of.
    spec = importlib.util.spec_from_file_location(f"{__name__}.own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figure = getattr(module, "FIGURE", None)
    if not isinstance(figure, Figure):
        raise LandscapeError(f"'{path}' declares no FIGURE = Figure(…); the files in figures/ are examples")
    return figure
