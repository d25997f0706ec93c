"""H1: the spectra of the layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from landscape.plotting import Drawing, layer_densities

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import layers_of
from .scales import Scale

# Panels of a page beside that of the whole network.
MOST_LAYERS = 17


def needs(scale: Scale) -> Needs:
    return Needs(spectra={"layers": scale.layers(train(scale, "baseline"))})


def by_depth(layers: Sequence[str], most: int = MOST_LAYERS) -> list[str]:
    """All layers; where there are more than ``most``, so many of those with weights, evenly from first to last."""
    if len(layers) <= most:
        return list(layers)
    weights = [name for name in layers if not name.rpartition(".")[2].rpartition("/")[2].startswith("bn")]
    places = np.linspace(0, len(weights) - 1, min(most, len(weights))).round().astype(int)
    return [weights[place] for place in places]


def draw(results: Results) -> Drawing:
    epochs = layers_of(results.spectra["layers"])
    last = list(epochs.values())[-1]
    shown = {"all", *by_depth([spectrum.part for spectrum in last if spectrum.part != "all"])}
    return layer_densities(
        {epoch: [spectrum for spectrum in parts if spectrum.part in shown] for epoch, parts in epochs.items()}
    )


FIGURE = Figure(
    name="H1",
    title="spectra of the whole network and of every layer, at three epochs",
    paper="Sankar et al., AAAI 2021 (layer-wise Hessian), layer spectra",
    shows="Spectral density of the whole Hessian and of the block of every layer, each in units of its own mean |λ|, "
    "early, in the middle and at the end of training with cross-entropy, on at most 1,000 images; of a deep network "
    "17 layers with weights, evenly by depth. The paper claims that the spectra of layers look like that of the whole "
    "network [S].",
    smoke="Digits and a network of seven layers, 60 images: too few layers to say which are alike.",
    needs=needs,
    draw=draw,
)
