"""Terms that a training adds to its loss: HTR, the trace of the Hessian's diagonal blocks, layer by layer.

    J(w) = L(w) + γ Σ_{l∈S} t_l(w),   t_l = (1/K) Σ_k v_{k,l}ᵀ (M v_k)_l,   v Rademacher,   E t_l = tr M_l

M is the Hessian H of the batch's training objective L, or its Gauss-Newton part; M_l is the block of layer l. L is in
the mode that the training runs in, so batch norm normalises by the batch and is differentiated through.

| trace        | penalty               | bounded below | what it rewards                                              |
|--------------|-----------------------|---------------|--------------------------------------------------------------|
| hessian      | γ Σ t_l               | no            | negative curvature, without limit: it leads towards saddles  |
| clamped      | γ max(0, Σ t_l)       | by 0          | negative eigenvalues, as long as positive ones outweigh them |
| gauss-newton | γ Σ t_l, M = JᵀBJ ⪰ 0 | by 0          | none                                                         |

Source: Sankar et al. 2021, arXiv 2012.03801. Strength, probes and layers are not known from it; the last two rows are
this project's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.utils import get_total_norm
from torch.overrides import TorchFunctionMode

from landscape.curvature.parts import Part, layer_parts
from landscape.errors import LandscapeError
from landscape.optim.objective import BatchLosses, GroupedObjective

Form = Literal["joint", "masked"]
GradientOf = Literal["exact", "finite-difference"]
Trace = Literal["hessian", "clamped", "gauss-newton"]
Signs = dict[str, Tensor]  # parameter name → ±1 in its shape; parameters that are not named stay where they are

SERVED = ("sgd", "sam", "asam", "pgd")
"""Optimisers that differentiate the whole batch's loss, to which the penalty can be added."""

# Of the seed's streams, the one that probes are drawn from: the order of the images stays that of the same run without.
_STREAM = 0x485452


