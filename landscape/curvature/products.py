"""Hessian products of one chunk of samples, split into what depends on the vector and what does not.

The product Hv = ∂_t ∇L(θ + tv) is traced once as a graph of tensor operations on (parameters, buffers, samples, v).
Every node that v does not reach goes into the *primal* graph, the others into the *tangent* graph, whose inputs are the
primal's results. The primal graph runs once a chunk and checkpoint, and the tangent graph once a product: about six
forward passes, where differentiating the kept gradient again costs thirteen (docs/benchmarks.md). Both serve every
chunk of the same shape, every class and every checkpoint of the architecture.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functional_call, grad, jvp
from torch.fx.experimental.proxy_tensor import make_fx

aten: Any = torch.ops.aten

_BATCH_NORMS = (
    aten.native_batch_norm.default,
    aten._native_batch_norm_legit_no_training.default,
    aten.cudnn_batch_norm.default,
)


# Forward operations whose product has been traced and compared with differentiating twice. Others are not tried:
# tracing forward derivatives of some (mse_loss in PyTorch 2.13) does not raise but takes the whole process down.
# fmt: off
TRACEABLE = frozenset([
    "_adaptive_avg_pool2d", "_log_softmax", "_safe_softmax", "_softmax", "_to_copy", "_unsafe_view", "abs", "add",
    "add_", "addmm", "arange", "avg_pool2d", "bmm", "cat", "clamp_min", "clone", "constant_pad_nd", "convolution",
    "div", "elu", "embedding", "empty", "eq", "exp", "expand", "gelu", "index", "leaky_relu", "log", "logsumexp",
    "masked_fill", "max_pool2d_with_indices", "mean", "mm", "mul", "mul_", "native_batch_norm", "native_group_norm",
    "native_layer_norm", "neg", "nll_loss_forward", "ones", "ones_like", "permute", "pow", "relu", "relu_", "rsqrt",
    "select", "sigmoid", "sigmoid_", "silu", "slice", "softplus", "split", "split_with_sizes", "sqrt", "squeeze",
    "stack", "sub", "sum", "t", "tanh", "tanh_", "transpose", "transpose_", "unbind", "unsafe_split", "unsqueeze",
    "view", "zeros",
])
# fmt: on


class CannotTrace(Exception):
    """The product has no static graph: control flow that depends on values, or an operation without a rule."""


@dataclass(frozen=True)
class SplitProduct:
    """The two graphs of one product, for one shape of chunk."""

    primal: Callable[..., Sequence[Tensor]]  # (state, inputs, targets, mask) → results that every product shares
    tangent: Callable[..., Sequence[Tensor]]  # (those results, v in pieces) → Hv in pieces

    def prepare(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Run the primal graph. Cost: about a forward and a backward pass; memory: what the tangent graph reads."""
        with torch.no_grad():
            return list(self.primal(*arguments))

    def multiply(self, prepared: Sequence[Tensor], pieces: Sequence[Tensor]) -> list[Tensor]:
        """Run the tangent graph: Σ_i w_i ∇²ℓ_i v, not yet divided."""
        with torch.no_grad():
            return list(self.tangent(*prepared, *pieces))


