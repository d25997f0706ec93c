"""H3: sharpness of the layers during training."""

from __future__ import annotations

from landscape.plotting import Drawing, layer_training

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import layers_of
from .scales import Scale


def needs(scale: Scale) -> Needs:
    return Needs(spectra={"layers": scale.layer_sweep(train(scale, "baseline"))})


def draw(results: Results) -> Drawing:
    return layer_training(layers_of(results.spectra["layers"]))


FIGURE = Figure(
    name="H3",
    title="λ_max and trace of the whole network and of every layer during training",
    paper="Sankar et al., AAAI 2021 (layer-wise Hessian), curvature over epochs",
    shows="λ_max and trace of the Hessian of the whole network and of the block of every layer over the epochs of "
    "training with cross-entropy, on at most 1,000 images. The paper claims that both fall during training, for the "
    "network and for its layers [S].",
    smoke="Five checkpoints of 20 epochs on digits, 60 images.",
    needs=needs,
    draw=draw,
)
