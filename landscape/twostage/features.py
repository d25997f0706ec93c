"""What the last layer of a network sees of every image: its features, found in any model whose end is a head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.data import Normalization
from landscape.data.batches import TrainingBatches
from landscape.data.longtailed import LongTailedData
from landscape.errors import LandscapeError, did_you_mean
from landscape.models import head_kind, make_head

_BATCH_SIZE = 256  # images a forward pass
_HEAD_TENSORS = ("weight", "bias", "raw_scale")  # of all kinds of heads


@dataclass(frozen=True)
class FeatureLayer:
    """The layer whose input is called the features."""

    name: str  # of the module
    module: nn.Module
    width: int  # d
    kind: str  # of the head: linear, cosine, …; "none" where the layer's output are not the model's logits

    def head(self, logit_scale: float) -> dict[str, Any]:
        """What a features file says of the head: its kind, the factor of its logits, and its tensors."""
        # As attributes, not from the state, which of a weight under `weight_norm` holds the length and the direction.
        found = [(name, getattr(self.module, name, None)) for name in _HEAD_TENSORS if self.kind != "none"]
        tensors = {name: value.detach().float().cpu().numpy() for name, value in found if isinstance(value, Tensor)}
        return {"kind": self.kind, "logit_scale": logit_scale, **tensors}


@contextmanager
def _inputs_of(module: nn.Module) -> Iterator[list[tuple[Any, Any]]]:
    """The (input, output) of every call of a module while the body runs."""
    calls: list[tuple[Any, Any]] = []
    handle = module.register_forward_hook(
        lambda _, inputs, output: calls.append((inputs[0] if inputs else None, output))
    )
    try:
        yield calls
    finally:
        handle.remove()


def find_feature_layer(model: nn.Module, inputs: Tensor, layer: str | None = None) -> FeatureLayer:
    """The head of a model: the linear or cosine layer whose output are the logits; or a layer by name.

    Args:
        model: in eval mode; the outputs ``(n, C)`` are its logits.
        inputs: a few normalised images on the model's device.
        layer: take the input of this module instead, as ``named_modules`` calls it.

    Raises:
        LandscapeError: no such layer, no layer that makes the logits, an input that is not one vector an image, or
            logits that are not finite.

    Cost: a forward pass a candidate; a model has a handful.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    with torch.no_grad():
        if not bool(model(inputs).isfinite().all()):
            raise LandscapeError(
                f"{type(model).__name__} answers with numbers that are not finite: its training has diverged; take an "
                "earlier checkpoint"
            )
    if layer is not None and layer not in modules:
        raise LandscapeError(
            f"--layer '{layer}': {type(model).__name__} has no such module{did_you_mean(layer, modules)}"
        )
    candidates = [layer] if layer is not None else [name for name in reversed(modules) if head_kind(modules[name])]
    for name in candidates:
        with _inputs_of(modules[name]) as calls, torch.no_grad():
            logits = model(inputs)
        if not calls:
            continue
        features, output = calls[-1]
        makes_logits = isinstance(output, Tensor) and torch.equal(output, logits)
        if layer is None and not makes_logits:
            continue
        if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != len(inputs):
            shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise LandscapeError(
                f"layer '{name}' does not take one vector an image but {shape}: name another one with --layer"
            )
        kind = head_kind(modules[name]) if makes_logits else None
        return FeatureLayer(name, modules[name], features.shape[1], kind or "none")
    if layer is not None:
        raise LandscapeError(f"--layer '{layer}' is not called by {type(model).__name__}: name another one")
    raise LandscapeError(
        f"no linear or cosine layer of {type(model).__name__} makes its logits: name the layer whose input are the "
        f"features with --layer, one of {', '.join(list(modules)[-4:])}, …"
    )


def feature_batches(
    model: nn.Module,
    layer: FeatureLayer,
    data: LongTailedData,
    split: Literal["train", "test"],
    normalization: Normalization,
    *,
    augmentation: str = "none",
    seed: int = 0,
    channels_last: bool = False,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]]:
    """Features (n, d), labels (n,) and predicted classes (n,) of a split, batch by batch in the order of its images.

    Args:
        model: in eval mode on its device.
        layer: as :func:`find_feature_layer` gives it.
        augmentation: of training images, ``none`` or as the training has it; drawn once, with ``seed``.
        channels_last: lay images out as the trainer does, which is faster. A model that was not trained here may not
            take them so: ``x.view(len(x), -1)`` fails.

    Cost: one forward pass an image. Memory: a batch, or the split where the source is loaded whole.
    """
    device = next(model.parameters()).device
    labelled = data.labelled(split)
    if augmentation == "none":
        inputs: Iterator[Tensor] = (normalization(images.to(device)) for images in labelled.batches(_BATCH_SIZE))
    else:
        batches = TrainingBatches(
            data, batch_size=_BATCH_SIZE, normalization=normalization, augmentation=augmentation, device=device
        )
        order = torch.arange(len(data.train_labels), device=device)
        drawn = batches.epoch(order, torch.Generator(device).manual_seed(seed))
        inputs = (batch.inputs for batch in drawn)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    done = 0
    with _inputs_of(layer.module) as calls, torch.no_grad():
        for batch in inputs:
            calls.clear()
            predicted = model(batch.contiguous(memory_format=layout)).argmax(1)
            features = calls[-1][0]
            here = labelled.labels[done : done + len(features)]
            done += len(features)
            yield features.float().cpu().numpy(), here.cpu().numpy(), predicted.cpu().numpy()


def head_of(stored: dict[str, Any]) -> nn.Module:
    """The head of a features file as a module: (N, d) to (N, C) logits without the logit scale.

    Raises:
        LandscapeError: the file has none.
    """
    if stored["kind"] == "none":
        raise LandscapeError(
            "this features file has no head, since its layer does not make the logits of the model: lws and tau-norm "
            "need one, the other methods do not"
        )
    tensors = {name: torch.as_tensor(value) for name, value in stored.items() if name not in ("kind", "logit_scale")}
    num_classes, width = tensors["weight"].shape
    head = make_head(str(stored["kind"]), width, num_classes)
    if "bias" not in tensors and isinstance(head, nn.Linear):
        head = nn.Linear(width, num_classes, bias=False)
    head.load_state_dict(tensors)
    return head
