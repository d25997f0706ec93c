"""H4: accuracy with the trace regulariser."""

from __future__ import annotations

from landscape.plotting import Drawing

from .figure import Figure, Needs, Results
from .methods import train_seeds
from .pieces import accuracy_table, seeds_of
from .scales import Scale

METHODS = ("baseline", "HTR, all layers", "HTR, middle layers", "HTR, Gauss-Newton", "CE+SAM")


def needs(scale: Scale) -> Needs:
    return Needs(runs={name: run for method in METHODS for name, run in train_seeds(scale, method).items()})


def draw(results: Results) -> Drawing:
    return accuracy_table({"": {method: seeds_of(results.runs, method) for method in METHODS}})


FIGURE = Figure(
    name="H4",
    title="table: the trace regulariser on all layers and on the middle ones",
    paper="Sankar et al., AAAI 2021 (layer-wise Hessian), regulariser HTR",
    shows="Test accuracy with cross-entropy alone, with the trace of the layers' Hessians added to the loss (all "
    "layers, the middle third, or the Gauss-Newton part, which is never negative), and with SAM, mean ± one standard "
    "deviation over seeds. The paper claims that penalising the middle layers alone works comparably at less cost "
    "[S]; its numbers, strength and data sets are not known [?]. Ours is long-tailed, the sum over layers is clamped "
    "at 0, and the weight is one to start from.",
    smoke="Digits and two seeds: no evidence about which is better.",
    needs=needs,
    draw=draw,
)
