"""S5: what the radius of SAM does."""

from __future__ import annotations

import numpy as np

from landscape.plotting import Drawing
from landscape.plotting.setting import setting_curves

from .figure import Figure, Needs, Results
from .methods import train, train_seeds
from .pieces import seeds_of, shares_of, spectrum_of
from .scales import Scale

METHOD = "CE+DRW+SAM"
RADII = {"smoke": (0.02, 0.05, 0.1, 0.2), "paper": (0.05, 0.1, 0.2, 0.5, 0.8, 1.0)}


def needs(scale: Scale) -> Needs:
    runs = {
        f"{rho:g} {name}": run
        for rho in RADII[scale.name]
        for name, run in train_seeds(scale, METHOD, optimizer__rho=rho).items()
    }
    first = {rho: train(scale, METHOD, seed=scale.seeds[0], optimizer__rho=rho) for rho in RADII[scale.name]}
    return Needs(runs=runs, spectra={f"{rho:g}": scale.spectra(run) for rho, run in first.items()})


def draw(results: Results) -> Drawing:
    shares = np.stack([100 * shares_of(seeds_of(results.runs, f"{rho} {METHOD}")) for rho in results.spectra])
    ratios = [spectrum_of(file, "tail").saddle.curvature_ratio for file in results.spectra.values()]
    return setting_curves(
        [float(rho) for rho in results.spectra],
        {
            "test accuracy (%)": {name: shares[:, i] for i, name in enumerate(("all", "head", "mid", "tail"))},
            "|λ$_{min}$/λ$_{max}$|, smallest class": {"tail": np.array(ratios)},
        },
        setting="radius ρ of SAM",
    )


FIGURE = Figure(
    name="S5",
    title="accuracy and curvature of the tail against the radius ρ of SAM",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), effect of ρ",
    shows="Test accuracy after CE + DRW with SAM of radius ρ, mean and one standard deviation over seeds; and "
    "|λ_min/λ_max| of the smallest class with the first seed. The paper claims that the tail's accuracy rises up to ρ "
    "of 0.5 to 0.8 while the head's stays [M].",
    smoke="Digits and two seeds; a network of 14,458 parameters stands smaller ρ than ResNet-32: no evidence about "
    "the claim.",
    needs=needs,
    draw=draw,
)
