"""S6: ways to escape a saddle, side by side."""

from __future__ import annotations

from landscape.plotting import Drawing

from .figure import Figure, Needs, Results
from .methods import train_seeds
from .pieces import accuracy_table, seeds_of
from .scales import Scale

# Row of the table → method.
ROWS = {
    "SGD": "CE+DRW",
    "PGD": "CE+DRW+PGD",
    "LPF-SGD": "CE+DRW+LPF-SGD",
    "SAM": "CE+DRW+SAM",
    "ASAM": "CE+DRW+ASAM",
}


def needs(scale: Scale) -> Needs:
    return Needs(runs={name: run for method in ROWS.values() for name, run in train_seeds(scale, method).items()})


def draw(results: Results) -> Drawing:
    return accuracy_table({row: seeds_of(results.runs, method) for row, method in ROWS.items()})


FIGURE = Figure(
    name="S6",
    title="table: CE + DRW with SGD, PGD, LPF-SGD, SAM and ASAM",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), ways to escape saddles",
    shows="Test accuracy after CE + DRW with five optimisers, mean ± one standard deviation over seeds. The paper "
    "compares PGD and LPF-SGD with SAM on both CIFARs [M]; its numbers for PGD and LPF-SGD are not known, those of "
    "CIFAR-10-LT are 75.5 [M✓] with SGD and 80.6 [R] with SAM. The radius of PGD's noise (0.05, every step) is ours; "
    "LPF-SGD's γ = 0.002 and ASAM's ρ = 0.5 are their papers' for CIFAR-10. Here CIFAR-10-LT alone.",
    smoke="Digits, two seeds and smaller ρ (0.05 for SAM, 0.2 for ASAM): no evidence about which is better.",
    needs=needs,
    draw=draw,
)
