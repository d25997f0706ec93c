"""What does one Hessian product cost, in forward passes? Traced graphs against differentiating twice, interleaved.

python benchmarks/product_cost.py --model resnet20 --images 100
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from interleaved import medians, seconds_of

from landscape.curvature import HessianOperator, Problem, Samples
from landscape.losses import build_loss
from landscape.models import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    model = build_model(arguments.model, num_classes=10, image_size=arguments.image_size)
    model = model.to(arguments.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = torch.randn(arguments.images, 3, arguments.image_size, arguments.image_size)
    samples = Samples(inputs, torch.arange(arguments.images) % 10)
    problem = Problem(model, build_loss("ce", [1] * 10), samples, chunk_size=arguments.images)
    vector = torch.randn(problem.num_parameters)
    traced, twice = HessianOperator(problem), HessianOperator(problem, engine="double-backward")
    first = seconds_of(lambda: traced @ vector)
    twice @ vector
    contenders: dict[str, Callable[[], object]] = {
        "forward": problem.value,
        "gradient": lambda: problem.value_and_gradient()[0],
        "traced": lambda: float((traced @ vector).sum()),
        "double backward, kept graph": lambda: float((twice @ vector).sum()),
    }
    print(f"{arguments.model}, {arguments.images} images, {arguments.device}, {torch.get_num_threads()} threads")
    for name, (seconds, ratio) in medians(contenders, arguments.rounds, unit="forward").items():
        print(f"{name:<28} {seconds:7.3f} s   {ratio:5.1f} forward passes")
    print(f"first traced product, tracing included: {first:.1f} s")
    for name, op in (("traced", traced), ("double backward", twice)):
        print(f"kept between products, {name}: {op.kept_bytes / 1e6 / arguments.images:.2f} MB an image")


if __name__ == "__main__":
    main()
