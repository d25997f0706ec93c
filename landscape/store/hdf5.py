"""What all our HDF5 files share: a schema with a version, a group ``meta``, and refusals that name the fix."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.errors import LandscapeError

MetaValue = str | int | float | bool | Sequence[str] | Sequence[int] | Sequence[float] | NDArray[Any]
"""What ``/meta`` can hold: scalars become attributes, sequences become one-dimensional datasets."""

SUFFIXES = (".h5", ".hdf5")


def schema_of(path: str | os.PathLike[str]) -> str | None:
    """The attribute ``schema`` of an HDF5 file; ``None`` for anything else."""
    if not Path(path).is_file() or not h5py.is_hdf5(path):
        return None
    try:
        with h5py.File(path, "r") as file:
            schema = file.attrs.get("schema")
    except OSError:
        return None
    return schema if isinstance(schema, str) else None


def check_replaceable(path: str | os.PathLike[str], schema: str, *, overwrite: bool) -> None:
    """A results file replaces nothing but a file of its own kind, and that only when told to.

    Raises:
        LandscapeError: another suffix, something else is there, or it is there and ``overwrite`` is false.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise LandscapeError(f"-o '{path}': the results go into a file that ends in {' or '.join(SUFFIXES)}")
    if not path.exists():
        return
    if schema_of(path) != schema:
        raise LandscapeError(f"-o '{path}' is there and is no {schema} file, so it is not replaced: give another -o")
    if not overwrite:
        raise LandscapeError(f"'{path}' already exists: give --overwrite to replace it, or another -o")


def open_hdf5(path: Path, maker: str) -> h5py.File:
    """Open a file for reading.

    Args:
        maker: the command that writes such files, for the message.

    Raises:
        LandscapeError: missing, not HDF5, or cut short.
    """
    if not path.exists():
        raise LandscapeError(f"no file '{path}': `{maker} -o {path}` would write it")
    if not path.is_file() or not h5py.is_hdf5(path):
        raise LandscapeError(f"'{path}' is not an HDF5 file: give one written by `{maker}`")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise LandscapeError(f"'{path}' cannot be read, it may be cut short: copy or compute it again") from error


def check_version(file: h5py.File, path: Path, newest: int) -> int:
    """The schema version of a file.

    Raises:
        LandscapeError: it has none, or one that this landscape is too old for.
    """
    version = file.attrs.get("schema_version")
    if not isinstance(version, int | np.integer):
        raise LandscapeError(f"'{path}' is damaged: schema_version = {short(version)} is no integer; compute it again")
    if version > newest:
        raise LandscapeError(
            f"'{path}' has schema version {version}, this landscape reads up to {newest}: upgrade landscape"
        )
    return int(version)


@contextmanager
def open_results(path: Path, schema: str, newest: int, maker: str) -> Iterator[h5py.File]:
    """A results file of one schema, open for reading.

    Args:
        newest: the version of the schema up to which it can be read.
        maker: the command that writes such files, for the message.

    Raises:
        LandscapeError: missing, not HDF5, of another schema (which is named), of a newer version, or incomplete.
    """
    with open_hdf5(path, maker) as file:
        found = file.attrs.get("schema")
        if found != schema:
            raise LandscapeError(f"'{path}' is of schema {short(found)}, not '{schema}': give one written by `{maker}`")
        check_version(file, path, newest)
        try:
            yield file
        except KeyError as error:
            raise LandscapeError(f"'{path}' is damaged, compute it again: {error.args[0]}") from error


def write_meta(group: h5py.Group, meta: Mapping[str, MetaValue]) -> None:
    """Write words and numbers into a group, as :data:`MetaValue` says.

    Raises:
        TypeError: a value of another kind.
    """
    for key, value in meta.items():
        if isinstance(value, str | bool | int | float | np.generic):
            group.attrs[key] = value
            continue
        if value is None or isinstance(value, Mapping):
            raise TypeError(f"meta['{key}'] is {value!r}: expected a word, a number, a bool or a sequence of them")
        array = np.asarray(value)
        if array.dtype.kind not in "USbiuf" or array.ndim != 1:
            raise TypeError(f"meta['{key}'] is {value!r}: expected a one-dimensional sequence of numbers or words")
        # Datasets, since an attribute is limited to 64 KiB and 8 142 species names are longer.
        if array.dtype.kind in "US":
            group.create_dataset(key, data=[str(word) for word in array], dtype=h5py.string_dtype())
        else:
            group.create_dataset(key, data=array)


def read_meta(group: h5py.Group) -> dict[str, Any]:
    """What :func:`write_meta` wrote: scalars, ``list[str]`` for words, arrays for numbers."""
    meta: dict[str, Any] = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in group.attrs.items()
    }
    for key, dataset in group.items():
        is_words = h5py.check_string_dtype(dataset.dtype) is not None
        meta[key] = dataset.asstr()[...].tolist() if is_words else dataset[...]
    return meta


def short(value: Any, *, quote: bool = True, limit: int = 8) -> str:
    """A value in a message: long sequences keep both ends."""
    if value is None:
        return "(not stored)"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return repr(value) if quote else str(value)
    words = [str(item) for item in value]
    if len(words) > limit:
        words = [*words[: limit - 3], "...", *words[-2:]]
    return ", ".join(words)
