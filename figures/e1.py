"""E1: head and tail accuracy through the two stages of SSE-SAM."""

from __future__ import annotations

from landscape.plotting import Drawing
from landscape.plotting.curves import history_curves, training_curves
from landscape.switches import switches

from .figure import Figure, Needs, Results
from .methods import train
from .scales import Scale


def needs(scale: Scale) -> Needs:
    return Needs(runs={"SSE-SAM": train(scale, "SSE-SAM")})


def draw(results: Results) -> Drawing:
    run = results.runs["SSE-SAM"]
    # SSE-SAM parts the classes by their number of images, so its groups are told that way.
    curves = history_curves({"SSE-SAM": [run.history]}, parts=("group/head", "group/tail"), grouping="count")
    return training_curves(curves, switches(run.info.recipe))


FIGURE = Figure(
    name="E1",
    title="accuracy of head and tail through the stages of SSE-SAM",
    paper="Lyu et al., AAAI 2025 (SSE-SAM), illustration",
    shows="Test accuracy of the head and of the tail classes, by number of images, over the epochs of SSE-SAM; the "
    "dashed line is where stage II begins. The paper's illustration, CIFAR-10, has the tail at 54.4 to 61.8 % up to "
    "the switch at epoch 350 and at 70.5 to 72.8 % after it, the head at 88.8 to 93.0 % [F, read by eye, ±0.3]; its "
    "cartoon of the stages is left out, and its radii and η for CIFAR-10 are not known [?].",
    smoke="20 epochs on digits: the panels and the switch, not the claim.",
    needs=needs,
    draw=draw,
)
