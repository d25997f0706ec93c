"""T1: what TailCalibX generates."""

from __future__ import annotations

from landscape.plotting import Drawing, compose, nearest_class_matrix, tsne_map
from landscape.twostage import ToySettings

from .figure import Figure, Needs, Results
from .methods import train
from .scales import Scale
from .steps import Calibration, Features, ToyRegions


def needs(scale: Scale) -> Needs:
    features = Features(train(scale, "CosineCE"))
    return Needs(
        calibrations={"TailCalibX": Calibration(features, "tailcalibx", scale.seeds[:1])},
        toys={"toy": ToyRegions(ToySettings())},
    )


def draw(results: Results) -> Drawing:
    file = results.calibrations["TailCalibX"]
    return compose([[tsne_map(file)], [nearest_class_matrix(file)], [results.toys["toy"]]])


FIGURE = Figure(
    name="T1",
    title="real and generated features, the classes nearest to them, and a toy in the plane",
    paper="Vigneswaran et al., ICVGIP 2021 (TailCalibX), t-SNE, nearest classes and toy example",
    shows="One t-SNE of training features and of the features that TailCalibX generates for the smaller classes; for "
    "every class, the class of the training feature nearest to its generated and to its real features; and a toy "
    "with two features: six Gaussian classes of 400 to 4 training points, with the decision regions of three "
    "linear classifiers, trained on the points as they are, on the same points with all classes drawn equally "
    "often (cRT), and on them and those that TailCalibX generates (crosses, 40 of each class). Above the regions "
    "stand the accuracy on 1,000 test points a class, and that of the smallest class. The toy generates in the "
    "plane itself, without Tukey's ladder and without the unit sphere, which would leave one dimension of two, "
    "with the K = 3 and α = 0 published for an imbalance of 100. The paper shows generated features beside real "
    "ones of their class, counts the nearest classes and has a toy in two dimensions [S][R], whose points are not "
    "known: these are our own. On them generation and resampling both beat the points as they are. Generation is "
    "ahead on the smallest class and resampling over all: generated points are drawn towards the means of three "
    "classes, into the largest one. CIFAR-10-LT is none of the paper's data sets: the first stage has the "
    "settings of CIFAR-100-LT.",
    smoke="Features of a network of 14,458 parameters on digits; the toy is the same at every scale.",
    needs=needs,
    draw=draw,
)
