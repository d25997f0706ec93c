"""Spectral densities over many decades of both signs, with nothing drawn that the quadrature does not say.

The abscissa is s = asinh(λ/τ): linear for |λ| ≪ τ, ±ln(2|λ|/τ) for |λ| ≫ τ, smooth through 0. A Gaussian kernel of
fixed width in s has a width proportional to |λ| away from 0, so the bulk and the outliers are both resolved, and the
area under the curve is a number of eigenvalues wherever one looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from numpy.typing import NDArray
from scipy import stats

from landscape.curvature.results import PartSpectrum, SaddleReport, SpectralDensity
from landscape.errors import LandscapeError
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend
from landscape.plotting.style import PALETTE, label_width, literal, shorten, text_width

Array = NDArray[np.float64]

KERNEL_WIDTH = 0.25
"""Least standard deviation in s = asinh(λ/τ): 0.11 decades of |λ|.

About the spacing of a hundred Ritz values over ten decades: a narrower kernel draws a comb of single Ritz values, a
wider one carries weight across 0. What crosses 0 comes from |λ| < τ, where the sign is noise anyway.
"""

MAX_PANELS = 30
"""Panels that stay legible on one printed page."""

LEAST_COUNT = 0.5
"""Eigenvalues, or eigenvalues per decade, at the foot of a vertical axis."""

CURVE, NEGATIVE, _OUTLIER = PALETTE[0], PALETTE[3], "0.25"
BAND = 0.3  # opacity
_CURVES = ("eigenvalues", "mean", "low", "high", "outliers")


@dataclass(frozen=True)
class DensityCurve:
    """A smoothed spectral density; eigenvalues per decade of |λ| (where |λ| ≫ τ), deflated ones not included."""

    grid: Array  # (g,) s = asinh(λ/τ), ascending, equally spaced
    eigenvalues: Array  # (g,) λ = τ sinh s
    probes: Array  # (n_v, g) one curve a probe
    mean: Array  # (g,) over probes
    low: Array  # (g,) lower edge of the pointwise 95 % interval of the mean, ≥ 0; NaN for a single probe
    high: Array  # (g,) upper edge of it; NaN for a single probe
    threshold: float  # τ, the unit of an eigenvalue


def density_curve(density: SpectralDensity, threshold: float, *, width: float = KERNEL_WIDTH) -> DensityCurve:
    """Smooth each probe's quadrature in s = asinh(λ/τ).

    y_l(s) = ln 10 · mass_l · Σ_k w_lk φ(s; s_lk, σ_lk) with s_lk = asinh(θ_lk/τ) and φ the normal density. So
    ∫ y_l ds / ln 10 = mass_l, whose mean over probes plus the number of deflated eigenvalues estimates n.

    σ_lk is ``width``, or half the distance between the neighbours of a Ritz value where that is more (its weight stands
    for the eigenvalues of that whole stretch), but then at most a third of the way to 0 and to the probe's outermost
    Ritz values: smoothing must carry weight neither across 0 nor beyond the ends of the spectrum.

    Args:
        density: quadrature of one part.
        threshold: τ > 0; below it the axis is linear. The noise floor, or a larger value to spread less.
        width: least σ, in s.

    Raises:
        LandscapeError: ``threshold`` or ``width`` is not positive.

    Source: Papyan, JMLR 2020, appendix D (Gaussian smoothing of Lanczos quadrature), on a logarithmic scale.
    """
    if not threshold > 0 or not width > 0:
        raise LandscapeError(f"threshold = {threshold} and width = {width} of a density curve must be positive")
    used = density.weights > 0
    positions = np.arcsinh(np.where(used, density.nodes, 0.0) / threshold)
    widths = np.zeros_like(positions)
    for row, is_used in enumerate(used):
        centres = positions[row, is_used]
        inwards = np.minimum(np.abs(centres), np.minimum(centres - centres.min(), centres.max() - centres))
        widths[row, is_used] = np.maximum(width, np.minimum(_half_spacing(centres), inwards / 3))
    # Eight σ: a peak of 1e13 eigenvalues has fallen below one, so no curve stops in mid-air.
    low, high = (positions - 8 * widths)[used].min(), (positions + 8 * widths)[used].max()
    grid = np.linspace(low, high, math.ceil((high - low) / (width / 6)) + 1)
    probes = np.empty((len(positions), grid.size))
    for row, is_used in enumerate(used):
        kernels = stats.norm.pdf(grid[:, None], positions[row, is_used], widths[row, is_used])
        probes[row] = math.log(10) * density.probe_mass[row] * (kernels @ density.weights[row, is_used])
    mean = probes.mean(axis=0)
    half = np.full_like(mean, np.nan)
    if len(probes) > 1:
        half = stats.t.ppf(0.975, len(probes) - 1) * probes.std(axis=0, ddof=1) / math.sqrt(len(probes))
    return DensityCurve(
        grid, threshold * np.sinh(grid), probes, mean, np.maximum(mean - half, 0.0), mean + half, threshold
    )


def _half_spacing(centres: Array) -> Array:
    """Half the distance between the two neighbours of each of ``centres`` (ascending); 0 at both ends."""
    half = np.zeros_like(centres)
    half[1:-1] = (centres[2:] - centres[:-2]) / 2
    return half


def density_grid(spectra: Sequence[PartSpectrum], *, ncols: int | None = None) -> Drawing:
    """One panel a part, all on the same axes: eigenvalues per decade over λ on an asinh scale.

    Each panel shows the mean density and its 95 % band over probes, the deflated eigenvalues as stems of height one
    eigenvalue, the negative side shaded, and λ_min as a triangle. Stem and triangle are filled red where the value lies
    below −noise floor and so certifies a negative eigenvalue, open where its sign cannot be told. Above the curve stand
    λ_min ± residual, λ_max ± residual, M₋ and ν with their 95 % intervals. The linear threshold is the largest noise
    floor, but at least 1e-4 of the largest |λ|: with less, most of the width would go to eigenvalues that no sign claim
    rests on.

    Each side of 0 has at least two labelled decades if it spans two: the grid has a column less, or the labels are set
    smaller or upright, where they would not fit.

    Args:
        spectra: the parts, in panel order.
        ncols: panels in a row; chosen from their number if not given.

    Returns:
        The drawing; its arrays are, a part, ``PART/{eigenvalues, probes, mean, low, high, outliers}``, ``threshold``
        and, each (p,), ``parts``, ``labels``, ``num_samples``, ``noise_floor``, ``lambda_min``, ``lambda_max``, both
        also with ``_residual``, ``certified``, and (p, 3) with the ends of the interval ``negative_mass`` and
        ``negative_fraction``.

    Raises:
        LandscapeError: no part, a part twice, more than :data:`MAX_PANELS`, or ``ncols`` < 1.
    """
    if not spectra:
        raise LandscapeError("no spectra to draw: the file has no complete part, or none was selected")
    if len(spectra) > MAX_PANELS:
        raise LandscapeError(
            f"{len(spectra)} parts do not fit on a page of {MAX_PANELS} panels: "
            "choose some with --parts, or compare classes with --kind classes"
        )
    if ncols is not None and ncols < 1:
        raise LandscapeError(f"ncols = {ncols}: expected at least 1")
    part_labels({"": spectra})
    threshold = linear_threshold(spectra)
    curves = [density_curve(spectrum.density, threshold) for spectrum in spectra]
    arrays: dict[str, NDArray[Any]] = {
        "parts": np.array([spectrum.part for spectrum in spectra]),
        "labels": np.array([spectrum.label for spectrum in spectra]),
        "num_samples": np.array([spectrum.num_samples for spectrum in spectra]),
        "threshold": np.array(threshold),
        **numbers_of(spectra),
    }
    for spectrum, curve in zip(spectra, curves, strict=True):
        for name in ("eigenvalues", "probes", "mean", "low", "high"):
            arrays[f"{spectrum.part}/{name}"] = getattr(curve, name)
        arrays[f"{spectrum.part}/outliers"] = spectrum.density.deflated
    return Drawing("density", arrays, {"limits": horizontal_limits(spectra, curves, threshold), "columns": ncols})


def numbers_of(spectra: Sequence[PartSpectrum]) -> dict[str, NDArray[Any]]:
    """What is written above the curves: (p,), and (p, 3) value, low and high of the intervals."""
    saddles = [spectrum.saddle for spectrum in spectra]
    names = ("noise_floor", "lambda_min", "lambda_min_residual", "lambda_max", "lambda_max_residual")
    return {
        **{name: np.array([getattr(saddle, name) for saddle in saddles]) for name in names},
        "certified": np.array([is_certified(saddle) for saddle in saddles]),
        **{
            name: np.array([[(x := getattr(saddle, name)).value, x.low, x.high] for saddle in saddles])
            for name in ("negative_mass", "negative_fraction")
        },
    }


@renders("density")
def _grid(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    low, high = settings["limits"]
    lines, size = 4, matplotlib.rcParams["font.size"] - 1
    panels = signed_panels(
        len(arrays["parts"]), (low, high), float(arrays["threshold"]), columns=settings["columns"],
        height=lambda width: min(max(0.85 * width, 0.9 + lines * size * 1.25 / 72), 2.6),
    )  # fmt: skip
    curves = [{name: arrays[f"{part}/{name}"] for name in _CURVES} for part in arrays["parts"]]
    top = max(float(np.nanmax(np.r_[curve["mean"], curve["high"]])) for curve in curves)
    # The text stands above every curve: the share of the height it needs is added on top of the data.
    share = (lines * size * 1.25 / 72 + 0.06) / panels.height
    set_vertical_axis(panels.axes[0], top, above=share)
    for number, (axes, curve) in enumerate(zip(panels.axes, curves, strict=True)):
        axes.axvspan(low, 0.0, color=NEGATIVE, alpha=0.08, linewidth=0, zorder=0)
        draw_curve(axes, curve, CURVE)
        _draw_outliers(axes, curve["outliers"], float(arrays["noise_floor"][number]))
        certified = bool(arrays["certified"][number])
        axes.plot([arrays["lambda_min"][number]], [1.0], clip_on=False, zorder=5, **triangle(certified))
        axes.axvline(0.0, ymax=1 - share, color="0.6", linewidth=0.5, zorder=1)
        _write_numbers(axes, arrays, number, size, panels.width - 0.1)
        axes.set_title(panel_title(str(arrays["labels"][number]), int(arrays["num_samples"][number]), panels.width))
    panels.figure.supylabel("eigenvalues per decade of |λ|")
    _add_legend(panels.figure, has_band=any(np.isfinite(curve["high"]).all() for curve in curves))
    return panels.figure


@dataclass(frozen=True)
class Panels:
    """A grid of panels over one axis of λ."""

    figure: Canvas
    axes: list[Axes]
    width: float  # of a panel, inches
    height: float


def signed_panels(
    count: int,
    limits: tuple[float, float],
    threshold: float,
    *,
    height: Callable[[float], float],
    columns: int | None = None,
    narrowest: float = 1.13,
) -> Panels:
    """A figure of ``count`` panels that share both axes, that of λ linear within ±``threshold`` and ready.

    Args:
        limits: ends of the axis of λ.
        height: width of a panel → its height, inches.
        columns: panels in a row; chosen from their number and the width of the page if not given.
        narrowest: inches that a panel should have; those of two in a row may have less.
    """
    page = matplotlib.rcParams["figure.figsize"][0]

    def width_of(columns: int) -> float:
        return float((page - 0.65) / columns - 0.08)  # what the shared labels and the gaps leave

    # Many panels one above the other would not fit on a page: they are rather narrower.
    most = max(1 if count <= 3 else 2, min(5, int((page - 0.65) / (narrowest + 0.08) + 1e-9)))
    chosen = columns or _column_count(count, most)
    ticks = _decade_ticks(limits, threshold, width_of(chosen))
    if columns is None and chosen > 2 and (ticks.upright or not ticks.enough):
        wider = _decade_ticks(limits, threshold, width_of(chosen - 1))
        if wider.enough and not wider.upright:
            chosen, ticks = chosen - 1, wider
    rows, width = math.ceil(count / chosen), width_of(chosen)
    figure = new_figure(rows * (height(width) + 0.22) + 0.85, w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
    grid = figure.subplots(rows, chosen, sharex=True, sharey=True, squeeze=False)
    panels, empty = list(grid.flat[:count]), list(grid.flat[count:])
    for axes in empty:
        axes.set_axis_off()
        grid[rows - 2, list(grid[-1]).index(axes)].tick_params(labelbottom=True)
    _set_horizontal_axis(panels, limits, threshold, ticks)
    scale = plain_or_power(float(f"{threshold:.0e}"))
    words = f"eigenvalue λ (linear within ±{scale}, logarithmic outside)"
    if label_width(words, matplotlib.rcParams["figure.labelsize"]) > page - 0.1:
        words = f"eigenvalue λ (linear within ±{scale})"
    figure.supxlabel(words)
    return Panels(figure, panels, width, height(width))


def set_vertical_axis(axes: Axes, top: float, *, above: float, below: float = 0.0) -> None:
    """Counts from :data:`LEAST_COUNT` to ``top``, logarithmic, with shares of the height left free on either side."""
    span = math.log(max(top, 2 * LEAST_COUNT) / LEAST_COUNT) / (1 - above - below)
    axes.set_yscale("log")
    axes.set_ylim(LEAST_COUNT * math.exp(-below * span), LEAST_COUNT * math.exp((1 - below) * span))
    decades = range(0, math.floor(math.log10(LEAST_COUNT) + (1 - below) * span / math.log(10)) + 1)
    step = math.ceil(len(decades) / 4)
    axes.yaxis.set_major_locator(FixedLocator([10.0**k for k in decades][::step]))
    axes.yaxis.set_minor_locator(FixedLocator([10.0**k for k in decades]))
    axes.yaxis.set_minor_formatter(NullFormatter())


def part_labels(methods: Mapping[str, Sequence[PartSpectrum]]) -> dict[str, str]:
    """Part → label, in the order of first appearance over the methods.

    Raises:
        LandscapeError: a part twice in one method.
    """
    labels: dict[str, str] = {}
    for method, parts in methods.items():
        names = [spectrum.part for spectrum in parts]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise LandscapeError(f"part '{twice}' appears twice{f' in {method!r}' if method else ''}: give each once")
        for spectrum in parts:
            labels.setdefault(spectrum.part, spectrum.label)
    return labels


def is_certified(saddle: SaddleReport) -> bool:
    """Whether λ_min lies below −noise floor: a Rayleigh quotient never lies below the least eigenvalue."""
    return saddle.lambda_min < -saddle.noise_floor


def with_error(value: float, error: float) -> str:
    """``value ± error`` for a small space: three significant digits, the error with one."""
    return f"{short_number(value, 3)} ± {short_number(error, 1)}"


def short_number(value: float, digits: int) -> str:
    if not math.isfinite(value):
        return str(value)
    text = f"{value:#.{digits}g}" if digits > 1 and 1e-3 <= abs(value) < 10**digits else f"{value:.{digits}g}"
    mantissa, _, exponent = text.rstrip(".").partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", "−")


def linear_threshold(spectra: Sequence[PartSpectrum]) -> float:
    """τ for all of ``spectra``.

    Raises:
        LandscapeError: an eigenvalue that is NaN or infinite.
    """
    for spectrum in spectra:
        if not np.isfinite(_extremes(spectrum)).all():
            raise LandscapeError(
                f"part '{spectrum.part}' has an eigenvalue that is not finite: leave it out with --parts"
            )
    floor = max(spectrum.saddle.noise_floor for spectrum in spectra)
    threshold = max(floor, 1e-4 * max(float(np.abs(_extremes(spectrum)).max()) for spectrum in spectra))
    return threshold if threshold > 0 else 1.0  # a spectrum that is 0 everywhere has no scale of its own


def _extremes(spectrum: PartSpectrum) -> Array:
    """Every eigenvalue that must fit on the axis."""
    saddle = spectrum.saddle
    quadrature = spectrum.density.nodes[spectrum.density.weights > 0]
    ends = [saddle.lambda_min, saddle.lambda_max, quadrature.min(), quadrature.max()]
    return np.concatenate([ends, spectrum.density.deflated])


def horizontal_limits(
    spectra: Sequence[PartSpectrum], curves: Sequence[DensityCurve], threshold: float
) -> tuple[float, float]:
    """Ends of the axis of λ: room for every eigenvalue and for every curve until it has sunk below the axis."""
    positions = [np.arcsinh(_extremes(spectrum) / threshold) for spectrum in spectra]
    for curve in curves:
        visible = curve.grid[np.fmax(curve.mean, curve.high) > LEAST_COUNT]
        positions.append(visible[[0, -1]] if visible.size else visible)
    every = np.concatenate(positions)
    margin = max(0.03 * np.ptp(every), KERNEL_WIDTH)
    # A strip of the negative side is shown even if nothing lies there: that it is empty is the message.
    low, high = min(every.min() - margin, -1.5), max(every.max() + margin, 1.5)
    return threshold * math.sinh(low), threshold * math.sinh(high)


@dataclass(frozen=True)
class _Ticks:
    """_Ticks of a signed logarithmic axis."""

    labelled: list[float]  # ascending, 0 among them
    decades: list[float]  # every ±10^k on the axis
    size: float  # of the labels, points
    upright: bool  # labels turned by 90°
    enough: bool  # two labels on each side that spans two decades


def _set_horizontal_axis(panels: Sequence[Axes], limits: tuple[float, float], threshold: float, ticks: _Ticks) -> None:
    panels[0].set_xscale("asinh", linear_width=threshold)
    panels[0].set_xlim(*limits)
    panels[0].xaxis.set_major_locator(FixedLocator(ticks.labelled))
    panels[0].xaxis.set_minor_locator(FixedLocator(ticks.decades))
    panels[0].xaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
    panels[0].xaxis.set_minor_formatter(NullFormatter())
    for axes in panels:
        axes.tick_params(axis="x", labelsize=ticks.size, labelrotation=90 if ticks.upright else 0)


def set_signed_axis(axes: Axes, values: Array) -> None:
    """Vertical axis for values of both signs: linear around 0, logarithmic where they are large; 0 is marked."""
    linear = float(np.median(np.abs(values[values != 0]))) / 3 if (values != 0).any() else 1.0
    places = np.arcsinh(np.r_[values, 0.0] / linear)
    low, high = places.min(), places.max()
    margin = 0.08 * (high - low) or 1.0
    low, high = low - margin * (low < 0), high + margin * (high > 0)
    axes.set_yscale("asinh", linear_width=linear)
    axes.set_ylim(linear * math.sinh(low), linear * math.sinh(high))
    axes.axhline(0.0, color="0.5", linewidth=0.5, zorder=0)
    decades = range(math.floor(math.log10(linear)), math.ceil(math.log10(linear * math.sinh(max(high, -low)))) + 1)
    powers = [sign * 10.0**k for k in reversed(decades) for sign in (1, -1)]
    chosen = [0.0]
    # From the outermost inwards, as far as labels have room: a sixth of the height.
    for power in [power for power in powers if low <= math.asinh(power / linear) <= high]:
        apart = min(abs(math.asinh(power / linear) - math.asinh(other / linear)) for other in chosen)
        if apart > (high - low) / 6:
            chosen.append(power)
    axes.yaxis.set_major_locator(FixedLocator(sorted(chosen)))
    axes.yaxis.set_minor_locator(FixedLocator(powers))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: plain_or_power(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plain_or_power(value: float) -> str:
    """A number with one significant digit, in mathtext where a power of ten is shorter than the zeros."""
    if value == 0:
        return "0"
    sign = "−" if value < 0 else ""
    mantissa, _, exponent = f"{abs(value):.0e}".partition("e")
    if -2 <= int(exponent) <= 3:
        return f"{sign}{abs(value):.{max(-int(exponent), 0)}f}"
    factor = "" if mantissa == "1" else rf"{mantissa}{{\times}}"
    return f"{sign}${factor}10^{{{int(exponent)}}}$"


def tick_label_width(value: float, size: float) -> float:
    """Width in inches of :func:`plain_or_power`, without asking mathtext a thousand times."""
    base, _, exponent = plain_or_power(value).strip("$").replace("$", "").partition("^")
    return text_width(base, size) + 0.72 * text_width(exponent.strip("{}").replace("-", "−"), size)


def _decade_ticks(limits: tuple[float, float], threshold: float, panel_width: float) -> _Ticks:
    """_Ticks at 0 and ±10^k, as many of them labelled as fit side by side in an even step, each side for itself."""
    inches = panel_width / (math.asinh(limits[1] / threshold) - math.asinh(limits[0] / threshold))
    largest = math.floor(math.log10(max(-limits[0], limits[1])))
    least = math.ceil(math.log10(threshold) - 1e-9)
    sides = [
        [x for x in (sign * 10.0**k for k in range(largest, least - 1, -1)) if limits[0] <= x <= limits[1]]
        for sign in (-1, 1)
    ]
    decades = [x for side in sides for x in side]
    size = matplotlib.rcParams["xtick.labelsize"]
    for points, upright in ((size, False), (size - 1, False), (size - 1, True)):
        chosen = [
            _labelled(side, threshold, abs(limit), inches, points, upright)
            for side, limit in zip(sides, limits, strict=True)
        ]
        enough = all(len(labels) >= min(2, len(side)) for labels, side in zip(chosen, sides, strict=True))
        if enough:
            break
    return _Ticks(sorted([0.0, *chosen[0], *chosen[1]]), decades, points, upright, enough)


def _labelled(
    decades: Sequence[float], threshold: float, limit: float, inches: float, size: float, upright: bool
) -> list[float]:
    """Which of one side's ``decades`` (outermost first) to label; ``inches`` a unit of asinh(λ/τ)."""
    frame = math.asinh(limit / threshold) * inches

    def slack(values: Sequence[float]) -> float:
        """Least empty space between two labels, 0 included, in inches; a label may overhang the frame by 0.1."""
        places = [abs(math.asinh(x / threshold)) * inches for x in (*values, 0.0)]
        extents = [1.2 * size / 72 if upright else tick_label_width(x, size) for x in (*values, 0.0)]
        gaps = [places[i] - places[i + 1] - (extents[i] + extents[i + 1]) / 2 for i in range(len(values))]
        return min(*gaps, frame + 0.1 - places[0] - extents[0] / 2)

    best: list[float] = []
    for step in range(1, len(decades) + 1):
        for first in range(step):
            candidate = list(decades[first::step])
            space = slack(candidate) if candidate else 0.0
            if space < (0.0 if upright else 0.045) or len(candidate) < len(best):
                continue
            if len(candidate) > len(best) or space > slack(best):
                best = candidate
    return best


