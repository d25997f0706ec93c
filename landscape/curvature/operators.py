"""Symmetric operators: things that know how to multiply, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from landscape.curvature.problem import Problem, Samples, exact_arithmetic

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


class SymmetricOperator:
    """A symmetric matrix known by its products with vectors.

    Subclasses define :meth:`_matvec`. ``num_matvecs`` counts every column that was multiplied.

    Args:
        dimension: n, the matrix is n × n.
        dtype: of the vectors.
        device: of the vectors.
    """

    def __init__(self, dimension: int, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> None:
        self.shape = (dimension, dimension)
        self.dtype = dtype
        self.device = torch.device(device)
        self.num_matvecs = 0

    def _matvec(self, vector: Tensor) -> Tensor:
        raise NotImplementedError

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """``op @ v`` for ``v`` of shape ``(n,)`` or ``(n, K)``; the result has the same shape.

        Raises:
            ValueError: the shape does not fit.
        """
        if vectors.ndim not in (1, 2) or vectors.shape[0] != self.shape[0]:
            raise ValueError(
                f"expected vectors of shape ({self.shape[0]},) or ({self.shape[0]}, K), got {tuple(vectors.shape)}"
            )
        vectors = vectors.to(device=self.device, dtype=self.dtype)
        self.num_matvecs += 1 if vectors.ndim == 1 else vectors.shape[1]
        if vectors.ndim == 1:
            return self._matvec(vectors)
        return torch.stack([self._matvec(column) for column in vectors.T], dim=1)

    def to_scipy(self) -> LinearOperator:
        """The same operator for SciPy's iterative solvers; vectors make a round trip through the host."""
        from scipy.sparse.linalg import LinearOperator

        def matvec(vector: Any) -> Any:
            return (self @ torch.as_tensor(vector).reshape(-1)).cpu().numpy()

        # SciPy reads the dtype of a product to find its own.
        dtype = torch.empty(0, dtype=self.dtype).numpy().dtype
        return LinearOperator(self.shape, matvec=matvec, rmatvec=matvec, dtype=dtype)

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> SymmetricOperator:
        """An explicit symmetric matrix ``(n, n)`` as an operator; for tests and small problems."""
        return _MatrixOperator(matrix)


class _MatrixOperator(SymmetricOperator):
    def __init__(self, matrix: Tensor) -> None:
        super().__init__(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
        self._matrix = matrix

    def _matvec(self, vector: Tensor) -> Tensor:
        return self._matrix @ vector


class HessianOperator(SymmetricOperator):
    """H = Σ_i w_i ∇²ℓ_i / Σ_i w_i over the chosen parameters of a problem.

    Double backward. The graph of the gradient does not depend on the vector, so it is kept from product to product for
    as many chunks as ``memory_budget`` holds; the others are rebuilt each time. Cost of a product: about two gradients
    for a kept chunk and four for a rebuilt one, plus one gradient a kept chunk once.

    Args:
        problem: the frozen question; a restricted one gives the block of its parameters on its samples.
        memory_budget: bytes that kept graphs may take; half of what is free by default.
    """

    def __init__(self, problem: Problem, *, memory_budget: int | None = None) -> None:
        super().__init__(problem.num_parameters, dtype=problem.dtype, device=problem.device)
        self.problem = problem
        self.memory_budget = free_memory(problem.device) // 2 if memory_budget is None else memory_budget
        self._kept: dict[int, tuple[list[Tensor], Sequence[Tensor]]] = {}
        self.kept_bytes = 0
        self._weight = problem.total_weight
        # Saved by every graph but held once, and a chunk is a view of all samples.
        resident = (*problem.parameters.values(), *problem.buffers.values(), *problem.samples)
        self._resident = {tensor.untyped_storage().data_ptr() for tensor in resident}

    @property
    def kept_chunks(self) -> int:
        """Chunks whose gradient graph is held in memory."""
        return len(self._kept)

    def _matvec(self, vector: Tensor) -> Tensor:
        pieces = self.problem.unflatten(vector)
        with exact_arithmetic(self.device):
            total = torch.zeros_like(vector)
            for number, chunk in enumerate(self.problem.chunks()):
                kept = self._kept.get(number)
                keep = kept is not None
                if kept is None:
                    leaves, gradients, size = self._differentiate(chunk)
                    keep = self.kept_bytes + size <= self.memory_budget
                    if keep:
                        self._kept[number] = (leaves, gradients)
                        self.kept_bytes += size
                else:
                    leaves, gradients = kept
                total += self._second_backward(leaves, gradients, pieces, keep)
        return total / self._weight

    def _differentiate(self, chunk: Samples) -> tuple[list[Tensor], Sequence[Tensor], int]:
        """Leaves, the gradient with its graph, and the bytes that the graph holds."""
        leaves = self.problem.leaves()
        held: dict[int, int] = {}
        resident = self._resident

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in resident:
                held[storage.data_ptr()] = storage.nbytes()
            # The graph owns this function and what it returns. With `self` in it, or a tensor with its own graph, both
            # would hold each other for ever, out of sight of the garbage collector.
            return tensor.detach()

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            total, _ = self.problem.loss_sum(leaves, chunk)
            if not total.requires_grad:  # a layer that the loss does not see
                return leaves, [torch.zeros_like(leaf) for leaf in leaves], 0
            gradients = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
        return leaves, gradients, sum(held.values())

    def _second_backward(
        self, leaves: list[Tensor], gradients: Sequence[Tensor], pieces: list[Tensor], retain: bool
    ) -> Tensor:
        curved = [(g, piece) for g, piece in zip(gradients, pieces, strict=True) if g.requires_grad]
        if not curved:  # a loss that is linear in the parameters
            return torch.zeros(self.shape[0], dtype=self.dtype, device=self.device)
        products = torch.autograd.grad(
            [g for g, _ in curved],
            leaves,
            grad_outputs=[piece for _, piece in curved],
            retain_graph=retain,
            materialize_grads=True,
        )
        return self.problem.flatten(products)


def free_memory(device: torch.device) -> int:
    """Bytes free for new tensors on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
