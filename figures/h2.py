"""H2: which layers are like the whole network."""

from __future__ import annotations

from landscape.plotting import Drawing, layer_distance

from .figure import Figure, Results
from .h1 import needs
from .pieces import layers_of


def draw(results: Results) -> Drawing:
    return layer_distance(layers_of(results.spectra["layers"]))


FIGURE = Figure(
    name="H2",
    title="distance of every layer's spectrum to that of the whole network, by depth",
    paper="Sankar et al., AAAI 2021 (layer-wise Hessian), similarity of layers",
    shows="Wasserstein-1 distance between the spectrum of every layer and that of the whole network, both in units of "
    "their mean |λ|, by depth, at three epochs of training with cross-entropy, on at most 1,000 images. The "
    "paper claims that the middle layers are closest [S]; by which measure is not known [?].",
    smoke="Digits and a network of seven layers, 60 images: too few layers for a middle.",
    needs=needs,
    draw=draw,
)
