"""The page that shows every figure at the smoke scale: ``python -m landscape_figures.gallery FIGURES-OUT DOCS``."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import h5py
from PIL import Image

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.plotting import read_drawing

from . import NAMES, load_figure
from .figure import Figure
from .scales import SMOKE

# A screen shows a page of 6.9 inches well at this, and a diagram has few colours: all figures in about a megabyte.
_DOTS_AN_INCH, _COLORS = 150, 128

_HEAD = """# Gallery

Every figure that `landscape figures make` knows, as `make gallery` makes them at the *smoke* scale: scikit-learn's
digits cut to a long tail, a network of 14,458 parameters, 20 epochs. They show what each figure holds and where it
stands, and are no evidence for or against any paper; for that there is `--scale paper`, with CIFAR-10-LT and the
recipes that ship:

```
landscape figures list
landscape figures make S2 --scale paper --data folder:PATH -o figures-out
landscape plot figures-out/S2.h5 --style neurips --column single -o S2.pdf
```

What a paper claims is marked by where that is known from: [C] its code, [R] its README, [S] a summary, [F] read off a
figure by eye, [M] recalled and not verified, [M✓] recalled, its groups and overall accuracy agreeing, [?] unknown.
"""


def write_gallery(drawings: Path, docs: Path) -> Path:
    """Write ``DOCS/gallery.md`` and its images from the arrays of figures.

    Args:
        drawings: folder with ``NAME.h5`` of every figure.
        docs: folder of the page; images go to ``gallery/`` in it.

    Raises:
        LandscapeError: a figure is missing, or was made at another scale.
    """
    page = docs / "gallery.md"
    for name in NAMES:
        with atomic_replacement(docs / _image(name)) as path:
            path.write_bytes(_small_png(drawings / f"{name}.h5"))
    with atomic_replacement(page) as path:
        path.write_text(page_text(), encoding="utf-8")
    return page


def page_text() -> str:
    """The page, in Markdown: every figure with its image, its caption and its command."""
    return "\n".join([_HEAD, *(_entry(load_figure(name)) for name in NAMES)])


def _image(name: str) -> Path:
    return Path("gallery") / f"{name}.png"


def _small_png(path: Path) -> bytes:
    drawing = read_drawing(path)
    with h5py.File(path, "r") as file:
        if file.attrs.get("scale") != SMOKE.name:
            raise LandscapeError(f"'{path}' is no figure of the smoke scale: `landscape figures make all` makes them")
    drawn, small = io.BytesIO(), io.BytesIO()
    drawing.figure.savefig(drawn, format="png", dpi=_DOTS_AN_INCH)
    image = Image.open(drawn).convert("RGB")
    image.quantize(_COLORS, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def _entry(figure: Figure) -> str:
    recipe = f"figures/{figure.name.lower()}.py"
    return (
        f"## {figure.name}: {figure.title}\n\n"
        f"![{figure.title}]({_image(figure.name).as_posix()})\n\n"
        f"{figure.caption(SMOKE)}\n\n"
        f"Answers to: {figure.paper}. Recipe: [{recipe}](../{recipe}). `landscape figures make {figure.name}`\n"
    )


if __name__ == "__main__":
    print(write_gallery(Path(sys.argv[1]), Path(sys.argv[2])))
