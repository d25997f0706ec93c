"""Spectra in HDF5, schema version 3: one file a checkpoint or a sweep over checkpoints, one group a part, each part all
there or not there.

``docs/schema.md`` lists every group, dataset and attribute.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.atomic import atomic_replacement
from landscape.curvature.results import BatchSpectra, PartSpectrum
from landscape.errors import LandscapeError, did_you_mean
from landscape.store.hdf5 import (
    SUFFIXES,
    MetaValue,
    check_version,
    open_hdf5,
    read_meta,
    schema_of,
    short,
    write_meta,
)

SCHEMA = "landscape-spectra"
SCHEMA_VERSION = 3

RunValue = str | int | float | bool
"""What an entry of ``/runs`` can hold."""

# Where files before version 3 kept what they knew of their first run, in ``/meta``, and the name it has in ``/runs``.
_FIRST_RUN = {
    "command": "command",
    "created": "started",
    "landscape_version": "landscape_version",
    "torch_version": "torch_version",
    "python_version": "python_version",
    "device": "device",
    "device_name": "device_name",
    "source": "source",
    "budget": "budget",
}

# A set of samples, a set of parameters, or both; no second spelling such as "all/layer/conv1".
_PART_PATH = re.compile(r"(epoch/(0|[1-9]\d*)/)?(all|layer/[^/]+|(class|group)/[^/]+(/layer/[^/]+)?)")


def check_output(path: str | os.PathLike[str]) -> None:
    """Nothing but a spectrum file is ever replaced, and a spectrum file has a suffix that says so.

    Raises:
        LandscapeError: another suffix, or something else is there, such as a checkpoint.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise LandscapeError(f"-o '{path}': spectra go into a file that ends in {' or '.join(SUFFIXES)}")
    if path.exists() and schema_of(path) != SCHEMA:
        raise LandscapeError(
            f"-o '{path}' is there and is no file of `landscape spectrum`, so it is not replaced: give another -o, or "
            "remove it first"
        )


def split_epoch(part: str) -> tuple[int | None, str]:
    """``epoch/10/class/3`` as ``(10, "class/3")``; a part of a single checkpoint has no epoch."""
    match = re.match(r"epoch/(\d+)/", part)
    return (int(match[1]), part[match.end() :]) if match else (None, part)


def epoch_prefix(epoch: int | None) -> str:
    """What stands before the parts of one checkpoint of a sweep: ``epoch/10/``; nothing for a single checkpoint."""
    return "" if epoch is None else f"epoch/{epoch}/"


@dataclass(frozen=True)
class PartSummary:
    """What a stored part is and how well it is known."""

    num_samples: int
    num_parameters: int
    num_probes: int
    relative_width: float  # half-width of the 95 % interval of M₋ over M₋; infinite for a single probe
    has_vectors: bool
    layer_unit: str | None  # of a layer: tensor, module or stage
    run: int | None  # number in :meth:`SpectrumFile.runs`; None if it was not recorded


def _summary(group: h5py.Group) -> PartSummary:
    mass = group["saddle/negative_mass"].attrs
    half = float(mass["high"] - mass["value"])
    unit = group.attrs.get("layer_unit")
    return PartSummary(
        num_samples=int(group.attrs["num_samples"]),
        num_parameters=int(group.attrs["num_parameters"]),
        num_probes=len(group["density/probe_mass"]),
        relative_width=half / float(mass["value"]) if 0 < half < np.inf else half,
        has_vectors="vectors" in group["pairs"],
        layer_unit=None if unit is None else str(unit),
        run=_run_of(group),
    )


def _run_of(group: h5py.Group) -> int | None:
    return int(group.attrs["run"]) if "run" in group.attrs else None


