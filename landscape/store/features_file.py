"""Features of a checkpoint in HDF5, schema ``landscape-features`` version 1: what its last layer saw of every image.

``docs/schema.md`` lists every group, dataset and attribute.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.store.hdf5 import MetaValue, open_results, read_meta, short, write_meta

FEATURES_SCHEMA = "landscape-features"
FEATURES_VERSION = 1

SplitName = Literal["train", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "test")


@dataclass(frozen=True)
class FeatureSplit:
    """What the last layer saw of one split."""

    features: NDArray[np.float32]  # (N, d) as the last layer received them, not normalised
    labels: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,) argmax of the checkpoint's own logits


class FeatureWriter:
    """Takes a split batch by batch, so that no more than a batch is in memory."""

    def __init__(self, group: h5py.Group, count: int) -> None:
        self.group, self.count, self.filled = group, count, 0

    def add(self, features: NDArray[np.float32], labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> None:
        """Append (n, d) features with (n,) labels and predictions.

        Raises:
            LandscapeError: a feature that is not finite.
        """
        odd = np.flatnonzero(~np.isfinite(features).all(1))
        if len(odd):
            raise LandscapeError(
                f"image {self.filled + odd[0]} of {self.group.name[1:]} has features that are not finite: its network "
                "has diverged; take an earlier checkpoint"
            )
        columns: dict[str, NDArray[Any]] = {"features": features, "labels": labels, "predicted": predicted}
        for name, values in columns.items():
            if name not in self.group:
                self.group.create_dataset(name, (self.count, *values.shape[1:]), dtype=values.dtype)
            self.group[name][self.filled : self.filled + len(values)] = values
        self.filled += len(features)

    def check_full(self) -> None:
        """Every sample that was announced has come."""
        if self.filled != self.count:
            raise LandscapeError(f"{self.filled} of {self.count} images gave features; the data changed while read")


@dataclass(frozen=True)
class FeaturesFile:
    """The features of a checkpoint: made by :meth:`writing` or :meth:`open`."""

    path: Path
    meta: dict[str, Any]  # scalars, list[str] for words, arrays for numbers
    splits: tuple[SplitName, ...]  # which are there
    head: dict[str, Any]  # ``kind``, ``logit_scale`` and the tensors of the checkpoint's head by name

    @classmethod
    @contextmanager
    def writing(
        cls, path: str | os.PathLike[str], meta: Mapping[str, MetaValue], head: Mapping[str, Any]
    ) -> Iterator[h5py.File]:
        """A file that takes a group for each split; it appears under its name when the body succeeds.

        :class:`FeatureWriter` fills a group.

        Args:
            meta: as in ``docs/schema.md``.
            head: ``kind``, ``logit_scale``, and the tensors of the head as arrays.
        """
        with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = FEATURES_SCHEMA
            file.attrs["schema_version"] = FEATURES_VERSION
            write_meta(file.create_group("meta"), meta)
            group = file.create_group("head")
            for name, value in head.items():
                if isinstance(value, np.ndarray):
                    group.create_dataset(name, data=value)
                else:
                    group.attrs[name] = value
            yield file

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read all but the features.

        Raises:
            LandscapeError: as :func:`open_results`.
        """
        with _open(Path(path)) as file:
            head = {**dict(file["head"].attrs), **{name: values[()] for name, values in file["head"].items()}}
            splits = tuple(name for name in SPLITS if name in file)
            return cls(Path(path), read_meta(file["meta"]), splits, head)

    def read(self, split: SplitName) -> FeatureSplit:
        """One split, in memory.

        Raises:
            LandscapeError: it is not in the file, or what is there are no features and classes.
        """
        if split not in self.splits:
            raise LandscapeError(
                f"'{self.path}' has no {split} split: `landscape features CHECKPOINT -o {self.path}` writes both"
            )
        with _open(self.path) as file:
            found = FeatureSplit(*(file[split][name][...] for name in ("features", "labels", "predicted")))
        problem = _problem(found, len(self.class_names))
        if problem:
            raise LandscapeError(
                f"the {split} split of '{self.path}' {problem}: write it again by `landscape features`"
            )
        return found

    @property
    def class_counts(self) -> tuple[int, ...]:
        """(C,) training images of each class."""
        return tuple(int(count) for count in self.meta["class_counts"])

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.meta["class_names"])


def _problem(split: FeatureSplit, num_classes: int) -> str:
    """What makes a split unfit to be computed with; the empty word if nothing does."""
    if split.features.ndim != 2 or not len(split.features) == len(split.labels) == len(split.predicted):
        return "has not one row of features, one label and one prediction an image"
    if split.labels.dtype.kind not in "iu" or split.predicted.dtype.kind not in "iu":
        return "has labels or predictions that are no whole numbers"
    if not ((split.labels >= 0) & (split.labels < num_classes)).all():
        return f"has labels outside 0 … {num_classes - 1}"
    odd = np.flatnonzero(~np.isfinite(split.features).all(1))
    return f"has features that are not finite, first in row {odd[0]}" if len(odd) else ""


def _open(path: Path) -> Any:
    return open_results(path, FEATURES_SCHEMA, FEATURES_VERSION, "landscape features CHECKPOINT")


def describe_features(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a features file holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :func:`open_results`.
    """
    file = FeaturesFile.open(path)
    with _open(file.path) as content:
        shapes = {name: content[name]["features"].shape for name in file.splits}
        version = int(content.attrs["schema_version"])
    rows = [
        ("file", f"{file.path} ({file.path.stat().st_size / 1e6:.2f} MB)"),
        ("schema", f"{FEATURES_SCHEMA} {version}"),
        *((key, short(value, quote=False)) for key, value in file.meta.items()),
        ("head", str(file.head["kind"])),
    ]
    return rows + [(name, f"{count:,} images, {width} features") for name, (count, width) in shapes.items()]
