"""S7: accuracy class by class, with and without SAM."""

from __future__ import annotations

from landscape.plotting import Drawing
from landscape.plotting.accuracy import accuracy_bars
from landscape_figures.figure import Figure, Needs, Results
from landscape_figures.methods import train
from landscape_figures.pieces import accuracies_of, groups_of
from landscape_figures.scales import Scale

METHODS = ("CE", "CE+SAM", "CE+DRW", "CE+DRW+SAM")


def needs(scale: Scale) -> Needs:
    return Needs(
        runs={f"{method} {seed}": train(scale, method, seed=seed) for method in METHODS for seed in scale.seeds}
    )


def draw(results: Results) -> Drawing:
    by_method = {
        method: [run for name, run in results.runs.items() if name.rpartition(" ")[0] == method] for method in METHODS
    }
    first = by_method[METHODS[0]][0]
    return accuracy_bars(
        {method: accuracies_of(runs) for method, runs in by_method.items()},
        first.info.class_names,
        groups_of(first),
        first.info.class_counts,
    )


FIGURE = Figure(
    name="S7",
    title="accuracy of every class, with SGD and with SAM",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), per-class accuracy",
    shows="Test accuracy of every class after the last epoch, mean and one standard deviation over seeds, and the mean "
    "of each group as a line. The paper's table has SAM without re-weighting raise head and mid but not the tail "
    "(52.3 to 51.7 % on CIFAR-10-LT), and SAM with DRW raise the tail from 61.4 to 73.1 % [M✓].",
    smoke="Digits, two seeds and smaller ρ: no evidence about the claim.",
    needs=needs,
    draw=draw,
)
