"""What a step with the trace penalty HTR costs, interleaved with steps of SGD, and how far its gradients are to be
trusted.

python benchmarks/trace_penalty.py --model resnet20 --batch-size 64 --rounds 3

The second part compares the exact gradient of one probe with finite differences, on the network as it is (ReLU) and
with tanh in its place, and with third derivatives through PyTorch's own batch norm.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from interleaved import medians
from torch import Tensor, nn

from landscape.losses import build_loss
from landscape.models import build_model
from landscape.optim import GroupedObjective, build_optimizer
from landscape.regularizers import Htr, RegularizedObjective

CLASSES = 10
PENALTIES: dict[str, dict[str, Any]] = {
    "hessian, all": {"trace": "hessian"},
    "hessian, middle": {"trace": "hessian", "layers": "middle"},
    "gauss-newton, all": {"trace": "gauss-newton"},
    "gauss-newton, middle": {"trace": "gauss-newton", "layers": "middle"},
    "finite-difference": {"trace": "hessian", "gradient": "finite-difference"},
}


def batch(model: nn.Module, size: int, device: torch.device) -> GroupedObjective:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(size) % CLASSES
    loss = build_loss("ce", [size // CLASSES] * CLASSES).to(device)
    return GroupedObjective(model, loss, inputs.to(device), labels.to(device))


def network(name: str, device: torch.device) -> nn.Module:
    model = build_model(name, num_classes=CLASSES, seed=0).to(device)
    return model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def compare_steps(arguments: argparse.Namespace, device: torch.device) -> None:
    contenders: dict[str, Callable[[], object]] = {}
    settings: dict[str, dict[str, Any] | None] = {"sgd": None, **PENALTIES}
    for name, chosen in settings.items():
        model = network(arguments.model, device)
        objective = batch(model, arguments.batch_size, device)
        optimizer = build_optimizer("sgd", model.parameters(), lr=1e-6, momentum=0.9, weight_decay=0.0)
        regularizer = None if chosen is None else Htr(model, weight=1e-6, **chosen)

        def step(optimizer=optimizer, objective=objective, regularizer=regularizer) -> None:  # type: ignore[no-untyped-def]
            optimizer.step(objective if regularizer is None else regularizer.on(objective))
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        step()
        contenders[name] = step
    for name, (seconds, ratio) in medians(contenders, arguments.rounds, unit="sgd").items():
        print(f"{name:<22} {1000 * seconds:10.1f} ms a step   {ratio:6.2f} SGD steps")


def compare_gradients(arguments: argparse.Namespace, device: torch.device) -> None:
    for kind, replace in (("ReLU", None), ("tanh", torch.tanh)):
        model = network(arguments.model, device)
        objective = batch(model, arguments.batch_size, device)
        exact = Htr(model, weight=1.0, trace="hessian")
        differences = Htr(model, weight=1.0, trace="hessian", gradient="finite-difference")
        signs = exact.on(objective).probes
        with mock.patch("torch.nn.functional.relu", replace or torch.nn.functional.relu):
            trace, gradient = RegularizedObjective(objective, exact, signs).trace_and_gradient()
            value, other = RegularizedObjective(objective, differences, signs).trace_and_gradient()
            with mock.patch("landscape.regularizers._WRITTEN_OUT", {}):
                plain_value, plain = RegularizedObjective(objective, exact, signs).trace_and_gradient()
        print(
            f"{kind}: vᵀHv {float(trace):.5g}; by differences {float(value):.5g}, gradient off by "
            f"{distance(other, gradient):.2g} of its norm; through PyTorch's batch norm {float(plain_value):.5g}, "
            f"gradient off by {distance(plain, gradient):.2g}"
        )


def distance(one: list[Tensor], other: list[Tensor]) -> float:
    joined = [torch.cat([entry.reshape(-1) for entry in gradient]) for gradient in (one, other)]
    return float((joined[0] - joined[1]).norm() / joined[1].norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    print(
        f"{arguments.model}, batches of {arguments.batch_size}, {device}, {torch.get_num_threads()} threads, PyTorch "
        f"{torch.__version__}"
    )
    compare_gradients(arguments, device)
    compare_steps(arguments, device)


if __name__ == "__main__":
    main()
