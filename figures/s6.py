"""S6: ways to escape a saddle, side by side."""

from __future__ import annotations

from landscape.plotting import Drawing

from .figure import Figure, Needs, Results
from .methods import train
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
    runs = {}
    for on, data_set in scale.data_sets.items():
        for method in ROWS.values():
            for seed in scale.seeds:
                runs[f"{method} on {data_set}, seed {seed}"] = train(scale, method, seed=seed, on=on)
    return Needs(runs=runs)


def draw(results: Results) -> Drawing:
    data_sets = dict.fromkeys(name.partition(" on ")[2].rpartition(", seed ")[0] for name in results.runs)
    return accuracy_table(
        {
            data_set: {row: seeds_of(results.runs, f"{method} on {data_set}") for row, method in ROWS.items()}
            for data_set in data_sets
        }
    )


FIGURE = Figure(
    name="S6",
    title="table: CE + DRW with SGD, PGD, LPF-SGD, SAM and ASAM",
    paper="Rangwani et al., NeurIPS 2022 (Saddle-LongTail), ways to escape saddles",
    shows="Test accuracy after CE + DRW with five optimisers, mean ± one standard deviation over seeds. The paper "
    "compares PGD and LPF-SGD with SAM on both CIFARs [M]; its numbers for PGD and LPF-SGD are not known, those of "
    "SGD and SAM are 75.5 [M✓] and 80.6 [R] on CIFAR-10-LT, 41.0 [M✓] and 44.6 [R] on CIFAR-100-LT. The radius of "
    "PGD's noise (0.05, every step) is ours; LPF-SGD's γ = 0.002 is its paper's for CIFAR-10, ASAM's ρ = 0.5 and 1 its "
    "paper's for CIFAR-10 and CIFAR-100 [M]. CIFAR-100-LT is shown where its images are given "
    "(`--data cifar100:PATH`).",
    smoke="Digits of two imbalance factors in place of two data sets, two seeds and smaller ρ (0.05 for SAM, 0.2 for "
    "ASAM): no evidence about which is better.",
    needs=needs,
    draw=draw,
)
