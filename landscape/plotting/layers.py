"""Spectra of layers beside that of the whole network: their shapes, how far apart they are, and how they change."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from cmcrameri import cm
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray
from scipy import stats

from landscape.curvature.distance import normalized_measure, shape_distance
from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.density import plain_or_power, set_signed_axis, tick_label_width
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, mark_switches
from landscape.plotting.scales import set_log_ticks
from landscape.plotting.style import literal, shorten

Array = NDArray[np.float64]
Epochs = Mapping[int | None, Sequence[PartSpectrum]]
"""Epoch → its parts, named without the epoch; one key ``None`` for a single checkpoint."""

MAX_PANELS = 64
"""Layers whose densities stay legible on one printed page."""

_MAX_CURVES = 3  # epochs that a panel of densities holds: the first, the middle and the last
_KERNEL = 0.3  # standard deviation in asinh(x/τ), which fills the gaps between the Ritz values of a few probes
_LINEAR = 0.01  # τ: in units of the mean |λ|, where most eigenvalues of a network lie
_LEAST_SHARE = 3e-6  # of the eigenvalues, per decade: one of a few hundred thousand
_WHOLE = "0.75"
_GAP = 0.05  # inches between two labels of the abscissa
_OVERHANG = 0.03  # inches that a label may stand out of its panel


@dataclass(frozen=True)
class _Study:
    """The whole and its layers at every epoch."""

    epochs: list[int | None]
    layers: dict[str, str]  # part → label, in module order
    parts: dict[tuple[int | None, str], PartSpectrum]

    def get(self, epoch: int | None, part: str) -> PartSpectrum | None:
        return self.parts.get((epoch, part))


def _study(epochs: Epochs) -> _Study:
    layers: dict[str, str] = {}
    parts: dict[tuple[int | None, str], PartSpectrum] = {}
    for epoch, spectra in epochs.items():
        for spectrum in spectra:
            parts[epoch, spectrum.part] = spectrum
            if spectrum.part.startswith("layer/"):
                layers.setdefault(spectrum.part, spectrum.label)
    complete = [epoch for epoch in epochs if (epoch, "all") in parts and any((epoch, part) in parts for part in layers)]
    if not complete:
        lacks = "the whole network ('all')" if layers else "any layer"
        raise LandscapeError(
            f"layers are drawn beside the whole network, and this file has no epoch with {lacks} complete: the command "
            "that made it adds what is missing with --whole --per-layer"
        )
    return _Study(complete, layers, parts)


# ---------------------------------------------------------------------- shapes


def layer_densities(epochs: Epochs) -> Drawing:
    """One panel a layer: its spectral density over the whole network's, each in units of its own mean |λ|.

    The abscissa is x = λ/s, s = Σ|λ|/n, linear within ±0.01 and logarithmic outside; the ordinate the share of the
    eigenvalues per decade of |x|. Equal curves mean equal spectra up to a factor. Of a sweep the first, the middle and
    the last epoch are drawn, each with the whole of that epoch in the first panel; the grey area is the whole at the
    last.

    Args:
        epochs: epoch → parts ``all`` and ``layer/…``, see :data:`Epochs`.

    Returns:
        The drawing; its arrays are ``parts`` (p,), the whole first, ``labels`` (p,), ``epochs`` (e,), ``normalized``
        (g,) the places x, and ``share`` (e, p, g), NaN for a part that is not there.

    Raises:
        LandscapeError: no whole, no layer, or more than :data:`MAX_PANELS` layers.
    """
    study = _study(epochs)
    if len(study.layers) > MAX_PANELS:
        raise LandscapeError(
            f"{len(study.layers)} layers do not fit on a page of {MAX_PANELS} panels: choose some, for example with "
            "--parts 'layer/layer1.*'"
        )
    chosen = [study.epochs[place] for place in _spread(len(study.epochs), _MAX_CURVES)]
    names = {"all": "whole network", **study.layers}
    measures = {
        (epoch, part): normalized_measure(spectrum.density)
        for epoch in chosen
        for part in names
        if (spectrum := study.get(epoch, part)) is not None
    }
    ends = np.concatenate([[places.min(), places.max()] for places, _ in measures.values()])
    low, high = (float(np.arcsinh(end / _LINEAR)) for end in (min(ends.min(), -_LINEAR), ends.max()))
    grid = np.linspace(low - 4 * _KERNEL, high + 4 * _KERNEL, 400)
    share = np.full((len(chosen), len(names), grid.size), np.nan)
    for row, epoch in enumerate(chosen):
        for place, part in enumerate(names):
            if (epoch, part) in measures:
                share[row, place] = _smoothed(*measures[epoch, part], grid)
    arrays = {
        "parts": np.array(list(names)),
        "labels": np.array(list(names.values())),
        "epochs": _numbers(chosen),
        "normalized": _LINEAR * np.sinh(grid),
        "share": share,
    }
    return Drawing("layer-densities", arrays)


@renders("layer-densities")
def _draw_densities(arrays: Arrays, _: Mapping[str, Any]) -> Canvas:
    names, places, share = arrays["labels"].tolist(), arrays["normalized"], arrays["share"]
    width = matplotlib.rcParams["figure.figsize"][0]
    columns = min(len(names), max(2, round(width / 1.1)))
    rows = math.ceil(len(names) / columns)
    figure = new_figure(0.98 * rows + 0.75, w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    colors = _colors(len(arrays["epochs"]))
    for number, axes in enumerate(panels.flat):
        if number >= len(names):
            axes.set_axis_off()
            panels[rows - 2, number % columns].tick_params(labelbottom=True)
            continue
        axes.fill_between(places, _LEAST_SHARE / 10, np.maximum(share[-1, 0], _LEAST_SHARE / 10), color=_WHOLE,
                          linewidth=0, zorder=1)  # fmt: skip
        for row, color in enumerate(colors):
            axes.plot(places, np.maximum(share[row, number], _LEAST_SHARE / 10), color=color, linewidth=0.8)
        axes.axvline(0.0, color="0.5", linewidth=0.4, zorder=1.5)
        label = names[number]
        size = matplotlib.rcParams["font.size"] - 0.5
        axes.set_title(literal(shorten(label, size, (width - 0.6) / columns - 0.05)), fontsize=size, pad=2)
    _normalized_axes(panels[0, 0], places, float(np.nanmax(share)), (width - 0.6) / columns - 0.1)
    figure.supxlabel("eigenvalue in units of the part's mean |λ|")
    figure.supylabel("share of the eigenvalues per decade")
    handles = [Line2D([], [], color=color) for color in colors]
    titles = [title or "layer" for title in _titles(arrays["epochs"])]
    last = f" at {titles[-1]}" if len(titles) > 1 else ""
    add_legend(figure, [*zip(handles, titles, strict=True), (Patch(color=_WHOLE), f"whole network{last}")])
    return figure


def _smoothed(places: Array, shares: Array, grid: Array) -> Array:
    """Share per decade of |x| at the points of ``grid``, which are asinh(x/τ)."""
    centres = np.arcsinh(places / _LINEAR)
    # Not a matrix of all points: a sweep of 40 layers with 10 probes of 100 nodes.
    edges = np.linspace(grid[0] - 1, grid[-1] + 1, 4001)
    counts, _ = np.histogram(centres, edges, weights=shares)
    middles = (edges[1:] + edges[:-1]) / 2
    kernels = stats.norm.pdf(grid[:, None], middles[counts > 0], _KERNEL)
    return np.asarray(math.log(10) * (kernels @ counts[counts > 0]))


def _normalized_axes(axes: Axes, places: Array, top: float, width: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(_LEAST_SHARE, 4 * top)
    axes.yaxis.set_major_locator(LogLocator(numticks=4))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xscale("asinh", linear_width=_LINEAR)
    axes.set_xlim(places[0], places[-1])
    powers = [10.0**k for k in range(math.floor(math.log10(places[-1])), -3, -1)]
    ends = np.arcsinh(places[[0, -1]] / _LINEAR)
    inches, size = width / float(np.ptp(ends)), matplotlib.rcParams["xtick.labelsize"]
    chosen = [0.0]
    # From the outermost of either side inwards, as far as labels have room beside each other and the next panel's.
    for tick in [sign * power for power in powers for sign in (1, -1) if sign * power >= places[0]]:
        place, half = np.arcsinh(tick / _LINEAR), tick_label_width(tick, size) / 2
        frame = min(place - ends[0], ends[1] - place) * inches
        gaps = [abs(place - np.arcsinh(other / _LINEAR)) * inches - half - tick_label_width(other, size) / 2
                for other in chosen]  # fmt: skip
        if min(gaps) > _GAP and frame > half - _OVERHANG:
            chosen.append(tick)
    axes.xaxis.set_major_locator(FixedLocator(sorted(chosen)))
    axes.xaxis.set_minor_locator(FixedLocator([-x for x in powers if -x >= places[0]] + powers))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))


# ---------------------------------------------------------------------- distances


def layer_distance(epochs: Epochs) -> Drawing:
    """Wasserstein-1 distance of every layer's normalised spectrum to the whole one, by depth; one colour an epoch.

    A line joins the layers of one kind: those whose names end alike but for digits, such as all convolutions
    ``conv1``, ``conv2`` of a ResNet; between them lie normalisations, whose spectra are of another sort. Error bars are
    one standard error over probes, see :func:`landscape.curvature.distance.shape_distance`. Below, the size of each
    layer, on which the distance depends.

    Args:
        epochs: epoch → parts ``all`` and ``layer/…``, see :data:`Epochs`.

    Returns:
        The drawing; its arrays are ``parts`` (l,), ``labels`` (l,), ``epochs`` (e,), ``distance`` and
        ``standard_error`` (e, l), NaN for a layer that is not there, and ``num_parameters`` (l,).

    Raises:
        LandscapeError: no whole, or no layer.
    """
    study = _study(epochs)
    distance, error = (np.full((len(study.epochs), len(study.layers)), np.nan) for _ in range(2))
    sizes = np.zeros(len(study.layers))
    for row, epoch in enumerate(study.epochs):
        whole = study.get(epoch, "all")
        for place, part in enumerate(study.layers):
            layer = study.get(epoch, part)
            if layer is not None and whole is not None:
                found = shape_distance(layer.density, whole.density)
                distance[row, place], error[row, place] = found.value, found.standard_error
                sizes[place] = layer.num_parameters
    arrays = {
        "parts": np.array(list(study.layers)),
        "labels": np.array(list(study.layers.values())),
        "epochs": _numbers(study.epochs),
        "distance": distance,
        "standard_error": error,
        "num_parameters": sizes,
    }
    return Drawing("layer-distance", arrays)


@renders("layer-distance")
def _draw_distance(arrays: Arrays, _: Mapping[str, Any]) -> Canvas:
    labels, sizes = arrays["labels"].tolist(), arrays["num_parameters"]
    distance, error = arrays["distance"], arrays["standard_error"]
    width = matplotlib.rcParams["figure.figsize"][0]
    size = min(matplotlib.rcParams["xtick.labelsize"], 60 * (width - 0.8) / len(labels))
    figure = new_figure(3.9)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    positions = np.arange(len(labels))
    colors = _colors(len(arrays["epochs"]))
    kinds = _kinds(labels)
    looks = dict(zip(kinds, itertools.cycle(_LOOKS)))
    for row, color in enumerate(colors):
        bars = np.where(np.isfinite(error[row]), error[row], 0.0)
        for kind, members in kinds.items():
            top.errorbar(positions[members], distance[row, members], bars[members], color=color, markersize=2.8,
                         linewidth=0.8, elinewidth=0.7, capsize=1.2, capthick=0.7, **looks[kind])  # fmt: skip
    top.set_ylim(0, 1.08 * float(np.nanmax(distance + np.where(np.isfinite(error), error, 0.0))))
    top.set_ylabel("W$_1$ to the whole network")
    bottom.bar(positions, sizes, 0.8, color="0.6", linewidth=0)
    bottom.set_yscale("log")
    bottom.set_ylim(sizes[sizes > 0].min() / 3, sizes.max() * 2)
    bottom.yaxis.set_major_locator(LogLocator(numticks=4))
    bottom.yaxis.set_minor_formatter(NullFormatter())
    bottom.set_ylabel("parameters")
    names = [literal(shorten(label, size, 1.1)) for label in labels]
    bottom.set_xticks(positions, names, fontsize=size, rotation=90)
    bottom.set_xlim(-0.7, len(positions) - 0.3)
    for axes in (top, bottom):
        axes.grid(axis="y", linewidth=0.3, color="0.88")
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right"]].set_visible(False)
    # A legend of every epoch of a long sweep would be larger than the figure.
    titles = _titles(arrays["epochs"])
    shown = _spread(len(titles), 6) if len(titles) > 1 else []
    entries = [(Line2D([], [], color=colors[row]), titles[row]) for row in shown]
    if 1 < len(kinds) <= len(_LOOKS):
        entries += [
            (Line2D([], [], color="0.3", linewidth=0.8, markersize=2.8, **looks[kind]), literal(kind)) for kind in kinds
        ]
    if entries:
        add_legend(figure, entries, most=10)
    figure.align_ylabels()
    return figure


_LOOKS: list[dict[str, Any]] = [
    {"linestyle": "-", "marker": "o"},
    {"linestyle": ":", "marker": "s"},
    {"linestyle": "--", "marker": "^"},
    {"linestyle": "-.", "marker": "D"},
]


def _kinds(labels: Sequence[str]) -> dict[str, list[int]]:
    """Places of the layers whose names end alike but for digits; those that are all digits are of one kind."""
    kinds: dict[str, list[int]] = {}
    for place, label in enumerate(labels):
        kinds.setdefault(label.rpartition(".")[2].rstrip("0123456789") or "layer", []).append(place)
    return kinds


# ---------------------------------------------------------------------- over training


def layer_training(epochs: Epochs, *, switches: Mapping[str, float] | None = None) -> Drawing:
    """λ_max and trace over the epochs of a training: the whole network in black, layers coloured by depth.

    The axes are logarithmic; where a trace is not positive, its axis is linear around 0. Error bars of the whole: the
    residual of λ_max, the standard error of the trace.

    Args:
        epochs: epoch → parts ``all`` and ``layer/…``, see :data:`Epochs`; two epochs or more.
        switches: what is switched on during the training → epochs completed by then; dashed lines with these names.

    Returns:
        The drawing; its arrays are ``parts`` (p,), the whole first, ``labels`` (p,), ``epochs`` (e,) and, each (e, p)
        with NaN for what is not there, ``lambda_max``, ``lambda_max_residual``, ``trace``, ``trace_standard_error``.

    Raises:
        LandscapeError: no whole, no layer, or fewer than two epochs.
    """
    study = _study(epochs)
    if len(study.epochs) < 2:
        raise LandscapeError(
            "curvature over training needs two epochs or more: `landscape train … --save-every N` keeps checkpoints, "
            "`landscape spectrum RUN/epoch-*.safetensors --whole --per-layer` measures them all"
        )
    parts = {"all": "whole network", **study.layers}
    keys = ("lambda_max", "lambda_max_residual", "trace", "trace_standard_error")
    table = {key: np.full((len(study.epochs), len(parts)), np.nan) for key in keys}
    for row, epoch in enumerate(study.epochs):
        for place, part in enumerate(parts):
            spectrum = study.get(epoch, part)
            for key in keys if spectrum is not None else ():
                table[key][row, place] = getattr(spectrum.saddle, key)  # type: ignore[union-attr]
    places = _numbers(study.epochs)
    words = {"parts": np.array(list(parts)), "labels": np.array(list(parts.values())), "epochs": places}
    return Drawing(
        "layer-training",
        {**words, **table},
        {"switches": [[name, float(epoch)] for name, epoch in (switches or {}).items()]},
    )


@renders("layer-training")
def _draw_training(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    places, layers = arrays["epochs"], len(arrays["parts"]) - 1
    width = matplotlib.rcParams["figure.figsize"][0]
    beside = width > 5
    figure = new_figure(2.9 if beside else 4.6)
    panels = figure.subplots(*((1, 2) if beside else (2, 1)), sharex=True)
    colors = _colors(layers)
    for axes, key, error, title in (
        (panels[0], "lambda_max", "lambda_max_residual", "λ$_{max}$"),
        (panels[1], "trace", "trace_standard_error", "trace"),
    ):
        values = arrays[key]
        for place, color in enumerate(colors, start=1):
            axes.plot(places, values[:, place], color=color, linewidth=0.7, marker=".", markersize=2.5)
        finite = np.where(np.isfinite(arrays[error][:, 0]), arrays[error][:, 0], 0.0)
        axes.errorbar(places, values[:, 0], finite, color="black", linewidth=1.4, marker="o", markersize=3,
                      elinewidth=0.8, capsize=1.5, zorder=5)  # fmt: skip
        _signed_log_axis(axes, values)
        axes.set_ylabel(title)
        if beside or axes is panels[1]:
            axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(FixedLocator(places.tolist()) if len(places) < 9 else MaxNLocator(6, integer=True))
        axes.grid(axis="y", linewidth=0.3, color="0.88")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    mark_switches(panels, settings["switches"], (width - 1.0) / (2 if beside else 1) - 0.6)
    add_legend(figure, [(Line2D([], [], color="black", linewidth=1.4, marker="o", markersize=3), "whole network")])
    depth = ScalarMappable(Normalize(1, max(layers, 2)), cm.batlow)
    depth.set_clim(1, 1 + (max(layers, 2) - 1) / _BRIGHTEST)
    bar = figure.colorbar(depth, ax=panels, aspect=30, pad=0.02, boundaries=np.linspace(1, layers, 65)
                          if layers > 1 else None)  # fmt: skip
    bar.set_label("layer, by depth")
    bar.locator = MaxNLocator(5, integer=True)
    bar.update_ticks()
    bar.outline.set_linewidth(0.4)
    return figure


def _signed_log_axis(axes: Axes, values: Array) -> None:
    known = values[np.isfinite(values)]
    if (known > 0).all():
        axes.set_yscale("log")
        set_log_ticks(axes.yaxis, *axes.get_ylim())
        return
    set_signed_axis(axes, known)


# ---------------------------------------------------------------------- shared

_BRIGHTEST = 0.78  # of the colour map: its last fifth is too pale on paper


def _colors(count: int) -> list[tuple[float, float, float, float]]:
    """From dark to light, in the order of depth or time."""
    return [cm.batlow(x) for x in np.linspace(0, _BRIGHTEST, count)]


def _spread(count: int, most: int) -> list[int]:
    """At most so many places of ``count`` at even distances, the first and the last among them."""
    return [round(place) for place in np.linspace(0, count - 1, min(most, count))]


def _numbers(epochs: Sequence[int | None]) -> Array:
    return np.array([math.nan if epoch is None else epoch for epoch in epochs], dtype=np.float64)


def _titles(epochs: Array) -> list[str]:
    return ["" if math.isnan(epoch) else f"epoch {epoch:.0f}" for epoch in epochs]
