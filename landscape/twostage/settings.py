"""What a second stage is told: its method, its constants, and the published tables that they come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from landscape.errors import LandscapeError

Method = Literal["tailcalibx", "tailcalib", "modals", "crt", "lws", "tau-norm", "ncm"]

METHODS: dict[Method, str] = {
    "tailcalibx": "cosine classifier on features drawn anew every epoch from calibrated class distributions",
    "tailcalib": "the same, drawn once",
    "modals": "cosine classifier on features with 0.01·σ_c of noise, as many of each class as of the largest",
    "crt": "new linear classifier on features resampled so that all classes come equally often",
    "lws": "the checkpoint's own logits, each times a learned scale of its class",
    "tau-norm": "the checkpoint's own class vectors divided by ‖w_c‖^τ, without training",
    "ncm": "the class whose mean is nearest, without training",
}

GENERATING: tuple[Method, ...] = ("tailcalibx", "tailcalib", "modals")
TRAINED: tuple[Method, ...] = (*GENERATING, "crt", "lws")
_CALIBRATED: tuple[Method, ...] = ("tailcalibx", "tailcalib")

# Which methods a setting means something to.
_OWNERS: dict[str, tuple[Method, ...]] = {
    "table": GENERATING,
    "power": _CALIBRATED,
    "alpha": _CALIBRATED,
    "neighbors": _CALIBRATED,
    "noise": ("modals",),
    "legacy": GENERATING,
    "epochs": TRAINED,
    "lr": TRAINED,
    "momentum": TRAINED,
    "weight_decay": TRAINED,
    "batch_size": TRAINED,
    "tau": ("tau-norm",),
    "holdout": ("tau-norm",),
    "distance": ("ncm",),
}
_FLAGS = {"power": "--lam", "table": "--imbalance-table"}


@dataclass(frozen=True)
class Table:
    """Constants that were published together."""

    power: float  # λ of Tukey's ladder
    alpha: float  # added to every entry of the covariance
    neighbors: int  # K
    momentum: float


TABLES: dict[str, Table] = {
    "100": Table(1.0, 0.0, 3, 0.7),
    "50": Table(0.9, 0.2, 3, 0.0),
    "10": Table(0.9, 0.0, 2, 0.9),
    "mini-imagenet-lt": Table(1.0, 0.0, 3, 0.7),
}
"""By imbalance factor of CIFAR-100-LT, and mini-ImageNet-LT; read in the code of TailCalibX."""


@dataclass(frozen=True)
class TwoStageSettings:
    """All constants of one second stage; what its method has no use for plays no part."""

    method: Method
    table: str = "100"  # where λ, α, K and momentum come from unless they were given
    power: float = 1.0  # λ
    alpha: float = 0.0
    neighbors: int = 3  # K
    noise: float = 0.01  # of MODALS, in units of σ_c
    legacy: bool = False
    epochs: int = 150
    lr: float = 0.01
    momentum: float = 0.7
    weight_decay: float = 5e-4
    batch_size: int = 128
    tau: float | None = None  # None: chosen on the held-out share
    holdout: float = 0.2  # share of the training features that τ is chosen on
    distance: Literal["cosine", "l2"] = "cosine"

    def own(self) -> dict[str, Any]:
        """The settings that this method has, by name."""
        own = {name: getattr(self, name) for name, owners in _OWNERS.items() if self.method in owners}
        if self.tau is not None:
            own.pop("holdout", None)  # nothing is chosen on it
        return own


def nearest_table(counts: Sequence[int], source: str) -> str:
    """The published table for a data set: by its name, else by the imbalance n_max/n_min nearest in ratio."""
    if source.startswith("mini-imagenet"):
        return "mini-imagenet-lt"
    imbalance = max(counts) / max(1, min(counts))
    return min(("100", "50", "10"), key=lambda name: abs(math.log(imbalance / float(name))))


def two_stage_settings(
    method: Method, counts: Sequence[int], *, source: str = "", table: str = "auto", first_epochs: int = 0, **given: Any
) -> TwoStageSettings:
    """The published constants of a method, with those that were given laid over.

    TailCalib, TailCalibX and MODALS train as long as the first stage did (150 epochs where that is not known); cRT 10
    and LWS 5 epochs at rate 0.2 with batches of 512, as published for ImageNet-LT.

    Args:
        method: see :data:`METHODS`.
        counts: (C,) training images a class.
        source: of the data, to know mini-ImageNet-LT by its name.
        table: a key of :data:`TABLES`, or ``auto`` for :func:`nearest_table`.
        first_epochs: of the first stage; 0 where it is not known.
        given: fields of :class:`TwoStageSettings`; ``None`` means not given.

    Raises:
        LandscapeError: a setting that the method does not have, or an impossible value.
    """
    said = {name: value for name, value in given.items() if value is not None}
    if table != "auto":
        said["table"] = table
    for name in said:
        if method not in _OWNERS[name]:
            flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
            raise LandscapeError(f"method '{method}' has no {flag}: it belongs to {', '.join(_OWNERS[name])}")
    if "tau" in said and "holdout" in said:
        raise LandscapeError("--holdout is what τ is chosen on, and --tau leaves nothing to choose: give one of them")
    chosen = nearest_table(counts, source) if table == "auto" else table
    if chosen not in TABLES:
        raise LandscapeError(f"--imbalance-table '{table}': give auto, {', '.join(TABLES)}")
    row = TABLES[chosen]
    settings = TwoStageSettings(
        method, chosen, row.power, row.alpha, row.neighbors, momentum=row.momentum, epochs=first_epochs or 150
    )
    if method in ("crt", "lws"):
        epochs = 10 if method == "crt" else 5
        settings = replace(settings, epochs=epochs, lr=0.2, momentum=0.9, batch_size=512)
    settings = replace(settings, **said)
    for name, least in (("power", 0.0), ("alpha", 0.0), ("neighbors", 1), ("epochs", 1), ("batch_size", 1)):
        if not least <= getattr(settings, name) < math.inf:
            flag = _FLAGS.get(name, "--" + name.replace("_", "-"))
            raise LandscapeError(f"{flag} {getattr(settings, name):g}: give {least:g} or more")
    return settings
