"""Loss surfaces in HDF5, schema ``landscape-surface`` version 1; and the keys of Goldstein's files, written and read.

``docs/schema.md`` lists every group, dataset and attribute.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.store.hdf5 import (
    SUFFIXES,
    MetaValue,
    check_replaceable,
    open_hdf5,
    open_results,
    read_meta,
    short,
    write_meta,
)
from landscape.surface.results import Surface

SURFACE_SCHEMA = "landscape-surface"
SURFACE_VERSION = 1

Array = NDArray[Any]
Vectors = Sequence[Mapping[str, Array]]
"""Directions, one after the other: arrays by parameter name."""

# What the SHA-256 of a checkpoint decides: where it lies now says nothing.
_DECIDED = ("checkpoint", "checkpoints", "recipe")

# What says that a file of Goldstein's keys was exported from ours, and may be exported again.
_EXPORTED = "exported_by"


@dataclass(frozen=True)
class SurfaceFile:
    """A surface, whole or as far as a walk has come: made by :meth:`write` or :meth:`open`."""

    path: Path
    meta: dict[str, Any]  # scalars, list[str] for words, arrays for numbers: the question
    runs: tuple[dict[str, Any], ...]  # the commands that computed its points, with their time, versions and device
    surface: Surface

    @classmethod
    def write(
        cls,
        path: str | os.PathLike[str],
        meta: Mapping[str, MetaValue],
        runs: Sequence[Mapping[str, MetaValue]],
        surface: Surface,
        directions: Vectors = (),
    ) -> Self:
        """Write a whole file in one atomic step; the arguments are the groups of ``docs/schema.md``.

        Args:
            meta: what was asked.
            runs: what computed it, the first first.
            surface: points that are not done yet are NaN.
            directions: kept where they are dear to compute again.
        """
        path = Path(path)
        with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SURFACE_SCHEMA
            file.attrs["schema_version"] = SURFACE_VERSION
            write_meta(file.create_group("meta"), meta)
            for number, run in enumerate(runs, start=1):
                write_meta(file.create_group(f"runs/{number}"), run)
            surface.to_hdf5(file.create_group("surface"))
            for number, direction in enumerate(directions, start=1):
                group = file.create_group(f"directions/{number}", track_order=True)
                for name, values in direction.items():
                    group.create_dataset(name, data=values)
        return cls(path, dict(meta), tuple(dict(run) for run in runs), surface)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read everything but the directions.

        Raises:
            LandscapeError: as :func:`landscape.store.hdf5.open_results`.
        """
        path = Path(path)
        with _open(path) as file:
            runs = tuple(read_meta(file["runs"][number]) for number in sorted(file["runs"], key=int))
            return cls(path, read_meta(file["meta"]), runs, Surface.from_hdf5(file["surface"]))

    def read_directions(self) -> list[dict[str, Array]]:
        """The directions that were kept, by parameter name; empty if none were."""
        with _open(self.path) as file:
            kept = file.get("directions", {})
            return [
                {name: np.asarray(values[...]) for name, values in kept[number].items()}
                for number in sorted(kept, key=int)
            ]

    def check_same_question(self, meta: Mapping[str, MetaValue]) -> None:
        """Refuse to add points of another question to those already there.

        Args:
            meta: what the run that wants to go on would have stored; every entry must agree, but for those that a
                SHA-256 beside them decides.

        Raises:
            LandscapeError: names the first entry that differs, with both values.
        """
        stored, wanted = ({k: v for k, v in each.items() if k not in _DECIDED} for each in (self.meta, meta))
        self._refuse_difference(stored, wanted)

    def check_same_grid(self, surface: Surface) -> None:
        """Refuse to add points of another grid, or losses of other parts.

        Args:
            surface: the empty record of the run that wants to go on.

        Raises:
            LandscapeError: as :meth:`check_same_question`.
        """
        stored, wanted = (
            {"x": each.x, "y": each.y, "parts": each.parts, "num_samples": each.num_samples}
            for each in (self.surface, surface)
        )
        self._refuse_difference(stored, wanted)

    def _refuse_difference(self, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        for key in {**wanted, **stored}:
            if not _equal(stored.get(key), wanted.get(key)):
                raise LandscapeError(
                    f"'{self.path}' was computed with {key} = {short(stored.get(key))}, this run has {key} = "
                    f"{short(wanted.get(key))}: give --overwrite to start it anew, or another -o"
                )


def _equal(stored: Any, wanted: Any) -> bool:
    if stored is None or wanted is None:
        return stored is wanted
    first, second = np.asarray(stored), np.asarray(wanted)
    if first.dtype.kind == second.dtype.kind == "f" and first.shape == second.shape:
        # The range of a trajectory, computed again on another machine, differs in its last digits.
        return bool(np.allclose(first, second, rtol=1e-9, atol=1e-12))
    return bool(np.array_equal(first, second))


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    with open_results(path, SURFACE_SCHEMA, SURFACE_VERSION, "landscape surface CHECKPOINT") as file:
        yield file


def check_surface_output(path: str | os.PathLike[str]) -> None:
    """Nothing but a surface file is ever replaced or gone on with.

    Raises:
        LandscapeError: another suffix, or something else is there.
    """
    check_replaceable(path, SURFACE_SCHEMA, overwrite=True)


def describe_surface(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a surface file holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :meth:`SurfaceFile.open`.
    """
    file = SurfaceFile.open(path)
    rows = [
        ("file", f"{file.path} ({file.path.stat().st_size / 1e6:.2f} MB)"),
        ("schema", f"{SURFACE_SCHEMA} {SURFACE_VERSION}"),
        *((key, short(value, quote=False)) for key, value in file.meta.items()),
    ]
    for number, run in enumerate(file.runs, start=1):
        rows.append((f"run {number}", str(run.get("command") or "a call from Python")))
        rows.append(("  with", ", ".join(f"{key} = {value}" for key, value in run.items() if key != "command")))
    return rows + _describe_record(file.surface)


def _describe_record(surface: Surface) -> list[tuple[str, str]]:
    done, of = int(surface.done.sum()), surface.done.size
    axes = [("a₁", surface.x)] + ([] if surface.y is None else [("a₂", surface.y)])
    rows = [("points", f"{done:,} of {of:,}" + ("" if surface.complete else ": the same command goes on"))]
    for number, (name, values) in enumerate(axes):
        words = [surface.axis_labels[number]]
        if not math.isnan(surface.norms[number]):
            words.append(f"‖d‖ = {surface.norms[number]:.4g}")
        if surface.explained_variance is not None:
            words.append(f"{surface.explained_variance[number]:.1%} of the variance")
        if surface.curvatures is not None:
            known = zip(surface.labels, surface.curvatures[:, number], strict=True)
            words += [f"λ = {value:.4g} for {label}" for label, value in known if not math.isnan(value)]
        rows.append((name, f"{values[0]:g} to {values[-1]:g} in {len(values)} points: {', '.join(words)}"))
    if not math.isnan(surface.cosine):
        rows.append(("cosine of the directions", f"{surface.cosine:.4f}"))
    for number, label in enumerate(surface.labels):
        losses = surface.losses[number][surface.done]
        finite = losses[np.isfinite(losses)]
        odd = f", {len(losses) - len(finite)} not finite" if len(finite) < len(losses) else ""
        if len(finite):
            rows.append((f"loss of {label}", f"{finite.min():.4g} to {finite.max():.4g} nats{odd}"))
    if surface.marks is not None and surface.mark_labels is not None and surface.mark_distances is not None:
        for label, place, off in zip(surface.mark_labels, surface.marks, surface.mark_distances, strict=True):
            distance = "" if math.isnan(off) else f"; {off:.3g} off the {'line' if surface.y is None else 'plane'}"
            rows.append((f"mark {label}".rstrip(), ", ".join(f"{value:.4g}" for value in place) + distance))
    return rows


# ---------------------------------------------------------------------- Goldstein's keys

Split = Literal["train", "test"]


def is_goldstein(path: str | os.PathLike[str]) -> bool:
    """Whether a file has the keys of a surface by tomgoldstein/loss-landscape."""
    if not Path(path).is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return "xcoordinates" in file and any(f"{split}_loss" in file for split in ("train", "test"))
    except OSError:
        return False


def check_goldstein_output(path: str | os.PathLike[str]) -> None:
    """An export replaces nothing but an export.

    Raises:
        LandscapeError: another suffix, or something else is there.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise LandscapeError(f"--export '{path}': an export goes into a file that ends in {' or '.join(SUFFIXES)}")
    if not path.exists():
        return
    if is_goldstein(path):
        with h5py.File(path, "r") as file:
            if _EXPORTED in file.attrs:
                return
    raise LandscapeError(f"--export '{path}' is there and was not exported by landscape, so it is not replaced")


def goldstein_part(surface: Surface) -> int:
    """Which part an export takes: ``all``, or the only one.

    Raises:
        LandscapeError: several parts, and ``all`` is not among them.
    """
    if "all" in surface.parts:
        return surface.parts.index("all")
    if len(surface.parts) == 1:
        return 0
    raise LandscapeError(
        f"--export takes one surface, these are {', '.join(surface.labels[:6])}: add --whole for all of them together"
    )


def write_goldstein(path: str | os.PathLike[str], surface: Surface, *, split: Split, source: str = "") -> None:
    """Write one part with the keys of tomgoldstein/loss-landscape, which its plotting scripts read.

    ``xcoordinates`` (nx,), ``ycoordinates`` (ny,), ``{split}_loss`` and ``{split}_acc`` (ny, nx) or (nx,): row i,
    column j is the point (x_j, y_i), as its scripts draw it; accuracies in percent; −1 where nothing has been computed
    yet. Marks become ``proj_xcoord`` and ``proj_ycoord`` (T,), a trajectory adds ``explained_variance_ratio_``.

    Args:
        split: which images the losses are of.
        source: for ``dir_file``, the file that the surface is from.

    Raises:
        LandscapeError: as :func:`goldstein_part` and :func:`check_goldstein_output`.
    """
    check_goldstein_output(path)
    number = goldstein_part(surface)
    with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs[_EXPORTED] = "landscape"
        file.attrs["part"], file.attrs["label"] = surface.parts[number], surface.labels[number]
        file["dir_file"] = source
        file["xcoordinates"] = surface.x
        if surface.y is not None:
            file["ycoordinates"] = surface.y
        file[f"{split}_loss"] = np.where(surface.done, surface.losses[number], -1.0)
        file[f"{split}_acc"] = np.where(surface.done, 100 * surface.accuracies[number], -1.0)
        if surface.marks is not None:
            for name, column in zip(("proj_xcoord", "proj_ycoord"), surface.marks.T, strict=False):
                file[name] = column
        if surface.explained_variance is not None:
            file["explained_variance_ratio_"] = surface.explained_variance


def read_goldstein(path: str | os.PathLike[str], *, split: Split | None = None) -> Surface:
    """A surface file of tomgoldstein/loss-landscape, or an export of ours.

    Its walk enumerates points with a₁ running fastest, but declares a grid of nx × ny as (nx, ny); where nx ≠ ny the
    rows of such an array mix points of different a₂. The order of the numbers is right in either shape, so they are
    read by order. What the file does not say (norms, cosine, number of images) is NaN or 0.

    Args:
        split: of which images; by default ``train`` if it is there.

    Raises:
        LandscapeError: missing, not HDF5, or without these keys.
    """
    path = Path(path)
    with open_hdf5(path, "landscape surface CHECKPOINT --export") as file:
        there = [name for name in ("train", "test") if f"{name}_loss" in file and split in (None, name)]
        if "xcoordinates" not in file or not there:
            wanted = "train_loss or test_loss" if split is None else f"{split}_loss"
            raise LandscapeError(f"'{path}' has no xcoordinates with {wanted}: it is no surface of loss-landscape")
        x = np.asarray(file["xcoordinates"][...], dtype=np.float64)
        y = np.asarray(file["ycoordinates"][...], dtype=np.float64) if "ycoordinates" in file else None
        shape = (len(x),) if y is None else (len(y), len(x))
        losses = np.asarray(file[f"{there[0]}_loss"][...], dtype=np.float64)
        if losses.size != math.prod(shape):
            raise LandscapeError(f"'{path}' has {losses.size} losses for a grid of {math.prod(shape)} points")
        losses = losses.reshape(shape)
        done = losses != -1
        accuracies = np.full(shape, np.nan)
        if f"{there[0]}_acc" in file:
            accuracies = np.asarray(file[f"{there[0]}_acc"][...], dtype=np.float64).reshape(shape) / 100
        columns = [file[name][...] for name in ("proj_xcoord", "proj_ycoord")[: len(shape)] if name in file]
        shares = file["explained_variance_ratio_"][: len(shape)] if "explained_variance_ratio_" in file else None
        part, label = (str(file.attrs.get(key, "all")) for key in ("part", "label"))
    surface = Surface(
        kind="imported" if shares is None else "trajectory",
        x=x,
        y=y,
        parts=(part,),
        labels=(label,),
        num_samples=np.zeros(1, dtype=np.int64),
        losses=np.where(done, losses, np.nan)[None],
        accuracies=np.where(done, accuracies, np.nan)[None],
        done=done,
        norms=np.full(len(shape), np.nan),
        cosine=math.nan,
        axis_labels=tuple(f"{'direction' if shares is None else 'PC'} {k + 1}" for k in range(len(shape))),
        explained_variance=shares,
    )
    if len(columns) != len(shape):
        return surface
    marks = np.stack(columns, axis=1)
    return replace(surface, marks=marks, mark_labels=("",) * len(marks), mark_distances=np.full(len(marks), np.nan))


def describe_goldstein(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a file of Goldstein's keys holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :func:`read_goldstein`.
    """
    return [
        ("file", f"{path} ({Path(path).stat().st_size / 1e6:.2f} MB)"),
        ("keys", "of tomgoldstein/loss-landscape"),
        *_describe_record(read_goldstein(path)),
    ]
