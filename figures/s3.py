"""S3: the tail class with and without SAM."""

from __future__ import annotations

from landscape.plotting import Drawing, density_overlay

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import spectrum_of
from .s2 import LOSSES
from .scales import Scale

OPTIMIZERS = {"SGD": "", "SAM": "+SAM"}


def needs(scale: Scale) -> Needs:
    methods = [loss + suffix for loss in LOSSES for suffix in OPTIMIZERS.values()]
    return Needs(spectra={method: scale.spectra(train(scale, method)) for method in methods})


def draw(results: Results) -> Drawing:
    return density_overlay(
        {
            name: [spectrum_of(results.spectra[loss + suffix], "tail", loss) for loss in LOSSES]
            for name, suffix in OPTIMIZERS.items()
        }
    )


FIGURE = Figure(
    name="S3",
    title="spectra of the smallest class, with SGD and with SAM",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), effect of SAM",
    shows="Spectral density of the Hessian of the smallest class's loss after four losses, each trained by SGD and by "
    "SAM. The paper claims that SAM shrinks |λ_min|, and λ_max, of the tail [M]; γ and τ of its VS, and ρ with it, are "
    "not known [?].",
    smoke="Digits, a network of 14,458 parameters and ρ = 0.05: no evidence about the claim.",
    needs=needs,
    draw=draw,
)
