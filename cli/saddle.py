"""`landscape saddle`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click
from rich.console import Console
from rich.table import Table

from landscape.curvature.results import Interval, PartSpectrum
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
        click.echo(json.dumps([_plain(spectrum) for spectrum in spectra], indent=2))
        return
    console = Console(highlight=False)
    console.print(saddle_table(spectra))
    if reasons:
        for spectrum in spectra:
            console.print(f"{spectrum.label}: {spectrum.saddle.verdict}, {spectrum.saddle.reason}", soft_wrap=True)


def saddle_table(spectra: Sequence[PartSpectrum]) -> Table:
    """One row a part; numbers in units of the loss."""
    table = Table(title="saddle report", title_justify="left", pad_edge=False)
    columns = ("part", "n", "acc", "loss", "‖∇L‖", "λ_max", "λ_min", "index ≥", "ν", "trace", "2‖∇L‖/|λ₋|", "verdict")
    for column in columns:
        table.add_column(column, justify="left" if column in ("part", "verdict") else "right", overflow="fold")
    for spectrum in spectra:
        report = spectrum.saddle
        table.add_row(
            spectrum.label,
            str(spectrum.num_samples),
            "–" if spectrum.accuracy is None else f"{spectrum.accuracy:.0%}",
            f"{report.loss:.3g}",
            f"{report.gradient_norm:.2g}",
            _with_error(report.lambda_max, report.lambda_max_residual),
            _with_error(report.lambda_min, report.lambda_min_residual),
            str(report.index_lower_bound),
            _share(report.negative_fraction),
            _with_error(report.trace, report.trace_standard_error),
            "∞" if math.isinf(report.sam_threshold) else f"{report.sam_threshold:.2g}",
            f"[{_STYLES.get(report.verdict, 'white')}]{report.verdict}[/]",
        )
    return table


def _with_error(value: float, error: float) -> str:
    if not math.isfinite(error):
        return f"{value:.3g} ± ?"
    return f"{value:.3g} ± {error:.1g}"


def _share(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "–"
    return f"{interval.value:.1%} [{interval.low:.1%}, {interval.high:.1%}]"


def _plain(spectrum: PartSpectrum) -> dict[str, Any]:
    report = {"part": spectrum.part, "label": spectrum.label, "num_samples": spectrum.num_samples,
              "num_parameters": spectrum.num_parameters, "accuracy": spectrum.accuracy,
              **asdict(spectrum.saddle), "curvature_ratio": spectrum.saddle.curvature_ratio,
              "eigenvalues": spectrum.pairs.values.tolist(), "residuals": spectrum.pairs.residuals.tolist(),
              "converged": spectrum.pairs.converged.tolist()}  # fmt: skip
    return {key: _finite(value) for key, value in report.items()}


def _finite(value: Any) -> Any:
    """JSON has neither NaN nor infinity; both become null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
