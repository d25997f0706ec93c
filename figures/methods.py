"""The trainings that several figures share, by what the papers call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .scales import Scale
from .steps import Training

# A network of 14,458 parameters stands smaller perturbations than ResNet-32.
_RADIUS = {"optimizer.rho": 0.05}
# Of digits with at most 122 images a class.
_TAIL = {"optimizer.eta": 40.0}
# Checkpoints of 85 MB that no figure follows over the training.
_LAST_ONLY = {"run.save_every": 0}

# Title → the recipe that ships, what is laid over it at both scales, and at the smoke scale alone.
METHODS: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "CE": ("cifar10-lt/ce", {}, {}),
    "CE+SAM": ("cifar10-lt/ce-sam", {}, _RADIUS),
    "CE+DRW": ("cifar10-lt/ce-drw", {}, {}),
    "CE+DRW+SAM": ("cifar10-lt/ce-drw-sam", {}, _RADIUS),
    "CE+DRW+PGD": ("cifar10-lt/ce-drw", {"optimizer.name": "pgd", "optimizer.noise_radius": 0.05}, {}),
    "CE+DRW+LPF-SGD": ("cifar10-lt/ce-drw", {"optimizer.name": "lpf-sgd", "optimizer.filter_noise": 0.002}, {}),
    "CE+DRW+ASAM": (
        "cifar10-lt/ce-drw",
        {"optimizer.name": "asam", "optimizer.rho": 0.5, "optimizer.asam_form": "samsung"},
        {"optimizer.rho": 0.2},
    ),
    "LDAM+DRW": ("cifar10-lt/ldam-drw", {}, {}),
    "LDAM+DRW+SAM": ("cifar10-lt/ldam-drw-sam", {}, _RADIUS),
    "VS": ("cifar10-lt/vs", {}, {}),
    "VS+SAM": ("cifar10-lt/vs-sam", {}, _RADIUS),
    "SGD": ("cifar10-lt-resnet34/ce", _LAST_ONLY, {}),
    "SAM": ("cifar10-lt-resnet34/ce-sam", _LAST_ONLY, {}),
    "ImbSAM": ("cifar10-lt-resnet34/ce-imbsam", _LAST_ONLY, _TAIL),
    "SSE-SAM": ("cifar10-lt-resnet34/ce-sse-sam", _LAST_ONLY, _TAIL),
    "baseline": ("cifar10-lt/ce", {}, {}),
    "HTR, all layers": ("cifar10-lt-htr/ce-htr", {}, {}),
    "HTR, middle layers": ("cifar10-lt-htr/ce-htr-middle", {}, {}),
    "HTR, Gauss-Newton": ("cifar10-lt-htr/ce-htr-gauss-newton", {}, {}),
    "CosineCE": ("cifar10-lt/cosine-ce", _LAST_ONLY, {}),
}

# Laid over where a recipe of CIFAR-100-LT takes the place of one of CIFAR-10-LT.
_OF_CIFAR100: dict[str, Mapping[str, Any]] = {"CE+DRW+ASAM": {"optimizer.rho": 1.0}}


def train(scale: Scale, title: str, *, seed: int = 0, on: str = "cifar10", **changes: Any) -> Training:
    """The training of a method.

    Args:
        scale: how large.
        title: of the method, a key of :data:`METHODS`.
        seed: of the run.
        on: which of the scale's data sets.
        changes: ``section__key`` = value at both scales, the smoke scale's own included.
    """
    recipe, always, smoke = METHODS[title]
    laid = {key.replace("__", "."): value for key, value in changes.items()}
    if on != "cifar10":
        always = {**always, **_OF_CIFAR100.get(title, {})}
        recipe, title = recipe.replace("cifar10-lt", f"{on}-lt", 1), f"{title} on {scale.data_sets[on]}"
    return scale.train(title, recipe, seed=seed, changes={**always, **laid}, smoke={**smoke, **laid})


def train_seeds(scale: Scale, title: str, **changes: Any) -> dict[str, Training]:
    """The same training with every seed of the scale, as ``TITLE, seed N``; ``changes`` are those of :func:`train`."""
    return {f"{title}, seed {seed}": train(scale, title, seed=seed, **changes) for seed in scale.seeds}
