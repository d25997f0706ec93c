"""Symmetric matrices with a prescribed spectrum."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def with_spectrum(eigenvalues: Array, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Q diag(eigenvalues) Qᵀ with a random orthogonal Q, exactly symmetric."""
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    matrix = (q * eigenvalues) @ q.T
    return torch.as_tensor((matrix + matrix.T) / 2).to(dtype)


def network_like(n: int = 120) -> Array:
    """What a trained network's Hessian looks like: a cluster at 0, a few large outliers, some negative ones."""
    rng = np.random.default_rng(7)
    outliers, negative = [40.0, 22.0, 9.0, 5.0, 3.0], [-4.0, -2.0, -0.7]
    bulk = 10.0 ** rng.uniform(-6, -1, n - len(outliers) - len(negative)) * rng.choice([1, 1, -1], n - 8)
    return np.sort(np.concatenate([outliers, negative, bulk]))


SPECTRA: dict[str, Array] = {
    "network": network_like(),
    "uniform": np.linspace(-1.0, 2.0, 90),
    "rank deficient": np.sort(np.r_[np.zeros(95), [-1.0, 0.5, 1.0, 3.0, 8.0]]),
    "repeated": np.sort(np.r_[np.full(3, 5.0), np.full(2, -2.0), np.linspace(-1.5, 1.5, 85)]),
    "three values": np.sort(np.r_[np.full(3, 5.0), np.full(2, -2.0), np.zeros(95)]),
    "all negative": -np.geomspace(7.0, 1e-3, 80),
    "zero": np.zeros(60),
    "one negative far below": np.sort(np.r_[-1e-2, np.geomspace(1e-3, 1e2, 70)]),
}
