"""Symmetric operators: things that know how to multiply, and nothing else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from landscape.curvature.problem import Problem, Samples, exact_arithmetic
from landscape.curvature.products import CannotTrace, SplitProduct, trace_product
from landscape.errors import LandscapeError

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator


Engine = Literal["traced", "double-backward"]


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

    Two ways give the same product to rounding. ``traced`` runs the graphs of :mod:`landscape.curvature.products`: some
    seconds once for each model, parameter set and chunk shape, then about six forward passes a product; a chunk that
    cannot be traced, or whose traced product differs from the other way's, falls back. ``double-backward``
    differentiates the gradient again: nothing to prepare, about thirteen passes. Either keeps what does not depend on
    the vector for as many chunks as ``memory_budget`` holds and computes it anew for the others, at about four more.

    Args:
        problem: the frozen question; a restricted one gives the block of its parameters on its samples.
        engine: ``traced`` for many products, ``double-backward`` for a few; never both, so that the matrix stays the
            same to the last bit.
        memory_budget: bytes that may be kept; half of what is free by default.
    """

    def __init__(self, problem: Problem, *, engine: Engine = "traced", memory_budget: int | None = None) -> None:
        super().__init__(problem.num_parameters, dtype=problem.dtype, device=problem.device)
        if engine not in get_args(Engine):
            raise LandscapeError(f"engine='{engine}': use {', '.join(get_args(Engine))}")
        self.problem = problem
        self.engine: Engine = engine
        self.memory_budget = free_memory(problem.device) // 2 if memory_budget is None else memory_budget
        self._weight = problem.total_weight
        # Held anyway, and a chunk is a view of all samples.
        resident = (*problem.parameters.values(), *problem.buffers.values(), *problem.samples)
        self._resident = {tensor.untyped_storage().data_ptr() for tensor in resident}
        self._chunks: list[_Chunk] = []

    @property
    def kept_bytes(self) -> int:
        """Bytes held from product to product."""
        return sum(chunk.kept_bytes for chunk in self._chunks)

    @property
    def kept_chunks(self) -> int:
        """Chunks whose part that does not depend on the vector is held in memory."""
        return sum(chunk.kept for chunk in self._chunks)

    @property
    def traced_chunks(self) -> int:
        """Chunks that run as traced graphs."""
        return sum(isinstance(chunk, _TracedChunk) for chunk in self._chunks)

    def _matvec(self, vector: Tensor) -> Tensor:
        pieces = self.problem.unflatten(vector)
        with exact_arithmetic(self.device):
            if not self._chunks:
                self._chunks = self._cut()
            total = torch.zeros_like(vector)
            room = self.memory_budget - self.kept_bytes
            for chunk in self._chunks:
                held = chunk.kept_bytes
                total += chunk.multiply(pieces, room)
                room -= chunk.kept_bytes - held
        return total / self._weight

    def _cut(self) -> list[_Chunk]:
        if self.engine == "double-backward":
            return [_TwiceDifferentiated(self.problem, chunk, self._resident) for chunk in self.problem.chunks()]
        chunks: list[_Chunk] = []
        for samples, mask in _padded_chunks(self.problem):
            product = _split_product(self.problem, samples, mask, self._resident)
            if product is not None:
                chunks.append(_TracedChunk(self.problem, product, samples, mask, self._resident))
            else:
                real = Samples(samples.inputs[mask.bool()], samples.targets[mask.bool()])
                chunks.append(_TwiceDifferentiated(self.problem, real, self._resident))
        return chunks


class _Chunk:
    """Σ_i w_i ∇²ℓ_i over a few samples; ``kept_bytes`` is what it holds between products."""

    kept = False
    kept_bytes = 0

    def multiply(self, pieces: list[Tensor], room: int) -> Tensor:
        """The product with ``pieces``, not yet divided by the weights; may come to keep up to ``room`` bytes."""
        raise NotImplementedError


class _TracedChunk(_Chunk):
    def __init__(
        self, problem: Problem, product: SplitProduct, samples: Samples, mask: Tensor, resident: set[int]
    ) -> None:
        self._problem, self._product, self._resident = problem, product, resident
        self._arguments = [*problem.parameters.values(), *problem.buffers.values(), *samples, mask]
        self._prepared: list[Tensor] | None = None

    def multiply(self, pieces: list[Tensor], room: int) -> Tensor:
        prepared = self._prepared
        if prepared is None:
            prepared = self._product.prepare(self._arguments)
            storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in prepared}
            size = sum(bytes for pointer, bytes in storages.items() if pointer not in self._resident)
            if size <= room:
                self._prepared, self.kept_bytes, self.kept = prepared, size, True
        return self._problem.flatten(self._product.multiply(prepared, pieces))


