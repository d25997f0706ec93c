"""Training runs that take a fraction of a second, and the files that commands are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from landscape.training import Recipe
from landscape.training.loop import EpochRecord, Silent

# Nets this small are slower on several threads, many times so on a busy machine.
torch.set_num_threads(1)

TINY: dict[str, dict[str, Any]] = {
    "data": {"source": "digits", "imbalance": "exp:10"},
    "model": {"name": "mlp"},
    "optimizer": {"lr": 0.05},
    "schedule": {"epochs": 4, "batch_size": 64},
}


def tiny_recipe(**sections: dict[str, Any]) -> Recipe:
    """Four epochs of an MLP on 494 long-tailed digits, with the given keys laid over."""
    return Recipe.parse({name: {**TINY.get(name, {}), **sections.get(name, {})} for name in {*TINY, *sections}})


class StopAfter(Silent):
    """Interrupts a run as Ctrl-C does: after an epoch was kept, or in the middle of one."""

    def __init__(self, *, epoch: int | None = None, step: int | None = None) -> None:
        self.last_epoch, self.last_step, self.steps = epoch, step, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.last_step:
            raise KeyboardInterrupt

    def epoch(self, record: EpochRecord) -> None:
        if record.epoch == self.last_epoch:
            raise KeyboardInterrupt


def assert_same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Equal names and equal bits."""
    assert list(first) == list(second)
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, f"differ: {different}"


def write_image_folder(root: Path, train: dict[str, int], *, test: int = 3, size: tuple[int, int] = (8, 8)) -> Path:
    """``train/<class>/*.png`` and ``test/<class>/*.png``; every class has a colour of its own under some noise."""
    noise = np.random.default_rng(0)
    for label, (name, count) in enumerate(train.items()):
        colour = np.array([40, 40, 40])
        colour[label % 3] = 215
        for split, number in (("train", count), ("test", test)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(number):
                pixels = np.clip(colour + noise.normal(0, 25, (*size, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    return root


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file with its content, to see that a refused command left everything as it was."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
