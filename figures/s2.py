"""S2: class-wise spectra of four losses."""

from __future__ import annotations

from landscape.plotting import Drawing, density_grid

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import spectrum_of
from .scales import Scale

LOSSES = ("CE", "CE+DRW", "LDAM+DRW", "VS")
PLACES = ("head", "mid", "tail")


def needs(scale: Scale) -> Needs:
    return Needs(spectra={loss: scale.spectra(train(scale, loss)) for loss in LOSSES})


def draw(results: Results) -> Drawing:
    return density_grid(
        [spectrum_of(results.spectra[loss], place, f"{loss}, {place}") for loss in LOSSES for place in PLACES],
        ncols=len(PLACES),
    )


FIGURE = Figure(
    name="S2",
    title="class-wise spectra of CE, CE+DRW, LDAM+DRW and VS",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), class-wise Hessian",
    shows="Spectral density of the Hessian of one class's loss: the largest class, the one in the middle and the "
    "smallest (columns) after training with four losses by SGD (rows), plain cross-entropy of the class throughout. "
    "The paper claims that networks end at saddle points of the losses of tail classes [S]; how its figure is "
    "arranged is recalled, not verified [M], and γ and τ of its VS are not known [?].",
    smoke="Digits and a network of 14,458 parameters, with at most six images in the smallest class: no evidence "
    "about the claim.",
    needs=needs,
    draw=draw,
)
