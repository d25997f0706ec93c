"""How curvature, accuracy and loss change over the epochs of one or several trainings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from landscape.curvature.results import Interval, PartSpectrum
from landscape.errors import LandscapeError, did_you_mean
from landscape.plotting.colors import METHOD_LINES, method_color, part_colors
from landscape.plotting.density import is_certified, plain_or_power
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, legend_entries, legend_height, mark_switches, plain_axes
from landscape.plotting.quantities import QUANTITIES, Scale
from landscape.plotting.quantities import quantity as named_quantity
from landscape.plotting.scales import asinh_ticks, scale_of, set_log_ticks, set_percent_labels
from landscape.plotting.style import PALETTE

Array = NDArray[np.float64]
History = Sequence[Mapping[str, Any]]
"""One run: a mapping an epoch, named as :class:`landscape.store.history.EpochRecord` is."""

HISTORY_QUANTITIES: dict[str, tuple[str, Scale]] = {
    "test_accuracy": ("test accuracy (%)", "linear"),
    "train_loss": ("training loss (nats)", "log"),
    "lr": ("learning rate", "log"),
    "penalty": ("penalty (nats)", "log"),
    "trace": ("trace", "log"),
}
"""What a history tells: name → (label of its axis, scale). Only the accuracy is that of a class or a group too.
The trace is that of the mini-batches, which only a run with a penalty on it estimates."""

MAX_CURVES = 10
"""Parts whose curves are told apart in one panel."""

_FEW = 30  # epochs up to which each has a marker and an error bar of its own
_MARKERS = 7  # of a curve over more
_LINKED: dict[str, Any] = {"markersize": 3.0, "linewidth": 1.0, "markeredgewidth": 0.7}


@dataclass(frozen=True)
class Curve:
    """One quantity of one part of one method over the epochs."""

    quantity: str  # a name in QUANTITIES or HISTORY_QUANTITIES
    method: str
    part: str  # all, group/tail, class/3, layer/conv1, …
    label: str  # what the part is called
    epochs: Array  # (e,) completed
    values: Array  # (e,)
    low: Array  # (e,) lower end of the error bar; NaN or infinite where it is not known
    high: Array  # (e,)
    certified: NDArray[np.bool_] | None = None  # (e,) λ_min < −noise floor
    noise_floor: float = 0.0  # the largest of the epochs


def sweep_curves(
    sweeps: Mapping[str, Mapping[int, Sequence[PartSpectrum]]],
    quantities: Sequence[str] = ("lambda_min", "lambda_max", "curvature_ratio"),
    parts: Sequence[str] | None = None,
) -> list[Curve]:
    """Curves of spectra that were measured at several epochs.

    Args:
        sweeps: method → epoch → its parts, named without the epoch.
        quantities: names in :data:`landscape.plotting.quantities.QUANTITIES`.
        parts: paths of those to show; without them every set of samples that is there, but no layers.

    Raises:
        LandscapeError: no such quantity or part, or only one epoch everywhere.
    """
    read = {name: named_quantity(name).read for name in quantities}
    labels = {
        spectrum.part: spectrum.label for sweep in sweeps.values() for held in sweep.values() for spectrum in held
    }
    chosen = list(parts) if parts is not None else [part for part in labels if "layer/" not in part]
    for part in chosen:
        if part not in labels:
            way_out = did_you_mean(part, labels) or f": these are there: {', '.join(labels) or 'none'}"
            raise LandscapeError(f"no part '{part}' at any epoch{way_out}")
    if max((len(sweep) for sweep in sweeps.values()), default=0) < 2:
        raise LandscapeError(
            "a curve over training needs two epochs or more: `landscape train … --save-every N` keeps checkpoints, "
            "`landscape spectrum RUN/epoch-*.safetensors` measures them all"
        )
    curves = []
    for name, (method, sweep), part in itertools.product(read, sweeps.items(), chosen):
        found = {
            epoch: spectrum for epoch in sorted(sweep) for spectrum in sweep[epoch] if spectrum.part == part
        }  # fmt: skip
        if found:
            points = [read[name](spectrum) for spectrum in found.values()]
            curves.append(
                Curve(
                    name, method, part, labels[part], np.array(list(found), dtype=np.float64), *_columns(points),
                    certified=np.array([is_certified(spectrum.saddle) for spectrum in found.values()]),
                    noise_floor=max(spectrum.saddle.noise_floor for spectrum in found.values()),
                )
            )  # fmt: skip
    return curves


def history_curves(
    histories: Mapping[str, Sequence[History]],
    quantities: Sequence[str] = ("test_accuracy",),
    parts: Sequence[str] = ("all", "group/head", "group/mid", "group/tail"),
    *,
    class_names: Sequence[str] | None = None,
    grouping: Literal["index", "count"] = "index",
) -> list[Curve]:
    """Curves of what runs wrote down; of several seeds the mean and one standard deviation either way.

    Args:
        histories: method → its runs, one a seed; epochs that a run lacks are left out for all.
        quantities: names in :data:`HISTORY_QUANTITIES`.
        parts: ``all``, ``group/…`` or ``class/…``; they matter for the accuracy alone.
        class_names: what classes are called; their numbers if not given.
        grouping: head, mid and tail by rank or by number of images.

    Raises:
        LandscapeError: no such quantity, class or group, or a run without an epoch.
    """
    for name in quantities:
        if name not in HISTORY_QUANTITIES:
            way_out = did_you_mean(name, HISTORY_QUANTITIES) or f": give one of {', '.join(HISTORY_QUANTITIES)}"
            raise LandscapeError(f"a history has no quantity '{name}'{way_out}")
    curves = []
    for name, (method, runs) in itertools.product(quantities, histories.items()):
        if not runs or not all(runs):
            raise LandscapeError(f"a run of '{method}' has no finished epoch: there is nothing to draw")
        by_epoch = [{int(line["epoch"]): line for line in run} for run in runs]
        epochs = sorted(set.intersection(*(set(lines) for lines in by_epoch)))
        for part in parts if name == "test_accuracy" else ("all",):
            values = np.array(
                [[_recorded(lines[epoch], name, part, grouping) for epoch in epochs] for lines in by_epoch]
            )
            if np.isnan(values).all():
                continue  # an empty group, or no regulariser
            mean = values.mean(axis=0)
            spread = values.std(axis=0, ddof=1) if len(runs) > 1 else np.full_like(mean, np.nan)
            label = part.rpartition("/")[2]
            if class_names is not None and part.startswith("class/"):
                label = class_names[int(label)]
            places = np.array(epochs, dtype=np.float64)
            curves.append(Curve(name, method, part, label, places, mean, mean - spread, mean + spread))
    return curves


def _recorded(line: Mapping[str, Any], quantity: str, part: str, grouping: str) -> float:
    kind, _, name = part.partition("/")
    try:
        if quantity != "test_accuracy":
            value = line.get(quantity)
        elif part == "all":
            value = line["accuracy"]
        elif kind == "group":
            value = line["groups" if grouping == "index" else "groups_by_count"][name]
        else:
            value = line["per_class"][int(name)]
    except (KeyError, IndexError, ValueError):
        raise LandscapeError(
            f"a history has no accuracy of '{part}' ({grouping}): give all, group/head, group/mid, group/tail or "
            f"class/0 … class/{len(line['per_class']) - 1}"
        ) from None
    return math.nan if value is None else float(value)


def _columns(points: Iterable[Interval]) -> tuple[Array, Array, Array]:
    table = np.array([[point.value, point.low, point.high] for point in points], dtype=np.float64)
    return table[:, 0], table[:, 1], table[:, 2]


def training_curves(
    curves: Sequence[Curve], switches: Mapping[str, float] | None = None, *, by_part: bool = False
) -> Drawing:
    """One panel a quantity over the epochs: a colour and a marker a part, a line style a method.

    With a single part methods take all three, with a single method parts: all differ in grey too. λ_min is shown on a
    scale that is linear within the noise floor (but at least 1e-3 of the largest magnitude), its negative side shaded,
    and its markers are filled where it certifies a negative eigenvalue, at all epochs up to the next marker; ratios and
    shares are on a linear axis; what is positive on a logarithmic one. Error bars, or bands over more than 30 epochs
    (of which only some have a marker), are those of the curves; what has no error or an unbounded one has no bar.

    Args:
        curves: from :func:`sweep_curves` and :func:`history_curves`, in any mixture; panels, parts and methods are in
            the order of their first appearance.
        switches: what is switched on during the training → epochs completed by then, as
            :func:`landscape.switches.switches` tells them of a recipe; dashed lines with these names.
        by_part: whether every part has a panel of its own, with its name on the vertical axis.

    Returns:
        The drawing; its arrays are, curve by curve, ``NUMBER/{epochs, values, low, high, certified}``.

    Raises:
        LandscapeError: no curve with a value, or more than :data:`MAX_CURVES` parts.
    """
    drawn = [curve for curve in curves if np.isfinite(curve.values).any()]
    if not drawn:
        raise LandscapeError("no curve to draw: no epoch has a finite value of what was asked for")
    parts = {curve.part: curve.label for curve in drawn}
    if len(parts) > MAX_CURVES:
        raise LandscapeError(
            f"{len(parts)} curves in a panel are not told apart, {MAX_CURVES} are: choose some, for example with "
            "--parts 'group/*'"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for number, curve in enumerate(drawn):
        for name in ("epochs", "values", "low", "high"):
            arrays[f"{number}/{name}"] = getattr(curve, name)
        if curve.certified is not None and curve.quantity == "lambda_min":
            arrays[f"{number}/certified"] = curve.certified
    panels = []
    for quantity, part in dict.fromkeys((curve.quantity, curve.part if by_part else None) for curve in drawn):
        known = QUANTITIES.get(quantity)
        label, scale = (known.label, known.scale) if known else HISTORY_QUANTITIES[quantity]
        label += " (%)" if quantity == "accuracy" else ""
        of_it = [curve for curve in drawn if curve.quantity == quantity and part in (None, curve.part)]
        floor = max(curve.noise_floor for curve in of_it)
        every = np.concatenate([curve.values for curve in of_it])
        panel = {"quantity": quantity, "label": label, **scale_of(scale, every, floor)}
        panels.append(panel if part is None else {**panel, "part": part, "label": f"{parts[part]}: {label}"})
    settings = {
        "panels": panels,
        "parts": list(parts),
        "labels": list(parts.values()),
        "methods": list(dict.fromkeys(curve.method for curve in drawn)),
        "curves": [[curve.quantity, curve.method, curve.part] for curve in drawn],
        "switches": [[name, float(epoch)] for name, epoch in (switches or {}).items()],
    }
    return Drawing("training", arrays, settings)


# ---------------------------------------------------------------------- drawing


@renders("training")
def _training(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width = matplotlib.rcParams["figure.figsize"][0]
    panels = settings["panels"]
    looks = _looks(settings)
    ordinal = {curve: number for number, curve in enumerate(looks)}
    has_open = any(not values.all() for name, values in arrays.items() if name.endswith("/certified"))
    entries = legend_entries(*_legend(settings, looks, has_open=has_open))
    most = 1 if width < 4 else 2 if len(panels) in (2, 4) else 3
    columns = min(most, len(panels))
    rows = math.ceil(len(panels) / columns)
    each = min(1.9, max(1.35, 0.75 * width / columns))
    above = 0.16 if settings["switches"] else 0.0
    figure = new_figure(rows * (each + above) + 0.3 + legend_height(entries), w_pad=0.03, h_pad=0.03)
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False)
    for empty in grid.flat[len(panels) :]:
        empty.set_axis_off()
    for number, (axes, panel) in enumerate(zip(grid.flat, panels, strict=False)):
        for index, (quantity, method, part) in enumerate(settings["curves"]):
            if quantity == panel["quantity"] and part == panel.get("part", part):
                own = {name: arrays[f"{index}/{name}"] for name in ("epochs", "values", "low", "high")}
                stagger = ordinal[method, part] / len(ordinal)
                _draw_curve(axes, own, arrays.get(f"{index}/certified"), looks[method, part], stagger)
        plain_axes(axes)
        _vertical_axis(axes, panel, each)
        axes.set_ylabel(panel["label"])
        if number + columns >= len(panels):
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
    places = np.unique(np.concatenate([arrays[f"{index}/epochs"] for index in range(len(settings["curves"]))]))
    few = len(places) <= 6
    grid[0, 0].xaxis.set_major_locator(FixedLocator(places.tolist()) if few else MaxNLocator(6, integer=True))
    mark_switches(grid.flat[: len(panels)], settings["switches"], width / columns - 0.6)
    add_legend(figure, entries, handle=2.4)
    figure.align_ylabels()
    return figure


def _looks(settings: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Method and part → colour, line and marker; what there is one of leaves all three to the other."""
    parts, methods = settings["parts"], settings["methods"]
    by_part = dict(zip(parts, part_colors(parts), strict=True))
    looks = {}
    for place, method in enumerate(methods):
        for number, part in enumerate(parts):
            line, marker = (place if len(methods) > 1 else number), (number if len(parts) > 1 else place)
            looks[method, part] = {
                "linestyle": METHOD_LINES[line % len(METHOD_LINES)]["linestyle"],
                "marker": METHOD_LINES[marker % len(METHOD_LINES)]["marker"],
                "color": method_color(place) if len(parts) == 1 and len(methods) > 1 else by_part[part],
            }
    return looks


