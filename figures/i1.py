"""I1: the introduction of ImbSAM."""

from __future__ import annotations

from landscape.plotting import Drawing, compose
from landscape.plotting.surface import surface_relief

from .figure import Figure, Needs, Results
from .methods import train
from .pieces import sizes_of
from .scales import Scale

METHODS = ("SGD", "SAM", "ImbSAM")


def needs(scale: Scale) -> Needs:
    runs = {method: train(scale, method) for method in METHODS}
    return Needs(runs=runs, surfaces={method: scale.relief(run) for method, run in runs.items()})


def draw(results: Results) -> Drawing:
    reliefs = surface_relief(results.surfaces, ("group/head", "group/tail"))
    return compose([[sizes_of(results.runs["SGD"], rotated=True), reliefs]], widths=[[1, 3.5]])


FIGURE = Figure(
    name="I1",
    title="class sizes, and the loss surfaces of head and tail with SGD, SAM and ImbSAM",
    paper="Zhou et al., ICCV 2023 (ImbSAM), introduction",
    shows="Training images a class, and the loss of the head and of the tail classes, by index, in a plane of two "
    "filter-normalised random directions (the same seed for all), on at most 1,000 images a group, one scale for all "
    "panels. The paper claims that SGD is rough for both, SAM smooth for the head alone and ImbSAM smooth for the "
    "tail [F]; its sizes are of ImageNet-LT, ours of the data that was trained on, and neither the parameters of its "
    "surfaces nor radius and η for CIFAR-10 are known [?].",
    smoke="Digits, at most 60 images a group, 15×15 points: no evidence about the claim.",
    needs=needs,
    draw=draw,
)
