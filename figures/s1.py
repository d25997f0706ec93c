"""S1: the overview of Saddle-LongTail."""

from __future__ import annotations

from dataclasses import replace

from landscape.plotting import Drawing, compose, density_grid
from landscape.plotting.surface import surface_relief

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import sizes_of, spectrum_of
from .scales import Scale
from .steps import representatives


def needs(scale: Scale) -> Needs:
    run = train(scale, "CE+DRW")
    return Needs(
        runs={"CE+DRW": run},
        spectra={"CE+DRW": scale.spectra(run)},
        surfaces={place: scale.saddle(run, place) for place in ("head", "tail")},
    )


def draw(results: Results) -> Drawing:
    run = results.runs["CE+DRW"]
    densities = density_grid([spectrum_of(results.spectra["CE+DRW"], place) for place in ("head", "tail")], ncols=2)
    correct = {place: run.accuracies[label] for place, label in representatives(run.info.class_counts).items()}
    # Each on its own scale: losses of head and tail lie decades apart, and the shape is what is shown.
    reliefs = [
        surface_relief(
            replace(surface, labels=(f"{place}: {surface.labels[0]}, {100 * correct[place]:.1f} % correct",))
        )
        for place, surface in results.surfaces.items()
    ]
    return compose([[sizes_of(run), densities], reliefs], widths=[[1, 2], [1, 1]])


FIGURE = Figure(
    name="S1",
    title="class sizes, spectra of head and tail, the landscape along their extreme curvatures",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), overview",
    shows="Training images a class; spectral density of the Hessian of the loss of the largest and of the smallest "
    "class after CE + DRW with SGD; and the loss of these classes in the plane of their own v_min and v_max, measured "
    "where the paper draws a cartoon, with the share of their test images that is classified correctly. The paper "
    "shows a head class with λ_min = −1.72 and validation accuracy 95.8 %, and a tail class with λ_min = −59.01 and "
    "64.1 % [F], and concludes that the tail sits at a saddle.",
    smoke="Digits and a network of 14,458 parameters: where the panels stand, not what the paper claims.",
    needs=needs,
    draw=draw,
)
