"""S7: accuracy class by class, with and without SAM."""

from __future__ import annotations

from landscape.plotting import Drawing
from landscape.plotting.accuracy import accuracy_bars

from .figure import Figure, Needs, Results
from .methods import train_seeds
from .pieces import seeds_of
from .scales import Scale

METHODS = ("CE", "CE+SAM", "CE+DRW", "CE+DRW+SAM")


def needs(scale: Scale) -> Needs:
    return Needs(runs={name: run for method in METHODS for name, run in train_seeds(scale, method).items()})


def draw(results: Results) -> Drawing:
    methods = {method: seeds_of(results.runs, method) for method in METHODS}
    first = methods[METHODS[0]][0]
    return accuracy_bars(
        {method: [run.accuracies for run in runs] for method, runs in methods.items()},
        first.info.class_names,
        first.groups,
        first.info.class_counts,
    )


FIGURE = Figure(
    name="S7",
    title="accuracy of every class, with SGD and with SAM",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), per-class accuracy",
    shows="Test accuracy of every class after the last epoch, mean and one standard deviation over seeds, and the "
    "mean of each group as a line. The paper's table has SAM without re-weighting raise head and mid but not the tail "
    "(52.3 to 51.7 % on CIFAR-10-LT), and SAM with DRW raise the tail from 61.4 to 73.1 % [M✓].",
    smoke="Digits, two seeds and ρ = 0.05: no evidence about the claim.",
    needs=needs,
    draw=draw,
)
