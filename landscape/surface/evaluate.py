"""Losses and accuracies of many points in parameter space, part by part, from one set of forward passes a point.

    L_p(a) = Σ_{i∈p} w_i ℓ_i(θ + Σ_k a_k d_k) / Σ_{i∈p} w_i

A point costs forward passes and nothing else worth naming. On a CPU they are made cheap in four ways, none of which
changes the function: a batch normalisation by fixed statistics is folded into the convolution before it (anew at every
point, O(parameters)), images lie channels-last, a forward takes as many samples as stay in the cache, and every core
makes forwards of its own, so that no core waits for another within one.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from landscape.curvature.operators import free_memory
from landscape.curvature.precision import exact_arithmetic
from landscape.curvature.problem import independent_copy
from landscape.errors import LandscapeError, did_you_mean
from landscape.losses import ClassificationLoss

T = TypeVar("T")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

# Enough samples for a forward pass to differ from that of fewer.
_CHECK_SAMPLES = 3
# Two orders of summation of one network, relative to its largest output.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4}
# What the search for the fastest size of a forward pass may take, once.
_TUNING_SECONDS = 2.0
_TUNING_SAMPLES = 64
# What is alive within a forward pass has to stay near its core. Timing alone does not tell: a busy machine has less
# cache to give, and gives more later.
_CACHED_BYTES = 16 << 20
_ACCELERATOR_CHUNK = 1024
# Points whose results wait on an accelerator for one copy to the host.
_ACCELERATOR_POINTS = 16
# Input, output and both branches of a residual block are alive at once.
_LIVE_ACTIVATIONS = 4


class _Fold(NamedTuple):
    """A convolution whose output goes to a batch normalisation and nowhere else, by their names in the model."""

    convolution: str
    batch_norm: str


class PointLosses:
    """L_p(θ + Σ_k a_k d_k) and the accuracy of every part p of the samples, for any number of points a.

    θ are the values of the model when this is built. Every point is formed from θ in float64 and rounded once, so a
    point has the same loss however one got there. Modules are in eval mode and buffers stay as they are, but for those
    that a direction names. What is not finite comes out as it is, and only in the parts that hold such a sample.

    Args:
        model: any module from ``inputs`` to ``(N, C)`` outputs; it is copied, and the caller's comes back untouched.
        loss: of :mod:`landscape.losses`; it is evaluated in float64 on the model's outputs.
        inputs: ``(N, ...)``.
        targets: class indices, int64, ``(N,)``.
        members: of each part the indices of its samples, ``(M_p,)`` int64. Parts may overlap; a sample in none of them
            is not evaluated.
        directions: d_k by names of parameters and of floating buffers; what a direction does not name it does not move.
        device: where to work; by default where the model's parameters are.
        dtype: precision of the forward passes.
        chunk: samples a forward pass, at most. By default the fastest of a few on a CPU, which another run may choose
            otherwise; losses then differ in the last digits of float32, so give it to continue a surface bit by bit.

    Raises:
        LandscapeError: an empty part, a direction that does not fit the model, or a model whose output for a sample is
            not deterministic or depends on the samples beside it.

    Cost: a forward pass over the samples of all parts a point, 82 MFLOP a 32×32 image in a ResNet-20. Building it:
    a few forward passes in float64 to try the folding, and at most about two seconds for the size of a forward pass.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: ClassificationLoss,
        inputs: Tensor,
        targets: Tensor,
        members: Sequence[Tensor],
        *,
        directions: Sequence[Mapping[str, Tensor]],
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
    ) -> None:
        first = next(model.parameters(), None)
        if first is None:
            raise LandscapeError(f"{type(model).__name__} has no parameters; there is nowhere to walk")
        if chunk is not None and chunk < 1:
            raise LandscapeError(f"chunk={chunk}: a forward pass needs at least one sample")
        self.device = torch.device(device) if device is not None else first.device
        self.dtype = dtype
        _check_directions(model, directions)
        used = _used_samples(members, inputs, targets)
        with exact_arithmetic(self.device), torch.no_grad():
            place = torch.full((len(inputs),), -1)
            place[used] = torch.arange(len(used))
            self._members = [place[index.cpu()].to(self.device) for index in members]
            inputs, targets = inputs.detach()[used.to(inputs.device)], targets[used.to(targets.device)]
            own = dtype if inputs.is_floating_point() else inputs.dtype
            self._plan = _Plan(model, inputs[:_CHECK_SAMPLES].to(self.device, own), dtype, self.device)
            layout = torch.channels_last if self._plan.channels_last else torch.contiguous_format
            self._inputs = inputs.to(self.device, own).contiguous(memory_format=layout)
            self._targets = targets.to(self.device)
            threads = torch.get_num_threads() if self.device.type == "cpu" else 1
            self._workers = _Workers(min(threads, self.num_samples))
            self._network = self._plan.network(dtype, copies=self._workers.number)
            self._origin = self._network.vector(_state(model))
            self._directions = torch.stack([self._network.vector(direction) for direction in directions])
            self._loss = loss.to(self.device, torch.float64)
            self._weights = self._loss.sample_weights(self._targets).double()
            self._part_weights = torch.stack([self._weights[index].sum() for index in self._members])
            self._network.place(self._origin)
            most = math.ceil(self.num_samples / self._workers.number)
            self.chunk = min(chunk or self._default_chunk(most), most)

    # ------------------------------------------------------------------ what it is

    @property
    def num_samples(self) -> int:
        """Samples of all parts together, each counted once: a point passes them through the model once."""
        return len(self._inputs)

    @property
    def points_per_pass(self) -> int:
        """Points to ask for at once; asking for more makes none of them faster."""
        return 1 if self.device.type == "cpu" else _ACCELERATOR_POINTS

    @property
    def memory_bytes(self) -> int:
        """What it holds (samples, directions, the model) and, roughly, the activations of a forward pass besides."""
        held = [self._inputs, self._origin, self._directions, self._network.exact, self._network.flat]
        waiting = 9 * self.points_per_pass * self.num_samples
        return (
            sum(t.numel() * t.element_size() for t in held)
            + waiting
            + self._workers.number * self.chunk * self._plan.activation_bytes
        )

    def describe(self) -> str:
        """What is done at a point, in words."""
        passes = self._num_chunks
        ways = [f"{str(self.dtype).removeprefix('torch.')} on {self.device}"]
        if self._workers.number > 1:
            ways.append(f"{self._workers.number} at a time")
        if self._plan.channels_last:
            ways.append("channels-last")
        if self._plan.folds:
            ways.append(f"{len(self._plan.folds)} batch normalisations folded into their convolutions")
        return (
            f"{self.num_samples:,} samples a point in {passes:,} forward pass{'es' * (passes > 1)} of up to "
            f"{self.chunk:,}, {', '.join(ways)}, about {self.memory_bytes / 1e6:,.0f} MB"
        )

    # ------------------------------------------------------------------ what it does

    def __call__(self, coordinates: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Losses and accuracies at some points.

        A sample whose outputs hold a NaN counts as wrong.

        Args:
            coordinates: a_k, ``(K, D)``, in units of the directions.

        Returns:
            Mean losses ``(K, P)`` in nats, and shares of samples that are classified correctly ``(K, P)``.

        Raises:
            LandscapeError: another shape, or a coordinate that is not finite.
        """
        points = torch.from_numpy(np.array(coordinates, dtype=np.float64))
        if points.dim() != 2 or points.shape[1] != len(self._directions):
            raise LandscapeError(
                f"coordinates of shape {tuple(points.shape)} for {len(self._directions)} directions: give one row a "
                "point and one column a direction"
            )
        if not points.isfinite().all():
            raise LandscapeError("coordinates must be finite numbers")
        losses = np.empty((len(points), len(self._members)))
        accuracies = np.empty_like(losses)
        with exact_arithmetic(self.device), torch.inference_mode():
            for start in range(0, len(points), self.points_per_pass):
                rows = slice(start, start + self.points_per_pass)
                both = torch.stack(self._evaluate(points[rows].to(self.device))).cpu().numpy()
                losses[rows], accuracies[rows] = both
        return losses, accuracies

    def _evaluate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Losses and accuracies ``(k, P)`` of k points, on the device."""
        losses = torch.empty(len(points), self.num_samples, dtype=torch.float64, device=self.device)
        right = torch.empty(losses.shape, dtype=torch.bool, device=self.device)
        for row, point in enumerate(points):
            self._network.place(torch.addmv(self._origin, self._directions.T, point, out=self._network.exact))
            self._workers.run(self._forward, self._chunks(losses[row], right[row]))
        losses *= self._weights
        # Part by part rather than a product with a matrix of members, whose 0 · inf would reach the other parts.
        totals = torch.stack([losses[:, index].sum(1) for index in self._members], 1)
        shares = torch.stack([right[:, index].double().mean(1) for index in self._members], 1)
        return totals / self._part_weights, shares

    def _forward(self, worker: int, chunk: tuple[Tensor, ...]) -> None:
        """One forward pass, and its results where they belong."""
        inputs, targets, losses, right = chunk
        with torch.inference_mode():
            outputs = self._network(inputs, worker)
            losses.copy_(self._loss.per_sample(outputs.double(), targets))
            torch.logical_and(outputs.argmax(1) == targets, ~outputs.isnan().any(1), out=right)

    @property
    def _num_chunks(self) -> int:
        """As many for every worker."""
        workers = self._workers.number
        return min(math.ceil(self.num_samples / self.chunk / workers) * workers, self.num_samples)

    def _chunks(self, losses: Tensor, right: Tensor) -> Iterable[tuple[Tensor, ...]]:
        """Samples and where their results go, in forward passes of equal size to within one."""
        split = (tensor.tensor_split(self._num_chunks) for tensor in (self._inputs, self._targets, losses, right))
        return zip(*split, strict=True)

    def _default_chunk(self, most: int) -> int:
        if self.device.type == "cpu":
            most = max(1, min(most, _CACHED_BYTES // max(self._plan.activation_bytes, 1)))
            return self._workers.alone(_fastest_chunk, self._network, self._inputs, most)
        room = free_memory(self.device) // 2 // max(self._plan.activation_bytes, 1)
        return max(1, min(_ACCELERATOR_CHUNK, room))


class _Workers:
    """Threads that work side by side, each with operations of one thread; with ``number`` 1 there are none.

    Operations that split themselves over the cores wait for the slowest core each, hundreds of times a forward pass.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        if number == 1:
            return
        self._pool = ThreadPoolExecutor(number, initializer=torch.set_num_threads, initargs=(1,))
        threads = torch.get_num_threads()
        together = threading.Barrier(number)
        for started in [self._pool.submit(together.wait) for _ in range(number)]:
            started.result()
        torch.set_num_threads(threads)  # what later threads of the process begin with is no business of the workers

    def run(self, work: Callable[[int, T], None], items: Iterable[T]) -> None:
        """``work(worker, item)`` for all items; a worker has one at a time."""
        if self.number == 1:
            for item in items:
                work(0, item)
            return
        waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
        for item in items:
            waiting.put(item)

        def drain(worker: int) -> None:
            while (item := _next(waiting)) is not None:
                work(worker, item)

        futures: list[Future[None]] = [self._pool.submit(drain, worker) for worker in range(self.number)]
        try:
            for future in futures:
                future.result()
        except BaseException:  # Ctrl-C too: nobody waits for the rest
            while _next(waiting) is not None:
                pass
            raise

    def alone(self, work: Callable[..., int], *arguments: Any) -> int:
        """What ``work`` returns in one worker while the others rest."""
        return work(*arguments) if self.number == 1 else self._pool.submit(work, *arguments).result()


def _next(waiting: queue.SimpleQueue[T]) -> T | None:
    try:
        return waiting.get_nowait()
    except queue.Empty:
        return None


class _Network:
    """An own copy of a model whose floating state is one vector: a point is one sum, the rounding to it one copy."""

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype,
        device: torch.device,
        folds: Sequence[_Fold],
        *,
        channels_last: bool,
        copies: int,
    ) -> None:
        self._channels_last, self._folds = channels_last, folds
        # A module may keep something from one line of its forward to another, so threads share numbers, not modules.
        self.modules = [self._folded(model).to(device, dtype).eval().requires_grad_(False) for _ in range(copies)]
        states = [_state(module) for module in self.modules]
        self._shapes = {name: tensor.shape for name, tensor in states[0].items()}
        size = sum(tensor.numel() for tensor in states[0].values())
        self.flat = torch.zeros(size, dtype=dtype, device=device)
        self.exact = torch.zeros(size, dtype=torch.float64, device=device)
        self._exact = self._views(self.exact)
        for name, view in self._views(self.flat).items():
            for state in states:
                state[name].data = view  # a tied weight stays tied: the tensor is the same, only its memory is another

    def _folded(self, model: nn.Module) -> nn.Module:
        own = independent_copy(model)
        for fold in self._folds:
            convolution: Any = own.get_submodule(fold.convolution)
            batch_norm: Any = own.get_submodule(fold.batch_norm)
            if convolution.bias is None:
                convolution.bias = nn.Parameter(convolution.weight.new_zeros(len(convolution.weight)), False)
            batch_norm.forward = _identity
        return own

    def _views(self, vector: Tensor) -> dict[str, Tensor]:
        views = {}
        start = 0
        for name, shape in self._shapes.items():
            piece = vector[start : start + shape.numel()]
            start += shape.numel()
            if self._channels_last and len(shape) == 4:
                channels, height, width = shape[1:]
                views[name] = piece.view(shape[0], height, width, channels).permute(0, 3, 1, 2)
            else:
                views[name] = piece.view(shape)
        return views

    def vector(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors as one vector in float64, zero where there is none."""
        vector = torch.zeros_like(self.exact)
        views = self._views(vector)
        for name, tensor in tensors.items():
            views[name].copy_(tensor.detach())
        return vector

    def place(self, vector: Tensor) -> None:
        """Take a float64 state: conv(x, W) then (z − μ)s + β becomes conv(x, sW) + (b − μ)s + β, s = γ/√(σ² + ε)."""
        if vector is not self.exact:
            self.exact.copy_(vector)
        for convolution, norm in self._folds:
            batch_norm: Any = self.modules[0].get_submodule(norm)
            factor = (self._exact[f"{norm}.running_var"] + batch_norm.eps).rsqrt()
            bias = self._exact[f"{convolution}.bias"].sub_(self._exact[f"{norm}.running_mean"])
            if batch_norm.affine:
                factor *= self._exact[f"{norm}.weight"]
                torch.addcmul(self._exact[f"{norm}.bias"], bias, factor, out=bias)
            else:
                bias.mul_(factor)
            weight = self._exact[f"{convolution}.weight"]
            weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
        self.flat.copy_(self.exact)

    def __call__(self, inputs: Tensor, worker: int = 0) -> Any:
        return self.modules[worker](inputs)


class _Plan:
    """How a model is evaluated: what of the speed-ups it allows, tried out in float64 at a random point.

    Raises:
        LandscapeError: the outputs cannot be those of a classifier, or a sample's depend on the others.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, dtype: torch.dtype, device: torch.device) -> None:
        self._model, self._device = model, device
        self.folds: tuple[_Fold, ...] = ()
        self.channels_last = False
        self.activation_bytes = 0
        for exact in dict.fromkeys([torch.float64, dtype]):
            samples = inputs.to(exact) if inputs.is_floating_point() else inputs
            try:
                plain = self._shaken(exact)
                expected = plain(samples)
                break
            except LandscapeError:
                raise
            except Exception as error:  # a model may insist on its own precision
                if exact == dtype:
                    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                    shape = "×".join(map(str, inputs.shape[1:]))
                    raise LandscapeError(
                        f"{type(model).__name__} cannot take inputs of {shape or 'no size'}: {reason}"
                    ) from error
        tolerance = _ROUNDING.get(exact, 1e-2)
        if not isinstance(expected, Tensor) or expected.dim() != 2 or len(expected) != len(inputs):
            raise LandscapeError(f"{type(model).__name__} must answer with one row of outputs a sample, (N, C)")
        if len(samples) > 1 and not _agree(plain(samples[1:]), expected[1:], tolerance):
            raise LandscapeError(
                f"{type(model).__name__} gives a sample other outputs when other samples share its forward pass, or "
                "when asked again: batch statistics or randomness in eval mode. Give it fixed statistics, no dropout"
            )
        folds, largest = _find_folds(plain, samples[:1])
        del plain  # two copies in float64 would be the most memory that is ever needed
        self.activation_bytes = _LIVE_ACTIVATIONS * largest * dtype.itemsize
        images_on_cpu = inputs.dim() == 4 and device.type == "cpu"
        for chosen, channels_last in itertools.product((folds, ()), (True, False) if images_on_cpu else (False,)):
            self.folds, self.channels_last = tuple(chosen), channels_last
            try:
                layout = torch.channels_last if channels_last else torch.contiguous_format
                if _agree(self._shaken(exact)(samples.contiguous(memory_format=layout)), expected, tolerance):
                    return
            except RuntimeError:  # .view() of activations that are channels-last
                continue
        self.folds, self.channels_last = (), False

    def network(self, dtype: torch.dtype, copies: int = 1) -> _Network:
        """The model, prepared so far as is known to be allowed, ``copies`` modules with the same numbers."""
        return _Network(self._model, dtype, self._device, self.folds, channels_last=self.channels_last, copies=copies)

    def _shaken(self, dtype: torch.dtype) -> _Network:
        """At θ · (1 + 0.1 z), z Gaussian: where an untrained normalisation is no identity either."""
        generator = torch.Generator().manual_seed(0)
        network = self.network(dtype)
        shaken = {
            name: tensor.double().cpu() * (1 + 0.1 * torch.randn(tensor.shape, generator=generator))
            for name, tensor in _state(self._model).items()
        }
        network.place(network.vector(shaken))
        return network


class _Reads(TorchDispatchMode):
    """Counts the operations that read a tensor, and keeps every tensor, so that no address is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        self.largest = 0  # numbers in the largest result
        self._alive: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves([args, kwargs]):
            if isinstance(leaf, Tensor):
                self.counts[leaf.data_ptr()] += 1
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.largest = max(self.largest, leaf.numel())
                self._alive.append(leaf)
        return result


def _find_folds(network: _Network, sample: Tensor) -> tuple[list[_Fold], int]:
    """Convolutions whose output is read by one batch normalisation alone, and the numbers in the largest result."""
    module = network.modules[0]
    names = {each: name for name, each in module.named_modules()}
    owners = Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))
    calls: Counter[nn.Module] = Counter()
    made: list[tuple[Tensor, nn.Module]] = []
    found: list[tuple[Tensor, nn.Module, nn.Module]] = []

    def after_convolution(convolution: nn.Module, _: Any, output: Tensor) -> None:
        calls[convolution] += 1
        made.append((output, convolution))

    def before_batch_norm(batch_norm: nn.Module, given: tuple[Any, ...]) -> None:
        calls[batch_norm] += 1
        found.extend((output, convolution, batch_norm) for output, convolution in made if given and given[0] is output)

    for each in module.modules():
        if type(each) in _CONVOLUTIONS and isinstance(each._parameters.get("weight"), nn.Parameter):
            each.register_forward_hook(after_convolution)
        elif type(each) in _BATCH_NORMS and each.running_mean is not None:
            each.register_forward_pre_hook(before_batch_norm)
    with _Reads() as reads:
        network(sample)
    folds = []
    for output, convolution, batch_norm in found:
        alone = calls[convolution] == calls[batch_norm] == 1 and reads.counts[output.data_ptr()] == 1
        tied = any(owners[id(parameter)] > 1 for parameter in convolution.parameters())
        if alone and not tied:
            folds.append(_Fold(names[convolution], names[batch_norm]))
    return folds, reads.largest


@torch.inference_mode()
def _fastest_chunk(network: _Network, inputs: Tensor, most: int) -> int:
    """Samples a forward pass with the least time a sample, among powers of two up to ``most`` while time lasts."""
    best, fastest = most, math.inf
    size, began = min(8, most), time.perf_counter()
    while size <= most and time.perf_counter() - began < _TUNING_SECONDS:
        batches = inputs[: max(size, _TUNING_SAMPLES)].split(size)
        network(batches[0])  # the first pass of a size also plans it
        seconds = min(_computing_seconds(network, batches) for _ in range(3))
        seconds /= sum(map(len, batches))
        if seconds < fastest:
            best, fastest = size, seconds
        size *= 2
    return best


def _computing_seconds(network: _Network, batches: Sequence[Tensor]) -> float:
    # What this thread computed, without what it waited for: other programs would choose the size.
    began = time.thread_time()
    for batch in batches:
        network(batch)
    return time.thread_time() - began


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating buffers, each once."""
    return {
        name: tensor
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
        if tensor.is_floating_point()
    }


def _identity(values: Tensor) -> Tensor:
    return values


def _agree(found: Any, expected: Tensor, tolerance: float) -> bool:
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 1.0
    return torch.allclose(found, expected, rtol=0.0, atol=tolerance * scale, equal_nan=True)


def _check_directions(model: nn.Module, directions: Sequence[Mapping[str, Tensor]]) -> None:
    if not directions:
        raise LandscapeError("no direction: a line needs one, a plane two")
    state = _state(model)
    for number, direction in enumerate(directions, 1):
        for name, tensor in direction.items():
            if name not in state:
                hint = did_you_mean(name, tuple(state))
                raise LandscapeError(
                    f"direction {number} moves '{name}', which is no parameter or floating buffer of the model{hint}"
                )
            if tensor.shape != state[name].shape:
                raise LandscapeError(
                    f"direction {number} has shape {tuple(tensor.shape)} for '{name}', which has "
                    f"{tuple(state[name].shape)}"
                )


def _used_samples(members: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
    """The indices of all samples in any part, ascending, ``(N',)`` on the CPU."""
    if len(inputs) != len(targets):
        raise LandscapeError(f"{len(inputs)} inputs but {len(targets)} targets")
    if not members:
        raise LandscapeError("no parts: give the samples of at least one")
    for number, index in enumerate(members):
        if not len(index):
            raise LandscapeError(f"part {number} has no samples, so it has no mean loss; leave it out")
        if index.dtype != torch.int64 or index.dim() != 1 or index.min() < 0 or index.max() >= len(inputs):
            raise LandscapeError(
                f"part {number} must be a vector of int64 indices from 0 to {len(inputs) - 1} into the samples"
            )
    return torch.cat([index.cpu() for index in members]).unique()