def _legend(
    settings: Mapping[str, Any], looks: Mapping[tuple[str, str], dict[str, Any]], *, has_open: bool
) -> tuple[list[Line2D], list[str]]:
    parts, methods = settings["parts"], settings["methods"]
    handles, names = [], []
    if len(parts) > 1 and "part" not in settings["panels"][0]:
        handles += [Line2D([], [], **{**_LINKED, **looks[methods[0], part]}) for part in parts]
        names += settings["labels"]
    if len(methods) > 1:
        neutral = {} if len(parts) == 1 else {"color": "0.45", "marker": "none"}
        handles += [Line2D([], [], **{**looks[method, parts[0]], **neutral, **_LINKED}) for method in methods]
        names += methods
    if has_open:
        handles.append(Line2D([], [], linestyle="none", marker="o", color="0.45", markerfacecolor="white", **_LINKED))
        names.append("sign of λ$_{min}$ not told")
    return handles, names


def _draw_curve(
    axes: Axes, own: Mapping[str, Array], certified: NDArray[Any] | None, look: Mapping[str, Any], stagger: float
) -> None:
    """A curve; of many epochs it has a band, and some markers that start at a share ``stagger`` of their distance."""
    epochs, values = own["epochs"], own["values"]
    known = np.isfinite(own["low"]) & np.isfinite(own["high"])
    many = len(epochs) > _FEW
    apart = math.ceil(len(epochs) / _MARKERS) if many else 1
    marked = np.arange(int(stagger * apart), len(epochs), apart)
    axes.plot(epochs, values, **{**_LINKED, **look}, markevery=marked.tolist(), zorder=3)
    if certified is not None and not certified.all():
        # A marker speaks for all epochs up to the next one, so that no doubt is hidden between two.
        unsure = marked[[not held.all() for held in np.split(certified, marked[1:])]]
        axes.plot(epochs[unsure], values[unsure], **{**_LINKED, **look, "linestyle": "none"},
                  markerfacecolor="white", zorder=4)  # fmt: skip
    if many and known.any():
        axes.fill_between(epochs, own["low"], own["high"], where=known, color=look["color"], alpha=0.2, linewidth=0)
    elif known.any():
        bars = np.maximum([values - own["low"], own["high"] - values], 0.0)[:, known]
        axes.errorbar(epochs[known], values[known], bars, linestyle="none", color=look["color"], elinewidth=0.7,
                      capsize=1.5, capthick=0.7, zorder=3)  # fmt: skip