def draw_curve(axes: Axes, curve: Mapping[str, Array], color: Any, linestyle: Any = "-") -> list[Artist]:
    """The mean and, if there are two probes, its band."""
    # Where the estimate says less than a tenth of the axis floor there is nothing to see, and 0 has no logarithm.
    floor = LEAST_COUNT / 10
    drawn: list[Artist] = []
    if np.isfinite(curve["high"]).all():
        low, high = (np.maximum(curve[end], floor) for end in ("low", "high"))
        drawn.append(axes.fill_between(curve["eigenvalues"], low, high, color=color, alpha=BAND, linewidth=0, zorder=2))
    mean = np.maximum(curve["mean"], floor)
    return drawn + axes.plot(curve["eigenvalues"], mean, color=color, linestyle=linestyle, zorder=3)


def _draw_outliers(axes: Axes, outliers: Array, floor: float) -> None:
    """A stem of height one each; red and filled below −``floor``, open where the noise hides the sign."""
    axes.vlines(outliers, 0.5, 1.0, color=_stem_colors(outliers, floor), linewidth=0.8, zorder=4)
    for chosen, look in (
        (outliers > floor, _POSITIVE_STEM),
        (outliers < -floor, _NEGATIVE_STEM),
        (np.abs(outliers) <= floor, _OPEN_STEM),
    ):
        axes.plot(outliers[chosen], np.ones(chosen.sum()), linestyle="none", zorder=4, **look)


