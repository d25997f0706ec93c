"""The stages of a training: in which epochs the gradient of which group's loss is taken at perturbed weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from landscape.errors import LandscapeError
from landscape.plotting.colors import GROUP_COLORS, WHOLE_COLOR
from landscape.plotting.drawing import Arrays, Canvas, Drawing, new_figure, renders
from landscape.plotting.frames import add_legend, legend_entries, legend_height, mark_switches
from landscape.plotting.style import literal, shorten, text_width

if TYPE_CHECKING:
    from landscape.optim.stages import GroupAscents

GROUPS = ("head", "tail")

_ROW = 2.0  # letter sizes from one bar to the next
_ABOVE = 1.5  # letter sizes for the name of a method
_HALF = 0.42  # of a row: half of a bar
_HINTED = 1.12  # letters on a screen are so much wider at most than in print
_JUMP = 2  # epochs of different radii that are a jump, not a growth
_PLAIN: dict[str, Any] = {"facecolor": "white", "edgecolor": "0.45", "linewidth": 0.6}


def stage_bars(
    methods: Mapping[str, GroupAscents], switches: Mapping[str, Mapping[str, float]] | None = None
) -> Drawing:
    """For each method a row a group, and on it what is done to the gradient of that group's loss over the epochs.

    A filled bar says that the gradient is taken at w + ε, and how long ε is; an empty one that it is taken at w. A
    colour of the group is an ε along the gradient of the group's own loss, a black bar over both rows one ε for both,
    along the gradient of the whole loss. A bar ends where its radius jumps and where the method switches; a radius that
    grows or shrinks all the time is one bar with its first and its last value.

    Args:
        methods: name → where its gradients are taken (:func:`landscape.optim.stages.group_ascents`), from the top.
        switches: name → what that method switches → epochs completed by then, as
            :func:`landscape.switches.switches` tells them of its recipe; dashed lines with these names.

    Returns:
        The drawing; its arrays are, method by method and group by group, ``METHOD/GROUP/spans`` (b, 2) in completed
        epochs and ``METHOD/GROUP/radii`` (b, 2), ρ in the first and the last epoch of each bar, 0 where there is none.

    Raises:
        LandscapeError: no method, one without epochs or of which head and tail have different ones, switches of one
            that is not there or outside its epochs, or groups that are parted at different η.
    """
    marks = switches or {}
    if not methods:
        raise LandscapeError("no method to draw: give one or more")
    if unknown := [name for name in marks if name not in methods]:
        raise LandscapeError(f"switches of '{unknown[0]}', which is not drawn: there are {', '.join(methods)}")
    for name, ascents in methods.items():
        epochs = len(ascents.head)
        if not epochs or len(ascents.tail) != epochs:
            raise LandscapeError(
                f"'{name}' has radii of {epochs} epochs for the head and {len(ascents.tail)} for the tail"
            )
        for switch, epoch in marks.get(name, {}).items():
            if epoch not in range(epochs + 1):
                raise LandscapeError(
                    f"switch '{switch}' of '{name}' after {epoch:g} epochs: give a whole number of its {epochs} epochs"
                )
    etas = sorted({ascents.eta for ascents in methods.values() if ascents.eta is not None})
    if len(etas) > 1:
        raise LandscapeError(
            f"the groups are parted at η = {', '.join(f'{eta:g}' for eta in etas)}: draw methods of one η together"
        )
    arrays: dict[str, NDArray[Any]] = {}
    shown = []
    for number, (name, ascents) in enumerate(methods.items()):
        own_marks = marks.get(name, {})
        for group in GROUPS:
            spans, radii = _bars(getattr(ascents, group), own_marks.values())
            arrays[f"{number}/{group}/spans"], arrays[f"{number}/{group}/radii"] = spans, radii
        found = [[switch, float(epoch)] for switch, epoch in own_marks.items()]
        shown.append({"name": name, "own": ascents.own, "switches": found})
    return Drawing("stages", arrays, {"methods": shown, "eta": etas[0] if etas else None})


def _bars(radii: Sequence[float], breaks: Iterable[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Spans of epochs of one kind, and the radius in the first and the last epoch of each."""
    cuts = {0, *breaks, len(radii)}
    cuts |= {epoch for epoch, (one, other) in enumerate(pairwise(radii), 1) if (one > 0) != (other > 0)}
    spans = []
    for start, end in pairwise(sorted(cuts)):
        while start < end:
            held = np.diff(radii[int(start) : int(end)])
            length = 1 + _leading(held == 0)
            if length == 1 and held.size:
                running = 1 + _leading(np.sign(held) == np.sign(held[0]))
                length = running if running > _JUMP else 1
            spans.append((start, start + length))
            start += length
    ends = [(radii[int(start)], radii[int(end) - 1]) for start, end in spans]
    return np.array(spans, dtype=np.float64), np.array(ends, dtype=np.float64)


def _leading(true: NDArray[np.bool_]) -> int:
    """How many are true before the first that is not."""
    return int(np.argmin(np.append(true, False)))


# ---------------------------------------------------------------------- drawing


