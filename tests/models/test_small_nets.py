"""The small nets against their formula, written with matrix products and plain convolutions."""

import torch
import torch.nn.functional as F

from landscape.models import build_model


def test_mlp_is_the_formula() -> None:
    model = build_model("mlp", num_classes=5, in_channels=2, image_size=6, seed=0).double()
    images = torch.randn(9, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w1, b1, w2, b2, w3, b3 = model.parameters()
    hidden = (images.reshape(9, 72) @ w1.T + b1).clamp_min(0)
    expected = (hidden @ w2.T + b2).clamp_min(0) @ w3.T + b3
    torch.testing.assert_close(model(images), expected, rtol=1e-12, atol=1e-12)


def test_convnet_is_the_formula() -> None:
    model = build_model("convnet", num_classes=5, in_channels=1, seed=0).double().train()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.uniform_(-1.0, 1.0, generator=generator)
    x = images = torch.randn(7, 1, 28, 28, dtype=torch.float64, generator=generator)
    for layer, (batch_norm, stride) in {"conv1": ("bn1", 1), "conv2": ("bn2", 2), "conv3": ("bn3", 2)}.items():
        x = F.conv2d(x, getattr(model, layer).weight, stride=stride, padding=1)
        x = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        affine = getattr(model, batch_norm)
        x = (x * affine.weight.view(1, -1, 1, 1) + affine.bias.view(1, -1, 1, 1)).clamp_min(0)
    expected = x.mean((2, 3)) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, rtol=1e-10, atol=1e-10)
