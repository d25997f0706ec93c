"""One run: the same batches and the same steps for every optimiser, so that only the perturbation differs.

The loss is L(w) = L_head(w) + L_tail(w), each the mean over its own group. SGD descends along ∇L(w), SAM along
∇L(w + ε) with ε along ∇L(w), ImbSAM along ∇L_head(w) + ∇L_tail(w + ε) with ε along ∇L_tail(w). All three are
SGD with momentum, a cosine schedule and gradients clipped to norm 1; the model of the last epoch is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from landscape.anomaly.methods import Detector, method_of
from landscape.anomaly.protocol import DetectionData
from landscape.errors import LandscapeError
from landscape.losses import ClassificationLoss
from landscape.optim import BatchLosses, EscapeOptimizer, GroupedObjective, build_optimizer
from landscape.training.recipe import ScheduleRecipe
from landscape.training.schedules import learning_rate

OPTIMIZERS = ("sgd", "sam", "imbsam")
STEPS_PER_EPOCH = 20
BATCH_SIZE = 512
MOMENTUM = 0.9
CLIP_NORM = 1.0


@dataclass(frozen=True)
class DetectorRecipe:
    """What makes a run; the same recipe on the same data gives the same detector."""

    method: str  # of METHODS
    optimizer: str  # of OPTIMIZERS
    rho: float | None  # radius of the perturbation; None for sgd
    labelled: float  # share of the training anomalies that keep their label
    seed: int  # of the draw, the initial weights and the batches
    lr: float
    weight_decay: float
    epochs: int

    @classmethod
    def of(
        cls,
        method: str,
        optimizer: str,
        *,
        rho: float,
        labelled: float,
        seed: int,
        lr: float | None = None,
        epochs: int = 50,
    ) -> DetectorRecipe:
        """The recipe with the learning rate, if none is given, and the weight decay of its method."""
        detector = method_of(method)
        return cls(
            method=method,
            optimizer=optimizer,
            rho=None if optimizer == "sgd" else rho,
            labelled=labelled,
            seed=seed,
            lr=detector.lr if lr is None else lr,
            weight_decay=detector.weight_decay,
            epochs=epochs,
        )

    def dump(self) -> dict[str, Any]:
        """Its fields, for a file."""
        return asdict(self)


@dataclass(frozen=True)
class Trained:
    """A run's last epoch."""

    detector: Detector  # in eval mode
    auc_roc: float  # on the test split
    auc_pr: float  # average precision of the anomalies on the test split
    head_loss: float  # mean over the head's frozen samples
    tail_loss: float  # mean over the tail's


class GroupMeanObjective(GroupedObjective):
    """L_head + L_tail, each the mean over its own group in the batch; what SGD, SAM and ImbSAM all descend.

    With ρ = 0 the three steps are the same. (The whole of :class:`GroupedObjective` is the mean over the batch, half of
    this one for batches of two halves, and would give ImbSAM twice the learning rate.)
    """

    def __init__(
        self, model: Detector, loss: ClassificationLoss, inputs: Tensor, kinds: Tensor, is_tail: Tensor
    ) -> None:
        super().__init__(model, loss, inputs, kinds, is_tail, "group", present=(True, True))

    def __call__(self, *, update_statistics: bool) -> BatchLosses:
        """Forward the whole batch once."""
        losses = super().__call__(update_statistics=update_statistics)
        assert losses.head is not None
        assert losses.tail is not None
        return losses._replace(total=losses.head + losses.tail)