def _vertical_axis(axes: Axes, panel: Mapping[str, Any], inches: float) -> None:
    """The scale, with limits that leave the foot of a linear axis at 0 where all is positive."""
    if panel["scale"] == "log":
        axes.set_yscale("log")
        set_log_ticks(axes.yaxis, *axes.get_ylim())
        return
    if panel["scale"] == "linear":
        low, high = axes.get_ylim()
        # A ratio halves where its curve halves; accuracies may all lie far from 0.
        is_share = "accuracy" in panel["quantity"]
        low = 0.0 if low < 0.35 * high or not is_share else low
        beyond = is_share and high > 1.0
        # Above 100 % is room for half a marker but for no tick, and 100 % has one.
        axes.set_ylim(low, 1.0 + 0.03 * (1.0 - low) if beyond else high)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]) if beyond else MaxNLocator(5))
        if is_share:
            set_percent_labels(axes.yaxis)
        return
    width = panel["linear_width"]
    low, high = axes.get_ylim()
    if max(-low, high) < 2 * width:
        low, high = -2 * width, 2 * width  # noise does not fill a panel
    ends = np.arcsinh(np.array([low, high]) / width)
    low, high = (width * np.sinh(end + pad) for end, pad in zip(ends, (-0.3, 0.3), strict=True))
    axes.set_yscale("asinh", linear_width=width)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator(asinh_ticks(low, high, width, inches, 0.2)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
    axes.axhline(0.0, color="0.5", linewidth=0.5, zorder=1)
    if low < 0:
        axes.axhspan(low, 0.0, color=PALETTE[3], alpha=0.06, linewidth=0, zorder=0)
