"""Spectra in HDF5, schema version 1: one file a checkpoint, one group a part, each part all there or not there.

``docs/schema.md`` lists every group, dataset and attribute.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.atomic import atomic_replacement
from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError, did_you_mean

SCHEMA = "landscape-spectra"
SCHEMA_VERSION = 1

MetaValue = str | int | float | bool | Sequence[str] | Sequence[int] | Sequence[float] | NDArray[Any]
"""What ``/meta`` can hold: scalars become attributes, sequences become one-dimensional datasets."""

# A set of samples, a set of parameters, or both; no second spelling such as "all/layer/conv1".
_PART_PATH = re.compile(r"all|layer/[^/]+|(class|group)/[^/]+(/layer/[^/]+)?")


@dataclass(frozen=True)
class SpectrumFile:
    """The spectra of one checkpoint on disk; made by :meth:`create` or :meth:`open`, one writer at a time.

    Every write copies the file, adds to the copy and renames it over the original, so the file under its own name is
    whole at every moment and a killed run loses only the part it was computing. The price is one copy of the file a
    part: small beside the products that part took.
    """

    path: Path
    meta: dict[str, Any]  # as read back: scalars, list[str] for words, arrays for numbers

    @classmethod
    def create(cls, path: str | os.PathLike[str], meta: Mapping[str, MetaValue], *, overwrite: bool = False) -> Self:
        """Start a file that holds ``meta`` and no part yet.

        Args:
            path: where; folders above it are created.
            meta: what was measured and with what, for example ``{"loss": "ce", "seed": 0, "class_counts": [...]}``.
            overwrite: replace a file that is already there.

        Raises:
            LandscapeError: the file exists and ``overwrite`` is false, or it cannot be written.
            TypeError: a value of ``meta`` is neither a scalar nor a sequence of numbers or words.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise LandscapeError(f"'{path}' already exists: give --overwrite to replace it, or another -o")
        with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            file.attrs["schema_version"] = SCHEMA_VERSION
            _write_meta(file.create_group("meta"), meta)
            file.create_group("spectra", track_order=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open an existing file and read its ``meta``.

        Raises:
            LandscapeError: there is no such file, it is not HDF5, it was not written by ``landscape spectrum``, or a
                newer version wrote it.
        """
        path = Path(path)
        with _open_checked(path) as file:
            return cls(path, _read_meta(file["meta"]))

    def complete_parts(self) -> list[str]:
        """Paths of the parts that are there in full, in the order in which they were first written."""
        with _open_checked(self.path) as file:
            return [path for path, group in _walk_parts(file["spectra"]) if _is_complete(group)]

    def write_part(self, spectrum: PartSpectrum) -> None:
        """Add one part, or replace it where it stands; the layers stored below it stay.

        Raises:
            LandscapeError: ``spectrum.part`` is not a part path, or the file cannot be written.
        """
        if not _PART_PATH.fullmatch(spectrum.part) or {".", ".."} & set(spectrum.part.split("/")):
            raise LandscapeError(
                f"'{spectrum.part}' is no part: expected 'all', 'class/3', 'group/tail', 'layer/conv1' "
                "or 'class/3/layer/conv1'"
            )
        with atomic_replacement(self.path) as temporary:
            shutil.copy(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                group = _require_part_group(file["spectra"], spectrum.part)
                _clear(group)
                spectrum.to_hdf5(group)
                group.attrs["complete"] = True

    def read_part(self, part: str) -> PartSpectrum:
        """Read one part.

        Raises:
            LandscapeError: the part is not there or not complete; the nearest name is suggested.
        """
        with _open_checked(self.path) as file:
            parts = dict(_walk_parts(file["spectra"]))
            if part not in parts:
                raise LandscapeError(f"'{self.path}' has no part '{part}'{_nearest(part, list(parts))}")
            return self._read(part, parts[part])

    def read_all(self) -> list[PartSpectrum]:
        """Every complete part, in the order of :meth:`complete_parts`."""
        with _open_checked(self.path) as file:
            return [self._read(path, group) for path, group in _walk_parts(file["spectra"]) if _is_complete(group)]

    def _read(self, part: str, group: h5py.Group) -> PartSpectrum:
        if not _is_complete(group):
            raise LandscapeError(f"part '{part}' of '{self.path}' is incomplete: run the same command again")
        try:
            return PartSpectrum.from_hdf5(group)
        except KeyError as error:
            raise LandscapeError(f"part '{part}' of '{self.path}' is damaged: {error.args[0]}") from error

    def check_resumable(self, meta: Mapping[str, MetaValue], keys: Sequence[str]) -> None:
        """Refuse to add parts measured differently from those already there.

        Args:
            meta: what the run that wants to go on would have stored.
            keys: the entries that determine the numbers (checkpoint hash, loss, split, seed, ...); others may differ.

        Raises:
            LandscapeError: names the first entry that differs, with both values.
        """
        for key in keys:
            stored, wanted = self.meta.get(key), meta.get(key)
            if not _equal(stored, wanted):
                raise LandscapeError(
                    f"'{self.path}' was measured with {key} = {_short(stored)}, this run has {key} = {_short(wanted)}: "
                    "give --overwrite to start it anew, or another -o"
                )


def describe(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a spectrum file holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :meth:`SpectrumFile.open`.
    """
    spectra = SpectrumFile.open(path)
    with _open_checked(spectra.path) as file:
        version = int(file.attrs["schema_version"])
        parts = [(part, group) for part, group in _walk_parts(file["spectra"])]
        complete = [(part, group) for part, group in parts if _is_complete(group)]
        verdicts = Counter(str(group["saddle"].attrs["verdict"]) for _, group in complete if "saddle" in group)
        products = sum(
            int(group[record].attrs["num_matvecs"])
            for _, group in complete
            for record in ("pairs", "density")
            if record in group
        )
        seconds = sum(float(group.attrs["seconds"]) for _, group in complete)
    rows = [
        ("file", f"{spectra.path} ({spectra.path.stat().st_size / 1e6:.2f} MB)"),
        ("schema", f"{SCHEMA} {version}"),
    ]
    rows += [(key, _short(value, quote=False)) for key, value in spectra.meta.items()]
    rows.append(("parts", f"{len(complete)} complete" + _incomplete_note(len(parts) - len(complete))))
    for kind, members in _by_kind([part for part, _ in complete]).items():
        rows.append((f"  {kind}", f"{len(members)}: {_short(members, quote=False)}"))
    if complete:
        rows.append(("verdicts", ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())))
        rows.append(("work", f"{products} Hessian products, {seconds:.0f} s"))
    return rows