@dataclass(frozen=True)
class SpectrumFile:
    """The spectra of a checkpoint, or of a sweep: made by :meth:`create` or :meth:`open`; one writer at a time.

    In a sweep every part lies below ``epoch/<n>/``.

    Every write copies the file, adds to the copy and renames it over the original, so the file under its own name is
    whole at every moment and a killed run loses only the part it was computing. The price is one copy of the file a
    part: small beside the products that part took.

    A file of an older version is read as it is, and becomes one of this version with the first write.
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
            LandscapeError: as :func:`check_output`; the file exists and ``overwrite`` is false; it cannot be written.
            TypeError: a value of ``meta`` is neither a scalar nor a sequence of numbers or words.
        """
        path = Path(path)
        check_output(path)
        if path.exists() and not overwrite:
            raise LandscapeError(f"'{path}' already exists: give --overwrite to replace it, or another -o")
        with atomic_replacement(path) as temporary, h5py.File(temporary, "w") as file:
            file.attrs["schema"] = SCHEMA
            file.attrs["schema_version"] = SCHEMA_VERSION
            write_meta(file.create_group("meta"), meta)
            file.create_group("runs")
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
            return cls(path, _meta_and_runs(file)[0])

    @property
    def is_sweep(self) -> bool:
        """Whether the parts are those of several checkpoints, each below its epoch."""
        return "epochs" in self.meta

    def runs(self) -> dict[int, dict[str, Any]]:
        """What made the parts, by number from 1: every command that added some, with its time, versions and device.

        A file from before version 3 knows of its first run alone, and none of its parts says whether that made it.
        """
        with _open_checked(self.path) as file:
            return _meta_and_runs(file)[1]

    def complete_parts(self) -> list[str]:
        """Paths of the parts that are there in full: epochs ascending, parts in the order of their first writing."""
        with _open_checked(self.path) as file:
            return [path for path, group in _walk_parts(file["spectra"]) if _is_complete(group)]

    def summaries(self) -> dict[str, PartSummary]:
        """What every complete part is and how well it is known, without reading the arrays."""
        with _open_checked(self.path) as file:
            return {path: _summary(group) for path, group in _walk_parts(file["spectra"]) if _is_complete(group)}

    def measured_epochs(self) -> list[int]:
        """Epochs of a sweep that have something complete, parts or mini-batches, ascending."""
        with _open_checked(self.path) as file:
            found = {split_epoch(path)[0] for path, group in _walk_parts(file["spectra"]) if _is_complete(group)}
            found |= {epoch for epoch, _ in _walk_batches(file["spectra"])}
        return sorted(epoch for epoch in found if epoch is not None)

    def latest_epoch(self) -> int | None:
        """The last epoch of a sweep that has complete parts; ``None`` outside a sweep."""
        epochs = [epoch for epoch, _ in map(split_epoch, self.complete_parts()) if epoch is not None]
        return max(epochs, default=None)

    def update_meta(self, changes: Mapping[str, MetaValue]) -> Self:
        """The same file with some entries of ``meta`` added or replaced, as a sweep needs when it grows.

        Raises:
            LandscapeError: the file cannot be written.
            TypeError: as :meth:`create`.
        """
        with self._rewritten() as file:
            group = file["meta"]
            for key in changes:
                if key in group.attrs:
                    del group.attrs[key]
                elif key in group:
                    del group[key]
            write_meta(group, changes)
        return type(self).open(self.path)

    def as_sweep(self, epoch: int) -> Self:
        """The same file as a sweep of one checkpoint, which others can join: what it holds moves below ``epoch/<n>/``.

        Raises:
            LandscapeError: the file cannot be written.
        """
        checks = {key: [value] for key, value in self.meta.items() if key.startswith("check_")}
        columns: dict[str, MetaValue] = {
            "epochs": [epoch],
            "checkpoints": [self.meta["checkpoint"]],
            "checkpoints_sha256": [self.meta["checkpoint_sha256"]],
            **checks,
        }
        with self._rewritten() as file:
            meta, spectra = file["meta"], file["spectra"]
            for key in ("checkpoint", "checkpoint_sha256", "epoch", *checks):
                del meta.attrs[key]
            write_meta(meta, columns)
            place = spectra.create_group(f"epoch/{epoch}", track_order=True)
            for name in list(spectra):
                if name != "epoch":
                    spectra.move(name, f"{place.name}/{name}")
            for path, group in _walk_parts(spectra):
                if "part" in group.attrs:  # a class of which only layers are there has none
                    group.attrs["part"] = path
        return type(self).open(self.path)

    @contextmanager
    def _rewritten(self) -> Iterator[h5py.File]:
        """A copy to change, which replaces the file when the body succeeds."""
        with atomic_replacement(self.path) as temporary:
            shutil.copy(self.path, temporary)
            with h5py.File(temporary, "r+") as file:
                _upgrade(file)
                yield file

    def write_part(
        self, spectrum: PartSpectrum, *, layer_unit: str | None = None, run: Mapping[str, RunValue] | None = None
    ) -> None:
        """Add one part, or replace it where it stands; the layers stored below it stay.

        Args:
            spectrum: the part.
            layer_unit: what a layer is (``tensor``, ``module`` or ``stage``), for the part of a layer.
            run: what made it, for example ``{"command": "…", "started": "…", "torch_version": "…"}``. It joins
                :meth:`runs` unless the same entry is there.

        Raises:
            LandscapeError: ``spectrum.part`` is not a part path, or the file cannot be written.
        """
        if not _PART_PATH.fullmatch(spectrum.part) or {".", ".."} & set(spectrum.part.split("/")):
            raise LandscapeError(
                f"'{spectrum.part}' is no part: expected 'all', 'class/3', 'group/tail', 'layer/conv1' "
                "or 'class/3/layer/conv1', in a sweep with 'epoch/10/' before it"
            )
        with self._rewritten() as file:
            group = _require_part_group(file["spectra"], spectrum.part)
            _clear(group)
            spectrum.to_hdf5(group)
            if layer_unit is not None:
                group.attrs["layer_unit"] = layer_unit
            if run is not None:
                group.attrs["run"] = _run_number(file, run)
            group.attrs["complete"] = True

    def write_batches(
        self, record: BatchSpectra, epoch: int | None = None, *, run: Mapping[str, RunValue] | None = None
    ) -> None:
        """Put mini-batch spectra in, or more of them: of the checkpoint, or of one epoch of a sweep.

        Args:
            record: those that are there already come first, and keep the run that they have.
            epoch: of a sweep.
            run: what made the others, as for :meth:`write_part`.

        Raises:
            LandscapeError: the file cannot be written.
        """
        with self._rewritten() as file:
            group = _require_part_group(file["spectra"], f"{epoch_prefix(epoch)}batches")
            runs = np.full(len(record.values), 0 if run is None else _run_number(file, run), dtype=np.int64)
            if _is_complete(group):
                known = _batch_runs(group)[: len(runs)]
                runs[: len(known)] = known
            _clear(group)
            record.to_hdf5(group)
            group.create_dataset("run", data=runs)
            group.attrs["complete"] = True

    def read_batches(self, epoch: int | None = None) -> BatchSpectra | None:
        """Mini-batch spectra of the checkpoint, or of one epoch of a sweep; ``None`` where there are none.

        Raises:
            LandscapeError: they lack a field.
        """
        with _open_checked(self.path) as file:
            for found, group in _walk_batches(file["spectra"]):
                if found == epoch:
                    try:
                        return BatchSpectra.from_hdf5(group)
                    except KeyError as error:
                        raise LandscapeError(
                            f"the mini-batches of '{self.path}' are damaged, compute them again: {error.args[0]}"
                        ) from error
        return None

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

    def read_all(self, epoch: int | None = None) -> list[PartSpectrum]:
        """Every complete part, or those of one epoch of a sweep, in the order of :meth:`complete_parts`.

        Raises:
            LandscapeError: the file has no such epoch, or is no sweep.
        """
        if epoch is not None and epoch not in (known := self.measured_epochs()):
            held = f"it has {short(known)}" if known else "it is no sweep, or empty"
            raise LandscapeError(f"'{self.path}' has no epoch {epoch}: {held}")
        with _open_checked(self.path) as file:
            return [
                self._read(path, group)
                for path, group in _walk_parts(file["spectra"])
                if _is_complete(group) and (epoch is None or split_epoch(path)[0] == epoch)
            ]

    def read_epoch(self, epoch: int | None = None) -> list[PartSpectrum]:
        """The parts of one checkpoint, named without their epoch; of a sweep the last that was measured by default.

        Raises:
            LandscapeError: the file has no such epoch, or is no sweep.
        """
        spectra = self.read_all(self.latest_epoch() if epoch is None else epoch)
        return [dataclasses.replace(spectrum, part=split_epoch(spectrum.part)[1]) for spectrum in spectra]

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
                    f"'{self.path}' was measured with {key} = {short(stored)}, this run has {key} = {short(wanted)}: "
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
        batches = {epoch: len(group["values"]) for epoch, group in _walk_batches(file["spectra"])}
        made = _made_by(file)
        how = _how_measured(complete)
        batch_products = sum(int(group.attrs["num_matvecs"]) for _, group in _walk_batches(file["spectra"]))
    rows = [
        ("file", f"{spectra.path} ({spectra.path.stat().st_size / 1e6:.2f} MB)"),
        ("schema", f"{SCHEMA} {version}"),
    ]
    rows += [(key, short(value, quote=False)) for key, value in spectra.meta.items()]
    for number, run in spectra.runs().items():
        rows.append((f"run {number}", str(run.get("command") or "a call from Python")))
        known = sorted((key for key in run if key != "command" and run[key] != ""), key=lambda key: key != "started")
        rows.append(("  with", ", ".join(f"{key} = {run[key]}" for key in known)))
        if number in made:
            rows.append(("  made", short(made.pop(number), quote=False)))
    if made:
        rows.append(("run not recorded", short([name for names in made.values() for name in names], quote=False)))
    rows.append(("parts", f"{len(complete)} complete" + _incomplete_note(len(parts) - len(complete))))
    for kind, members in _by_kind([part for part, _ in complete]).items():
        rows.append((f"  {kind}", f"{len(members)}: {short(members, quote=False)}"))
    if spectra.is_sweep:
        counts = Counter(split_epoch(part)[0] for part, _ in complete)
        each = [f"{epoch} ({counts[epoch]})" for epoch in spectra.measured_epochs()]
        rows.append(("parts by epoch", short(each, quote=False) or "none yet"))
    for epoch, count in batches.items():
        rows.append(("mini-batches", f"{count}" if epoch is None else f"{count} of epoch {epoch}"))
    if batches:
        rows.append(("products of mini-batches", str(batch_products)))
    if complete:
        rows.append(("verdicts", ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())))
        rows.append(("products of pairs and densities", f"{products}; the parts took {seconds:.0f} s in all"))
    return rows + how


