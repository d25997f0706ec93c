"""Models by name, and models of the user's own by ``package.module:factory``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from landscape.errors import LandscapeError, did_you_mean
from landscape.models.heads import make_head
from landscape.models.resnet_cifar import BbnResNet32, CifarResNet
from landscape.models.small import ConvNet, Mlp
from landscape.torchvision_import import import_torchvision

_CIFAR_RESNETS = {"resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9}  # name -> blocks a stage
_TORCHVISION_RESNETS = ("resnet18", "resnet34", "resnet50")
_SMALL_IMAGE_RESNETS = {"resnet34-cifar": "resnet34"}  # name -> torchvision's net whose stem is exchanged


def model_names() -> tuple[str, ...]:
    """Names that :func:`build_model` knows."""
    return (*_CIFAR_RESNETS, "bbn-resnet32", "convnet", "mlp", *_TORCHVISION_RESNETS, *_SMALL_IMAGE_RESNETS)


def build_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int = 32,
    head: str = "linear",
    seed: int | None = None,
) -> nn.Module:
    """Build an untrained model: normalised images (N, in_channels, H, W) to logits (N, num_classes).

    The head is the attribute ``head``, in torchvision's models ``fc``.

    | name | for | published with |
    |---|---|---|
    | ``resnet20``, ``32``, ``44``, ``56`` | 32×32, widths 16 to 64, shortcuts without parameters | LDAM, VS, Saddle |
    | ``bbn-resnet32`` | 32×32, the last block of ResNet-32 twice, side by side: 128 features | TailCalibX |
    | ``resnet34-cifar`` | 32×32, widths 64 to 512: torchvision's, 3×3 stem of stride 1, no max-pool | ImbSAM, SSE-SAM |
    | ``resnet18``, ``34``, ``50`` | 224×224, torchvision's | ImageNet-LT, iNaturalist 2018 |
    | ``convnet``, ``mlp`` | 8×8 and 28×28, to try things | |

    Args:
        name: one of :func:`model_names`.
        num_classes: C.
        in_channels: channels of the images.
        image_size: pixels, height = width. Only ``mlp`` depends on it; the others pool over whatever is left.
        head: ``linear``, ``cosine`` for outputs in [−1, 1], or ``learned-cosine`` for cosines with a learned scale.
        seed: of the initial weights; the global generator is left as it was. ``None`` draws from the global generator.

    Raises:
        LandscapeError: an unknown name or head.
    """
    if name not in model_names():
        hint = did_you_mean(name, model_names())
        raise LandscapeError(
            f"unknown model '{name}'{hint}\nKnown models: {', '.join(model_names())}, or package.module:factory"
        )
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed: that would also reseed every GPU, which the fork does not restore.
            torch.default_generator.manual_seed(seed)
            return build_model(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, head=head)
    if name in _CIFAR_RESNETS:
        return CifarResNet(_CIFAR_RESNETS[name], num_classes, in_channels, head)
    if name == "bbn-resnet32":
        return BbnResNet32(num_classes, in_channels, head)
    if name == "convnet":
        return ConvNet(num_classes, in_channels, head)
    if name == "mlp":
        return Mlp(num_classes, in_channels, image_size, head)
    return _torchvision_resnet(name, num_classes, in_channels, head)


def _torchvision_resnet(name: str, num_classes: int, in_channels: int, head: str) -> nn.Module:
    small_images = name in _SMALL_IMAGE_RESNETS
    factory = getattr(import_torchvision().models, _SMALL_IMAGE_RESNETS.get(name, name))
    model: nn.Module = factory(weights=None, num_classes=num_classes)
    if small_images or in_channels != 3:
        size, stride, padding = (3, 1, 1) if small_images else (7, 2, 3)
        stem = nn.Conv2d(in_channels, 64, size, stride, padding, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision starts its own
        model.conv1 = stem
    if small_images:
        # The average pool then sees 4×4 of a 32×32 image; as published it has that size, here it takes any.
        model.maxpool = nn.Identity()
    if head != "linear":
        assert isinstance(model.fc, nn.Linear)
        model.fc = make_head(head, model.fc.in_features, num_classes)
    return model


def import_factory(reference: str) -> Callable[..., Any]:
    """Import ``package.module:factory``, a function or class of the user's own; the current folder is searched too.

    Args:
        reference: dotted module, a colon, and the name of a callable in it.

    Returns:
        The callable, not called.

    Raises:
        LandscapeError: no colon, no such module, no such name in it, not callable, or the module fails on import.
    """
    module_name, colon, factory_name = reference.partition(":")
    if not (module_name and colon and factory_name.isidentifier()):
        raise LandscapeError(f"'{reference}': expected package.module:factory, for example mynets.resnet:build")
    # As `python -m` does. The entry stays: the module may import its neighbours when the factory is called.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            where = f"no module '{error.name}' in '{os.getcwd()}' or the installed packages"
        else:
            where = f"module '{module_name}' needs '{error.name}', which is not installed"
        raise LandscapeError(f"'{reference}': {where}") from error
    except Exception as error:
        raise LandscapeError(
            f"'{reference}': importing '{module_name}' failed: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(module, factory_name):
        hint = did_you_mean(factory_name, dir(module))
        raise LandscapeError(f"'{reference}': module '{module_name}' has no '{factory_name}'{hint}")
    factory = getattr(module, factory_name)
    if not callable(factory):
        raise LandscapeError(f"'{reference}': '{factory_name}' is a {type(factory).__name__}, not a function or class")
    return factory
