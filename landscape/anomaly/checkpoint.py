"""The last epoch of a run as a file, in the format of every other checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from landscape.anomaly.methods import Detector, method_of
from landscape.anomaly.protocol import DetectionData, Table, draw, read_table
from landscape.anomaly.training import DetectorRecipe, Trained
from landscape.errors import LandscapeError
from landscape.training.checkpoint import (
    CheckpointInfo,
    file_sha256,
    fit_state,
    load_state,
    read_info,
    save_checkpoint,
)

CLASS_NAMES = ("normal", "anomaly")
_SECTION = "anomaly"


@dataclass(frozen=True)
class DetectorFile:
    """A run as its checkpoint tells it, without the weights."""

    path: Path
    recipe: DetectorRecipe
    data: Path  # the table, as it was named
    fingerprint: str  # of the table
    num_features: int
    class_counts: tuple[int, int]  # training rows without a label, and labelled anomalies
    metrics: dict[str, float]  # auc_roc, auc_pr and prevalence of the test split; head_loss, tail_loss in training

    def build(self) -> Detector:
        """The network with these weights, in eval mode on the CPU."""
        detector = method_of(self.recipe.method)(self.num_features)
        fit_state(detector, load_state(self.path), self.path)
        return detector.eval()

    def open_data(self, path: Path | None = None) -> DetectionData:
        """The draw that the run was trained on, from the table it names or from ``path``.

        Raises:
            LandscapeError: the table is not there, or not the same.
        """
        if path is None and not self.data.is_file():
            raise LandscapeError(f"{self.path} was trained on {self.data}, which is not there: name it with --data")
        table = read_table(path or self.data)
        if table.fingerprint != self.fingerprint:
            raise LandscapeError(
                f"{table.path} is not what {self.path} was trained on (SHA-256 {table.fingerprint[:12]}…, not "
                f"{self.fingerprint[:12]}…): name that table with --data"
            )
        return draw(table, labelled=self.recipe.labelled, seed=self.recipe.seed)

    @property
    def sha256(self) -> str:
        return file_sha256(self.path)


def save_detector(path: Path, trained: Trained, recipe: DetectorRecipe, table: Table, data: DetectionData) -> None:
    """Write a run's last epoch in one atomic step, with the recipe, the table it belongs to and what it reached."""
    info = CheckpointInfo(
        recipe={
            _SECTION: {
                **recipe.dump(),
                "data": str(table.path.resolve()),
                "fingerprint": table.fingerprint,
            }
        },
        epoch=recipe.epochs,
        class_names=list(CLASS_NAMES),
        class_counts=[len(data.unlabelled), len(data.anomalies)],
        in_channels=data.train.shape[1],  # a row is an image of one pixel
        image_size=1,
        metrics={
            "auc_roc": trained.auc_roc,
            "auc_pr": trained.auc_pr,
            "prevalence": data.prevalence,
            "head_loss": trained.head_loss,
            "tail_loss": trained.tail_loss,
        },
    )
    save_checkpoint(path, trained.detector, info)


def detector_recipe(info: CheckpointInfo | None) -> dict[str, Any] | None:
    """What a checkpoint says of the detector that it holds; ``None`` where it holds something else."""
    return None if info is None else info.recipe.get(_SECTION)


def is_detector(path: Path) -> bool:
    """Whether a path is a checkpoint of an anomaly detector."""
    return path.suffix == ".safetensors" and path.is_file() and detector_recipe(read_info(path)) is not None


def read_detector(path: Path) -> DetectorFile:
    """What a detector's checkpoint says of itself.

    Raises:
        LandscapeError: missing, truncated, or no detector.
    """
    if not path.is_file():
        raise LandscapeError(f"no checkpoint at {path}: `landscape anomaly … -o FOLDER` writes them")
    info = read_info(path)
    section = detector_recipe(info)
    if info is None or section is None:
        raise LandscapeError(f"{path} is no anomaly detector: `landscape anomaly … -o FOLDER` writes them")
    values = dict(section)
    data, fingerprint = Path(values.pop("data")), values.pop("fingerprint")
    unlabelled, anomalies = info.class_counts
    return DetectorFile(
        path=path,
        recipe=DetectorRecipe(**values),
        data=data,
        fingerprint=fingerprint,
        num_features=info.in_channels,
        class_counts=(unlabelled, anomalies),
        metrics=info.metrics,
    )