def _stem_colors(outliers: Array, floor: float) -> list[Any]:
    return [NEGATIVE if outlier < -floor else _OUTLIER for outlier in outliers]


_POSITIVE_STEM: dict[str, Any] = {"marker": ".", "markersize": 2.5, "color": _OUTLIER}
_NEGATIVE_STEM: dict[str, Any] = {**_POSITIVE_STEM, "color": NEGATIVE}
_OPEN_STEM: dict[str, Any] = {
    "marker": "o", "markersize": 2.2, "color": _OUTLIER, "markerfacecolor": "white", "markeredgewidth": 0.5
}  # fmt: skip


def triangle(certified: bool, color: Any = NEGATIVE) -> dict[str, Any]:
    """The mark of λ_min: filled if it is certified negative."""
    return {
        "linestyle": "none",
        "marker": "v",
        "markersize": 4.5,
        "color": color,
        "markerfacecolor": color if certified else "white",
        "markeredgewidth": 0.7,
    }


def _write_numbers(axes: Axes, arrays: Arrays, number: int, size: float, width: float) -> None:
    lines = [
        f"λ$_{{min}}$ {with_error(arrays['lambda_min'][number], arrays['lambda_min_residual'][number])}",
        f"λ$_{{max}}$ {with_error(arrays['lambda_max'][number], arrays['lambda_max_residual'][number])}",
        f"M$_{{−}}$ {with_interval(arrays['negative_mass'][number])}",
        f"ν {with_interval(arrays['negative_fraction'][number])}",
    ]
    widest = max(label_width(line, size) for line in lines)
    axes.annotate(
        "\n".join(lines),
        xy=(1, 1),
        xycoords="axes fraction",
        xytext=(-2.5, -2),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=size * min(1.0, width / widest),
        linespacing=1.05,
        zorder=6,
    )


