"""What do all layers cost, beside one analysis of the whole network? The top pair of every layer's block.

python benchmarks/layer_cost.py --model resnet20 --images 100
"""

from __future__ import annotations

import argparse

import torch
from interleaved import medians

from landscape.curvature import (
    HessianOperator,
    MeasureSettings,
    Problem,
    Samples,
    extreme_eigenpairs,
    layer_parts,
    measure,
)
from landscape.losses import build_loss
from landscape.models import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = build_model(arguments.model, num_classes=10, image_size=arguments.image_size)
    model = model.to(arguments.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = torch.randn(arguments.images, 3, arguments.image_size, arguments.image_size)
    samples = Samples(inputs, torch.arange(arguments.images) % 10)

    def fresh() -> Problem:  # a layer's traced graphs are its own, so their making belongs to its cost
        return Problem(model, build_loss("ce", [1] * 10).to(arguments.device), samples, chunk_size=arguments.images)

    layers = layer_parts(fresh().parameter_names)

    def whole() -> None:
        measure(fresh(), MeasureSettings())

    def all_layers() -> None:
        problem = fresh()
        for part in layers:
            extreme_eigenpairs(HessianOperator(problem.restrict(part)), 1)

    print(f"{arguments.model}, {arguments.images} images, {arguments.device}, {torch.get_num_threads()} threads")
    contenders = {"whole network": whole, f"{len(layers)} layers": all_layers}
    for name, (seconds, ratio) in medians(contenders, arguments.rounds, unit="whole network").items():
        print(f"{name:<14} {seconds:8.1f} s   {ratio:6.2f} whole-network analyses")


if __name__ == "__main__":
    main()
