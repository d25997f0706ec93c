"""Augmentation of whole batches on the device that holds them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4, flip: bool = True) -> Tensor:
    """Random crop from the zero-padded image, then a random horizontal flip, drawn for each image on its own.

    Output pixel (y, x) of image i is padded pixel (tᵢ + y, lᵢ + x), or (tᵢ + y, lᵢ + W−1−x) when the image is flipped,
    with t, l uniform on 0, ..., 2·padding and a flip with probability ½.

    The draws, in this order, so that a run can be replayed: ``torch.randint(0, 2 * padding + 1, (2, N))`` for t and l,
    then, if ``flip``, ``torch.randint(0, 2, (N,))``.

    Args:
        images: shape (N, C, H, W), any dtype; not changed.
        generator: on the device of ``images``; its state alone decides the result.
        padding: rows and columns of zeros on every side, in pixels.
        flip: whether images are mirrored at all.

    Returns:
        A new tensor of the shape, dtype and device of ``images``.

    Cost: one padded copy and one gather; nothing waits for the host.
    """
    count, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.randint(0, 2, (count,), generator=generator, device=device).bool()
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + left[:, None]
    rows = torch.arange(height, device=device) + top[:, None]
    padded_width = width + 2 * padding
    pixels = (rows[:, :, None] * padded_width + columns[:, None, :]).reshape(count, 1, height * width)
    padded = F.pad(images, (padding, padding, padding, padding)).flatten(2)
    return padded.gather(2, pixels.expand(-1, channels, -1)).view(count, channels, height, width)
