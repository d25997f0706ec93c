"""E1: the stages of SSE-SAM beside those of its relatives, and head and tail accuracy through them."""

from __future__ import annotations

from landscape.optim.stages import group_ascents
from landscape.plotting import Drawing, compose, stage_bars
from landscape.plotting.curves import history_curves, training_curves
from landscape.switches import switches
from landscape.training.library import read_recipe

from .figure import Figure, Needs, Results
from .methods import METHODS, train
from .scales import Scale

RELATIVES = ("SGD", "SAM", "ImbSAM")


def needs(scale: Scale) -> Needs:
    return Needs(runs={"SSE-SAM": train(scale, "SSE-SAM")})


def draw(results: Results) -> Drawing:
    run = results.runs["SSE-SAM"]
    recipe, marks = run.info.recipe, switches(run.info.recipe)
    # Nothing of the others is trained for this: their radii are those of the recipes that ship, over as many epochs,
    # and their groups those of this run.
    methods = {}
    for name in RELATIVES:
        optimizer = read_recipe(METHODS[name][0]).values["optimizer"]
        eta = recipe["optimizer"]["eta"] if "eta" in optimizer else None
        methods[name] = group_ascents({"optimizer": {**optimizer, "eta": eta}, "schedule": recipe["schedule"]})
    stages = stage_bars({**methods, "SSE-SAM": group_ascents(recipe)}, {"SSE-SAM": marks})
    accuracies = [
        training_curves(
            history_curves({"SSE-SAM": [run.history]}, parts=(f"group/{group}",), grouping="count"), marks, by_part=True
        )
        for group in ("head", "tail")
    ]
    return compose([[stages, *accuracies]], widths=[[1.5, 1, 1]])


FIGURE = Figure(
    name="E1",
    title="the stages of SSE-SAM, and accuracy of head and tail through them",
    paper="Lyu et al., AAAI 2025 (SSE-SAM), illustration",
    shows="(a) Where each step of SGD, SAM, ImbSAM and SSE-SAM takes the gradient of the head and of the tail classes' "
    "loss, by epoch and with the radii of the recipes: at the weights w, or at w + ε with ‖ε‖ = ρ. In stage I "
    "SSE-SAM perturbs for both, each along its own gradient, in stage II for the tail alone. (b), (c) Test "
    "accuracy of head and tail classes over the epochs of SSE-SAM; the dashed line is where stage II begins. Here "
    "these are the classes of many and of few images; those between, which count to head or tail by η in (a), "
    "are not shown. The paper's illustration, CIFAR-10, has the tail at 54.4 to 61.8 % up to the switch at epoch "
    "350 and at 70.5 to 72.8 % after it, the head at 88.8 to 93.0 % [F, read by eye, ±0.3]; its radii and η for "
    "CIFAR-10 are not known [?].",
    smoke="20 epochs on digits, where the head of (b) is a single class: the panels and the switch, not the claim.",
    needs=needs,
    draw=draw,
)
