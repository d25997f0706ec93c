"""The trace of the Hessian and of every layer's block from the gradients of single samples, without probes of H.

With f_i the C outputs for sample i, J_i their Jacobian and ∇²φ_i = Σ_k λ_ik e_ik e_ikᵀ the Hessian of the loss in them,

    tr G = Σ_i w_i Σ_k λ_ik ‖J_iᵀ e_ik‖² / Σ_i w_i,        tr H = tr G + Σ_ℓ tr (H − G)_ℓℓ  over the layers ℓ.

The outputs of a network whose activations are piecewise linear are affine in every single layer: moved alone, a layer
meets no other one that moves with it, and the second derivative of a ReLU is 0. So (H − G)_ℓℓ = 0 for every ℓ, and
tr H = tr G, layer by layer, although H and G differ everywhere else. Which layers are affine is read off the operations
(:mod:`landscape.curvature.affine`); only the others leave anything to probes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from landscape.curvature import directional
from landscape.curvature.affine import curved_parameters
from landscape.curvature.lanczos import Progress
from landscape.curvature.operators import GaussNewtonOperator, HessianOperator
from landscape.curvature.parts import Part, layer_parts
from landscape.curvature.precision import exact_arithmetic
from landscape.curvature.problem import Problem
from landscape.curvature.results import Array, TraceEstimate
from landscape.curvature.samples import Samples
from landscape.curvature.trace import hutchinson_trace, layer_ranges

# An eigendecomposition a sample; of many more outputs it costs more than the products that it saves.
MAX_OUTPUTS = 128
# Gradients of single samples that are held at once.
_CPU_BYTES, _ACCELERATOR_BYTES = 1 << 27, 1 << 31
# A model is tried on so many samples, in float64.
_TEST_SAMPLES, _ROUNDING = 2, 1e-9
# Of the largest λ_ik in a chunk, and of the sum of all: what counts as no curvature, and as no negative curvature.
_NEGLIGIBLE, _INDEFINITE = 1e-10, 1e-6
# What vmap raises, by operation, and a model that is given a single sample.
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
# Rounding of an output, alone and in its chunk; two different functions differ in the first digit.
_SAME_OUTPUT = 1e-2


class _Structure(NamedTuple):
    """What holds for a model and its chosen parameters, whatever the samples."""

    per_sample: bool  # vmap takes gradients of single samples, and takes them right
    curved: tuple[str, ...]  # parameters of the layers along which the outputs are not known to be affine


_STRUCTURE: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], _Structure]] = WeakKeyDictionary()


@dataclass(frozen=True)
class SampleTrace:
    """tr H and tr G with their layers, and what every sample contributes."""

    hessian: TraceEstimate  # tr H
    gauss_newton: TraceEstimate  # tr G
    samples: Array | None  # (N,) tr ∇²ℓ_i; None where anything random is part of it
    weights: Array  # (N,) w_i


def sample_trace(
    problem: Problem,
    *,
    max_directions: int = 16,
    num_probes: int = 16,
    seed: int = 0,
    on_product: Progress | None = None,
) -> SampleTrace | None:
    """tr H, tr G and all layers' traces from gradients of single samples; exact for ReLU networks of few classes.

    Where ∇²φ_i has at most ``max_directions`` eigenvalues λ_ik, tr G has no error but rounding. Where it has more, half
    of the directions are those of the largest λ_ik, and the other half are mixtures Σ_k ±√λ_ik e_ik of the rest with
    random signs. The mixtures' spread is the standard error; it is small, because signs are drawn for every sample
    anew.

    Layers along which the outputs may be curved (a smooth activation further on, a normalised weight, a tensor used
    twice, an operation that is not known) leave tr (H − G)_ℓℓ to ``num_probes`` probes of that block.

    Args:
        problem: the part.
        max_directions: backward passes over the samples, at least 4.
        num_probes: of the block of H − G that belongs to the curved layers, at least 2.
        seed: of the signs and the probes.
        on_product: called with the number of products just made.

    Returns:
        None where it cannot be had, or where probes of H are the better way: most layers are curved, outputs are not
        one tensor ``(N, C)`` with C ≤ 128, ``vmap`` fails, a sample alone has other outputs than among others, or
        mixtures of an indefinite ∇²φ_i would be needed.

    Cost: one forward and min(C − 1, ``max_directions``) backward passes over the samples one by one: three to four
    Hessian products for ten classes on a ResNet-20 on a CPU, up to 25 on a network so small that writing the gradients
    down is most of the work; and once for a model, two backward passes a layer on two samples in float64. Memory:
    128 MB of gradients on a CPU, 2 GB on an accelerator, or the gradient of one sample.
    Source: diag H = diag G for piecewise linear activations: Botev, Ritter and Barber 2017; Dangel, Kunstner and Hennig
    2020 (BackPACK), who also factorise ∇²φ.
    """
    if not _suits(problem):
        return None
    structure = _structure(problem)
    layers = layer_parts(problem.parameter_names)
    curved = [layer for layer in layers if set(layer.parameters or ()) <= set(structure.curved)]
    if not structure.per_sample or 2 * len(curved) > len(layers):
        return None
    sums = _add_up(problem, max_directions, seed)
    if sums is None:
        return None
    gauss_newton = _estimate(sums, problem, layers)
    hessian = gauss_newton
    if curved:
        block = problem.by(structure.curved)
        # As many probes as can be averaged in equal shares over the mixtures.
        shares = len(sums.mixed) or 1
        rest = hutchinson_trace(
            HessianOperator(block) - GaussNewtonOperator(block),
            num_probes=shares * math.ceil(num_probes / shares),
            layers=layer_ranges(block),
            seed=seed,
            on_product=on_product,
        )
        hessian = _added(gauss_newton, rest)
    exact = not curved and not len(sums.mixed)
    return SampleTrace(hessian, gauss_newton, sums.by_sample if exact else None, sums.weights)


class _Sums(NamedTuple):
    """Σ_i w_i Σ_k λ_ik ‖J_iᵀe_ik‖² of P parameter tensors: what is known, and R estimates of what is left."""

    known: Array  # (P,)
    mixed: Array  # (R, P); R = 0 where everything is known
    by_sample: Array  # (N,) the known share divided by w_i, all tensors together
    weights: Array  # (N,)


def _add_up(problem: Problem, max_directions: int, seed: int) -> _Sums | None:
    """None where mixtures are needed and ∇²φ is indefinite: their squares would not cancel."""
    generator = torch.Generator().manual_seed(seed)
    num_tensors, num_mixtures = len(problem.parameter_names), max_directions - max_directions // 2
    known = torch.zeros(num_tensors, dtype=torch.float64, device=problem.device)
    mixed = known.new_zeros(num_mixtures, num_tensors)
    by_sample, by_weight, any_mixed = [], [], False
    chunks = problem.chunks() if directional.separable(problem) else directional.single_samples(problem)
    with exact_arithmetic(problem.device):
        for chunk in chunks:
            outputs, values, vectors, weights = _output_curvature(problem, chunk)
            # The Hessian of a softmax has an eigenvalue 0.
            used = int((values.abs() > _NEGLIGIBLE * values.abs().max()).any(dim=0).sum())
            values, vectors = values[:, :used], vectors[:, :used]
            num_known = used
            if used > max_directions:
                if float(-values.clamp(max=0).sum()) > _INDEFINITE * float(values.abs().sum()):
                    return None
                any_mixed, num_known = True, max_directions // 2
                left, mixtures = _mixtures(values[:, num_known:], vectors[:, num_known:], num_mixtures, generator)
                values, vectors = (
                    torch.cat([values[:, :num_known], left], 1),
                    torch.cat([vectors[:, :num_known], mixtures], 1),
                )
            totals = []
            step = _samples_at_once(problem, values.shape[1])
            for start in range(0, len(values), step):
                rows = slice(start, start + step)
                squares, alone = _squared_gradients(problem, chunk.inputs[rows], vectors[rows])
                if not float((alone - outputs[rows]).abs().max()) <= _SAME_OUTPUT * float(outputs.abs().max()):
                    return None
                squares = squares.double() * values[rows, :, None]
                known += squares[:, :num_known].sum(dim=(0, 1))
                mixed += squares[:, num_known:].sum(dim=0) if values.shape[1] > num_known else 0.0
                totals.append(squares[:, :num_known].sum(dim=(1, 2)))
            by_sample.append(torch.cat(totals) / torch.where(weights != 0, weights, 1.0))
            by_weight.append(weights)
    mixed = mixed if any_mixed else mixed[:0]
    sums = (known, mixed, torch.cat(by_sample), torch.cat(by_weight))
    return _Sums(*(each.cpu().numpy() for each in sums))


def _output_curvature(problem: Problem, chunk: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """f_i ``(B, C)``, λ_ik ``(B, C)`` by falling size, e_ik ``(B, C, C)`` as rows, and w_i ``(B,)``, which is in λ_ik.

    In float64: p(1 − p) of a sample that is certain is lost in the rounding of a p close to 1.
    """
    with torch.no_grad():
        found = problem.forward(directional.chosen_values(problem), chunk.inputs)
    _, targets = chunk.cast(torch.float64, problem.device)
    outputs = found.detach().double().requires_grad_(True)
    losses = directional.sample_losses(problem.loss, outputs, targets, len(outputs))
    (slopes,) = directional.gradients(losses.weighted.sum(), [outputs], create_graph=True)
    columns = []
    for unit in torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device):
        (column,) = directional.gradients((slopes * unit).sum(), [outputs], retain_graph=True)
        columns.append(column)
    values, vectors = torch.linalg.eigh(torch.stack(columns, dim=1))
    order = values.abs().argsort(dim=1, descending=True)
    rows = vectors.mT.gather(1, order[:, :, None].expand_as(vectors))
    return found, values.gather(1, order), rows.to(problem.dtype), losses.weights.detach().double()


def _mixtures(values: Tensor, vectors: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Σ_k ±√λ_ik e_ik as ``count`` unit vectors ``(B, count, C)`` and their squared lengths Σ_k λ_ik ``(B, count)``."""
    roots = values.clamp(min=0).sqrt()
    bits = torch.randint(2, (len(values), count, values.shape[1]), generator=generator).to(values.device)
    mixtures = (2 * bits - 1) * roots[:, None]
    squares = (roots**2).sum(dim=1, keepdim=True)
    unit = mixtures / torch.where(squares > 0, squares, 1.0).sqrt()[:, None]
    return squares.expand(-1, count), unit.to(vectors.dtype) @ vectors


