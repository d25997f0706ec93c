"""ADBench's protocol: a labelled table becomes a training set with few labels and a test set.

70 % of the rows train and 30 % test, stratified; features are scaled to [0, 1] by the minimum and maximum of the
training rows; a share of the training anomalies keeps its label, and the others stay among the unlabelled rows, as they
would in practice. Source: Han et al. 2022 (ADBench), arXiv 2206.09426, and its code.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import LandscapeError

LEAST_ROWS, MOST_ROWS = 1_000, 10_000
TEST_SHARE = 0.3


@dataclass(frozen=True, eq=False)
class Table:
    """A data set as it is on disk."""

    path: Path
    rows: NDArray[np.float64]  # (n, d)
    is_anomaly: NDArray[np.int64]  # (n,) 1 = anomaly

    @property
    def name(self) -> str:
        return self.path.stem

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256, 64 hexadecimal digits, of shape, values and labels in their order."""
        digest = hashlib.sha256(repr(self.rows.shape).encode())
        digest.update(np.ascontiguousarray(self.rows, dtype="<f8").data)
        digest.update(np.ascontiguousarray(self.is_anomaly, dtype="<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class DetectionData:
    """A draw of the protocol, features in units of the training range."""

    train: Tensor  # (N, d) float32, in [0, 1]
    labels: Tensor  # (N,) int64: 1 = labelled anomaly, 0 = unlabelled
    contamination: int  # anomalies among the unlabelled rows
    test: Tensor  # (M, d) float32; beyond [0, 1] where the training rows do not reach
    test_labels: Tensor  # (M,) int64: 1 = anomaly

    @property
    def unlabelled(self) -> Tensor:
        """(N_u, d), the training rows without a label."""
        return self.train[self.labels == 0]

    @property
    def anomalies(self) -> Tensor:
        """(N_a, d), the labelled anomalies."""
        return self.train[self.labels == 1]

    @property
    def prevalence(self) -> float:
        """Share of anomalies in the test set, which is the AUC-PR of random scores."""
        return float(self.test_labels.double().mean())


def read_table(path: Path) -> Table:
    """Read a data set in ADBench's format, an ``.npz`` file with ``X (n, d)`` and ``y (n,)``, 1 = anomaly.

    Raises:
        LandscapeError: missing, not such a file, not finite, or fewer than 4 anomalies or normal rows.
    """
    if not path.is_file():
        raise LandscapeError(f"no data set at {path}: give a FILE.npz with X (n, d) and y (n,), or a folder of them")
    # Asked first: of anything else NumPy makes an array of its own, or an offer to unpickle it.
    if not zipfile.is_zipfile(path):
        raise LandscapeError(f"{path} is not a readable .npz file; numpy.savez(…, X=…, y=…) writes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in ("X", "y") if key not in file]
            if missing:
                raise LandscapeError(f"{path} has no array '{missing[0]}': it needs X (n, d) and y (n,), 1 = anomaly")
            rows, labels = file["X"], file["y"]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, LandscapeError):
            raise
        raise LandscapeError(f"{path} is not a readable .npz file of numbers: {error}") from None
    if rows.dtype.kind not in "biuf":
        raise LandscapeError(f"{path}: X is of type {rows.dtype}, it must hold real numbers")
    rows = rows.astype(np.float64)
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not rows.size:
        raise LandscapeError(f"{path}: X is {rows.shape} and y {labels.shape}, they must be (n, d) and (n,)")
    if not np.isfinite(rows).all():
        raise LandscapeError(f"{path}: X has values that are not finite; fill them in first")
    if not np.isin(labels, (0, 1)).all():
        raise LandscapeError(f"{path}: y must be 1 for an anomaly and 0 otherwise, it has {np.unique(labels)[:5]}")
    is_anomaly = labels.astype(np.int64)
    if min(is_anomaly.sum(), (1 - is_anomaly).sum()) < 4:
        raise LandscapeError(f"{path} has {is_anomaly.sum()} anomalies in {len(rows)} rows; both kinds need at least 4")
    return Table(path, rows, is_anomaly)


def find_tables(paths: Sequence[Path]) -> list[Path]:
    """The ``.npz`` files that are named, and those of the folders that are.

    Raises:
        LandscapeError: a folder without any, or two data sets of one name.
    """
    found: dict[str, Path] = {}
    for path in paths:
        files = sorted(path.glob("*.npz")) if path.is_dir() else [path]
        if not files:
            raise LandscapeError(f"{path} holds no .npz file")
        for file in files:
            if found.setdefault(file.stem, file).resolve() != file.resolve():
                raise LandscapeError(f"{found[file.stem]} and {file} are two data sets of one name; rename one")
    return list(found.values())


def draw(table: Table, *, labelled: float, seed: int) -> DetectionData:
    """One draw of the protocol; the seed decides the rows, the split and the labels, and nothing else does.

    More than 10,000 rows are sub-sampled to that many. Fewer than 1,000 are filled up by repeating rows, 700 to train
    and 300 to test: after the split, so that no row is on both sides (ADBench repeats before it).

    Args:
        table: the data set.
        labelled: share of the training anomalies that keep their label, in (0, 1]; at least one does.
        seed: of the draw.

    Raises:
        LandscapeError: the share is out of range, or too few anomalies are left to be on both sides.
    """
    # Here, since `landscape spectrum` imports this module for every checkpoint, and scikit-learn takes its time.
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import MinMaxScaler

    if not 0 < labelled <= 1:
        raise LandscapeError(f"--labelled {labelled:g}: a share of the training anomalies, above 0 and at most 1")
    random = np.random.default_rng(seed)
    index = np.arange(len(table.rows))
    if len(index) > MOST_ROWS:
        index = random.choice(index, MOST_ROWS, replace=False)
    count = int(table.is_anomaly[index].sum())
    if count < 4:
        raise LandscapeError(
            f"{table.path}: only {count} anomalies among the {MOST_ROWS:,} rows drawn with seed {seed}; 4 are needed"
        )
    train, test = train_test_split(
        index, test_size=TEST_SHARE, stratify=table.is_anomaly[index], random_state=seed % 2**32
    )
    if len(index) < LEAST_ROWS:
        size = round(TEST_SHARE * LEAST_ROWS)
        train, test = _filled(train, LEAST_ROWS - size, random), _filled(test, size, random)
    scaler = MinMaxScaler().fit(table.rows[train])
    anomalies = np.flatnonzero(table.is_anomaly[train])
    kept = random.choice(anomalies, max(1, round(labelled * len(anomalies))), replace=False)
    labels = np.zeros(len(train), dtype=np.int64)
    labels[kept] = 1
    return DetectionData(
        train=torch.from_numpy(scaler.transform(table.rows[train])).float(),
        labels=torch.from_numpy(labels),
        contamination=len(anomalies) - len(kept),
        test=torch.from_numpy(scaler.transform(table.rows[test])).float(),
        test_labels=torch.from_numpy(table.is_anomaly[test]),
    )


def _filled(index: NDArray[np.int64], size: int, random: np.random.Generator) -> NDArray[np.int64]:
    return np.concatenate([index, random.choice(index, max(0, size - len(index)))])
