"""What a spectrum file says, as tables: verdicts, errors, layers, mini-batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from landscape.curvature.results import BatchSpectra, Interval, PartSpectrum, SaddleReport, TraceEstimate
from landscape.store import SpectrumFile, split_epoch

_STYLES = {"saddle": "red", "minimum": "green", "not stationary": "yellow", "undecided": "magenta", "flat": "dim"}


def print_saddle_table(spectra: Sequence[PartSpectrum], console: Console) -> None:
    """One row a part, numbers in units of the loss; a narrow terminal gets the columns that matter most."""
    sweep = any(split_epoch(spectrum.part)[0] is not None for spectrum in spectra)
    _print_table(([_EPOCH] if sweep else []) + _COLUMNS, spectra, console)


def _print_table(columns: Sequence[_Column], spectra: Sequence[PartSpectrum], console: Console) -> None:
    for last in sorted({column.rank for column in columns}, reverse=True):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        shown = [column for column in columns if column.rank <= last]
        for column in shown:
            table.add_column(column.title, justify=column.justify, no_wrap=True)
        for spectrum in spectra:
            table.add_row(*(column.cell(spectrum) for column in shown))
        if wanted_width(table, console) <= console.width:
            break
    console.print(table, crop=False, soft_wrap=False)


def wanted_width(table: Table, console: Console) -> int:
    """Columns that the table would like to have."""
    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum


def print_batch_table(file: SpectrumFile, epoch: int | None, console: Console) -> None:
    """Quantiles over mini-batches of both ends of the spectrum; nothing where the file has none."""
    batches = batches_of(file, epoch)
    if not batches:
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in (*["epoch"] * file.is_sweep, "batches", "of", "", "least", "10%", "median", "90%", "most"):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    for found, record in batches.items():
        for row, (name, values) in enumerate((("λ_max", record.lambda_max), ("λ_min", record.lambda_min))):
            cells = [] if found is None else [str(found)]
            cells += [str(len(values)), str(record.batch_size)]
            quantiles = [number(float(value)) for value in np.quantile(values, (0.0, 0.1, 0.5, 0.9, 1.0))]
            table.add_row(*(cells if row == 0 else [""] * len(cells)), name, *quantiles)
    console.print(table, crop=False, soft_wrap=False)
    for found, record in batches.items():
        where = "" if found is None else f"epoch {found}: "
        penalty = f"; with the penalty of weight decay {record.weight_decay:g}" if record.weight_decay else ""
        console.print(f"{where}λ_min < −floor in {record.share_negative:.0%} of the batches{penalty}", soft_wrap=True)
        if record.num_unconverged:
            console.print(
                f"{where}{record.num_unconverged} of {len(record.values)} batches did not converge: an eigenvalue "
                f"missed the tolerance {record.tol:g} in {record.max_matvecs} products; --overwrite with a larger "
                "--max-matvecs measures them again",
                style="yellow",
                soft_wrap=True,
            )


def batches_of(file: SpectrumFile, epoch: int | None) -> dict[int | None, BatchSpectra]:
    """Mini-batches by epoch; those outside a sweep belong to ``None``."""
    epochs: list[int | None] = [*file.measured_epochs()] if file.is_sweep else [None]
    found = {each: file.read_batches(each) for each in epochs if epoch in (None, each)}
    return {each: record for each, record in found.items() if record is not None}


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[PartSpectrum], str]
    rank: int = 0  # the higher, the sooner it makes room
    justify: Literal["left", "right"] = "right"


def number(value: float, error: float = 0.0) -> str:
    """Three digits; the error joins them when it would show in them."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "–"
    text = f"{value:.3g}"
    if error <= 0.005 * abs(value):
        return text
    if math.isinf(error):
        return f"{text}±∞"
    # One digit, and the form of the value: 58.3±20, not 58.3±2e+01.
    return f"{text}±{float(f'{error:.1g}'):.{3 if error < 1000 else 1}g}"


def part_name(spectrum: PartSpectrum) -> str:
    epoch, _ = split_epoch(spectrum.part)
    return spectrum.label if epoch is None else f"epoch {epoch}, {spectrum.label}"


def _share(interval: Interval) -> str:
    if math.isnan(interval.value):
        return "–"
    value, low, high = (100 * share for share in (interval.value, interval.low, interval.high))
    # An interval that was cut at an end is not as wide on both sides; ± would leave the range of a share.
    if low <= 0 < value or high >= 100 > value:
        return f"{value:.0f} ({low:.0f}–{high:.0f})%"
    return f"{value:.0f}±{(high - low) / 2:.0f}%"


_COLUMNS = [
    _Column("part", lambda s: escape(s.label), justify="left"),
    _Column("n", lambda s: str(s.num_samples)),
    _Column("acc", lambda s: "–" if s.accuracy is None else f"{s.accuracy:.0%}", rank=4),
    _Column("loss", lambda s: f"{s.saddle.loss:.2g}", rank=2),
    _Column("‖∇L‖", lambda s: f"{s.saddle.gradient_norm:.2g}", rank=1),
    _Column("λ_max", lambda s: number(s.saddle.lambda_max, s.saddle.lambda_max_residual)),
    _Column("λ_min", lambda s: number(s.saddle.lambda_min, s.saddle.lambda_min_residual)),
    _Column("index≥", lambda s: str(s.saddle.index_lower_bound), rank=3),
    _Column("ν", lambda s: _share(s.saddle.negative_fraction)),
    _Column("trace", lambda s: number(s.saddle.trace, s.saddle.trace_standard_error), rank=5),
    _Column("2‖∇L‖/|λ₋|", lambda s: number(float(f"{s.saddle.sam_threshold:.2g}")), rank=6),
    _Column(
        "verdict",
        lambda s: f"[{_STYLES.get(s.saddle.verdict, 'white')}]{s.saddle.verdict}[/]",
        justify="left",
    ),
]


