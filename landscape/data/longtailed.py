"""A source cut down to a long tail, with its balanced test set and its class groups."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from landscape.data.groups import ClassGroups, groups_by_count, groups_by_index
from landscape.data.longtail import class_counts, draw
from landscape.data.sources import ImageSet, Split, open_split


@dataclass(frozen=True)
class LongTailedData:
    """Training images after the draw, and the untouched test images; both are read on first use."""

    source: str
    counts: tuple[int, ...]  # (C,) training images a class after the draw
    class_names: tuple[str, ...]
    train_index: Tensor | None  # (N,) into the source's training split; None keeps it whole
    _train: Split
    _test: Split

    @functools.cached_property
    def train(self) -> ImageSet:
        return self._train.load(self.train_index)

    @functools.cached_property
    def test(self) -> ImageSet:
        return self._test.load()

    def first_image(self) -> Tensor:
        """One training image, uint8 ``(1, C, H, W)``, decoded alone: what a model has to take."""
        return self._train.load([0] if self.train_index is None else self.train_index[:1]).images

    def split(self, name: Literal["train", "test"]) -> ImageSet:
        return self.train if name == "train" else self.test

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def groups(self) -> tuple[ClassGroups, ClassGroups]:
        """Head, mid and tail by index and by count; the first is the one that plain tables use."""
        # CIFAR-10's smallest class is larger than the usual 20, so its count convention has thresholds of its own.
        thresholds = {"many": 1000, "few": 200} if max(self.counts) > 1000 and self.num_classes <= 20 else {}
        return groups_by_index(self.counts), groups_by_count(self.counts, **thresholds)


def load_long_tailed(
    source: str,
    *,
    root: Path | None = None,
    download: bool = False,
    imbalance: str = "none",
    draw_how: Literal["shuffled", "file-order"] = "shuffled",
    draw_seed: int = 0,
    image_size: int | None = None,
) -> LongTailedData:
    """Open a source and draw its training split; only the images drawn are ever decoded.

    Raises:
        LandscapeError: missing data, a malformed profile, or one that would leave a class empty.
    """
    train = open_split(source, "train", root=root, download=download, image_size=image_size)
    test = open_split(source, "test", root=root, download=download, image_size=image_size)
    available = torch.bincount(train.labels, minlength=len(train.class_names)).tolist()
    counts = class_counts(imbalance, available)
    index = draw(train.labels, counts, how=draw_how, seed=draw_seed)
    return LongTailedData(source, tuple(counts), train.class_names, index, train, test)
