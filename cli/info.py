"""`landscape info`."""

from __future__ import annotations

from pathlib import Path

import h5py
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from landscape.store import describe, schema_of
from landscape.store.calibration_file import CALIBRATION_SCHEMA, describe_calibration
from landscape.store.features_file import FEATURES_SCHEMA, describe_features

# By the schema of the file; anything else is described, or refused, as a spectrum file.
_DESCRIBED = {FEATURES_SCHEMA: describe_features, CALIBRATION_SCHEMA: describe_calibration}


@click.command(name="info")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """What a file holds: a run's folder, a checkpoint, a spectrum file, features or a second stage."""
    is_results = file.is_file() and (h5py.is_hdf5(file) or file.suffix in (".h5", ".hdf5"))
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, value in (
        _DESCRIBED.get(schema_of(file) or "", describe)(file) if is_results else _describe_checkpoint(file)
    ):
        table.add_row(escape(label), escape(value))
    Console(highlight=False).print(table)


def _describe_checkpoint(path: Path) -> list[tuple[str, str]]:
    # torch is imported only for checkpoints: a results file is described without it.
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