def with_interval(interval: Array) -> str:
    """``value [low, high]`` for a small space; a dash where there is none, as ν of a Hessian that is 0."""
    if not math.isfinite(interval[0]):
        return "–"
    return f"{short_number(interval[0], 2)} [{short_number(interval[1], 2)}, {short_number(interval[2], 2)}]".replace(
        "inf", "∞"
    )


def panel_title(label: str, num_samples: int, width: float) -> str:
    size, count = matplotlib.rcParams["axes.titlesize"], f", N = {num_samples}"
    return literal(shorten(label, size, width - text_width(count, size))) + count


def _add_legend(figure: Canvas, *, has_band: bool) -> None:
    line, band = Line2D([], [], color=CURVE), Patch(color=CURVE, alpha=BAND, linewidth=0)
    stems = tuple(Line2D([], [], linestyle="none", **look) for look in (_POSITIVE_STEM, _NEGATIVE_STEM, _OPEN_STEM))
    entries: list[tuple[Any, str]] = [
        ((band, line), "density, mean and 95 % band over probes")
        if has_band
        else (line, "density (one probe, no band)"),
        (stems, "deflated eigenvalue: positive, certified negative, sign not told"),
        (Line2D([], [], **triangle(True)), "λ$_{min}$, certified negative"),
        (Line2D([], [], **triangle(False)), "λ$_{min}$, sign not told"),
    ]
    add_legend(figure, entries, side_by_side=stems)


def _column_count(panels: int, most: int) -> int:
    """Columns that leave few holes and a landscape page: 10 → 5, 12 → 4."""
    if panels <= min(3, most) or most == 1:
        return min(panels, most)
    wanted = math.sqrt(1.6 * panels)
    return min(range(2, most + 1), key=lambda c: math.ceil(panels / c) * c - panels + 1.5 * abs(c - wanted))