@renders("stages")
def _stages(arrays: Arrays, settings: Mapping[str, Any]) -> Canvas:
    methods = settings["methods"]
    width, size = matplotlib.rcParams["figure.figsize"][0], matplotlib.rcParams["font.size"]
    entries = legend_entries(*_legend(arrays, settings))
    each = (len(GROUPS) * _ROW + _ABOVE) * size / 72
    figure = new_figure(len(methods) * each + 0.45 + legend_height(entries), h_pad=0.02)
    column = figure.subplots(len(methods), 1, sharex=True, squeeze=False)[:, 0]
    beside = max(text_width(group, matplotlib.rcParams["ytick.labelsize"]) for group in GROUPS) + 0.06
    inches = width - beside - 0.15
    last = max(float(arrays[f"{number}/head/spans"][-1, 1]) for number in range(len(methods)))
    for number, (axes, method) in enumerate(zip(column, methods, strict=True)):
        axes.set_xlim(0, last)
        axes.set_ylim(len(GROUPS) - 0.5, -0.5)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_visible(number == len(methods) - 1)
        axes.tick_params(axis="x", bottom=number == len(methods) - 1)
        axes.tick_params(axis="y", length=0)
        axes.set_yticks(range(len(GROUPS)), GROUPS)
        for row, group in enumerate(GROUPS):
            spans, radii = (arrays[f"{number}/{group}/{name}"] for name in ("spans", "radii"))
            for span, ends in zip(spans, radii, strict=True):
                joint = not method["own"] and ends[0] > 0
                if not joint or row == 0:
                    color = WHOLE_COLOR if joint else GROUP_COLORS[group]
                    _draw_bar(axes, span, ends, row, len(GROUPS) if joint else 1, color, inches / last)
        mark_switches([axes], method["switches"], inches)
        _name(axes, method, beside, inches, last)
    column[-1].xaxis.set_major_locator(MaxNLocator(6, integer=True))
    column[-1].set_xlabel("epoch")
    add_legend(figure, entries, handle=2.2, side_by_side=entries[0][0] if isinstance(entries[0][0], tuple) else ())
    return figure


def _draw_bar(
    axes: Axes, span: NDArray[np.float64], ends: NDArray[np.float64], row: int, rows: int, color: Any, per_epoch: float
) -> None:  # fmt: skip
    """One bar over ``rows`` rows, and as many of its words as it has room for."""
    length, height = span[1] - span[0], rows - 1 + 2 * _HALF
    look = {"facecolor": color, "edgecolor": "white", "linewidth": 0.6} if ends[0] > 0 else _PLAIN
    axes.add_patch(Rectangle((span[0], row - _HALF), length, height, zorder=1, clip_on=False, **look))
    radius = f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} → {ends[1]:g}"
    size = matplotlib.rcParams["font.size"]
    for words in (f"ρ = {radius}", radius) if ends[0] > 0 else ("plain",):
        if _HINTED * text_width(words, size) < length * per_epoch - 0.04:
            axes.text(span[0] + length / 2, row + (rows - 1) / 2, words, ha="center", va="center",
                      fontsize=size, color="white" if ends[0] > 0 else "0.2", zorder=3)  # fmt: skip
            return


def _name(axes: Axes, method: Mapping[str, Any], beside: float, inches: float, last: float) -> None:
    """The method above its rows, on the side that its switches leave free."""
    places = [epoch / last for _, epoch in method["switches"]]
    size, at_left = matplotlib.rcParams["axes.titlesize"], not places or sum(places) / len(places) >= 0.5
    room = beside + inches * min([1.0, *places]) if at_left else inches * (1 - max(places))
    words = literal(shorten(method["name"], size, (room - 0.25 * bool(places)) / _HINTED))
    axes.annotate(words, xy=(0 if at_left else 1, 1), xycoords="axes fraction",
                  xytext=(-72 * beside if at_left else 0, 1.5), textcoords="offset points",
                  ha="left" if at_left else "right", va="bottom", fontsize=size)  # fmt: skip


def _legend(arrays: Arrays, settings: Mapping[str, Any]) -> tuple[list[Any], list[str]]:
    """What stands for what, of that which is there."""
    handles: list[Any] = []
    names = []
    perturbed: dict[bool, set[str]] = {True: set(), False: set()}
    is_plain = False
    for number, method in enumerate(settings["methods"]):
        for group in GROUPS:
            radii = arrays[f"{number}/{group}/radii"][:, 0]
            perturbed[method["own"]] |= {group} if (radii > 0).any() else set()
            is_plain |= bool((radii == 0).any())
    if perturbed[True]:
        handles.append(tuple(Rectangle((0, 0), 1, 1, color=GROUP_COLORS[g]) for g in GROUPS if g in perturbed[True]))
        names.append("at w + ε, ε along the group's own gradient")
    if perturbed[False]:
        handles.append(Rectangle((0, 0), 1, 1, color=WHOLE_COLOR))
        names.append("at w + ε, ε along the whole gradient")
    if is_plain:
        handles.append(Rectangle((0, 0), 1, 1, **_PLAIN))
        names.append("plain: at w")
    if settings["eta"] is not None:
        handles.append(Line2D([], [], linestyle="none"))
        names.append(f"tail: fewer than η = {settings['eta']:,g} images")
    return handles, names
