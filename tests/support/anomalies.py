"""Small tables with anomalies in ADBench's format."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def write_table(path: Path, *, rows: int = 200, anomalies: int = 20, features: int = 3, seed: int = 0) -> Path:
    """Normal rows around 0 and anomalies around 2.5, features of different ranges, in random order."""
    random = np.random.default_rng(seed)
    is_anomaly = np.zeros(rows, dtype=np.int64)
    is_anomaly[random.choice(rows, anomalies, replace=False)] = 1
    values = random.normal(size=(rows, features)) + 2.5 * is_anomaly[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, X=values * np.arange(1, features + 1) * 10.0, y=is_anomaly)
    return path
