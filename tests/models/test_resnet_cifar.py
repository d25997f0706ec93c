"""CIFAR ResNets: published sizes, and the forward pass written out a second time."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.models import build_model
from landscape.models.resnet_cifar import OptionAShortcut


def _num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "num_classes", "head", "expected"),
    [
        ("resnet32", 10, "linear", 464_154),
        ("resnet32", 10, "cosine", 464_144),
        ("resnet32", 100, "linear", 470_004),
        ("resnet20", 10, "linear", 269_722),
        ("resnet44", 10, "linear", 658_586),
        ("resnet56", 10, "linear", 853_018),
    ],
)
def test_published_sizes(name: str, num_classes: int, head: str, expected: int) -> None:
    model = build_model(name, num_classes=num_classes, head=head)
    assert _num_parameters(model) == expected
    depth = sum(isinstance(module, nn.Conv2d) for module in model.modules()) + 1
    assert name == f"resnet{depth}"


def test_option_a_shortcut_has_no_parameters_and_pads_both_sides() -> None:
    shortcut = OptionAShortcut(16)
    assert not list(shortcut.parameters())
    x = torch.randn(2, 16, 7, 8)
    y = shortcut(x)
    assert y.shape == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().sum() == y[:, 24:].abs().sum() == 0


def _by_hand(state: dict[str, Tensor], images: Tensor, blocks: int) -> Tensor:
    def normalise(x: Tensor, name: str) -> Tensor:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        shape = (1, -1, 1, 1)
        scaled = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
        return scaled * state[f"{name}.weight"].view(shape) + state[f"{name}.bias"].view(shape)

    x = normalise(F.conv2d(images, state["conv1.weight"], padding=1), "bn1").clamp_min(0)
    for stage in (1, 2, 3):
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(normalise(y, f"{name}.bn1").clamp_min(0), state[f"{name}.conv2.weight"], padding=1)
            y = normalise(y, f"{name}.bn2")
            if stride == 2:
                zeros = torch.zeros_like(y)[:, : y.shape[1] // 4]
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (x + y).clamp_min(0)
    return x.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 3, 9, 11)])
def test_forward_is_the_formula(shape: tuple[int, ...]) -> None:
    model = build_model("resnet20", num_classes=7, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1:  # BN at its starting values would hide an exchanged mean and bias
                tensor.uniform_(0.5, 1.5, generator=generator)
    images = torch.randn(shape, dtype=torch.float64, generator=generator)
    expected = _by_hand(dict(model.state_dict()), images, blocks=3)
    torch.testing.assert_close(model.eval()(images), expected, rtol=1e-10, atol=1e-10)


def test_initialisation_is_kaiming_normal_fan_in() -> None:
    model = build_model("resnet32", num_classes=100, seed=0)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            fan_in = parameter[0].numel()
            relative_error = 5 / (2 * parameter.numel()) ** 0.5  # five standard errors of a standard deviation
            assert parameter.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=relative_error), name
    # The layers of the library start uniform; normal weights reach further.
    assert model.layer3[4].conv2.weight.abs().max() > 4 * model.layer3[4].conv2.weight.std()
    assert model.head.bias.abs().max() <= 1 / 8
