"""S4: curvature during training, with and without SAM."""

from __future__ import annotations

from landscape.plotting import Drawing
from landscape.plotting.curves import sweep_curves, training_curves
from landscape.switches import switches

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import epochs_of
from .scales import Scale

METHODS = ("CE+DRW", "CE+DRW+SAM")


def needs(scale: Scale) -> Needs:
    runs = {method: train(scale, method) for method in METHODS}
    return Needs(runs=runs, spectra={method: scale.sweep(run, "head", "tail") for method, run in runs.items()})


def draw(results: Results) -> Drawing:
    curves = sweep_curves({method: epochs_of(file) for method, file in results.spectra.items()})
    return training_curves(curves, switches(results.runs[METHODS[0]].info.recipe))


FIGURE = Figure(
    name="S4",
    title="both ends of the spectrum of a head and a tail class during training",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), curvature over epochs",
    shows="λ_min, λ_max and |λ_min/λ_max| of the largest and the smallest class over the epochs of CE + DRW, trained "
    "by SGD and by SAM; the dashed line is where class weights come on. The paper claims that SAM keeps the tail's "
    "negative curvature small [M]; that it has such a panel is recalled, not verified [M].",
    smoke="Five checkpoints of 20 epochs on digits: the panels, not the claim.",
    needs=needs,
    draw=draw,
)