def _made_by(file: h5py.File) -> dict[int, list[str]]:
    """Parts and mini-batches by the number of their run; 0 where it was not recorded."""
    made: dict[int, list[str]] = {}
    for path, group in _walk_parts(file["spectra"]):
        if _is_complete(group):
            made.setdefault(_run_of(group) or 0, []).append(path)
    for epoch, group in _walk_batches(file["spectra"]):
        for number, count in Counter(_batch_runs(group).tolist()).items():
            made.setdefault(number, []).append(f"{count} of {epoch_prefix(epoch)}batches")
    return made


def _how_measured(parts: Sequence[tuple[str, h5py.Group]]) -> list[tuple[str, str]]:
    """How products were made and why not faster, and which densities had to do with two vectors."""
    engines = Counter(str(group.attrs["engine"]) for _, group in parts if "engine" in group.attrs)
    rows = [("engine", ", ".join(f"{engine} in {count}" for engine, count in engines.most_common()))] if engines else []
    untraced: dict[str, list[str]] = {}
    for path, group in parts:
        if "untraced_reason" in group.attrs:
            untraced.setdefault(str(group.attrs["untraced_reason"]), []).append(path)
    rows += [("  not traced", f"{short(paths, quote=False)}: {reason}") for reason, paths in untraced.items()]
    two_vectors = [
        path for path, group in parts if "density" in group and not group["density"].attrs.get("reorthogonalized", True)
    ]
    if two_vectors:
        note = "memory did not hold the Lanczos basis, so nodes repeat"
        rows.append(("two-vector densities", f"{short(two_vectors, quote=False)}: {note}"))
    return rows


