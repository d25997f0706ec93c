"""H1: the spectra of the layers."""

from __future__ import annotations

from landscape.plotting import Drawing, layer_densities

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import layers_of
from .scales import Scale


def needs(scale: Scale) -> Needs:
    return Needs(spectra={"layers": scale.layers(train(scale, "baseline"))})


def draw(results: Results) -> Drawing:
    return layer_densities(layers_of(results.spectra["layers"]))


FIGURE = Figure(
    name="H1",
    title="spectra of the whole network and of every layer, at three epochs",
    paper="Sankar et al., AAAI 2021 (layer-wise Hessian), layer spectra",
    shows="Spectral density of the whole Hessian and of the block of every layer, each in units of its own mean |λ|, "
    "early, in the middle and at the end of training with cross-entropy. The paper claims that the spectra of layers "
    "look like that of the whole network [S].",
    smoke="Digits and a network of seven layers, 60 images: too few layers to say which are alike.",
    needs=needs,
    draw=draw,
)
