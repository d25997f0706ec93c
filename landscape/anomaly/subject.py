"""A detector as what a study of curvature measures: its training loss over its training samples, in two classes."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import tomli_w
import torch
from torch import Tensor

from landscape.anomaly.checkpoint import CLASS_NAMES, DetectorFile, read_detector
from landscape.anomaly.methods import AnomalyLoss, Detector
from landscape.anomaly.protocol import DetectionData
from landscape.anomaly.training import frozen_samples
from landscape.data import ClassGroups
from landscape.errors import LandscapeError
from landscape.store import MetaValue


@dataclass(frozen=True, eq=False)
class DetectorSamples:
    """Rows or pairs with what the loss is told of them."""

    inputs: Tensor  # (P, ...) float32
    kinds: Tensor  # (P,) int64, as the loss knows them
    labels: Tensor  # (P,) int64: 0 = without a labelled anomaly, 1 = with one

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """SHA-256 of shape, values and kinds in their order."""
        digest = hashlib.sha256(repr(tuple(self.inputs.shape)).encode())
        digest.update(self.inputs.contiguous().numpy().data)
        digest.update(self.kinds.numpy().astype("<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DetectorSplits:
    """The samples by split: ``train`` with the labels of the training, ``test`` with the true ones."""

    file: DetectorFile
    detector: Detector
    drawn: DetectionData
    class_names: tuple[str, ...] = CLASS_NAMES

    def split(self, name: Literal["train", "test"]) -> DetectorSamples:
        """The training samples: rows, or the frozen pairs of PReNet. Or those of the test split."""
        data = self.drawn
        if name == "test":
            data = DetectionData(data.test, data.test_labels, 0, data.test, data.test_labels)
        inputs, kinds = frozen_samples(self.detector, data, self.file.recipe)
        return DetectorSamples(inputs, kinds, torch.tensor(self.detector.is_tail).long()[kinds])

    @functools.cached_property
    def counts(self) -> tuple[int, ...]:
        """Training samples without and with a labelled anomaly."""
        return tuple(torch.bincount(self.split("train").labels, minlength=2).tolist())


@dataclass(frozen=True, eq=False)
class DetectorSubject:
    """An anomaly detector with its weights, and the draw that it was trained on; see :class:`landscape.study.Subject`.

    The Hessian is that of one linear piece of the network: it is defined where no ReLU's argument is 0 and no sample
    sits on a kink of its loss (o = 0 and o = 5 of DevNet, o = t of PReNet), which is almost everywhere, and is what
    autograd gives. On a piece the losses of DevNet and PReNet are linear in the score, and the score is bilinear in the
    two layers, so the Hessian is [[0, B], [Bᵀ, 0]]: its eigenvalues come in pairs ±λ, and every part that is not flat
    has negative ones.
    """

    path: Path
    sha256: str
    model: Detector
    data: DetectorSplits
    file: DetectorFile

    default_loss: ClassVar[Literal["training"]] = "training"
    recipe: ClassVar[None] = None  # a recipe of `landscape train`, which follows a sweep

    @property
    def epoch(self) -> int:
        return self.file.recipe.epochs

    @property
    def groups(self) -> ClassGroups:
        """Normal samples are the head and anomalies the tail, as ImbSAM takes them."""
        return ClassGroups("normal/anomaly", head=(0,), mid=(), tail=(1,))

    def loss(self, kind: Literal["ce", "training"]) -> AnomalyLoss:
        """The loss of the method, with weights that make the whole ½(L_head + L_tail), half of what was descended.

        The weights are those of the training samples, whatever split is measured.

        Raises:
            LandscapeError: cross-entropy was asked for.
        """
        if kind == "ce":
            raise LandscapeError(f"{self.path} is an anomaly detector, which has no cross-entropy: leave --loss out")
        kinds = self.data.split("train").kinds
        tail = torch.tensor(self.model.is_tail)
        share = torch.bincount(tail.long()[kinds], minlength=2).double() / len(kinds)
        return self.model.loss.with_class_weights(0.5 / share[tail.long()])

    def samples(self, split: DetectorSamples, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs ``(P, ...)`` and kinds ``(P,)`` on the device."""
        return split.inputs.to(device=device, dtype=dtype), split.kinds.to(device)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> None:
        """A detector ranks; it has no accuracy."""

    def describe(self) -> dict[str, MetaValue]:
        """What a results file says of it."""
        return {
            "model": self.file.recipe.method,
            "recipe": tomli_w.dumps({"anomaly": {k: v for k, v in self.file.recipe.dump().items() if v is not None}}),
            "imbalance": f"labelled:{self.file.recipe.labelled:g}",
            "normalize": "min-max of the training rows",
            "logit_scale": 1.0,
        }

    @property
    def source(self) -> str:
        return str(self.file.data)


def open_detector(path: Path, *, data: Path | None = None) -> DetectorSubject:
    """A checkpoint of ``landscape anomaly`` with the draw it was trained on.

    Args:
        path: the checkpoint.
        data: its table, where that has moved.

    Raises:
        LandscapeError: no detector, or another table.
    """
    file = read_detector(path)
    detector = file.build()
    return DetectorSubject(path, file.sha256, detector, DetectorSplits(file, detector, file.open_data(data)), file)
