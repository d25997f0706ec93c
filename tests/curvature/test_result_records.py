"""Records through HDF5 and back."""

import dataclasses
from typing import Any

import h5py
import numpy as np
import pytest
from support.spectra import part_spectrum

from landscape.curvature.results import (
    BatchSpectra,
    Certificates,
    Counts,
    Descent,
    Eigenpairs,
    Interval,
    PartSpectrum,
    Record,
    SaddleReport,
    SamplingErrors,
    SpectralDensity,
    SplitHalf,
    TraceEstimate,
)
from landscape.surface.results import Surface

SPECTRUM = part_spectrum()
CERTIFICATES = Certificates(
    threshold=1e-3,
    fraction_below=Interval(0.1, 0.05, 0.2),
    second_difference=-1.5,
    second_difference_error=1e-4,
    descent=Descent(np.array([-0.1, 0.0, 0.1]), np.array([0.9, 1.0, 0.8])),
    gauss_newton_curvature=0.25,
    gauss_newton_trace=12.0,
    gauss_newton_trace_standard_error=0.5,
    split_half=SplitHalf(-2.0, -1.0, 0.3, 17, 0.002),
    sampling=SamplingErrors(10, 1.0, 0.2, 3.0, float("nan")),
)
VECTORS = np.random.default_rng(0).standard_normal((40, 13)).astype(np.float32)
LINE, SIX = np.linspace(-1.0, 1.0, 3), np.arange(6.0).reshape(2, 3)
RECORDS: dict[str, Record] = {
    "counts": Counts(LINE, *(np.array([number, 2.0, 1.0]) for number in (3.0, 5.0, 2.5, 6.0))),
    "surface": Surface(
        kind="random",
        x=LINE,
        y=None,
        parts=("all", "class/0"),
        labels=("all", "λ"),
        num_samples=np.array([7, 3]),
        losses=np.where(SIX == 4, np.inf, SIX),
        accuracies=SIX / 6,
        done=np.array([True, True, False]),
        norms=np.ones(1),
        cosine=float("nan"),
        axis_labels=("direction 1",),
        marks=np.zeros((1, 1)),
        mark_labels=("θ",),
    ),
    "interval": Interval(1.5, -np.inf, np.inf),
    "pairs": SPECTRUM.pairs,
    "pairs with vectors": dataclasses.replace(SPECTRUM.pairs, vectors=VECTORS),
    "trace": TraceEstimate(np.array([1.0, 2.5]), -3.0),
    "density": SPECTRUM.density,
    "density without deflation": dataclasses.replace(SPECTRUM.density, deflated=np.zeros(0)),
    "saddle": SPECTRUM.saddle,
    "undefined saddle": dataclasses.replace(SPECTRUM.saddle, sam_threshold=np.inf, gradient_alignment=float("nan")),
    "layers": TraceEstimate(
        samples=np.array([1.0, 2.0]),
        offset=3.0,
        layer_names=("conv1", "Schicht ü"),
        layer_samples=np.array([[0.5, 0.5], [1.5, 0.5]]),
        layer_offsets=np.array([1.0, 2.0]),
    ),
    "descent": CERTIFICATES.descent,
    "split half": CERTIFICATES.split_half,
    "sampling": CERTIFICATES.sampling,
    "certificates": CERTIFICATES,
    "batches": BatchSpectra(
        values=np.array([[-1.0, 2.0], [-0.5, 3.0]]),
        residuals=np.array([[1e-3, 1e-4], [1e-3, 1e-4]]),
        converged=np.array([[True, True], [False, True]]),
        losses=np.array([0.5, 0.25]),
        gradient_norms=np.array([1.0, 2.0]),
        noise_floors=np.array([1e-6, 1e-6]),
        batch_size=128,
        num_samples=494,
        weight_decay=5e-4,
        tol=1e-3,
        max_matvecs=300,
        num_matvecs=60,
        seed=3,
    ),
    "certified saddle": dataclasses.replace(SPECTRUM.saddle, certificates=CERTIFICATES),
    "part": SPECTRUM,
    "part without accuracy": dataclasses.replace(SPECTRUM, accuracy=None, label="Käfer · conv1"),
}


def round_trip(record: Record) -> Record:
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        record.to_hdf5(file.create_group("a/b"))
        return type(record).from_hdf5(file["a/b"])


def assert_equal(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, Record):
        for field in dataclasses.fields(one):  # type: ignore[arg-type]
            assert_equal(getattr(one, field.name), getattr(two, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    else:
        assert one == two or (one != one and two != two)


@pytest.mark.parametrize("name", RECORDS)
def test_every_record_survives_hdf5(name: str) -> None:
    assert_equal(round_trip(RECORDS[name]), RECORDS[name])


def test_every_kind_of_record_is_among_them() -> None:
    kinds = {Interval, Eigenpairs, TraceEstimate, SpectralDensity, Descent, SplitHalf, SamplingErrors, Certificates}
    kinds |= {SaddleReport, PartSpectrum, BatchSpectra, Counts, Surface}
    assert {type(record) for record in RECORDS.values()} == kinds == set(Record.__subclasses__())


def test_what_is_none_leaves_no_trace() -> None:
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        SPECTRUM.pairs.to_hdf5(file.create_group("pairs"))
        assert "vectors" not in file["pairs"]
        assert "vectors" not in file["pairs"].attrs
    assert dataclasses.replace(SPECTRUM.pairs, vectors=VECTORS).without_vectors().vectors is None


def test_a_missing_field_is_named() -> None:
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        SPECTRUM.pairs.to_hdf5(file.create_group("pairs"))
        del file["pairs"]["residuals"]
        with pytest.raises(KeyError, match=r"/pairs: no field 'residuals' for Eigenpairs"):
            Eigenpairs.from_hdf5(file["pairs"])


def test_reading_results_does_not_load_torch() -> None:
    import subprocess
    import sys

    code = "import sys, landscape.curvature.results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