def _incomplete_note(count: int) -> str:
    return f", {count} incomplete (run the same command again)" if count else ""


def _by_kind(parts: Sequence[str]) -> dict[str, list[str]]:
    """Group part paths by what they cut, 'class', 'layer', 'class × layer', …; each once, whatever its epoch."""
    kinds: dict[str, list[str]] = {}
    for part in dict.fromkeys(split_epoch(part)[1] for part in parts):
        words = part.split("/")
        kinds.setdefault(" × ".join(words[::2]), []).append(" ".join(words[1::2]) or part)
    return kinds


def _open_checked(path: Path) -> h5py.File:
    """Open for reading, after making sure that it is ours and that we can read it."""
    file = open_hdf5(path, "landscape spectrum CHECKPOINT")
    try:
        if file.attrs.get("schema") != SCHEMA:
            raise LandscapeError(
                f"'{path}' is HDF5 but holds no spectra (no attribute schema = '{SCHEMA}'): "
                "give one written by `landscape spectrum -o`"
            )
        version = check_version(file, path, SCHEMA_VERSION)
        for name in ("meta", "spectra", "runs") if version >= 3 else ("meta", "spectra"):
            if not isinstance(file.get(name), h5py.Group):
                raise LandscapeError(f"'{path}' is damaged: it has no group /{name}; compute it again")
    except BaseException:
        file.close()
        raise
    return file


