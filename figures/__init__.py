"""The figures of the papers, one short file each: what is trained and measured for it, and how it is drawn.

Each file declares a ``FIGURE``; :func:`load_figure` finds it by name. A copy of one of them, changed, is a figure of
one's own: ``landscape figures make mine.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Sequence
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


def load_figures(names: Sequence[str]) -> list[Figure]:
    """The figures of these names, each once; ``all`` stands for every one of ours.

    Raises:
        LandscapeError: one is unknown, or two are called the same and would be written into the same files.
    """
    wanted: dict[str, str] = {}
    for name in names:
        for each in NAMES if name.lower() == "all" else (name,):
            wanted.setdefault(each if each.endswith(".py") else each.lower(), each)
    figures: dict[str, Figure] = {}
    for each in wanted.values():
        figure = load_figure(each)
        if figures.setdefault(figure.name.lower(), figure) is not figure:  # some file systems take S1 and s1 for one
            raise LandscapeError(f"two figures are called '{figure.name}': give the one in '{each}' another name")
    return list(figures.values())


def _from_file(path: Path) -> Figure:
    if not path.is_file():
        raise LandscapeError(f"no file '{path}': a figure of your own is a Python file that declares FIGURE")
    # As a module of this package, so that its imports stay as they are in the file that it is a copy of.
    spec = importlib.util.spec_from_file_location(f"{__name__}.own_{path.stem.replace('.', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for what their annotations name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise LandscapeError(f"'{path}'{_place_in(path, error)}") from error
    figure = getattr(module, "FIGURE", None)
    if not isinstance(figure, Figure):
        raise LandscapeError(f"'{path}' declares no FIGURE = Figure(…); the files in figures/ are examples")
    if not re.fullmatch(r"[\w-]+", figure.name):
        raise LandscapeError(f"'{path}': the name '{figure.name}' names its files: use letters, digits, _ and -")
    return figure


def _place_in(path: Path, error: Exception) -> str:
    """The last line of the file that an error came through, and what it says."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).absolute() == path.absolute()]
    return f", line {lines[-1]}: {type(error).__name__}: {error}" if lines else f": {type(error).__name__}: {error}"
