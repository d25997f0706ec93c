"""Points a second of a class-restricted loss surface: this library against loss-landscapes (PyPI), in turns.

python benchmarks/surface_speed.py --checkpoint checkpoints/ce.safetensors --data folder:cifar10-jpeg --rounds 5

The plane has 51×51 points. Two questions: one class with all its images, and ten classes of a tenth each, every class
with its own loss. The peer walks `random_plane` with its own defaults and its own `Loss` metric, one for each class;
this library takes all classes from one set of forward passes. Every round times the first points of either plane, in
one process with equal threads, on the same images; the ratio is the median of the ratios of neighbours, with its range.
What comes before the first point is timed apart and counted once into the 2,601 points of the whole surface.

`pip install -c constraints.txt -e ".[peers]"` brings the peer. Without --data the images are noise and the network is
untrained, which costs the same.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import loss_landscapes
import numpy as np
import torch
from loss_landscapes.metrics import Loss
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.losses import build_loss
from landscape.models import build_model
from landscape.study import open_subject
from landscape.surface.evaluate import PointLosses

CLASSES = 10
STEPS = 51


class EnoughPoints(Exception):
    """Ends the peer's walk."""


class FirstPoints:
    """The peer's own metrics at the first points of its plane; notes when the first began and the last was done."""

    def __init__(self, metrics: Sequence[Callable[[Any], float]], number: int) -> None:
        self.metrics, self.number = metrics, number
        self.values: list[list[float]] = []

    def __call__(self, model_wrapper: Any) -> float:
        if not self.values:
            self.began = time.perf_counter()
        self.values.append([metric(model_wrapper) for metric in self.metrics])
        if len(self.values) == self.number:
            self.ended = time.perf_counter()
            raise EnoughPoints
        return self.values[-1][0]


def peer_seconds(model: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], points: int) -> tuple[float, float]:
    """(seconds before the first point, seconds a point) of ``random_plane``."""
    own = copy.deepcopy(model)  # it leaves the model where its walk ends
    metric = FirstPoints([Loss(F.cross_entropy, inputs, targets) for inputs, targets in parts], points)
    start = time.perf_counter()
    with contextlib.suppress(EnoughPoints):
        loss_landscapes.random_plane(own, metric, steps=STEPS)
    return metric.began - start, (metric.ended - metric.began) / points


def our_seconds(model: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], points: int) -> tuple[float, float, str]:
    """(seconds before the first point, seconds a point, what is done at a point)."""
    axis = np.linspace(-1, 1, STEPS)
    plane = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    start = time.perf_counter()
    inputs, targets = (torch.cat(each) for each in zip(*parts, strict=True))
    members = list(torch.arange(len(inputs)).split([len(labels) for _, labels in parts]))
    directions = [filter_normalized(model, seed) for seed in range(2)]
    losses = PointLosses(model, build_loss("ce", [1] * CLASSES), inputs, targets, members, directions=directions)
    began = time.perf_counter()
    for point in plane[:points]:
        losses(point[None])
    return began - start, (time.perf_counter() - began) / points, losses.describe()


def filter_normalized(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """A Gaussian direction whose filters have the lengths of the model's, nothing for vectors."""
    generator = torch.Generator().manual_seed(seed)
    direction = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            z = torch.randn(parameter.shape, generator=generator).flatten(1)
            lengths = parameter.detach().flatten(1).norm(dim=1, keepdim=True)
            direction[name] = (z * lengths / z.norm(dim=1, keepdim=True)).view(parameter.shape)
    return direction


def compare(
    title: str, model: nn.Module, parts: Sequence[tuple[Tensor, Tensor]], arguments: argparse.Namespace
) -> None:
    rows: dict[str, list[tuple[float, float]]] = {"loss-landscapes": [], "landscape": []}
    described = ""
    for number in range(arguments.rounds):
        for name in list(rows) if number % 2 == 0 else reversed(rows):
            if name == "landscape":
                before, each, described = our_seconds(model, parts, arguments.points)
            else:
                before, each = peer_seconds(model, parts, arguments.points)
            rows[name].append((before, each))
    print(f"\n{title}; {arguments.points} of {STEPS**2:,} points a round, {arguments.rounds} rounds")
    print(f"ours: {described}")
    for name, seconds in rows.items():
        before, each = (statistics.median(column) for column in zip(*seconds, strict=True))
        whole = (before + each * STEPS**2) / 60
        print(f"{name:<16} {1 / each:8.3f} points/s, {before:5.2f} s before, {whole:6.1f} min the surface")
    ratios = [
        (their[0] + their[1] * STEPS**2) / (our[0] + our[1] * STEPS**2)
        for their, our in zip(*rows.values(), strict=True)
    ]
    print(f"{'ratio':<16} {statistics.median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def images_of(arguments: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, and images sorted so that the first ``--images`` have one class and the rest has them all."""
    number = arguments.images
    labels = torch.cat([torch.full((number,), arguments.one_class), torch.arange(number) * CLASSES // number])
    if arguments.data is None:
        torch.manual_seed(0)
        model = build_model("resnet20", num_classes=CLASSES, seed=0)
        return model.eval(), torch.randn(2 * number, 3, 32, 32), labels
    subject = open_subject(arguments.checkpoint, data={"source": arguments.data, "imbalance": "none"})
    split = subject.data.split("train")
    taken = [torch.nonzero(split.labels == arguments.one_class).flatten()[:number]]
    taken += [torch.nonzero(split.labels == c).flatten()[: number // CLASSES] for c in range(CLASSES)]
    index = torch.cat(taken)
    return subject.model.eval(), subject.normalization(split.images[index], dtype=torch.float32), split.labels[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/ce.safetensors"))
    parser.add_argument("--data", help="folder:PATH of CIFAR-10; noise and an untrained network without it")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--one-class", type=int, default=0, help="the class of the first question")
    parser.add_argument("--points", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, inputs, labels = images_of(arguments)
    number = arguments.images
    print(f"ResNet-20, {number:,} images, {arguments.threads} thread(s), PyTorch {torch.__version__}")
    compare("one class", model, [(inputs[:number], labels[:number])], arguments)
    rest = [(inputs[number:][labels[number:] == c], labels[number:][labels[number:] == c]) for c in range(CLASSES)]
    compare("ten classes", model, rest, arguments)


if __name__ == "__main__":
    main()
