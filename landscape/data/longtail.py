"""Long-tailed draws: how many images each class keeps, and which.

The profiles are those of LDAM (Cao et al., NeurIPS 2019) and of class-balanced loss (Cui et al., CVPR 2019): with M
images in the largest class and imbalance factor IF = n_max / n_min, class c = 0, ..., C−1 in label order keeps

    exp:IF    n_c = ⌊M · IF^(−c/(C−1))⌋
    step:IF   n_c = M for the first ⌊C/2⌋ classes, ⌊M / IF⌋ for the others
    none      every image there is
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from landscape.errors import LandscapeError

_FORM = "expected exp:IF, step:IF (IF at least 1, for example exp:100) or none"


def class_counts(profile: str, available: Sequence[int]) -> tuple[int, ...]:
    """Number of images each class keeps under a long-tail profile.

    M is the size of the *smallest* class: then any class can take any place in the profile, and the imbalance of the
    draw is the one asked for, whatever the imbalance of the source. For the balanced CIFAR sets M is 50000/C.
    Fractions are cut off, not rounded, as in the published splits. The division by IF^(c/(C−1)), rather than a product
    with (1/IF)^(c/(C−1)), keeps ⌊M / IF⌋ exact: 49 · (1/49) is 0.999… in floating point.

    Args:
        profile: ``exp:IF``, ``step:IF`` or ``none``.
        available: images the source holds, one entry a class in label order.

    Returns:
        n_c, one entry a class in label order. ``none`` gives ``available`` back.

    Raises:
        LandscapeError: a malformed profile, IF < 1, or a class that would be left without images.
    """
    sizes = tuple(int(size) for size in available)
    if 0 in sizes or not sizes:
        missing = f"class {sizes.index(0)} has no images" if sizes else "there are no classes"
        raise LandscapeError(f"long-tail profile '{profile}': {missing} to draw from")
    if profile == "none":
        return sizes
    kind, _, factor = profile.partition(":")
    try:
        imbalance = float(factor)
    except ValueError:
        imbalance = math.nan
    if kind not in ("exp", "step") or not 1.0 <= imbalance < math.inf:
        raise LandscapeError(f"long-tail profile '{profile}': {_FORM}")

    num_classes, largest = len(sizes), min(sizes)
    if kind == "exp":
        counts = [int(largest / imbalance ** (c / max(num_classes - 1, 1))) for c in range(num_classes)]
    else:
        counts = [largest if c < num_classes // 2 else int(largest / imbalance) for c in range(num_classes)]
    if 0 in counts:
        raise LandscapeError(
            f"long-tail profile '{profile}' leaves class {counts.index(0)} with 0 images: the largest class keeps "
            f"{largest} (the size of the smallest class), so IF can be at most {largest}: use {kind}:{largest}"
        )
    return tuple(counts)


def draw(labels: Tensor | Sequence[int], counts: Sequence[int], how: str = "shuffled", seed: int = 0) -> Tensor:
    """Choose ``counts[c]`` images of every class c.

    * ``shuffled``: one MT19937 stream seeded with ``seed``; for each class in ascending order its positions are
      shuffled in full and the first n_c kept. This is the split of LDAM, VS and Saddle (seed 0). Because the shuffle
      has the length of the whole class, draws with the same seed are nested: a larger IF keeps a prefix.
    * ``file-order``: the first n_c of every class as they stand, the split of ImbSAM and SSE-SAM; ``seed`` plays no
      part.

    Args:
        labels: class of every image, shape (N,), in data-set order.
        counts: images to keep, one entry a class; no class may be missing.
        how: ``shuffled`` or ``file-order``.
        seed: of a generator local to this call; the global ones are neither read nor moved.

    Returns:
        Positions in ``labels``, int64, shape (Σ n_c,), class by class in ascending order.

    Raises:
        LandscapeError: an unknown convention, labels outside the classes of ``counts``, or more images asked for than
            the class holds.
    """
    if how not in ("shuffled", "file-order"):
        raise LandscapeError(
            f"unknown draw '{how}': use 'shuffled' (LDAM, VS, Saddle) or 'file-order' (ImbSAM, SSE-SAM)"
        )
    array = torch.as_tensor(labels).cpu().numpy()
    if array.size and not 0 <= array.min() <= array.max() < len(counts):
        raise LandscapeError(
            f"labels run from {array.min()} to {array.max()}, but {len(counts)} class counts were given"
        )
    generator = np.random.RandomState(seed)  # the published splits are defined by this legacy stream
    kept = []
    for label, count in enumerate(counts):
        positions = np.flatnonzero(array == label)
        if not 0 <= count <= len(positions):
            raise LandscapeError(f"cannot draw {count} images of class {label}: the source has {len(positions)}")
        if how == "shuffled":
            generator.shuffle(positions)
        kept.append(positions[:count])
    return torch.from_numpy(np.concatenate(kept).astype(np.int64)) if kept else torch.empty(0, dtype=torch.int64)