class _TwiceDifferentiated(_Chunk):
    def __init__(self, problem: Problem, samples: Samples, resident: set[int]) -> None:
        self._problem, self._samples, self._resident = problem, samples, resident
        self._graph: tuple[list[Tensor], Sequence[Tensor]] | None = None

    def multiply(self, pieces: list[Tensor], room: int) -> Tensor:
        if self._graph is not None:
            leaves, gradients = self._graph
        else:
            leaves, gradients, size = self._differentiate()
            if size <= room:
                self._graph, self.kept_bytes, self.kept = (leaves, gradients), size, True
        curved = [(g, piece) for g, piece in zip(gradients, pieces, strict=True) if g.requires_grad]
        if not curved:  # a loss that is linear in the parameters
            return torch.zeros_like(self._problem.flatten(pieces))
        products = torch.autograd.grad(
            [g for g, _ in curved],
            leaves,
            grad_outputs=[piece for _, piece in curved],
            retain_graph=self.kept,
            materialize_grads=True,
        )
        return self._problem.flatten(products)

    def _differentiate(self) -> tuple[list[Tensor], Sequence[Tensor], int]:
        """Leaves, the gradient with its graph, and the bytes that the graph holds."""
        leaves = self._problem.leaves()
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
            total, _ = self._problem.loss_sum(leaves, self._samples)
            if not total.requires_grad:  # a layer that the loss does not see
                return leaves, [torch.zeros_like(leaf) for leaf in leaves], 0
            gradients = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
        return leaves, gradients, sum(held.values())


@runtime_checkable
class _PerSampleLoss(Protocol):
    """A loss that can leave single samples out, such as those of :mod:`landscape.losses`."""

    def per_sample(self, outputs: Any, targets: Tensor) -> Tensor: ...
    def sample_weights(self, targets: Tensor) -> Tensor: ...


def _padded_chunks(problem: Problem) -> Iterator[tuple[Samples, Tensor]]:
    """Chunks in two shapes only, the last one filled up with samples of weight 0, so that two traces serve every part.

    Where padding would change the function (an own loss, statistics of the batch) chunks keep their true lengths.
    """
    full = problem.chunk_size
    if problem.batch_norm != "eval" or not isinstance(problem.loss, _PerSampleLoss):
        for chunk in problem.chunks():
            yield chunk, torch.ones(len(chunk.inputs), dtype=problem.dtype, device=problem.device)
        return
    small = min(full, 32 if problem.device.type == "cpu" else 256)
    start = 0
    while start < problem.num_samples:
        left = problem.num_samples - start
        size = full if left > 0.75 * full else small
        # Padding repeats the first sample: any real one will do, and zeros might not be a valid input.
        index = torch.arange(start, start + size, device=problem.device)
        inside = index < problem.num_samples
        index = torch.where(inside, index, 0)
        whole = start + size <= problem.num_samples
        inputs, targets = (t[start : start + size] if whole else t[index] for t in problem.samples)
        yield Samples(inputs, targets), inside.to(problem.dtype)
        start += size


def _masked_total(loss: Any) -> Callable[[Any, Tensor, Tensor], Tensor]:
    if not isinstance(loss, _PerSampleLoss):
        return lambda outputs, targets, mask: loss(outputs, targets)[0]

    def total(outputs: Any, targets: Tensor, mask: Tensor) -> Tensor:
        losses = loss.per_sample(outputs, targets)
        return (loss.sample_weights(targets).to(losses.dtype) * mask.to(losses.dtype) * losses).sum()

    return total


def _split_product(problem: Problem, samples: Samples, mask: Tensor, resident: set[int]) -> SplitProduct | None:
    """The graphs for chunks of this shape, traced once for a problem and all its parts; ``None`` if there are none.

    A trace is trusted only after it has given the same product as differentiating twice: control flow that depends on
    values in a way that tracing does not notice would show here.
    """
    inputs, targets = samples
    key = (problem.parameter_names, inputs.shape, inputs.dtype, targets.shape, targets.dtype)
    if key in problem.traces:
        return problem.traces[key]
    product: SplitProduct | None = None
    with contextlib.suppress(CannotTrace):
        product = trace_product(
            problem.module,
            _masked_total(problem.loss),
            problem.parameters,
            problem.buffers,
            problem.parameter_names,
            inputs,
            targets,
            mask,
        )
    if product is not None:
        real = Samples(inputs[mask.bool()], targets[mask.bool()])
        generator = torch.Generator().manual_seed(0)
        vector = torch.randn(problem.num_parameters, generator=generator, dtype=problem.dtype).to(problem.device)
        pieces = problem.unflatten(vector)
        expected = _TwiceDifferentiated(problem, real, resident).multiply(pieces, 0)
        traced = _TracedChunk(problem, product, samples, mask, resident)
        room = free_memory(problem.device)
        # Twice: an operation that writes into what the first product read would show in the second.
        found = [traced.multiply(pieces, room) for _ in range(2)]
        tolerance = 1e4 * torch.finfo(problem.dtype).eps * float(expected.norm())
        if not all(float((each - expected).norm()) <= tolerance for each in found):
            product = None
    problem.traces[key] = product
    return product


def free_memory(device: torch.device) -> int:
    """Bytes free for new tensors on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
