"""`landscape info`."""

from __future__ import annotations

from pathlib import Path

import h5py
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from landscape.anomaly.results import describe as describe_grid
from landscape.anomaly.results import is_results
from landscape.errors import LandscapeError
from landscape.store import describe
from landscape.store.calibration_file import CALIBRATION_SCHEMA, describe_calibration
from landscape.store.features_file import FEATURES_SCHEMA, describe_features
from landscape.store.hdf5 import open_hdf5, short
from landscape.store.spectrum_file import SCHEMA as SPECTRA_SCHEMA
from landscape.store.surface_file import SURFACE_SCHEMA, describe_goldstein, describe_surface, is_goldstein


def _describe_figure(path: Path) -> list[tuple[str, str]]:
    # Here, since what draws takes a second to load.
    from landscape.plotting.drawing import describe_drawing

    from .plot_kinds import KINDS

    return [
        (label, f"{value}: {KINDS[value].text}" if value in KINDS else value) for label, value in describe_drawing(path)
    ]


_DESCRIBED = {
    SPECTRA_SCHEMA: describe,
    FEATURES_SCHEMA: describe_features,
    CALIBRATION_SCHEMA: describe_calibration,
    SURFACE_SCHEMA: describe_surface,
    "landscape-drawing": _describe_figure,  # DRAWING_SCHEMA, spelled out: its module loads what draws
}


@click.command(name="info")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """What a file holds: a run's folder, a checkpoint, the results of any command, or the arrays of a figure."""
    if is_results(file):
        rows = describe_grid(file)
    elif is_goldstein(file):
        rows = describe_goldstein(file)
    elif file.is_file() and (h5py.is_hdf5(file) or file.suffix in (".h5", ".hdf5")):
        rows = _describe_hdf5(file)
    else:
        rows = _describe_checkpoint(file)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(escape(label), escape(value))
    Console(highlight=False).print(table)


def _describe_hdf5(path: Path) -> list[tuple[str, str]]:
    with open_hdf5(path, "landscape") as file:
        schema = file.attrs.get("schema")
    if not isinstance(schema, str) or schema not in _DESCRIBED:
        raise LandscapeError(
            f"'{path}' is of schema {short(schema)}, which is none of landscape's: {', '.join(_DESCRIBED)}"
        )
    return _DESCRIBED[schema](path)


def _describe_checkpoint(path: Path) -> list[tuple[str, str]]:
    # torch is imported only for checkpoints: a results file is described without it.
    from landscape.anomaly.checkpoint import detector_recipe
    from landscape.training.checkpoint import find_checkpoint, load_state, read_info

    path = find_checkpoint(path)
    info = read_info(path) if path.suffix == ".safetensors" else None
    state = load_state(path)
    rows = [
        ("file", f"{path} ({path.stat().st_size / 1e6:.2f} MB)"),
        ("tensors", f"{len(state)}, {sum(tensor.numel() for tensor in state.values()):,} values"),
    ]
    if info is None:
        return [*rows, ("recipe", "none: a foreign checkpoint; name its model with --model package.module:factory")]
    if detector_recipe(info) is not None:
        return rows + _describe_detector(path)
    rows += [
        ("epoch", str(info.epoch)),
        ("classes", f"{len(info.class_names)}: {', '.join(info.class_names[:12])}"),
        ("training images", f"{sum(info.class_counts):,}: {', '.join(map(str, info.class_counts[:12]))}"),
        ("test split", ", ".join(f"{name} {value:.1%}" for name, value in info.metrics.items())),
        ("versions", ", ".join(f"{name} {value}" for name, value in info.versions.items())),
    ]
    for section, values in info.recipe.items():
        rows.append((f"recipe.{section}", ", ".join(f"{key} = {value}" for key, value in values.items())))
    return rows


def _describe_detector(path: Path) -> list[tuple[str, str]]:
    from landscape.anomaly.checkpoint import read_detector

    file = read_detector(path)
    unlabelled, anomalies = file.class_counts
    return [
        ("detector", ", ".join(f"{key} = {value}" for key, value in file.recipe.dump().items())),
        ("data", f"{file.data}, SHA-256 {file.fingerprint[:12]}…, {file.num_features} features"),
        ("training rows", f"{unlabelled:,} unlabelled, {anomalies:,} labelled anomalies"),
        ("last epoch", ", ".join(f"{key} {value:.4g}" for key, value in file.metrics.items())),
    ]
