"""One quantity of every class in every layer, as colours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from cmcrameri import cm
from matplotlib.colors import AsinhNorm, Colormap, LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.density import is_certified, plain_or_power
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, legend_entries, legend_height
from landscape.plotting.quantities import Scale
from landscape.plotting.quantities import quantity as named_quantity
from landscape.plotting.scales import asinh_ticks, scale_of, set_log_ticks
from landscape.plotting.style import literal, shorten, text_width

Array = NDArray[np.float64]

_HATCH = "//////"
_NOTHING: dict[str, Any] = {"facecolor": "0.94", "edgecolor": "0.75", "hatch": _HATCH, "linewidth": 0.0}
_LEAST_LETTERS = 5.0  # points; where a cell is lower than that, every second, third, … has its name
_PALE = 10.0  # noise floors that the colours of a signed quantity span at least
_LEAST_SHARE = 0.01  # that the colours of a ratio or a share span at least: what is less is nothing
_CERTIFIED, _NO_VALUE = "certified negative eigenvalue", "no value"


def class_layer_map(spectra: Sequence[PartSpectrum], quantity: str = "lambda_min") -> Drawing:
    """Rows are sets of samples, columns layers from input to output, colours a quantity of ``class/C/layer/L``.

    What has both signs is shown on a diverging map, linear within the noise floor (but at least 1e-3 of the largest
    magnitude) and logarithmic outside; its colours reach ten noise floors at least, so that noise stays pale. What is
    positive is shown on a logarithmic one, ratios and shares on a linear one from 0 to at least 0.01. A dot
    says that λ_min of that cell lies below −noise floor. Cells that were not measured, or whose ratio is 0/0, are
    hatched.

    The trace of each layer is known from the probes of a whole class too, so ``trace`` is filled from those where no
    cell was measured for itself.

    Args:
        spectra: parts ``class/C/layer/L``, ``group/G/layer/L``, ``layer/L`` in any mixture; parts of no layer give the
            rows their names and, for ``trace``, values.
        quantity: a name in :data:`landscape.plotting.quantities.QUANTITIES`.

    Returns:
        The drawing; its arrays are ``rows`` and ``row_labels`` (r,), ``layers`` (l,), ``values`` (r, l), NaN for no
        value, and ``certified`` (r, l) bool.

    Raises:
        LandscapeError: no such quantity, a part twice, or no cell with a value.
    """
    known = named_quantity(quantity)
    cells: dict[tuple[str, str], tuple[float, bool]] = {}
    labels: dict[str, str] = {}
    floor = 0.0
    for spectrum in spectra:
        row, layer = _cell(spectrum.part)
        if layer is None:
            labels[row] = spectrum.label
            continue
        if (row, layer) in cells:
            raise LandscapeError(f"part '{spectrum.part}' appears twice: give each once, of one epoch")
        labels.setdefault(row, _row_label(spectrum, row))
        cells[row, layer] = known.read(spectrum).value, is_certified(spectrum.saddle)
        floor = max(floor, spectrum.saddle.noise_floor)
    if quantity == "trace":
        cells = _traces_by_layer(spectra, {layer for _, layer in cells}) | cells
    if not any(math.isfinite(value) for value, _ in cells.values()):
        raise LandscapeError(
            f"no layer of any class has a value of {quantity}: `landscape spectrum CHECKPOINT --per-class --per-layer` "
            "measures one part a class and layer"
        )
    rows = [row for row in labels if any(row == other for other, _ in cells)]
    layers = _module_order(spectra, list(cells))
    values, certified = np.full((len(rows), len(layers)), np.nan), np.zeros((len(rows), len(layers)), dtype=bool)
    for (row, layer), (value, is_negative) in cells.items():
        place = rows.index(row), layers.index(layer)
        values[place] = value if math.isfinite(value) else math.nan
        certified[place] = is_negative
    arrays = {
        "rows": np.array(rows),
        "row_labels": np.array([labels[row] for row in rows]),
        "layers": np.array(layers),
        "values": values,
        "certified": certified,
    }
    kinds = {row.partition("/")[0] for row in rows}
    settings = {
        "label": known.label,
        "row_label": {frozenset({"class"}): "class", frozenset({"group"}): "group"}.get(frozenset(kinds), "samples"),
        **scale_of(known.scale, values, floor),
        "limits": _limits(known.scale, values, floor),
    }
    return Drawing("heat-map", arrays, settings)


def _limits(scale: Scale, values: Array, floor: float) -> list[float]:
    """Ends of the colours: of both signs alike where there are both, and wide enough for noise to stay pale."""
    known = values[np.isfinite(values)]
    low, high = float(known.min()), float(known.max())
    if scale == "signed" or low < 0:
        largest = max(-low, high, _PALE * floor) or 1.0
        return [-largest, largest]
    if scale == "linear":
        return [0.0, max(high, _LEAST_SHARE)]
    if low > 0:
        return [low, high if high > low else 2 * low]
    return [0.0, high or 1.0]


def _cell(part: str) -> tuple[str, str | None]:
    """``class/3/layer/conv1`` as ``("class/3", "conv1")``, ``layer/conv1`` as that of all samples."""
    samples, found, layer = f"/{part}".rpartition("/layer/")
    return (samples[1:] or "all", layer) if found else (part, None)


def _row_label(spectrum: PartSpectrum, row: str) -> str:
    """Parts of class and layer are called ``cat · conv1``, those of a layer ``conv1``."""
    return "all" if row == "all" else spectrum.label.rpartition(" · ")[0] or row


def _traces_by_layer(spectra: Sequence[PartSpectrum], wanted: set[str]) -> dict[tuple[str, str], tuple[float, bool]]:
    found = {}
    for spectrum in spectra:
        if spectrum.trace is None or _cell(spectrum.part)[1] is not None:
            continue
        for layer, value in zip(spectrum.trace.by_layer[0], spectrum.trace.layer_values.tolist(), strict=True):
            if not wanted or layer in wanted:
                found[spectrum.part, layer] = value, False
    return found


def _module_order(spectra: Sequence[PartSpectrum], cells: Sequence[tuple[str, str]]) -> list[str]:
    """The order of the modules where a trace by layer tells it, else that of the fullest row."""
    every = list(dict.fromkeys(layer for _, layer in cells))
    listed = [list(spectrum.trace.by_layer[0]) for spectrum in spectra if spectrum.trace is not None]
    rows = [[layer for row, layer in cells if row == wanted] for wanted in dict.fromkeys(row for row, _ in cells)]
    first = max([*listed, *rows], key=lambda names: len(set(names) & set(every)))
    return [layer for layer in first if layer in every] + [layer for layer in every if layer not in first]


# ---------------------------------------------------------------------- drawing


@renders("heat-map")
def _heat_map(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    values, certified = arrays["values"], arrays["certified"]
    width = matplotlib.rcParams["figure.figsize"][0]
    names, sizes = _row_names(arrays["row_labels"].tolist(), width), values.shape
    row_size, column_size = matplotlib.rcParams["ytick.labelsize"], matplotlib.rcParams["xtick.labelsize"]
    left = max(text_width(name, row_size) for name in names) + 0.3
    across = (width - left - 0.75) / sizes[1]
    down = min(max(across, 0.16), 0.26, 6.5 / sizes[0])
    column_size = min(column_size, max(_LEAST_LETTERS, 72 * across / 1.15))
    layers = [shorten(str(layer), column_size, 1.2) for layer in arrays["layers"]]
    below = max(text_width(layer, column_size) for layer in layers) + 0.25

    entries: dict[str, Line2D | Patch] = {}
    if certified.any():
        entries[_CERTIFIED] = Line2D([], [], linestyle="none", marker="o", markersize=2.6, color="black")
    if np.isnan(values).any():
        entries[_NO_VALUE] = Patch(**_NOTHING)
    height = max(sizes[0] * down, 1.0)
    legend = legend_entries(list(entries.values()), list(entries))
    figure = new_figure(height + below + 0.1 + legend_height(legend), w_pad=0.03, h_pad=0.03)
    axes = figure.subplots()
    axes.patch.set(**_NOTHING)
    norm, colors = _norm(settings)
    edges = {"edgecolor": "white", "linewidth": 0.4} if min(across, down) > 0.07 else {"edgecolor": "face"}
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), norm=norm, cmap=colors, **edges)
    columns, rows = np.nonzero(certified.T)
    lightness = np.array(
        [_lightness(colors(norm(values[row, column]))) for row, column in zip(rows, columns, strict=True)]
    )
    for color, chosen in (("white", lightness < 0.5), ("black", lightness >= 0.5)):
        if chosen.any():
            axes.plot(columns[chosen] + 0.5, rows[chosen] + 0.5, linestyle="none", marker="o", color=color,
                      markersize=min(2.6, 72 * min(across, down) / 2.5), markeredgewidth=0)  # fmt: skip
    _name_ticks(axes.xaxis, layers, across, column_size)
    _name_ticks(axes.yaxis, names, down, row_size)
    axes.tick_params(axis="x", labelrotation=90)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_xlabel("layer, from input to output")
    axes.set_ylabel(settings["row_label"])
    axes.spines[:].set_linewidth(0.4)
    bar = figure.colorbar(mesh, ax=axes, pad=0.015, fraction=0.1, aspect=height / 0.1)
    bar.outline.set_linewidth(0.4)
    bar.set_label(settings["label"])
    # Of a diverging map, a side on which nothing lies is not shown.
    low, high = settings["limits"]
    known = values[np.isfinite(values)]
    if low < 0 and max(-known.min(), known.max()) == high:
        bar.ax.set_ylim(min(known.min(), 0.0), max(known.max(), 0.0))
    _bar_ticks(bar, settings, height)
    add_legend(figure, legend)
    return figure


def _row_names(labels: Sequence[str], width: float) -> list[str]:
    size = matplotlib.rcParams["ytick.labelsize"]
    return [shorten(str(label), size, 0.25 * width) for label in labels]


def _norm(settings: Mapping[str, Any]) -> tuple[Normalize, Colormap]:
    """Diverging where both signs may be, else from pale (little) to dark (much)."""
    low, high = settings["limits"]
    colors = cm.vik if low < 0 else cm.lajolla_r
    if settings["scale"] == "log":
        return LogNorm(low, high), colors
    if settings["scale"] == "asinh":
        return AsinhNorm(settings["linear_width"], low, high), colors
    return Normalize(low, high), colors


def _lightness(color: Sequence[float]) -> float:
    return float(np.dot(color[:3], (0.299, 0.587, 0.114)))


def _name_ticks(axis: Any, names: Sequence[str], distance: float, size: float) -> None:
    """As many names as have room, each beside the middle of its cell."""
    every = max(1, math.ceil(1.1 * size / 72 / distance - 1e-9))
    places = np.arange(len(names))[::every]
    axis.set_ticks(places + 0.5, [literal(names[place]) for place in places], fontsize=size)


def _bar_ticks(bar: Any, settings: Mapping[str, Any], height: float) -> None:
    low, high = bar.ax.get_ylim()
    if settings["scale"] == "asinh":
        ticks = asinh_ticks(low, high, settings["linear_width"], height, 0.17)
        bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
    elif settings["scale"] == "log":
        set_log_ticks(bar.ax.yaxis, low, high)
