"""Which learning rate each anomaly detector gets: the loss of held-out training rows, with plain SGD.

The training rows of a draw (seed 0) are cut 70/30 by label; the detector is trained on the larger part and its loss
L_head + L_tail taken on the other one, whose labelled anomalies it has not seen. No test row, and no true label of an
unlabelled row, takes part. The rate with the lowest geometric mean over the data sets is the default of the method.

    python benchmarks/anomaly_rates.py FOLDER
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split

from landscape.anomaly.methods import METHODS
from landscape.anomaly.protocol import DetectionData, draw, find_tables, read_table
from landscape.anomaly.training import DetectorRecipe, judge, train_detector

RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
LABELLED = 0.1


def main(folder: Path) -> None:
    losses: dict[str, list[list[float]]] = {method: [] for method in METHODS}
    for path in find_tables([folder]):
        data = draw(read_table(path), labelled=LABELLED, seed=0)
        fit, held = cut(data)
        for method, rows in losses.items():
            rows.append([held_out_loss(fit, held, method, rate) for rate in RATES])
            print(path.stem, method, *(f"{loss:.4g}" for loss in rows[-1]), flush=True)
    print("geometric mean, at rates", *RATES)
    for method, rows in losses.items():
        print(method, *(f"{statistics.geometric_mean(column):.4g}" for column in zip(*rows, strict=True)))


def cut(data: DetectionData) -> tuple[DetectionData, DetectionData]:
    """The training rows in two parts, 70/30."""
    index = train_test_split(range(len(data.train)), test_size=0.3, stratify=data.labels.numpy(), random_state=0)
    fit, held = (
        DetectionData(data.train[part], data.labels[part], 0, data.test, data.test_labels)
        for part in map(torch.tensor, index)
    )
    return fit, held


def held_out_loss(fit: DetectionData, held: DetectionData, method: str, rate: float) -> float:
    """L_head + L_tail over the held-out rows."""
    recipe = DetectorRecipe.of(method, "sgd", rho=0.0, labelled=LABELLED, seed=0, lr=rate)
    judged = judge(train_detector(fit, recipe).detector, held, recipe)
    return judged.head_loss + judged.tail_loss


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