def _meta_and_runs(file: h5py.File) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """``/meta`` and ``/runs`` as this version has them."""
    meta = read_meta(file["meta"])
    if file.attrs["schema_version"] >= 3:
        return meta, {int(number): read_meta(file["runs"][number]) for number in sorted(file["runs"], key=int)}
    first = {name: meta.pop(key) for key, name in _FIRST_RUN.items() if key in meta}
    return meta, {1: first} if first else {}


def _upgrade(file: h5py.File) -> None:
    """Make a file of an older version one of this: what it says of its first run moves from ``/meta`` to ``/runs``."""
    if file.attrs["schema_version"] == SCHEMA_VERSION:
        return
    _, runs = _meta_and_runs(file)
    group = file.create_group("runs")
    for number, run in runs.items():
        write_meta(group.create_group(str(number)), run)
    for key in _FIRST_RUN:
        if key in file["meta"].attrs:
            del file["meta"].attrs[key]
    file.attrs["schema_version"] = SCHEMA_VERSION


def _run_number(file: h5py.File, run: Mapping[str, RunValue]) -> int:
    """Where a run stands in ``/runs``, entered if it is new."""
    runs = _meta_and_runs(file)[1]
    for number, known in runs.items():
        if known == dict(run):
            return number
    number = max(runs, default=0) + 1
    write_meta(file["runs"].create_group(str(number)), run)
    return number


def _batch_runs(group: h5py.Group) -> NDArray[Any]:
    """``(N,)`` number of the run of each mini-batch; 0 where it was not recorded."""
    return np.asarray(group["run"][...] if "run" in group else np.zeros(len(group["values"]), dtype=np.int64))


def _is_complete(group: h5py.Group) -> bool:
    return bool(group.attrs.get("complete", False))


def _walk_parts(spectra: h5py.Group) -> Iterator[tuple[str, h5py.Group]]:
    """Every part group, complete or not: epochs ascending, else in file order; a part's own layers follow it."""
    for kind, members in spectra.items():
        if kind == "batches":
            continue
        if kind == "epoch":
            for epoch in sorted(members, key=int):
                for path, group in _walk_parts(members[epoch]):
                    yield f"{epoch_prefix(int(epoch))}{path}", group
            continue
        named = [(kind, members)] if kind == "all" else [(f"{kind}/{name}", group) for name, group in members.items()]
        for path, group in named:
            yield path, group
            if "layer" in group:
                for name, layer in group["layer"].items():
                    yield f"{path}/layer/{name}", layer


def _walk_batches(spectra: h5py.Group) -> Iterator[tuple[int | None, h5py.Group]]:
    """The mini-batches of a checkpoint, or of every epoch of a sweep."""
    places: list[tuple[int | None, h5py.Group]] = [(None, spectra)]
    if "epoch" in spectra:
        places += [(int(epoch), spectra["epoch"][epoch]) for epoch in sorted(spectra["epoch"], key=int)]
    for epoch, group in places:
        if "batches" in group and _is_complete(group["batches"]):
            yield epoch, group["batches"]


def _require_part_group(spectra: h5py.Group, part: str) -> h5py.Group:
    """The group of a part, made if need be; HDF5 lists names alphabetically unless a group tracks creation order."""
    group, above = spectra, ""
    for name in part.split("/"):
        ordered = name in _CONTAINERS or above == "epoch"
        group, above = group[name] if name in group else group.create_group(name, track_order=ordered), name
    return group


_CONTAINERS = ("class", "group", "layer")


def _clear(group: h5py.Group) -> None:
    """Remove a part's own members; the layers below belong to other parts."""
    for name in list(group.attrs):
        del group.attrs[name]
    for name in list(group):
        if name != "layer":
            del group[name]


def _equal(stored: Any, wanted: Any) -> bool:
    if stored is None or wanted is None:
        return stored is wanted
    return bool(np.array_equal(np.asarray(stored), np.asarray(wanted)))


def _nearest(name: str, known: Sequence[str]) -> str:
    return did_you_mean(name, known) or (
        f"; it has {short(list(known))}" if known else ": it is empty, run `landscape spectrum` again"
    )