class Htr:
    """The trace penalty of one model; makes the objective of each step and owns the random numbers.

    Layers are modules that own parameters, as in ``landscape spectrum --per-layer``: a convolution or linear map with
    its bias, a normalisation with its scale and shift on its own. A joint probe is one vector over all layers of S: one
    product, and Σ t_l gets the cross-layer terms v_lᵀ H_{lm} v_m, whose mean is zero. Masked probes leave them out at
    a product a layer.

    Cost of a whole step with one product, in steps of SGD, measured on ResNet-20 (CPU): exact 18 with the Hessian, 9 of
    the middle third; 6 and 4 with Gauss-Newton; finite differences 4. A further product costs the same less one step.

    Args:
        model: whose trainable parameters are meant; it stays as it is.
        weight: γ > 0.
        layers: S: ``all``; ``middle``, the middle third by depth (layers ⌊L/3⌋ … L − ⌊L/3⌋ − 1 of L); or globs over
            the names of layers with commas between them, such as ``layer2.*,fc``.
        probes: K.
        form: ``joint`` or ``masked``.
        gradient: ``exact`` differentiates t by automatic differentiation, to third order; ``finite-difference`` takes
            [∇L(w+εv) − 2∇L(w) + ∇L(w−εv)]/ε², for networks without kinks only, see :func:`displacement`.
        trace: ``hessian``, ``clamped`` or ``gauss-newton``, see above. The clamp is on the sum over layers and probes:
            one layer's estimate is mostly noise, and cutting noise at 0 penalises the noise.
        seed: of the probes.

    Raises:
        LandscapeError: no layer of that name, finite differences of Gauss-Newton or of a model with dropout.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        weight: float,
        layers: str = "all",
        probes: int = 1,
        form: Form = "joint",
        gradient: GradientOf = "exact",
        trace: Trace = "clamped",
        seed: int = 0,
    ) -> None:
        if gradient == "finite-difference" and trace == "gauss-newton":
            raise LandscapeError(
                "the Gauss-Newton trace needs second derivatives only: use it with the exact gradient, not with "
                "finite-difference"
            )
        if gradient == "finite-difference" and any(isinstance(m, _DropoutNd) and m.p > 0 for m in model.modules()):
            raise LandscapeError("finite differences need one function at three points, and dropout draws a new one at "
                                 "each: use the exact gradient")  # fmt: skip
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.layers = choose_layers(list(self.parameters), layers)
        self.weight, self.probes, self.form, self.gradient, self.trace = weight, probes, form, gradient, trace
        state = np.random.SeedSequence((seed, _STREAM)).generate_state(1, np.uint64)[0]
        device = next(iter(self.parameters.values())).device
        self.generator = torch.Generator(device).manual_seed(int(state >> 1))

    def on(self, objective: GroupedObjective) -> RegularizedObjective:
        """The objective of one step: L + penalty, with probes that stay the same wherever it is evaluated."""
        return RegularizedObjective(objective, self, [self._signs() for _ in range(self.probes)])

    def products(self, signs: Signs) -> Iterator[Signs]:
        """The vectors that one probe is multiplied as: itself, or its share of each layer."""
        if self.form == "joint":
            yield signs
            return
        for layer in self.layers:
            yield {name: signs[name] for name in layer.parameters or ()}

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs; loads with ``weights_only=True``."""
        return {"device": self.generator.device.type, "state": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave; on another kind of device a fresh stream goes on."""
        if state["device"] == self.generator.device.type:
            self.generator.set_state(state["state"])

    def _signs(self) -> Signs:
        return {
            name: torch.empty_like(self.parameters[name], requires_grad=False)
            .bernoulli_(0.5, generator=self.generator)
            .mul_(2)
            .sub_(1)
            for layer in self.layers
            for name in layer.parameters or ()
        }


def choose_layers(parameter_names: Sequence[str], layers: str) -> list[Part]:
    """The layers that ``all``, ``middle`` or globs with commas name, in module order.

    Raises:
        LandscapeError: a glob matches no layer; the nearest names are quoted.
    """
    if layers in ("all", "middle"):
        found = layer_parts(parameter_names)
        outer = len(found) // 3 if layers == "middle" else 0
        return found[outer : len(found) - outer]
    return layer_parts(parameter_names, [pattern.strip() for pattern in layers.split(",")])


class RegularizedObjective:
    """J = L + penalty on one batch, for optimisers that differentiate the total; see :class:`Htr`.

    L comes from the batch's own objective, which alone moves running statistics; the penalty from passes of its own.
    """

    has_head = False
    has_tail = False

    def __init__(self, objective: GroupedObjective, regularizer: Htr, probes: Sequence[Signs]) -> None:
        self.objective, self.regularizer, self.probes = objective, regularizer, probes
        self._first: Tensor | None = None

    def __call__(self, *, update_statistics: bool) -> BatchLosses:
        """J at the model's current weights, with its gradient; no losses of groups."""
        regularizer = self.regularizer
        trace, gradient = self.trace_and_gradient()
        factor = torch.full_like(trace, regularizer.weight)
        if regularizer.trace == "clamped":
            factor = factor * (trace > 0)
        penalty = factor * trace
        if self._first is None:
            self._first = torch.stack([penalty, trace])
        scaled = torch._foreach_mul(gradient, factor)
        term = _KnownGradient.apply(penalty, scaled, *regularizer.parameters.values())
        return BatchLosses(self.objective(update_statistics=update_statistics).total + term, None, None)

    @property
    def first(self) -> Tensor:
        """``(2,)``: the penalty in nats and Σ_{l∈S} t_l before a clamp, of the first evaluation, at the weights.

        Raises:
            RuntimeError: there was none.
        """
        if self._first is None:
            raise RuntimeError("no step was made on this objective")
        return self._first

    def split(self, pieces: int) -> list[RegularizedObjective]:
        """Refused: pieces are normalised apart, and the clamp of a sum is not the sum of clamps."""
        raise LandscapeError(f"a trace penalty is of the whole batch: use one of {', '.join(SERVED)}")

    def trace_and_gradient(self) -> tuple[Tensor, list[Tensor]]:
        """Σ_{l∈S} t_l, ``()``, and its gradient in all trainable parameters; one product's graph at a time."""
        regularizer = self.regularizer
        vectors = [vector for signs in self.probes for vector in regularizer.products(signs)]
        measure: Callable[[Signs], tuple[Tensor, Sequence[Tensor]]] = self._exact
        if regularizer.gradient == "finite-difference":
            measure = partial(self._difference, centre=self._plain_gradient({}))
        trace, gradient = measure(vectors[0])
        total = list(gradient)
        for signs in vectors[1:]:
            value, more = measure(signs)
            trace = trace + value
            torch._foreach_add_(total, list(more))
        torch._foreach_div_(total, len(self.probes))
        return trace / len(self.probes), total

    # ------------------------------------------------------------------ one product

    def _exact(self, signs: Signs) -> tuple[Tensor, Sequence[Tensor]]:
        """vᵀMv and its gradient: v's direction forwards, the rest backwards."""
        parameters = self.regularizer.parameters

        def moved(*values: Tensor) -> tuple[Tensor, Tensor]:
            with _DifferentiableNormalization(), self._outputs() as outputs:
                return self._loss({**parameters, **dict(zip(signs, values, strict=True))}), outputs[0]

        chosen = tuple(parameters[name] for name in signs)
        try:
            (_, logits), (slope, change) = jvp(moved, chosen, tuple(signs.values()))[:2]
        except NotImplementedError as error:  # of weight normalisation, for one
            words = str(error).split(" that does not")[0]
            raise LandscapeError(
                f"PyTorch has no forward derivative of some of this network, which htr needs ({words}); without ReLU, "
                "regularizer.gradient = 'finite-difference' does without it"
            ) from error
        if self.regularizer.trace == "gauss-newton":
            trace = self._output_curvature(logits, change)
        else:
            product = torch.autograd.grad(slope, chosen, create_graph=True, materialize_grads=True)
            trace = torch.stack([(h * v).sum() for h, v in zip(product, signs.values(), strict=True)]).sum()
        gradient = torch.autograd.grad(trace, list(parameters.values()), materialize_grads=True)
        return trace.detach(), gradient

    def _output_curvature(self, logits: Tensor, change: Tensor) -> Tensor:
        """ḟᵀBḟ with B = ∂²L/∂f² in the outputs f, the logits, and ḟ = Jv."""
        mean = self.objective.loss(logits, self.objective.labels).mean
        (first,) = torch.autograd.grad(mean, logits, create_graph=True)
        (second,) = torch.autograd.grad(first, logits, change, create_graph=True)
        return (second * change).sum()

    def _difference(self, signs: Signs, centre: Sequence[Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
        """vᵀHv and its gradient by differences of gradients."""
        step = displacement([self.regularizer.parameters[name] for name in signs])
        ahead, behind = (self._plain_gradient(signs, sign * step) for sign in (1, -1))
        slopes = dict(zip(self.regularizer.parameters, torch._foreach_sub(ahead, behind), strict=True))
        trace = torch.stack([(slopes[name] * sign).sum() for name, sign in signs.items()]).sum() / (2 * step)
        gradient = list(torch._foreach_add(ahead, behind))
        torch._foreach_sub_(gradient, list(centre), alpha=2)
        torch._foreach_div_(gradient, step.square())
        return trace, gradient

    def _plain_gradient(self, signs: Signs, step: Tensor | float = 0.0) -> list[Tensor]:
        """∇L(w + step · v)."""
        leaves = {
            name: (p.detach() + step * signs[name] if name in signs else p.detach()).requires_grad_()
            for name, p in self.regularizer.parameters.items()
        }
        return list(torch.autograd.grad(self._loss(leaves), list(leaves.values()), materialize_grads=True))

    def _loss(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """L at other values of the parameters; running statistics stay."""
        values = {f"model.{name}": value for name, value in parameters.items()}
        return cast("Tensor", functional_call(_Evaluation(self.objective), values, ()))

    @contextmanager
    def _outputs(self) -> Iterator[list[Tensor]]:
        """What the model puts out inside."""
        outputs: list[Tensor] = []
        handle = self.objective.model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            yield outputs
        finally:
            handle.remove()


def displacement(parameters: Sequence[Tensor]) -> Tensor:
    """ε of the finite differences, ``()``: ¼ δ^{1/4} · rms(w), δ the rounding unit of the parameters' precision.

    A second difference of a smooth gradient errs by O(ε²) of truncation and O(δ/ε²) of rounding, both in units of w;
    they meet at ε ∝ δ^{1/4}. The factor is measured, with float32 and tanh in place of ReLU: at ε = 0.0047 rms(w) the
    gradient of ResNet-20 is off by 1.7 % of its norm and that of ``convnet`` by 0.5 %; at four times as much by 21 and
    1.8 %, at half as much by 0.8 and 2 %. A ReLU adds what no ε removes: its gradients jump where a unit changes side,
    and a jump between the points counts as jump/ε², many times the derivative itself.
    """
    size = sum(parameter.numel() for parameter in parameters)
    rounding: float = torch.finfo(parameters[0].dtype).eps
    return get_total_norm([parameter.detach() for parameter in parameters]) * (rounding**0.25 / 4 / size**0.5)


class _KnownGradient(torch.autograd.Function):
    """A number whose gradient in the parameters is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradient: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        return None, None, *(upstream * entry for entry in ctx.gradient)


class _Evaluation(nn.Module):
    """A batch's loss as a module without arguments, whose parameters can be exchanged for a call."""

    def __init__(self, objective: GroupedObjective) -> None:
        super().__init__()
        self.model, self.objective = objective.model, objective

    def forward(self) -> Tensor:
        return self.objective(update_statistics=False).total


class _DifferentiableNormalization(TorchFunctionMode):
    """Normalisation layers written out, inside.

    PyTorch's batch, layer and instance norm keep mean and deviation of the first pass as constants, so their third
    derivatives and the derivatives of their forward-mode ones are wrong (2.13: by 55 % of the whole in an untrained
    ResNet-20), and nothing says so. Nothing here moves running statistics.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        written_out = _WRITTEN_OUT.get(func, func)
        return written_out(*args, **(kwargs or {}))


def _batch_norm(
    inputs: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
    bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    channels = [1, -1] + [1] * (inputs.ndim - 2)
    if training or running_mean is None or running_var is None:
        normalized = _standardized(inputs, [0, *range(2, inputs.ndim)], eps)
    else:
        normalized = (inputs - running_mean.view(channels)) * (running_var.view(channels) + eps).rsqrt()
    return _affine(normalized, weight, bias, channels)


def _instance_norm(
    inputs: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
    weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    if not use_input_stats:
        return _batch_norm(inputs, running_mean, running_var, weight, bias, False, momentum, eps)
    channels = [1, -1] + [1] * (inputs.ndim - 2)
    return _affine(_standardized(inputs, list(range(2, inputs.ndim)), eps), weight, bias, channels)


def _layer_norm(
    inputs: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    last = list(range(-len(normalized_shape), 0))
    return _affine(_standardized(inputs, last, eps), weight, bias, list(normalized_shape))


_WRITTEN_OUT: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: _batch_norm,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
}


def _standardized(inputs: Tensor, dimensions: list[int], eps: float) -> Tensor:
    centred = inputs - inputs.mean(dimensions, keepdim=True)
    return centred * (centred.square().mean(dimensions, keepdim=True) + eps).rsqrt()


def _affine(inputs: Tensor, weight: Tensor | None, bias: Tensor | None, shape: list[int]) -> Tensor:
    scaled = inputs if weight is None else inputs * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)