def _incomplete_note(count: int) -> str:
    return f", {count} incomplete (run the same command again)" if count else ""


def _by_kind(parts: Sequence[str]) -> dict[str, list[str]]:
    """Group part paths by what they cut: 'class', 'layer', 'class × layer', ..."""
    kinds: dict[str, list[str]] = {}
    for part in parts:
        words = part.split("/")
        kinds.setdefault(" × ".join(words[::2]), []).append(" ".join(words[1::2]) or part)
    return kinds


def _open_checked(path: Path) -> h5py.File:
    """Open for reading, after making sure that it is ours and that we can read it."""
    if not path.exists():
        raise LandscapeError(f"no file '{path}': `landscape spectrum CHECKPOINT -o {path}` would write it")
    if not path.is_file() or not h5py.is_hdf5(path):
        raise LandscapeError(f"'{path}' is not an HDF5 file: give one written by `landscape spectrum -o`")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise LandscapeError(f"'{path}' cannot be read, it may be cut short: copy or compute it again") from error
    try:
        if file.attrs.get("schema") != SCHEMA:
            raise LandscapeError(
                f"'{path}' is HDF5 but holds no spectra (no attribute schema = '{SCHEMA}'): "
                "give one written by `landscape spectrum -o`"
            )
        version = file.attrs.get("schema_version")
        if not isinstance(version, int | np.integer):
            raise LandscapeError(
                f"'{path}' is damaged: schema_version = {_short(version)} is no integer; compute it again"
            )
        if version > SCHEMA_VERSION:
            raise LandscapeError(
                f"'{path}' has schema version {version}, this landscape reads up to {SCHEMA_VERSION}: upgrade landscape"
            )
        for name in ("meta", "spectra"):
            if not isinstance(file.get(name), h5py.Group):
                raise LandscapeError(f"'{path}' is damaged: it has no group /{name}; compute it again")
    except BaseException:
        file.close()
        raise
    return file


def _is_complete(group: h5py.Group) -> bool:
    return bool(group.attrs.get("complete", False))


def _walk_parts(spectra: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    """Every part group, complete or not, in file order; a part's own layers follow it."""
    for kind, members in spectra.items():
        named = [(kind, members)] if kind == "all" else [(f"{kind}/{name}", group) for name, group in members.items()]
        for path, group in named:
            yield path, group
            if "layer" in group:
                for name, layer in group["layer"].items():
                    yield f"{path}/layer/{name}", layer


def _require_part_group(spectra: h5py.Group, part: str) -> h5py.Group:
    """The group of a part, made if need be; HDF5 lists names alphabetically unless a group tracks creation order."""
    group = spectra
    for name in part.split("/"):
        group = group[name] if name in group else group.create_group(name, track_order=name in _CONTAINERS)
    return group


_CONTAINERS = ("class", "group", "layer")


def _clear(group: h5py.Group) -> None:
    """Remove a part's own members; the layers below belong to other parts."""
    for name in list(group.attrs):
        del group.attrs[name]
    for name in list(group):
        if name != "layer":
            del group[name]


def _write_meta(group: h5py.Group, meta: Mapping[str, MetaValue]) -> None:
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


def _read_meta(group: h5py.Group) -> dict[str, Any]:
    meta: dict[str, Any] = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in group.attrs.items()
    }
    for key, dataset in group.items():
        is_words = h5py.check_string_dtype(dataset.dtype) is not None
        meta[key] = dataset.asstr()[...].tolist() if is_words else dataset[...]
    return meta


def _equal(stored: Any, wanted: Any) -> bool:
    if stored is None or wanted is None:
        return stored is wanted
    return bool(np.array_equal(np.asarray(stored), np.asarray(wanted)))


def _short(value: Any, *, quote: bool = True, limit: int = 8) -> str:
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


def _nearest(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) or (
        f"; it has {_short(list(known))}" if known else ": it is empty, run `landscape spectrum` again"
    )
