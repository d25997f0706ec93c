"""The frozen question: which loss of which model on which samples.

    L(θ) = Σ_i w_i ℓ_i(θ) / Σ_i w_i

A :class:`Problem` holds its own copy of the model with fixed buffers and its own tensors of samples, so the matrix that
is measured is the same at every product, whatever happens to the caller's model meanwhile.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.curvature.operators import HessianOperator
from landscape.curvature.parts import Part
from landscape.curvature.precision import exact_arithmetic
from landscape.curvature.products import TracedProduct
from landscape.curvature.samples import Samples
from landscape.errors import LandscapeError

BatchNormPolicy = Literal["eval", "batch"]
LossFunction = Callable[[Any, Tensor], tuple[Tensor, Tensor]]

# Enough samples for a stable estimate of rounding noise, few enough to cost nothing beside the analysis.
_CHECK_SAMPLES = 16
# A ReLU that changes side between two gradients spoils their difference, and every sample brings its own.
_DIFFERENCE_SAMPLES = 8
# A convolution in float64 unfolds its input on a CPU, which takes many times its memory; small passes are no slower.
_DOUBLE_CHUNK = 8


@dataclass(frozen=True)
class ProblemCheck:
    """What the start-up probe found on the whole problem; the errors are relative to the size of the product."""

    determinism: float  # ‖Hv − H'v‖/‖Hv‖ of two products with the same vector
    symmetry: float  # √n |uᵀHv − vᵀHu| / (‖Hv‖ + ‖Hu‖) for random unit u, v; of order 1 without any symmetry
    finite_difference: float  # ‖Hv − [g(θ+εv) − g(θ−εv)]/2ε‖/‖Hv‖ in float64, close to θ
    noise: float  # δ: rounding of the working precision, ‖Hv − H₆₄v‖/‖H₆₄v‖, or the determinism error if larger
    scale: float  # ‖Hv‖ for a random unit v, the unit of an eigenvalue: the root mean square of the eigenvalues


class Problem:
    """Model, loss and samples, frozen; optionally cut by samples and by parameters.

    The number of parameters ``n`` counts those of the chosen ``parameters`` with ``requires_grad``, flattened in module
    order. Cost of construction: about ten Hessian products on at most 16 samples (the start-up probe).

    Args:
        model: any module; it is copied, and the caller's comes back untouched.
        loss: ``loss(outputs, targets) -> (Σ w_i ℓ_i, Σ w_i)``, such as those of :mod:`landscape.losses`.
        samples: fixed tensors, or a loader that passes :meth:`Samples.from_loader`.
        batch_norm: ``eval`` uses running statistics; ``batch`` those of the samples, which must fit one chunk: all of
            them if the whole is asked for, or those of each part.
        chunk_size: samples a forward pass; by default 128 on a CPU and 1,024 on an accelerator.
        dtype: working precision of the products.
        device: where to work; by default where the model's parameters are.

    Raises:
        LandscapeError: the operator moves between two products, is not symmetric, disagrees with finite differences, or
            the loss depends on how the samples are cut into chunks.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        samples: Samples | Iterable[tuple[Tensor, Tensor]],
        *,
        batch_norm: BatchNormPolicy = "eval",
        chunk_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> None:
        trainable = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
        if not trainable:
            raise LandscapeError("the model has no parameter with requires_grad=True; nothing to differentiate")
        samples = Samples.of(samples)
        if len(samples.inputs) != len(samples.targets):
            raise LandscapeError(f"{len(samples.inputs)} inputs but {len(samples.targets)} targets")
        if not len(samples.inputs):
            raise LandscapeError("no samples: a problem needs at least one")
        if batch_norm not in get_args(BatchNormPolicy):
            raise LandscapeError(f"batch_norm='{batch_norm}': use 'eval' or 'batch'")
        if chunk_size is not None and chunk_size < 1:
            raise LandscapeError(f"chunk_size={chunk_size}: a forward pass needs at least one sample")
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.dtype = dtype
        self.loss = loss
        self.batch_norm: BatchNormPolicy = batch_norm
        self.chunk_size = chunk_size or (128 if self.device.type == "cpu" else 1024)
        self.trainable = trainable
        self.parameter_names = trainable
        with exact_arithmetic(self.device):
            self._freeze(model, samples)
            self.check = self._probe()

    def _freeze(self, model: nn.Module, samples: Samples) -> None:
        self._model = independent_copy(model).to(device=self.device, dtype=self.dtype).eval().requires_grad_(False)
        self.samples = samples.cast(self.dtype, self.device, copy=True)
        for layer in self._batch_statistics:
            # Batch statistics without moving the running ones.
            layer.training = True
            layer.track_running_stats = False
        self.parameters = {name: p.detach().clone() for name, p in self._model.named_parameters()}
        self.buffers = {name: b.detach().clone() for name, b in self._model.named_buffers()}
        self._all_samples = self.samples  # also those that a part leaves out
        # Traced products, or why there are none, by kind, parameters and shapes, shared by every part of this problem.
        self.traces: dict[Any, TracedProduct | str] = {}

    @property
    def _batch_statistics(self) -> list[_BatchNorm]:
        """Layers that normalise by the statistics of the set."""
        if self.batch_norm == "eval":
            return []
        return [module for module in self._model.modules() if isinstance(module, _BatchNorm)]

    def _refuse_large_batch_norm(self) -> None:
        if self.num_samples > self.chunk_size and self._batch_statistics:
            raise LandscapeError(
                f"batch_norm='batch' needs all {self.num_samples} samples in one chunk of {self.chunk_size}: each "
                "chunk would have its own statistics and so its own loss. Use batch_norm='eval', fewer samples or "
                f"chunk_size={self.num_samples}."
            )

    # ------------------------------------------------------------------ the shape of the question

    @property
    def module(self) -> nn.Module:
        """The problem's own copy of the model; its values are those of ``parameters`` and ``buffers``."""
        return self._model

    @property
    def num_samples(self) -> int:
        return len(self.samples.inputs)

    @functools.cached_property
    def num_parameters(self) -> int:
        return sum(self.parameters[name].numel() for name in self.parameter_names)

    @functools.cached_property
    def parameter_norm(self) -> float:
        """‖θ‖₂ of the chosen parameters."""
        return float(self.flatten([self.parameters[name] for name in self.parameter_names]).double().norm())

    @torch.inference_mode(False)
    def restrict(self, part: Part) -> Problem:
        """The same question on a part: fewer samples, fewer free parameters, or both.

        Raises:
            LandscapeError: the part has no samples or no parameters, or names a parameter that is not trainable.
        """
        view = copy.copy(self)
        for cached in ("num_parameters", "parameter_norm", "total_weight"):
            view.__dict__.pop(cached, None)
        if part.samples is not None:
            index = part.samples.to(self.device)
            if not len(index):
                raise LandscapeError(f"part '{part.path}' has no samples")
            view.samples = Samples(self.samples.inputs[index], self.samples.targets[index])
            view._refuse_large_batch_norm()
        if part.parameters is not None:
            if not part.parameters:
                raise LandscapeError(f"part '{part.path}' has no parameters")
            unknown = [name for name in part.parameters if name not in self.trainable]
            if unknown:
                raise LandscapeError(f"part '{part.path}': the model has no trainable parameter '{unknown[0]}'")
            view = view.by(part.parameters)
        return view

    def by(self, names: Iterable[str]) -> Problem:
        """The same question with only the named parameters free."""
        view = copy.copy(self)
        for cached in ("num_parameters", "parameter_norm"):
            view.__dict__.pop(cached, None)
        wanted = set(names)
        view.parameter_names = tuple(name for name in self.trainable if name in wanted)
        return view

    @torch.inference_mode(False)
    def with_dtype(self, dtype: torch.dtype) -> Problem:
        """The same question in another precision."""
        view = copy.copy(self)
        view.__dict__.pop("total_weight", None)
        view.dtype = dtype
        if dtype == torch.float64 and self.device.type == "cpu" and not self._batch_statistics:
            view.chunk_size = min(self.chunk_size, _DOUBLE_CHUNK)
        view._model = independent_copy(self._model).to(dtype=dtype)
        view.traces = {}
        view.parameters = {name: p.to(dtype) for name, p in self.parameters.items()}
        view.buffers = {name: b.to(dtype) if b.is_floating_point() else b for name, b in self.buffers.items()}
        view.samples = self.samples.cast(dtype, self.device)
        view._all_samples = self._all_samples.cast(dtype, self.device)
        return view

    def flatten(self, tensors: Sequence[Tensor]) -> Tensor:
        """Concatenate one tensor a chosen parameter into ``(n,)``."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def unflatten(self, vector: Tensor) -> list[Tensor]:
        """Cut ``(n,)`` into one tensor a chosen parameter."""
        shapes = [self.parameters[name].shape for name in self.parameter_names]
        pieces = vector.split([shape.numel() for shape in shapes])
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    # ------------------------------------------------------------------ values

    def chunks(self) -> Iterator[Samples]:
        """The samples in forward passes of ``chunk_size``; the last may be shorter.

        Raises:
            LandscapeError: batch statistics, and the samples do not fit one chunk.
        """
        self._refuse_large_batch_norm()
        for start in range(0, self.num_samples, self.chunk_size):
            stop = start + self.chunk_size
            yield Samples(self.samples.inputs[start:stop], self.samples.targets[start:stop])

    def forward(self, chosen: Sequence[Tensor], inputs: Tensor) -> Any:
        """The model's outputs at ``chosen`` values of the parameters, differentiable."""
        parameters = {**self.parameters, **dict(zip(self.parameter_names, chosen, strict=True))}
        # Tied tensors are one parameter; functional_call hands the replacement to every place that uses it.
        return functional_call(self._model, {**parameters, **self.buffers}, (inputs,), tie_weights=True)

    def loss_sum(self, chosen: Sequence[Tensor], chunk: Samples) -> tuple[Tensor, Tensor]:
        """``(Σ w_i ℓ_i, Σ w_i)`` of one chunk at ``chosen`` values of the parameters, differentiable."""
        result = self.loss(self.forward(chosen, chunk.inputs), chunk.targets)
        if not isinstance(result, tuple) or len(result) != 2:
            raise LandscapeError(
                f"the loss must return (Σ w_i ℓ_i, Σ w_i), got {type(result).__name__}; wrap a mean-reduced loss with "
                "landscape.losses.build_loss, or return loss(reduction='sum') and the number of samples"
            )
        if result[0].ndim:
            raise LandscapeError(
                f"the loss must return the sum Σ w_i ℓ_i as one number, got shape {tuple(result[0].shape)}; sum it"
            )
        return result

    def leaves(self) -> list[Tensor]:
        """Fresh leaf tensors of the chosen parameters, in order, that require grad."""
        return [self.parameters[name].detach().requires_grad_(True) for name in self.parameter_names]

    @functools.cached_property
    def total_weight(self) -> float:
        """W = Σ_i w_i over all samples; the one divisor of loss, gradient and Hessian."""
        leaves = [self.parameters[name] for name in self.parameter_names]
        with exact_arithmetic(self.device), torch.no_grad():
            weight = sum(float(self.loss_sum(leaves, chunk)[1]) for chunk in self.chunks())
        if not weight > 0:
            raise LandscapeError(
                f"the samples weigh {weight:g} in all; class weights of this part are zero or negative"
            )
        return weight

    def value(self, direction: Tensor | None = None, step: float = 0.0) -> float:
        """L(θ + step · direction), summed in float64 over chunks."""
        chosen = [self.parameters[name] for name in self.parameter_names]
        if direction is not None and step:
            chosen = [p + step * d for p, d in zip(chosen, self.unflatten(direction), strict=True)]
        total, weight = 0.0, 0.0
        with exact_arithmetic(self.device), torch.no_grad():
            for chunk in self.chunks():
                chunk_total, chunk_weight = self.loss_sum(chosen, chunk)
                total, weight = total + float(chunk_total.double()), weight + float(chunk_weight)
        return total / weight

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """L(θ) and ∇L(θ) of shape ``(n,)``. Cost: one forward and one backward pass over the samples."""
        total, weight = 0.0, 0.0
        with exact_arithmetic(self.device):
            leaves = self.leaves()
            gradient = torch.zeros(self.num_parameters, dtype=self.dtype, device=self.device)
            for chunk in self.chunks():
                chunk_total, chunk_weight = self.loss_sum(leaves, chunk)
                if chunk_total.requires_grad:  # not so for a layer that the loss does not see
                    gradient += self.flatten(torch.autograd.grad(chunk_total, leaves, materialize_grads=True))
                total, weight = total + float(chunk_total.detach().double()), weight + float(chunk_weight)
        return total / weight, gradient / weight

    def outputs(self) -> Tensor:
        """What the model says of every sample, ``(N, ...)``."""
        values = [self.parameters[name] for name in self.parameter_names]
        with exact_arithmetic(self.device), torch.no_grad():
            return torch.cat([self.forward(values, chunk.inputs) for chunk in self.chunks()])

    # ------------------------------------------------------------------ the start-up probe

    def thinned(self, count: int = _CHECK_SAMPLES) -> Problem:
        """The same question on at most ``count`` samples, evenly spread over the set."""
        if self.num_samples <= count:
            return self
        index = torch.linspace(0, self.num_samples - 1, count, device=self.device).round().long()
        return self.restrict(Part(path="thinned", label="thinned", samples=index))

    def spread(self, count: int) -> Samples:
        """Samples from all over the set that this problem was cut from, evenly spaced."""
        size = len(self._all_samples.inputs)
        index = torch.linspace(0, size - 1, min(count, size), device=self.device).round().long()
        return Samples(self._all_samples.inputs[index], self._all_samples.targets[index])

    def noise(self) -> float:
        """δ: relative rounding error of a product in the working precision, measured on at most 16 samples.

        In float32 it is the distance to the same product in float64; in float64 it is the bound √n·ε.
        """
        if self.dtype == torch.float64:
            return float(self.num_parameters**0.5 * torch.finfo(torch.float64).eps)
        small = self.thinned()
        vector = _unit_vector(small, seed=0)
        product = (HessianOperator(small) @ vector).double()
        # One product keeps nothing for the next, and float64 takes twice the memory.
        exact = HessianOperator(small.with_dtype(torch.float64), engine="double-backward", memory_budget=0)
        reference = exact @ vector.double()
        return _relative(product - reference, reference)

    def _probe(self) -> ProblemCheck:
        small = self.thinned(min(_CHECK_SAMPLES, self.chunk_size) if self._batch_statistics else _CHECK_SAMPLES)
        self._refuse_detached_loss(small)
        u, v = _unit_vector(small, seed=1), _unit_vector(small, seed=2)
        try:
            first, second, other = (HessianOperator(small, engine="double-backward") @ vector for vector in (v, v, u))
        except RuntimeError as error:
            if "derivative" in str(error) or "differentiate twice" in str(error):
                raise LandscapeError(
                    "some operation of the model or loss has no second derivative in PyTorch; replace it by one that "
                    f"has. PyTorch says: {str(error).splitlines()[0]}"
                ) from error
            if "inplace operation" in str(error):
                raise LandscapeError(
                    "the model writes into a tensor that a derivative still needs; replace the in-place operation "
                    f"(mul_, +=, relu with inplace=True) by one that makes a new tensor. PyTorch says: "
                    f"{str(error).splitlines()[0]}"
                ) from error
            raise
        exact = small.with_dtype(torch.float64)
        reference = HessianOperator(exact, engine="double-backward", memory_budget=0) @ v.double()
        if not (torch.isfinite(first).all() and torch.isfinite(reference).all()):
            raise LandscapeError(
                "the Hessian product is not finite: the loss overflows at these parameters. Check the checkpoint, the "
                "normalisation of the images and the precision."
            )
        determinism = _relative(first - second, first)
        if determinism > 1e-3:
            raise LandscapeError(
                f"the Hessian moves: two products with one vector differ by {determinism:.1e}. Something in the model "
                "is random even in eval mode (functional dropout, sampled noise); switch it off."
            )
        self._refuse_coupled_samples(exact)
        scale = float(first.norm() + other.norm()) / small.num_parameters**0.5
        symmetry = abs(float(u.double() @ first.double() - v.double() @ other.double())) / scale if scale else 0.0
        finite = _distance_to_differences(exact, v.double())
        # Written so that a NaN is refused too.
        if not (symmetry <= 0.05 and finite <= 0.05):
            raise LandscapeError(
                f"the Hessian product fails its own check (asymmetry {symmetry:.1e}, distance to finite differences "
                f"{finite:.1e}): some operation of the model or loss has a wrong second derivative (detach, rounding, "
                "a custom autograd function)."
                + (" dtype float64 helps where all samples are certain." if self.dtype != torch.float64 else "")
            )
        rounding = _relative(first.double() - reference, reference)
        noise = self.noise() if self.dtype == torch.float64 else rounding
        return ProblemCheck(determinism, symmetry, finite, max(determinism, noise), float(reference.norm()))

    def _refuse_detached_loss(self, small: Problem) -> None:
        total, _ = small.loss_sum(small.leaves(), next(small.chunks()))
        if not total.requires_grad:
            raise LandscapeError(
                "the loss does not depend on any trainable parameter: something in the model or loss cuts the graph "
                "(detach, no_grad, argmax, .item()), or the parameters in use have requires_grad=False."
            )

    def _refuse_coupled_samples(self, exact: Problem) -> None:
        """A mean, or statistics of the batch, would make the Hessian depend on the chunk size."""
        together = exact.thinned(exact.chunk_size)
        if together.num_samples < 2 or self._batch_statistics:
            return
        apart = copy.copy(together)
        # Two pieces of different size: over equal ones the mean of means is the mean.
        apart.chunk_size = min(together.num_samples - 1, (2 * together.num_samples + 2) // 3)
        one, two = together.value(), apart.value()
        if abs(one - two) > 1e-4 * max(abs(one), abs(two)):
            raise LandscapeError(
                f"the loss depends on how the samples are cut into chunks ({one:.6g} in one, {two:.6g} in two): return "
                "the sums (Σ w_i ℓ_i, Σ w_i), not means, from a model that treats samples one by one."
            )


def independent_copy(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the model.

    Raises:
        LandscapeError: a tensor with a history hangs on the model, as the old ``weight_norm`` leaves one.
    """
    try:
        return copy.deepcopy(model)
    except RuntimeError as error:
        raise LandscapeError(
            f"{type(model).__name__} cannot be copied: {str(error).splitlines()[0]} Take off what computes its "
            "weights anew, for example with torch.nn.utils.remove_weight_norm."
        ) from error


def _unit_vector(problem: Problem, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(problem.num_parameters, generator=generator, dtype=torch.float64)
    return (vector / vector.norm()).to(device=problem.device, dtype=problem.dtype)


def _relative(error: Tensor, reference: Tensor) -> float:
    size = float(reference.norm())
    return float(error.norm()) / size if size > 0 else float(error.norm())


def _distance_to_differences(problem: Problem, vector: Tensor) -> float:
    """‖Hv − [∇L(θ' + εv) − ∇L(θ' − εv)]/2ε‖/‖Hv‖ at the best of four ε and three θ', on few samples.

    θ' lies 0.1 % of ‖θ‖ beside θ: a fresh network often sits exactly on a kink of its ReLUs (zero bias, black pixels),
    where no difference agrees with anything. ε is small so that hardly a ReLU changes side, which only float64 affords;
    if one does, a smaller ε, fewer samples or another θ' help, while a wrong derivative stays wrong. Where ∇L is so
    much larger than Hv that its rounding shows, that rounding is the measure instead of ‖Hv‖.
    """
    if not problem._batch_statistics:
        problem = problem.thinned(_DIFFERENCE_SAMPLES)
    length = max(problem.parameter_norm, 1e-3)
    errors = []
    for seed, step in itertools.product((3, 4, 5), (1e-6, 1e-7, 1e-8, 1e-9)):
        nearby = _moved(problem, _unit_vector(problem, seed=seed), 1e-3 * length)
        product = HessianOperator(nearby, engine="double-backward") @ vector
        ahead, behind = (_moved(nearby, vector, sign * step * length).value_and_gradient()[1] for sign in (1, -1))
        rounding = 100 * torch.finfo(torch.float64).eps * float(ahead.norm()) / (step * length)
        error = float(((ahead - behind) / (2 * step * length) - product).norm())
        errors.append(error / max(float(product.norm()), rounding) if error else 0.0)
        if errors[-1] < 1e-4:
            break
    return min(errors)


def _moved(problem: Problem, direction: Tensor, step: float) -> Problem:
    """The same question at θ + step · direction."""
    moved = copy.copy(problem)
    shifted = [
        problem.parameters[name] + step * piece
        for name, piece in zip(problem.parameter_names, problem.unflatten(direction), strict=True)
    ]
    moved.parameters = {**problem.parameters, **dict(zip(problem.parameter_names, shifted, strict=True))}
    return moved
