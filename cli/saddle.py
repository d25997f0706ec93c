"""`landscape saddle`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import rich_click as click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from landscape.curvature.results import Interval, PartSpectrum
from landscape.json_text import json_text
from landscape.store import SpectrumFile

_STYLES = {"saddle": "red", "minimum": "green", "not stationary": "yellow", "undecided": "magenta", "flat": "dim"}


@click.command(name="saddle")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print every number as JSON instead of a table")
@click.option("--reasons", is_flag=True, help="also say why, one line a part")
def command(file: Path, as_json: bool, reasons: bool) -> None:
    """The verdict on every part of a spectrum file, with the numbers that it rests on.

    λ are the ends of the spectrum with the residual ‖Hv − λv‖ of their vectors. ν = M₋/(M₊+M₋) is the share of the
    negative mass, with a 95 % interval over probes. *index ≥* counts the eigenvalues that are certified negative.
    2‖∇L‖/|λ₋| is the radius from which on a SAM step amplifies the escape direction.
    """
    spectra = SpectrumFile.open(file).read_all()
    if as_json:
        click.echo(json_text([_plain(spectrum) for spectrum in spectra], indent=2))
        return
    console = Console(highlight=False)
    print_saddle_table(spectra, console)
    if reasons:
        for spectrum in spectra:
            text = f"{spectrum.label}: {spectrum.saddle.verdict}, {spectrum.saddle.reason}"
            console.print(text, soft_wrap=True, markup=False)


def print_saddle_table(spectra: Sequence[PartSpectrum], console: Console) -> None:
    """One row a part, numbers in units of the loss; a narrow terminal gets the columns that matter most."""
    for last in sorted({column.rank for column in _COLUMNS}, reverse=True):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        columns = [column for column in _COLUMNS if column.rank <= last]
        for column in columns:
            table.add_column(column.title, justify=column.justify, no_wrap=True)
        for spectrum in spectra:
            table.add_row(*(column.cell(spectrum) for column in columns))
        if Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width:
            break
    console.print(table, crop=False, soft_wrap=False)


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[PartSpectrum], str]
    rank: int = 0  # the higher, the sooner it makes room
    justify: Literal["left", "right"] = "right"


def _number(value: float, error: float = 0.0) -> str:
    """Three digits; the error joins them when it would show in them."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    text = f"{value:.3g}"
    if error <= 0.005 * abs(value):
        return text
    # One digit, and the form of the value: 58.3±20, not 58.3±2e+01.
    return f"{text}±{float(f'{error:.1g}'):.{3 if error < 1000 else 1}g}"


def _share(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "–"
    return f"{100 * interval.value:.0f}±{50 * (interval.high - interval.low):.0f}%"


_COLUMNS = [
    _Column("part", lambda s: escape(s.label), justify="left"),
    _Column("n", lambda s: str(s.num_samples)),
    _Column("acc", lambda s: "–" if s.accuracy is None else f"{s.accuracy:.0%}", rank=4),
    _Column("loss", lambda s: f"{s.saddle.loss:.2g}", rank=2),
    _Column("‖∇L‖", lambda s: f"{s.saddle.gradient_norm:.2g}", rank=1),
    _Column("λ_max", lambda s: _number(s.saddle.lambda_max, s.saddle.lambda_max_residual)),
    _Column("λ_min", lambda s: _number(s.saddle.lambda_min, s.saddle.lambda_min_residual)),
    _Column("index≥", lambda s: str(s.saddle.index_lower_bound), rank=3),
    _Column("ν", lambda s: _share(s.saddle.negative_fraction)),
    _Column("trace", lambda s: _number(s.saddle.trace, s.saddle.trace_standard_error), rank=5),
    _Column("2‖∇L‖/|λ₋|", lambda s: _number(float(f"{s.saddle.sam_threshold:.2g}")), rank=6),
    _Column(
        "verdict",
        lambda s: f"[{_STYLES.get(s.saddle.verdict, 'white')}]{s.saddle.verdict}[/]",
        justify="left",
    ),
]


def _plain(spectrum: PartSpectrum) -> dict[str, Any]:
    return {"part": spectrum.part, "label": spectrum.label, "num_samples": spectrum.num_samples,
              "num_parameters": spectrum.num_parameters, "accuracy": spectrum.accuracy,
              **asdict(spectrum.saddle), "curvature_ratio": spectrum.saddle.curvature_ratio,
              "eigenvalues": spectrum.pairs.values.tolist(), "residuals": spectrum.pairs.residuals.tolist(),
              "converged": spectrum.pairs.converged.tolist()}  # fmt: skip
