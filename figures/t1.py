"""T1: what TailCalibX generates."""

from __future__ import annotations

from landscape.plotting import Drawing, compose, nearest_class_matrix, tsne_map

from .figure import Figure, Needs, Results
from .methods import train
from .scales import Scale
from .steps import Calibration, Features


def needs(scale: Scale) -> Needs:
    features = Features(train(scale, "CosineCE"))
    return Needs(calibrations={"TailCalibX": Calibration(features, "tailcalibx", scale.seeds[:1])})


def draw(results: Results) -> Drawing:
    file = results.calibrations["TailCalibX"]
    return compose([[tsne_map(file)], [nearest_class_matrix(file)]])


FIGURE = Figure(
    name="T1",
    title="real and generated features, and the classes nearest to them",
    paper="Vigneswaran et al., ICVGIP 2021 (TailCalibX), t-SNE and nearest classes",
    shows="One t-SNE of training features and of the features that TailCalibX generates for the smaller classes; and, "
    "for every class, the class of the training feature nearest to its generated and to its real features. The paper "
    "shows generated features beside real ones of their class and counts the nearest classes [S][R]. Its toy example "
    "of decision regions in two dimensions is left out, and CIFAR-10-LT is none of its data sets: the first stage has "
    "the settings of CIFAR-100-LT.",
    smoke="Features of a network of 14,458 parameters on digits.",
    needs=needs,
    draw=draw,
)