# ---------------------------------------------------------------------- errors

_EPOCH = _Column("epoch", lambda s: str(split_epoch(s.part)[0]))


def _twice(value: float, algorithm: float, sample: float | None) -> str:
    """``58.3 ±0.2 ±4``: a value, its error by the algorithm, and by the sample where that is known."""
    if not math.isfinite(value):
        return number(value)
    return f"{value:.3g} {_plus_minus(algorithm)} {_plus_minus(math.nan if sample is None else sample)}"


def _plus_minus(error: float) -> str:
    if math.isnan(error):
        return "±–"
    return "±∞" if math.isinf(error) else f"±{float(f'{error:.2g}'):.{3 if error < 1000 else 2}g}"


def _sampling(saddle: SaddleReport, name: str) -> float | None:
    checks = saddle.certificates
    return None if checks is None or checks.sampling is None else float(getattr(checks.sampling, name))


def _mass_error(spectrum: PartSpectrum) -> float:
    """Standard error of M₋ over probes; its interval is this times Student's factor."""
    samples, _ = spectrum.density.integrate(lambda x: np.maximum(-x, 0.0))
    return float(samples.std(ddof=1) / math.sqrt(samples.size)) if samples.size > 1 else math.inf


def print_error_table(spectra: Sequence[PartSpectrum], console: Console) -> None:
    columns = [_EPOCH] if any(split_epoch(spectrum.part)[0] is not None for spectrum in spectra) else []
    _print_table(columns + _ERROR_COLUMNS, spectra, console)
    blocks = {
        s.saddle.certificates.sampling.num_blocks
        for s in spectra
        if s.saddle.certificates is not None and s.saddle.certificates.sampling is not None
    }
    left_out = f"{min(blocks)} to {max(blocks)} " if len(blocks) > 1 else "".join(f"{count} " for count in blocks)
    console.print(
        "value ± algorithm ± sample. Algorithm: the residual of λ, a bound; the standard error of trace and M₋ over "
        f"probes. Sample: the standard error of another draw of images, by leaving {left_out}blocks of them out in "
        "turn; – where it was not measured.",
        markup=False,
    )


_ERROR_COLUMNS = [
    _Column("part", lambda s: escape(s.label), justify="left"),
    _Column("n", lambda s: str(s.num_samples), rank=3),
    _Column(
        "λ_max",
        lambda s: _twice(s.saddle.lambda_max, s.saddle.lambda_max_residual, _sampling(s.saddle, "lambda_max")),
    ),
    _Column(
        "λ_min",
        lambda s: _twice(s.saddle.lambda_min, s.saddle.lambda_min_residual, _sampling(s.saddle, "lambda_min")),
    ),
    _Column(
        "trace",
        lambda s: _twice(s.saddle.trace, s.saddle.trace_standard_error, _sampling(s.saddle, "trace")),
        rank=2,
    ),
    _Column(
        "M₋",
        lambda s: _twice(s.saddle.negative_mass.value, _mass_error(s), _sampling(s.saddle, "negative_mass")),
        rank=1,
    ),
]


# ---------------------------------------------------------------------- layers


def layer_traces(trace: TraceEstimate) -> dict[str, tuple[float, float]]:
    """Trace of every layer and its standard error over probes, by name."""
    pairs = zip(trace.layer_values.tolist(), trace.layer_standard_errors.tolist(), strict=True)
    return dict(zip(trace.layer_names or (), pairs, strict=True))


def print_layer_table(spectra: Sequence[PartSpectrum], console: Console) -> None:
    """A row a layer, a column a part; as many tables as the terminal needs."""
    known = {
        part_name(spectrum): layer_traces(spectrum.trace)
        for spectrum in spectra
        if spectrum.trace is not None and spectrum.trace.layer_names
    }
    if not known:
        console.print("no layer traces in this file", soft_wrap=True)
        return
    layers = list(dict.fromkeys(layer for traces in known.values() for layer in traces))
    waiting = list(known)
    while waiting:
        for count in range(len(waiting), 0, -1):
            table = _layer_table(layers, {name: known[name] for name in waiting[:count]})
            if count == 1 or wanted_width(table, console) <= console.width:
                break
        console.print(table, crop=False, soft_wrap=False)
        waiting = waiting[count:]
    console.print(
        "trace of every layer's block ± standard error over probes (none: exact), and its share of all of them"
    )


def _layer_table(layers: Sequence[str], parts: dict[str, dict[str, tuple[float, float]]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    for name in parts:
        table.add_column(escape(name), justify="right", no_wrap=True)
    totals = {name: sum(value for value, _ in traces.values()) for name, traces in parts.items()}
    for layer in layers:
        cells = []
        for name, traces in parts.items():
            value, error = traces.get(layer, (math.nan, 0.0))
            share = f" {value / totals[name]:4.0%}" if totals[name] and math.isfinite(value) else ""
            cells.append(number(value, error) + share)
        table.add_row(escape(layer), *cells)
    return table
