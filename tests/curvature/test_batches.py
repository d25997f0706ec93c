"""Mini-batch spectra: the right batches, the right matrix, and that going on repeats nothing."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from support.problems import NUM_SAMPLES, oracle, small_loss, small_problem
from torch.func import grad, hessian

from landscape.curvature import Part
from landscape.curvature.batches import batch_spectra, draw_batches
from landscape.curvature.results import BatchSpectra
from landscape.errors import LandscapeError

SETTINGS: dict[str, Any] = {"batch_size": 5, "k": 2, "tol": 1e-9, "seed": 3}


def test_batches_cut_one_order_after_another() -> None:
    taken = list(islice(draw_batches(13, 5, seed=1), 6))
    assert [len(index) for index in taken] == [5] * 6
    for first, second in (taken[0:2], taken[2:4], taken[4:6]):  # 13 = 5 + 5 and 3 left out
        assert len({*first.tolist(), *second.tolist()}) == 10
    assert len({tuple(index.tolist()) for index in taken}) == 6
    assert all(0 <= i < 13 for index in taken for i in index.tolist())
    again = list(islice(draw_batches(13, 5, seed=1), 2))
    assert all(torch.equal(a, b) for a, b in zip(again, taken, strict=False))
    other = next(draw_batches(13, 5, seed=2))
    assert not torch.equal(other, taken[0])
    # Over 650 orders, each of which takes 10 of the 13, every sample comes equally often: 500 times ± 10.7.
    counts = torch.bincount(torch.cat(list(islice(draw_batches(13, 5), 1300))), minlength=13)
    assert (counts - 500).abs().max() < 5 * (650 * 10 / 13 * 3 / 13) ** 0.5


@pytest.mark.parametrize("size", [0, 14])
def test_a_batch_that_cannot_be_drawn_is_refused(size: int) -> None:
    with pytest.raises(LandscapeError, match=f"batch size {size}: there are 13 images"):
        next(draw_batches(13, size))


@pytest.mark.parametrize(("name", "weighted"), [("mlp", True), ("conv", False)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.37])
def test_against_the_dense_hessian_of_the_penalised_loss(name: str, weighted: bool, weight_decay: float) -> None:
    loss = small_loss("ce", weighted=weighted)
    record = batch_spectra(small_problem(name, loss), 3, weight_decay=weight_decay, **SETTINGS)
    dense = oracle(name, loss)
    for row, index in enumerate(islice(draw_batches(NUM_SAMPLES, 5, seed=3), 3)):
        value, point = dense._function(dense.trainable(), index)

        def penalised(flat: torch.Tensor, value: Any = value) -> torch.Tensor:
            return value(flat) + 0.5 * weight_decay * flat @ flat

        truth = torch.linalg.eigvalsh(hessian(penalised)(point)).numpy()
        np.testing.assert_allclose(record.values[row], truth[[0, 1, -2, -1]], atol=1e-8 * np.abs(truth).max())
        assert record.losses[row] == pytest.approx(float(penalised(point)), rel=1e-10)
        assert record.gradient_norms[row] == pytest.approx(float(grad(penalised)(point).norm()), rel=1e-8)
        assert record.lambda_min[row] == record.values[row, 0]
        assert record.lambda_max[row] == record.values[row, -1]
    assert record.residuals.max() < 1e-8 * record.values.max()


def test_weight_decay_shifts_every_eigenvalue_by_itself_and_costs_no_product() -> None:
    problem = small_problem("mlp")
    plain, shifted = (batch_spectra(problem, 4, weight_decay=wd, **SETTINGS) for wd in (0.0, 0.25))
    np.testing.assert_array_equal(shifted.values, plain.values + 0.25)
    np.testing.assert_array_equal(shifted.residuals, plain.residuals)
    assert shifted.num_matvecs == plain.num_matvecs
    assert plain.share_negative > 0
    largest = -2 * float(plain.lambda_min.min())
    assert batch_spectra(problem, 4, weight_decay=largest, **SETTINGS).share_negative == 0.0


def test_going_on_gives_the_same_record_and_repeats_nothing() -> None:
    problem = small_problem("mlp")
    whole = batch_spectra(problem, 5, **SETTINGS)
    steps: list[BatchSpectra] = []
    first = batch_spectra(problem, 2, on_batch=steps.append, **SETTINGS)
    assert [len(record.values) for record in steps] == [1, 2]
    counted: list[int] = []
    both = batch_spectra(problem, 5, known=first, on_product=counted.append, **SETTINGS)
    assert sum(counted) == whole.num_matvecs - first.num_matvecs == both.num_matvecs - first.num_matvecs
    for field in dataclasses.fields(BatchSpectra):
        np.testing.assert_array_equal(getattr(both, field.name), getattr(whole, field.name))
    # Fewer than there are: what is there stays.
    assert batch_spectra(problem, 3, known=whole, **SETTINGS) is whole


@pytest.mark.parametrize(
    "change", [{"batch_size": 4}, {"weight_decay": 0.1}, {"tol": 1e-3}, {"max_matvecs": 7}, {"seed": 4}, {"k": 1}]
)
def test_other_settings_do_not_join(change: dict[str, Any]) -> None:
    problem = small_problem("mlp")
    first = batch_spectra(problem, 1, **SETTINGS)
    with pytest.raises(LandscapeError, match=r"the batches known have"):
        batch_spectra(problem, 2, known=first, **{**SETTINGS, **change})


@pytest.mark.parametrize("wrong", [{"num_batches": 0}, {"weight_decay": -1.0}, {"weight_decay": float("nan")}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LandscapeError, match="at least 1 batch and no negative penalty"):
        batch_spectra(small_problem("mlp"), **{"num_batches": 1, **SETTINGS, **wrong})


def test_a_layer_of_a_batch_and_fewer_parameters_than_pairs(tmp_path: Any) -> None:
    problem = small_problem("mlp")
    bias = problem.restrict(Part("layer/2", "2", parameters=("2.bias",)))
    record = batch_spectra(bias, 2, **{**SETTINGS, "k": 3})
    assert record.values.shape == (2, 4)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        record.to_hdf5(file)
        again = BatchSpectra.from_hdf5(file)
    for field in dataclasses.fields(BatchSpectra):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(record, field.name))


def test_pairs_that_missed_the_tolerance_are_said_batch_by_batch() -> None:
    problem = small_problem("mlp")
    settings = {**SETTINGS, "weight_decay": 0.25}
    sharp = batch_spectra(problem, 3, **settings)
    assert sharp.converged.all()
    assert sharp.num_unconverged == 0
    few = batch_spectra(problem, 3, **{**settings, "max_matvecs": 8})
    assert few.max_matvecs == 8
    assert few.converged.shape == few.values.shape
    # The tolerance is that of the loss without the penalty, which moves the largest |θ|.
    largest = np.abs(few.values - 0.25).max(axis=1, keepdims=True)
    np.testing.assert_array_equal(few.converged, few.residuals <= few.tol * largest)
    assert few.num_unconverged == 3
    assert dataclasses.replace(few, converged=np.eye(3, few.values.shape[1]) < 1).num_unconverged == 3
    assert dataclasses.replace(few, converged=np.array([[True, True], [True, False]])).num_unconverged == 1