def trace_product(
    model: torch.nn.Module,
    total: Callable[[Any, Tensor, Tensor], Tensor],
    parameters: dict[str, Tensor],
    buffers: dict[str, Tensor],
    chosen: Sequence[str],
    inputs: Tensor,
    targets: Tensor,
    mask: Tensor,
) -> SplitProduct:
    """Trace and split Σ_i m_i w_i ∇²ℓ_i v for chunks shaped like ``inputs``.

    Forward over reverse where every operation has a forward rule, else reverse over reverse. A batch normalisation by
    fixed statistics is first folded into the convolution before it, which is the same function with far fewer passes
    over the activations.

    Args:
        model: called with its parameters and buffers replaced; control flow must not depend on values.
        total: ``total(outputs, targets, mask) -> Σ_i m_i w_i ℓ_i``.
        parameters: all of the model's.
        buffers: all of the model's.
        chosen: names of the parameters to differentiate by.
        inputs: example samples.
        targets: example targets.
        mask: example m, ``(B,)``; 0 for padding.

    Raises:
        CannotTrace: neither way gives a graph.
    """
    state_names = (*parameters, *buffers)
    state = [*parameters.values(), *buffers.values()]
    count = len(state)

    def forward(values: Sequence[Tensor], *samples: Tensor) -> Tensor:
        outputs = functional_call(model, dict(zip(state_names, values, strict=True)), (samples[0],), tie_weights=True)
        return total(outputs, samples[1], samples[2])

    loss = capture_loss(forward, state, (inputs, targets, mask))

    def loss_of(values: Sequence[Tensor], every: Sequence[Tensor], samples: Sequence[Tensor]) -> Tensor:
        replaced = dict(zip(state_names, every, strict=True)) | dict(zip(chosen, values, strict=True))
        return loss(list(replaced.values()), *samples)

    def forward_over_reverse(*arguments: Tensor) -> list[Tensor]:
        every, rest, pieces = arguments[:count], arguments[count : count + 3], arguments[count + 3 :]
        values = tuple(dict(zip(state_names, every, strict=True))[name] for name in chosen)
        gradient = grad(lambda point: loss_of(point, every, rest))
        return list(jvp(gradient, (values,), (tuple(pieces),))[1])

    def reverse_over_reverse(*arguments: Tensor) -> list[Tensor]:
        every, rest, pieces = arguments[:count], arguments[count : count + 3], arguments[count + 3 :]
        values = tuple(dict(zip(state_names, every, strict=True))[name] for name in chosen)

        def along(point: tuple[Tensor, ...]) -> Tensor:
            gradient = grad(lambda inner: loss_of(inner, every, rest))(point)
            return torch.stack([(g * piece).sum() for g, piece in zip(gradient, pieces, strict=True)]).sum()

        return list(grad(along)(values))

    pieces = [torch.zeros_like(parameters[name]) for name in chosen]
    arguments = [*state, inputs, targets, mask, *pieces]
    reasons = []
    for way in (forward_over_reverse, reverse_over_reverse):
        try:
            graph = make_fx(way, _allow_non_fake_inputs=True)(*arguments)
        except Exception as error:
            reasons.append(f"{way.__name__}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            continue
        _drop_layout_copies(graph)
        primal, tangent = _split(graph, len(pieces))
        return SplitProduct(primal, tangent)
    raise CannotTrace("; ".join(reasons))


def capture_loss(
    loss: Callable[..., Tensor], state: Sequence[Tensor], samples: tuple[Tensor, Tensor, Tensor]
) -> fx.GraphModule:
    """The summed loss as a graph of operations, batch normalisation folded where it follows a convolution."""
    try:
        with torch.no_grad():
            graph = make_fx(loss, _allow_non_fake_inputs=True)(list(state), *samples)
    except Exception as error:
        raise CannotTrace(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    if unknown := sorted(operation_names(graph) - TRACEABLE):
        raise CannotTrace(f"not known to be traceable: {', '.join(unknown)}")
    _fold_batch_norms(graph)
    return graph


def operation_names(graph: fx.GraphModule) -> set[str]:
    """Names of the tensor operations that a graph calls."""
    called = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    return {target._opname for target in called if isinstance(target, torch._ops.OpOverload)}


def _fold_batch_norms(graph: fx.GraphModule) -> None:
    """conv(x, W) → normalise → scale becomes conv(x, sW) + (b − μs), s = γ/√(σ² + ε), in place."""
    nodes = graph.graph
    for node in list(nodes.nodes):
        if node.op != "call_function" or node.target not in _BATCH_NORMS:
            continue
        source, scale, shift, mean, variance = node.args[:5]
        no_training = node.target == aten._native_batch_norm_legit_no_training.default
        fixed = no_training or node.args[5] is False
        reads_only_result = all(
            user.target is operator.getitem and user.args[1] == 0 for user in node.users if user.users
        )
        if not (fixed and reads_only_result and scale is not None and shift is not None and mean is not None):
            continue
        if source.op != "call_function" or source.target != aten.convolution.default or len(source.users) != 1:
            continue
        x, weight, bias, *geometry = source.args
        if geometry[3]:  # transposed: the output channels are the second axis
            continue
        with nodes.inserting_before(node):
            epsilon = node.args[-1]
            root = nodes.call_function(aten.rsqrt.default, (nodes.call_function(aten.add.Scalar, (variance, epsilon)),))
            factor = nodes.call_function(aten.mul.Tensor, (scale, root))
            ones = [-1] + [1] * (source.args[1].meta["val"].ndim - 1)
            column = nodes.call_function(aten.view.default, (factor, ones))
            new_weight = nodes.call_function(aten.mul.Tensor, (weight, column))
            centre = mean if bias is None else nodes.call_function(aten.sub.Tensor, (mean, bias))
            offset = nodes.call_function(aten.mul.Tensor, (centre, factor))
            new_bias = nodes.call_function(aten.sub.Tensor, (shift, offset))
            result = nodes.call_function(aten.convolution.default, (x, new_weight, new_bias, *geometry))
        for user in list(node.users):
            if user.args[1] == 0:
                user.replace_all_uses_with(result)
    nodes.eliminate_dead_code()
    graph.recompile()


def _drop_layout_copies(graph: fx.GraphModule) -> None:
    """Forward rules copy broadcast tangents into the layout of their primal; values do not need it."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target == aten._to_copy.default:
            (source,) = node.args
            before, after = source.meta.get("val"), node.meta.get("val")
            if (
                before is not None
                and after is not None
                and (before.dtype, before.device) == (after.dtype, after.device)
            ):
                node.replace_all_uses_with(source)
                graph.graph.erase_node(node)
        elif node.target == aten.view.default:
            node.target = aten.reshape.default  # a broadcast tensor has no view of every shape
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _split(graph: fx.GraphModule, num_pieces: int) -> tuple[fx.GraphModule, fx.GraphModule]:
    """(primal, tangent): the nodes that the last ``num_pieces`` inputs do not reach, and those that they do."""
    nodes = list(graph.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    (output,) = [node for node in nodes if node.op == "output"]
    pieces = inputs[len(inputs) - num_pieces :]
    reached = set(pieces)
    for node in nodes:
        if any(source in reached for source in node.all_input_nodes):
            reached.add(node)
    reached.add(output)
    shared = [node for node in nodes if node not in reached and any(user in reached for user in node.users)]

    primal = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node not in reached:
            copied[node] = primal.node_copy(node, copied.__getitem__)
    primal.output(tuple(copied[node] for node in shared))
    primal.eliminate_dead_code()

    tangent = fx.Graph()
    copied = {}
    for node in shared:
        copied[node] = tangent.placeholder(node.name)
    for node in pieces:
        copied[node] = tangent.placeholder(node.name)
    for node in nodes:
        if node in reached and node not in copied and node is not output:
            copied[node] = tangent.node_copy(node, copied.__getitem__)
    tangent.output(fx.node.map_arg(output.args[0], copied.__getitem__))
    return fx.GraphModule(graph, primal), fx.GraphModule(graph, tangent)
