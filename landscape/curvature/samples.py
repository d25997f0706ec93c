"""Fixed inputs and targets, and what is refused as such."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from landscape.errors import LandscapeError


class Samples(NamedTuple):
    """Fixed inputs and targets, one entry a sample along the first axis."""

    inputs: Tensor  # (N, ...)
    targets: Tensor  # (N, ...)

    @classmethod
    def of(cls, data: Iterable[Any]) -> Samples:
        """Samples as they are, a pair of tensors, or a loader that passes :meth:`from_loader`."""
        if isinstance(data, Samples):
            return data
        if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
            return cls(*data)
        return cls.from_loader(data)

    def cast(self, dtype: torch.dtype, device: torch.device, *, copy: bool = False) -> Samples:
        """Floating tensors in ``dtype``, integer ones (labels, tokens) as they are."""
        return Samples(
            *(t.detach().to(device=device, dtype=dtype if t.is_floating_point() else t.dtype, copy=copy) for t in self)
        )

    @classmethod
    def from_loader(cls, loader: Iterable[tuple[Tensor, Tensor]], *, freeze: bool = False) -> Samples:
        """Collect a loader of ``(inputs, targets)`` batches into tensors, and refuse one that moves.

        The loader is read twice. A shuffled order is harmless (the samples are the same), but random transforms give a
        different Hessian at every product, and that alone fabricates negative eigenvalues.

        Args:
            loader: finite iterable of batches.
            freeze: keep one random copy instead of refusing; the result is then a statement about that copy.

        Raises:
            LandscapeError: the samples of the second reading differ from those of the first.
        """
        first = cls._collect(loader)
        if freeze:
            return first
        if iter(loader) is loader:
            raise LandscapeError(
                "the loader can be read only once (a generator), so nothing shows that its samples stay the same. Pass "
                "tensors or a DataLoader, or freeze=True to measure what this one reading gives."
            )
        second = cls._collect(loader)
        if not _same_multiset(first, second):
            raise LandscapeError(
                "the loader is not deterministic: its samples differ between two readings. Remove the random "
                "transforms (crop, flip, jitter), and drop_last from a shuffled loader, or pass freeze=True to measure "
                "one frozen copy of them."
            )
        return first

    @classmethod
    def _collect(cls, loader: Iterable[tuple[Tensor, Tensor]]) -> Samples:
        batches = [(inputs, targets) for inputs, targets in loader]
        if not batches:
            raise LandscapeError("the loader gave no batch; a problem needs at least one sample")
        return cls(torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches]))


def _same_multiset(first: Samples, second: Samples) -> bool:
    if first.inputs.shape != second.inputs.shape or first.targets.shape != second.targets.shape:
        return False
    if torch.equal(first.inputs, second.inputs) and torch.equal(first.targets, second.targets):
        return True

    def rows(samples: Samples) -> list[bytes]:
        inputs, targets = samples.inputs.detach().cpu().contiguous(), samples.targets.detach().cpu().contiguous()
        return sorted(_bytes(x) + _bytes(y) for x, y in zip(inputs, targets, strict=True))

    return rows(first) == rows(second)


def _bytes(tensor: Tensor) -> bytes:
    # NumPy knows no bfloat16.
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
