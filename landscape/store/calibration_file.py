"""Second stages in HDF5, schema ``landscape-calibration`` version 1: accuracies by seed, classifiers, features.

``docs/schema.md`` lists every group, dataset and attribute.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.store.hdf5 import MetaValue, open_results, read_meta, short, write_meta

CALIBRATION_SCHEMA = "landscape-calibration"
CALIBRATION_VERSION = 1

Array = NDArray[Any]


@dataclass(frozen=True)
class CalibrationFile:
    """What second stages on one features file gave: made by :meth:`write` or :meth:`open`."""

    path: Path
    meta: dict[str, Any]  # scalars, list[str] for words, arrays for numbers
    accuracy: dict[str, Array]  # seeds (S,), correct (S, C), before (C,), total (C,)
    points: dict[str, dict[str, Array]]  # real, generated: arrays by name; empty where the method generates nothing

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        meta: Mapping[str, MetaValue],
        accuracy: Mapping[str, Array],
        classifiers: Mapping[str, Array],
        points: Mapping[str, Mapping[str, Array]],
    ) -> Self:
        """Write a whole file in one atomic step; the arguments are the groups of ``docs/schema.md``."""
        with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = CALIBRATION_SCHEMA
            file.attrs["schema_version"] = CALIBRATION_VERSION
            write_meta(file.create_group("meta"), meta)
            for group, arrays in {"accuracy": accuracy, "classifier": classifiers, **points}.items():
                place = file.create_group(group)
                for name, values in arrays.items():
                    place.create_dataset(name, data=values)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read everything but the classifiers.

        Raises:
            LandscapeError: as :func:`landscape.store.hdf5.open_results`.
        """
        with _open(Path(path)) as file:
            points = {name: _arrays(file[name]) for name in ("real", "generated") if name in file}
            return cls(Path(path), read_meta(file["meta"]), _arrays(file["accuracy"]), points)

    def embedding(self, seed: int) -> dict[str, Array] | None:
        """The points of the plane that were stored with this seed: ``points``, ``labels``, ``generated``."""
        with _open(self.path) as file:
            group = file.get("embedding")
            return None if group is None or group.attrs["seed"] != seed else _arrays(group)

    def store_embedding(self, arrays: Mapping[str, Array], seed: int) -> None:
        """Keep an embedding, so that the figure can be drawn again at once.

        Raises:
            LandscapeError: the file cannot be written.
        """
        with atomic_replacement(self.path) as temporary:
            shutil.copy(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                if "embedding" in file:
                    del file["embedding"]
                group = file.create_group("embedding")
                group.attrs["seed"] = seed
                for name, values in arrays.items():
                    group.create_dataset(name, data=values)

    def need_points(self) -> dict[str, dict[str, Array]]:
        """Real and generated features.

        Raises:
            LandscapeError: the method generated none.
        """
        if "generated" not in self.points or not len(self.points["generated"]["labels"]):
            raise LandscapeError(
                f"'{self.path}' has no generated features: '{self.meta['method']}' makes none, or every class has as "
                "many images; `landscape calibrate --method tailcalibx` on long-tailed data does"
            )
        return self.points


def _arrays(group: h5py.Group) -> dict[str, Array]:
    return {name: np.asarray(values[...]) for name, values in group.items()}


def _open(path: Path) -> Any:
    return open_results(path, CALIBRATION_SCHEMA, CALIBRATION_VERSION, "landscape calibrate FEATURES.h5")


def describe_calibration(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a calibration file holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :meth:`CalibrationFile.open`.
    """
    file = CalibrationFile.open(path)
    total = file.accuracy["total"].sum()
    shares = file.accuracy["correct"].sum(1) / total
    return [
        ("file", f"{file.path} ({file.path.stat().st_size / 1e6:.2f} MB)"),
        ("schema", f"{CALIBRATION_SCHEMA} {CALIBRATION_VERSION}"),
        *((key, short(value, quote=False)) for key, value in file.meta.items()),
        ("accuracy before", f"{file.accuracy['before'].sum() / total:.1%}"),
        *(
            (f"accuracy, seed {seed}", f"{share:.1%}")
            for seed, share in zip(file.accuracy["seeds"].tolist(), shares.tolist(), strict=True)
        ),
        *((f"{name} features", f"{len(arrays['labels']):,} kept") for name, arrays in file.points.items()),
    ]