def _squared_gradients(problem: Problem, inputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """‖J_iᵀe_ik‖² of every parameter tensor, ``(B, K, P)``, for directions ``(B, K, C)``, and f_i ``(B, C)``."""
    point = directional.chosen_values(problem)

    def of_sample(sample: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        def output(*chosen: Tensor) -> Tensor:
            result: Tensor = problem.forward(chosen, sample[None])[0]
            return result

        value, pull_back, *_ = vjp(output, *point)
        if not rows.shape[0]:  # a loss that is linear in the outputs
            return rows.new_zeros(0, len(point)), value

        def squares(row: Tensor) -> Tensor:
            return torch.stack([gradient.square().sum() for gradient in pull_back(row)])

        return vmap(squares)(rows), value

    found: tuple[Tensor, Tensor] = vmap(of_sample)(inputs, directions)
    return found


def gradient_bytes(problem: Problem, num_samples: int) -> int:
    """Memory that :func:`sample_trace` takes for gradients of single samples, about ten directions each."""
    room = _CPU_BYTES if problem.device.type == "cpu" else _ACCELERATOR_BYTES
    return min(max(room, _gradient_size(problem)), 10 * num_samples * _gradient_size(problem))


def _samples_at_once(problem: Problem, num_directions: int) -> int:
    room = _CPU_BYTES if problem.device.type == "cpu" else _ACCELERATOR_BYTES
    return max(1, room // (_gradient_size(problem) * max(num_directions, 1)))


def _gradient_size(problem: Problem) -> int:
    return problem.num_parameters * torch.finfo(problem.dtype).bits // 8


def _estimate(sums: _Sums, problem: Problem, layers: Sequence[Part]) -> TraceEstimate:
    """The sums divided by Σ w_i, tensors gathered into layers."""
    member = np.array([[name in (layer.parameters or ()) for layer in layers] for name in problem.parameter_names])
    weight = sums.weights.sum()
    offsets = sums.known @ member / weight
    samples = sums.mixed @ member / weight if len(sums.mixed) else np.zeros((2, len(layers)))
    return TraceEstimate(
        samples=samples.sum(axis=1),
        offset=float(offsets.sum()),
        layer_names=tuple(layer.label for layer in layers),
        layer_samples=samples,
        layer_offsets=offsets,
        method="gradients of samples",
    )


def _added(whole: TraceEstimate, rest: TraceEstimate) -> TraceEstimate:
    """The sum of two independent estimates, of which the second knows some of the layers only."""
    names, samples, offsets = whole.by_layer
    rest_names, rest_samples, rest_offsets = rest.by_layer
    place = [names.index(name) for name in rest_names]
    offsets = offsets.copy()
    # Without mixtures every probe is a sample.
    samples = samples.copy() if samples.any() else np.zeros((len(rest_samples), len(names)))
    samples[:, place] += rest_samples.reshape(len(samples), -1, len(place)).mean(axis=1)
    offsets[place] += rest_offsets
    return TraceEstimate(
        samples=samples.sum(axis=1),
        offset=float(offsets.sum()),
        layer_names=names,
        layer_samples=samples,
        layer_offsets=offsets,
        method="gradients of samples, probes of H - G where layers are curved",
    )


# ---------------------------------------------------------------------- what is true of the model


def _suits(problem: Problem) -> bool:
    """One tensor ``(N, C)`` of outputs, C not large, and samples that know nothing of each other."""
    if problem.batch_norm == "batch":
        return False
    one = problem.samples.inputs[:1]
    try:
        with torch.no_grad(), exact_arithmetic(problem.device):
            outputs = problem.forward(directional.chosen_values(problem), one)
    except _REFUSALS:  # a model that squeezes wants more than one
        return False
    return isinstance(outputs, Tensor) and outputs.ndim == 2 and outputs.shape[1] <= MAX_OUTPUTS


def _structure(problem: Problem) -> _Structure:
    """Found once for a model and the widest choice of its parameters, on samples from all over the set."""
    found = _STRUCTURE.setdefault(problem.module, {})
    chosen = set(problem.parameter_names)
    for names, structure in found.items():
        if chosen <= set(names):
            return _Structure(structure.per_sample, tuple(name for name in structure.curved if name in chosen))
    few = copy.copy(problem)
    few.samples = problem.spread(_TEST_SAMPLES)
    exact = few.with_dtype(torch.float64)
    structure = found[problem.parameter_names] = _Structure(_takes_single_gradients(exact), curved_parameters(exact))
    return structure


def _takes_single_gradients(problem: Problem) -> bool:
    """Does ``vmap`` run, and give what differentiating one output after the other gives?"""
    leaves = problem.leaves()
    with exact_arithmetic(problem.device):
        outputs = problem.forward(leaves, problem.samples.inputs)
        directions = torch.eye(outputs.shape[1], dtype=problem.dtype, device=problem.device)[None, -2:]
        directions = directions.expand(len(outputs), -1, -1)
        try:
            found, _ = _squared_gradients(problem, problem.samples.inputs, directions)
        except _REFUSALS:
            return False
        for row, of_sample, units in zip(outputs, found, directions, strict=True):
            for unit, squares in zip(units, of_sample, strict=True):
                gradients = directional.gradients((row * unit).sum(), leaves, retain_graph=True)
                expected = torch.stack([gradient.square().sum() for gradient in gradients])
                if not float((squares - expected).abs().max()) <= _ROUNDING * float(expected.max()):
                    return False
    return True
