"""E2: spectra of head and tail with SGD, SAM, ImbSAM and SSE-SAM."""

from __future__ import annotations

from landscape.plotting import Drawing, density_overlay

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import spectrum_of
from .scales import Scale

METHODS = ("SGD", "SAM", "ImbSAM", "SSE-SAM")


def needs(scale: Scale) -> Needs:
    # The recipe of SSE-SAM is that of its 500 epochs' illustration; side by side all train as long as SGD.
    epochs = train(scale, METHODS[0]).recipe.schedule.epochs
    runs = {method: train(scale, method, schedule__epochs=epochs) for method in METHODS}
    return Needs(spectra={method: scale.spectra(run, "head", "tail") for method, run in runs.items()})


def draw(results: Results) -> Drawing:
    return density_overlay(
        {method: [spectrum_of(file, place) for place in ("head", "tail")] for method, file in results.spectra.items()}
    )


FIGURE = Figure(
    name="E2",
    title="spectra of a head and a tail class with SGD, SAM, ImbSAM and SSE-SAM",
    paper="Lyu et al., AAAI 2025 (SSE-SAM), escape from saddles",
    shows="Spectral density of the Hessian of the largest and of the smallest class's loss after training by SGD, "
    "SAM, ImbSAM and SSE-SAM, for equally many epochs. The paper claims that SAM escapes saddle points of the overall "
    "loss but not of the tail's, that ImbSAM escapes those of the tail and leaves the head under-trained, and that "
    "SSE-SAM does both [S]; in which figure it shows so, and its radii and η for CIFAR-10, are not known [?].",
    smoke="Digits and a network of 14,458 parameters: no evidence about the claim.",
    needs=needs,
    draw=draw,
)