def new_detector(recipe: DetectorRecipe, train: Tensor) -> Detector:
    """The untrained detector on the CPU, with what its method fixes beforehand.

    Args:
        recipe: names the method and the seed.
        train: the training rows, ``(N, d)``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        detector = method_of(recipe.method)(train.shape[1])
    detector.prepare(train, _generator(recipe.seed, "reference"))
    return detector


def train_detector(
    data: DetectionData,
    recipe: DetectorRecipe,
    *,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[], None] = lambda: None,
) -> Trained:
    """Train on one draw of the protocol and score its test split with the last epoch's weights.

    Cost: epochs · 20 steps on 512 samples; the data stay one tensor on the device.

    Raises:
        LandscapeError: the weights are not finite at the end.
    """
    detector = new_detector(recipe, data.train).to(device).train()
    base = recipe.dump()
    settings = {} if base["rho"] is None else {"rho": base["rho"]}
    optimizer = build_optimizer(
        recipe.optimizer,
        detector.parameters(),
        lr=recipe.lr,
        momentum=MOMENTUM,
        weight_decay=recipe.weight_decay,
        **settings,
    )
    _clip(optimizer)
    is_tail = torch.tensor(detector.is_tail, device=device)
    unlabelled, anomalies = data.unlabelled.to(device), data.anomalies.to(device)
    batches = _generator(recipe.seed, "batches")
    schedule = ScheduleRecipe(name="cosine", epochs=recipe.epochs, batch_size=BATCH_SIZE)
    for epoch in range(recipe.epochs):
        optimizer.start_epoch(epoch, recipe.epochs)
        optimizer.set_lr(learning_rate(schedule, recipe.lr, epoch))
        inputs, kinds = detector.draw_batches(unlabelled, anomalies, STEPS_PER_EPOCH, BATCH_SIZE, batches)
        for batch in inputs:
            optimizer.step(GroupMeanObjective(detector, detector.loss, batch, kinds, is_tail))
        on_epoch()
    return judge(detector.eval().cpu(), data, recipe)


def judge(detector: Detector, data: DetectionData, recipe: DetectorRecipe) -> Trained:
    """Losses over the frozen training samples and AUCs over the test split.

    Raises:
        LandscapeError: a score is not finite.
    """
    # Here for the reason given in landscape/anomaly/protocol.py.
    from sklearn.metrics import average_precision_score, roc_auc_score

    with torch.no_grad():
        scores = detector.scores(data.test, data.unlabelled, data.anomalies, _generator(recipe.seed, "partners"))
        samples, kinds = frozen_samples(detector, data, recipe)
        losses = detector.loss.per_sample(detector(samples), kinds).double()
    if not bool(scores.isfinite().all() and losses.isfinite().all()):
        raise LandscapeError(
            f"{recipe.method} with {recipe.optimizer} and seed {recipe.seed} diverged: give a --lr below {recipe.lr:g}"
        )
    tail = torch.tensor(detector.is_tail)[kinds]
    truth = data.test_labels.numpy()
    return Trained(
        detector=detector,
        auc_roc=float(roc_auc_score(truth, scores.numpy())),
        auc_pr=float(average_precision_score(truth, scores.numpy())),
        head_loss=float(losses[~tail].mean()),
        tail_loss=float(losses[tail].mean()),
    )


def frozen_samples(detector: Detector, data: DetectionData, recipe: DetectorRecipe) -> tuple[Tensor, Tensor]:
    """The training samples over which the loss of a run is a fixed function, and their kinds."""
    return detector.frozen_samples(data.train, data.labels, _generator(recipe.seed, "frozen"))


def _clip(optimizer: EscapeOptimizer) -> None:
    """Clip what the base optimiser is given: 1/(‖o‖² + 1e-6) has gradients up to 1e9, and momentum remembers them."""
    parameters = optimizer.parameters

    def clip(*_: Any) -> None:
        clip_grad_norm_(parameters, CLIP_NORM)

    optimizer.base.register_step_pre_hook(clip)


def _generator(seed: int, purpose: str) -> torch.Generator:
    """Random numbers that do not depend on how many others were drawn for another purpose."""
    purposes = ("reference", "batches", "frozen", "partners")
    return torch.Generator().manual_seed((len(purposes) * seed + purposes.index(purpose)) % 2**63)
