"""Does the way that negative curvature points out lead down? The loss measured along ±v_min beside its prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting.colors import part_colors
from landscape.plotting.density import MAX_PANELS, plain_or_power
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend
from landscape.plotting.style import literal, shorten, text_width

Array = NDArray[np.float64]

_NEAREST = 3  # steps on each side of θ that tell the sign of gᵀv
_ALIKE = 5.0  # ratio of the ranges of two panels up to which they share an axis
_LEAST_SPAN = 0.03  # of the loss: the vertical axis shows at least so much up and down
_MARGIN = 1.05  # half of the axis of steps over the way to the longest
_NARROW = 1.6  # inches below which a panel's title has no room in the middle
_BROAD = 4.5  # inches from which a figure has more than two panels beside each other
_MODEL, _CONVEX, _THRESHOLD = "0.1", "0.45", "0.55"


def escape_lines(spectra: Sequence[PartSpectrum]) -> Drawing:
    """One panel a part: L(θ + a v) along v = v_min as measured, and what curvature and gradient predict.

    The prediction is L + a gᵀv + a² λ_min/2, the dotted line the same with vᵀGv, the share of the convex Gauss-Newton
    matrix G, in place of λ_min. |gᵀv| is known from the gradient's norm and its angle to v, and its sign, which depends
    on that of v, is the one that fits the measured losses next to θ. Dashed: ±2‖∇L‖/|λ_min|, the radius above which a
    step of SAM amplifies v_min. The axis of steps is linear up to the shortest of them and logarithmic beyond. The
    other axis shows the descent and as much above θ; losses above it are arrows at its upper edge.

    Args:
        spectra: the parts, in panel order; each with its certificates.

    Returns:
        The drawing; its arrays are ``parts``, ``labels`` and ``num_samples`` (P,) and, each (P,), ``loss`` L(θ),
        ``slope`` gᵀv, ``lambda_min``, ``convex`` vᵀGv, ``threshold`` 2‖∇L‖/|λ_min|, ``best_step`` and ``decrease`` (0
        where no loss on the line is lower), ``limits`` (P, 2) of the vertical axes and, for the p-th part, ``p/steps``
        and ``p/losses`` (s,).

    Raises:
        LandscapeError: no part, more than :data:`~landscape.plotting.density.MAX_PANELS`, or one without certificates.
    """
    if not spectra:
        raise LandscapeError("no spectra to draw: the file has no complete part, or none was selected")
    if len(spectra) > MAX_PANELS:
        raise LandscapeError(
            f"{len(spectra)} parts do not fit on a page of {MAX_PANELS} panels: choose some with --parts"
        )
    arrays: dict[str, NDArray[Any]] = {}
    rows = []
    for number, spectrum in enumerate(spectra):
        saddle = spectrum.saddle
        if saddle.certificates is None:
            raise LandscapeError(
                f"part '{spectrum.part}' has no losses along v_min, its file is of landscape 0.1: measure it again, "
                "`landscape spectrum CHECKPOINT … --overwrite`"
            )
        descent = saddle.certificates.descent
        arrays[f"{number}/steps"], arrays[f"{number}/losses"] = descent.steps, descent.losses
        known = np.isfinite(descent.losses)
        middle = float(descent.losses[int(np.argmin(np.abs(descent.steps)))])
        loss = middle if math.isfinite(middle) else saddle.loss
        # The lowest loss; of several as low, as where it has vanished, the nearest.
        best = int(np.lexsort((np.abs(descent.steps), np.where(known, descent.losses, np.inf)))[0])
        decrease = max(loss - float(descent.losses[best]), 0.0) if known.any() else 0.0
        rows.append(
            {
                "loss": loss,
                "slope": slope_along(spectrum),
                "lambda_min": saddle.lambda_min,
                "convex": saddle.certificates.gauss_newton_curvature,
                "threshold": saddle.sam_threshold,
                "best_step": float(descent.steps[best]) if decrease > 0 else 0.0,
                "decrease": decrease,
            }
        )
        arrays[f"{number}/limits"] = _view(descent.losses[known], loss, decrease)
    arrays |= {name: np.array([row[name] for row in rows]) for name in rows[0]}
    limits = np.array([arrays.pop(f"{number}/limits") for number in range(len(spectra))])
    shared = bool(np.ptp(limits) <= _ALIKE * np.ptp(limits, axis=1).min())
    if shared:
        limits[:] = limits[:, 0].min(), limits[:, 1].max()
    words = {
        "parts": np.array([spectrum.part for spectrum in spectra]),
        "labels": np.array([spectrum.label for spectrum in spectra]),
        "num_samples": np.array([spectrum.num_samples for spectrum in spectra]),
    }
    return Drawing("escape", {**words, **arrays, "limits": limits}, {"shared": shared})


def slope_along(spectrum: PartSpectrum) -> float:
    """gᵀv along v_min: ±|cos(g, v)| ‖g‖ with the sign that fits the losses measured next to θ.

    Raises:
        ValueError: the part has no certificates.
    """
    saddle = spectrum.saddle
    if saddle.certificates is None:
        raise ValueError("without losses along v_min the sign of the slope is not known")
    size = abs(saddle.gradient_alignment) * saddle.gradient_norm
    if not math.isfinite(size):  # no gradient, no angle
        return 0.0
    steps, losses = saddle.certificates.descent.steps, saddle.certificates.descent.losses
    near = np.argsort(np.abs(steps), kind="stable")[: 2 * _NEAREST + 1]
    a, change = steps[near], losses[near] - losses[near[0]]
    misfits = [float(np.nansum((change - sign * size * a - saddle.lambda_min * a**2 / 2) ** 2)) for sign in (1.0, -1.0)]
    return size if misfits[0] <= misfits[1] else -size


def _view(losses: Array, loss: float, decrease: float) -> Array:
    """Ends of the vertical axis: the descent, and as much below and twice as much above what θ has."""
    span = max(decrease, _LEAST_SPAN * abs(loss)) or 1.0
    highest = float(losses.max()) if losses.size else loss
    return np.array([loss - 1.5 * span, min(loss + 2 * span, max(highest, loss) + 0.4 * span)])


@renders("escape")
def _escape(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    width, size = matplotlib.rcParams["figure.figsize"][0], matplotlib.rcParams["font.size"]
    parts, labels, counts = (arrays[name].tolist() for name in ("parts", "labels", "num_samples"))
    colors = part_colors(parts)
    most = 4 if width >= _BROAD else 2
    columns = math.ceil(len(parts) / math.ceil(len(parts) / most))
    rows = math.ceil(len(parts) / columns)
    panel_width = (width - 0.45) / columns - (0.12 if settings["shared"] else 0.4)
    panel_height = min(max(0.8 * panel_width, 1.15), 2.2)
    figure = new_figure(rows * (panel_height + 0.22) + 0.9, w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
    grid = figure.subplots(rows, columns, sharex=True, sharey=settings["shared"], squeeze=False)
    steps = np.concatenate([arrays[f"{number}/steps"] for number in range(len(parts))])
    shortest, longest = np.abs(steps[steps != 0]).min(), np.abs(steps).max()
    _set_step_axis(grid[0, 0], shortest, longest, panel_width)
    above = (2 * (size - 0.5) * 1.3 / 72 + 0.05) / panel_height  # the share that two lines of numbers take
    for axes in grid.flat[len(parts) :]:
        axes.set_axis_off()
    for number, axes in enumerate(grid.flat[: len(parts)]):
        low, high = arrays["limits"][number]
        top = low + (high - low) / (1 - above)
        axes.set_ylim(low, top)
        _draw_panel(axes, arrays, number, colors[number], high, longest)
        count = f", N = {counts[number]}"
        room = panel_width - text_width(count, matplotlib.rcParams["axes.titlesize"])
        title = literal(shorten(labels[number], matplotlib.rcParams["axes.titlesize"], room)) + count
        axes.set_title(title, loc="right" if panel_width < _NARROW else "center")  # beside the power of the axis
        lines = _numbers(arrays, number)
        fits = panel_width / max(text_width(line.replace("$_{", "").replace("}$", ""), size) for line in lines)
        axes.text(
            0.5, 1 - 0.03 / panel_height, "\n".join(lines), transform=axes.transAxes, ha="center", va="top",
            fontsize=min(1.0, fits) * (size - 0.5), linespacing=1.15,
        )  # fmt: skip
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
        axes.spines[["top", "right"]].set_visible(False)
        if number + columns >= len(parts):
            axes.tick_params(labelbottom=True)
    figure.supxlabel("step a along ±v$_{min}$, L$_2$ distance")
    figure.supylabel("loss (nats)")
    dot = Line2D([], [], color="0.35", **_POINT)
    entries: list[tuple[Any, str]] = [
        (dot, "measured L(θ + a v)"),
        (Line2D([], [], color=_MODEL, linewidth=0.9), "L + a g$^T$v + a² λ$_{min}$/2"),
        (Line2D([], [], color=_CONVEX, linestyle=":"), "with v$^T$Gv, the convex share"),
        (Line2D([], [], color=_THRESHOLD, linestyle="--", linewidth=0.7), "2‖∇L‖/|λ$_{min}$|"),
    ]
    add_legend(figure, entries)
    return figure


_POINT: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 2.8,
    "markeredgecolor": "0.2",
    "markeredgewidth": 0.3,
}


def _draw_panel(axes: Axes, arrays: Arrays, number: int, color: Any, high: float, longest: float) -> None:
    steps, losses = arrays[f"{number}/steps"], arrays[f"{number}/losses"]
    low, _ = axes.get_ylim()
    shortest = np.abs(steps[steps != 0]).min()
    edge = np.arcsinh(longest / shortest)
    a = shortest * np.sinh(np.linspace(-edge, edge, 801))
    loss, slope = arrays["loss"][number], arrays["slope"][number]
    predictions: list[tuple[float, dict[str, Any]]] = [
        (arrays["lambda_min"][number], {"color": _MODEL, "linewidth": 0.9, "zorder": 2}),
        (arrays["convex"][number], {"color": _CONVEX, "linestyle": ":", "zorder": 1}),
    ]
    for curvature, look in predictions:
        prediction = loss + slope * a + curvature * a**2 / 2
        axes.plot(a, np.where((prediction >= low) & (prediction <= high), prediction, np.nan), **look)
    seen = losses <= high
    axes.plot(steps[seen], losses[seen], color=color, zorder=3, clip_on=False, **_POINT)
    beyond = (losses > high) & ~np.isnan(losses)
    axes.plot(steps[beyond], np.full(beyond.sum(), high), color=color, zorder=3,
              **{**_POINT, "marker": "^", "markersize": 3.5})  # fmt: skip
    axes.axhline(loss, color="0.85", linewidth=0.5, zorder=0)
    threshold = arrays["threshold"][number]
    for place in (-threshold, threshold):
        if abs(place) <= longest:
            axes.plot([place, place], [low, high], color=_THRESHOLD, linestyle="--", linewidth=0.7, zorder=1)


def _numbers(arrays: Arrays, number: int) -> list[str]:
    loss, decrease, step = (float(arrays[name][number]) for name in ("loss", "decrease", "best_step"))
    fall = f"{100 * decrease / loss:.3g} %" if loss > 0 else f"{decrease:.2g}"
    lines = [
        f"λ$_{{min}}$ = {arrays['lambda_min'][number]:.2g}",
        f"-{fall} at a = {step:.2g}" if decrease > 0 else "no lower loss",
    ]
    return [line.replace("-", "−") for line in lines]


def _set_step_axis(axes: Axes, shortest: float, longest: float, panel_width: float) -> None:
    axes.set_xscale("asinh", linear_width=shortest)
    edge = shortest * math.sinh(_MARGIN * math.asinh(longest / shortest))  # of the axis as it is seen
    axes.set_xlim(-edge, edge)
    decades = [10.0**k for k in range(math.ceil(math.log10(shortest)), math.floor(math.log10(longest)) + 1)]
    size = matplotlib.rcParams["xtick.labelsize"]
    inch = panel_width / 2 / (_MARGIN * math.asinh(longest / shortest))
    # As many labels as stand apart, the largest step first.
    labelled: list[float] = []
    free = math.inf
    for decade in reversed(decades):
        place, half = math.asinh(decade / shortest) * inch, 0.5 * _tick_width(decade, size)
        if place + half + 0.03 <= free and place - half > 0.5 * _tick_width(0.0, size) + 0.03:
            labelled.append(decade)
            free = place - half
    axes.xaxis.set_major_locator(FixedLocator([*(-x for x in labelled), 0.0, *reversed(labelled)]))
    axes.xaxis.set_minor_locator(FixedLocator([sign * x for x in decades for sign in (-1, 1)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _tick_width(value: float, size: float) -> float:
    base, _, exponent = plain_or_power(-value).strip("$").replace("$", "").partition("^")
    return text_width(base, size) + 0.72 * text_width(exponent.strip("{}"), size)
