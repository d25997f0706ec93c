"""Curvature from batch to batch: what a step of the training sees instead of the whole loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.curvature.lanczos import Progress, extreme_eigenpairs
from landscape.curvature.operators import HessianOperator
from landscape.curvature.parts import Part
from landscape.curvature.problem import Problem
from landscape.curvature.results import BatchSpectra
from landscape.curvature.saddle import NOISE_MARGIN
from landscape.errors import LandscapeError


def draw_batches(num_samples: int, batch_size: int, seed: int = 0) -> Iterator[Tensor]:
    """Indices ``(batch_size,)``, int64, of one mini-batch after another, without end.

    As in training, one random order of all samples is cut into batches, then the next; a last piece that is shorter is
    left out. Batch i is the same however many are taken.

    Raises:
        LandscapeError: a batch would be empty or larger than the set.
    """
    if not 1 <= batch_size <= num_samples:
        raise LandscapeError(f"batch size {batch_size}: there are {num_samples} images to draw from; give 1 to as many")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_samples, generator=generator)
        yield from order[: num_samples // batch_size * batch_size].split(batch_size)


def batch_spectra(
    problem: Problem,
    num_batches: int,
    *,
    batch_size: int = 128,
    k: int = 5,
    weight_decay: float = 0.0,
    tol: float = 1e-3,
    max_matvecs: int = 300,
    seed: int = 0,
    known: BatchSpectra | None = None,
    on_batch: Callable[[BatchSpectra], None] | None = None,
    on_product: Progress | None = None,
) -> BatchSpectra:
    """k eigenvalues at each end of the Hessian of L_B(θ) + ½ · weight_decay · ‖θ‖² for mini-batches B of the samples.

    The batches see the frozen samples of the problem: no augmentation, and the statistics of batch normalisation that
    the problem says (``batch_norm='batch'`` takes those of each batch, as a step of the training does). The Hessian of
    the penalty is weight_decay · I on the chosen parameters, so the penalised eigenvalues are those of L_B plus
    ``weight_decay``, exactly: no product is spent on it.

    Args:
        problem: the set to draw from; its chosen parameters are those that are differentiated and penalised.
        num_batches: N.
        batch_size: samples a batch.
        k: eigenvalues at each end.
        weight_decay: as an optimiser with L2 penalty has it; 0 leaves the loss as it is.
        tol: relative tolerance of the residuals, before the shift.
        max_matvecs: products a batch, at most.
        seed: of the draw and of the start vectors.
        known: the first batches, measured before with the same settings; they are not measured again.
        on_batch: called with the record so far after each new batch.
        on_product: called with the number of products just made.

    Raises:
        LandscapeError: no batch, a batch larger than the set, a negative weight decay, or ``known`` has other settings.

    Cost: about 10k + 40 products over ``batch_size`` samples each, and one gradient, a batch.
    """
    if num_batches < 1 or not weight_decay >= 0:
        raise LandscapeError(
            f"num_batches = {num_batches}, weight_decay = {weight_decay:g}: at least 1 batch and no negative penalty"
        )
    settings: dict[str, Any] = {
        "batch_size": batch_size,
        "num_samples": problem.num_samples,
        "weight_decay": weight_decay,
        "tol": tol,
        "max_matvecs": max_matvecs,
        "seed": seed,
    }
    record = known or _empty(min(2 * k, problem.num_parameters), settings)
    for key, value in settings.items():
        if getattr(record, key) != value:
            raise LandscapeError(f"the batches known have {key} = {getattr(record, key)}, not {value}")
    if record.values.shape[1] != min(2 * k, problem.num_parameters):
        raise LandscapeError(f"the batches known have {record.values.shape[1]} eigenvalues each, not k = {k} an end")
    drawn = draw_batches(problem.num_samples, batch_size, seed)
    for number, index in zip(range(num_batches), drawn, strict=False):
        if number < len(record.values):
            continue
        batch = problem.restrict(Part(path=f"batch/{number}", label=f"batch {number}", samples=index))
        row, products = _measure(batch, k, weight_decay, tol, max_matvecs, seed, on_product)
        longer: dict[str, Any] = {key: np.concatenate([getattr(record, key), [row[key]]]) for key in row}
        record = dataclasses.replace(record, num_matvecs=record.num_matvecs + products, **longer)
        if on_batch is not None:
            on_batch(record)
    return record


def _measure(
    batch: Problem,
    k: int,
    weight_decay: float,
    tol: float,
    max_matvecs: int,
    seed: int,
    on_product: Progress | None,
) -> tuple[dict[str, Any], int]:
    """The row of one batch, and the products that it took."""
    op = HessianOperator(batch)
    pairs = extreme_eigenpairs(op, k, tol=tol, max_matvecs=max_matvecs, seed=seed, on_product=on_product)
    loss, gradient = batch.value_and_gradient()
    point = batch.flatten([batch.parameters[name] for name in batch.parameter_names]).double()
    # The rounding is that of the products, so the floor belongs to the eigenvalues before the shift.
    largest = max(float(np.abs(pairs.values).max()), batch.check.scale)
    row = {
        "values": pairs.values + weight_decay,
        "residuals": pairs.residuals,
        "converged": pairs.converged,
        "losses": loss + 0.5 * weight_decay * float(point @ point),
        "gradient_norms": float((gradient.double() + weight_decay * point).norm()),
        "noise_floors": NOISE_MARGIN * batch.check.noise * largest,
    }
    return row, pairs.num_matvecs


def _empty(num_values: int, settings: dict[str, Any]) -> BatchSpectra:
    rows = np.zeros((0, num_values))
    return BatchSpectra(
        values=rows,
        residuals=rows,
        converged=rows.astype(bool),
        losses=np.zeros(0),
        gradient_norms=np.zeros(0),
        noise_floors=np.zeros(0),
        num_matvecs=0,
        **settings,
    )
