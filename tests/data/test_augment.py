"""Batched crop and flip against one image at a time."""

import pytest
import torch
from torch import Tensor

from landscape.data import random_crop_flip


def _one_at_a_time(images: Tensor, generator: torch.Generator, padding: int, flip: bool) -> Tensor:
    count, channels, height, width = images.shape
    top, left = torch.randint(0, 2 * padding + 1, (2, count), generator=generator)
    mirrored = torch.randint(0, 2, (count,), generator=generator) if flip else torch.zeros(count)
    out = []
    for image, t, x, m in zip(images, top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=images.dtype)
        padded[:, padding : padding + height, padding : padding + width] = image
        crop = padded[:, t : t + height, x : x + width]
        out.append(crop.flip(-1) if m else crop)
    return torch.stack(out)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("padding", "flip"), [(4, True), (4, False), (1, True), (0, True)])
def test_equals_one_image_at_a_time(dtype: torch.dtype, padding: int, flip: bool) -> None:
    images = torch.randint(1, 256, (40, 3, 8, 11), generator=torch.Generator().manual_seed(0)).to(dtype)
    kept = images.clone()
    batched = random_crop_flip(images, torch.Generator().manual_seed(7), padding=padding, flip=flip)
    assert batched.dtype == dtype
    assert torch.equal(batched, _one_at_a_time(images, torch.Generator().manual_seed(7), padding, flip))
    assert torch.equal(images, kept)


def test_memory_order_does_not_matter() -> None:
    images = torch.randint(0, 256, (16, 3, 8, 8)).to(torch.uint8)
    strided = images.contiguous(memory_format=torch.channels_last)
    results = [random_crop_flip(x, torch.Generator().manual_seed(1)) for x in (images, strided)]
    assert torch.equal(*results)


def test_every_offset_and_both_directions_come_up_evenly() -> None:
    # One bright pixel in the centre of 9×9: where it lands tells offset and flip (width 9, centre 4, so a flip of the
    # crop mirrors the column; the asymmetric second pixel tells the two apart).
    images = torch.zeros(20_000, 1, 9, 9, dtype=torch.uint8)
    images[:, 0, 4, 4] = 2
    images[:, 0, 4, 5] = 1
    out = random_crop_flip(images, torch.Generator().manual_seed(3), padding=2)
    row = (out == 2).flatten(1).int().argmax(1) // 9
    column = (out == 2).flatten(1).int().argmax(1) % 9
    flipped = (out == 1).flatten(1).int().argmax(1) % 9 < column
    table = torch.bincount((flipped * 25 + (row - 2) * 5 + column - 2).long(), minlength=50)
    assert table.shape == (50,)
    expected = 20_000 / 50
    chi_squared = ((table - expected) ** 2 / expected).sum().item()
    assert chi_squared < 85.4  # 99.9 % point of χ² with 49 degrees of freedom


def test_images_of_one_batch_are_drawn_apart() -> None:
    image = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)
    out = random_crop_flip(image.expand(64, -1, -1, -1), torch.Generator().manual_seed(0))
    assert len(out.unique(dim=0)) > 32


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_host() -> None:
    images = torch.randint(0, 256, (64, 3, 32, 32), device="cuda").to(torch.uint8)
    generator = torch.Generator("cuda").manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        random_crop_flip(images, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
