"""The core: what matrix, multiplied how, analysed by which algorithm, summed up in which record.

`problem` states the frozen question, `operators` multiply (by the graphs of `products`), `lanczos`, `density` and
`trace` are plain functions of an operator, `results` are the records they return, `saddle` turns the records into a
verdict and `measurement` runs it all on one part. Names are imported on first use, so that reading results never
loads torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "samples": ("Samples",),
    "problem": ("BatchNormPolicy", "Problem", "ProblemCheck"),
    "operators": ("GaussNewtonOperator", "HessianOperator", "SymmetricOperator"),
    "parts": ("Part", "class_parts", "cross_parts", "group_parts", "layer_parts", "resolve_classes", "whole_part"),
    "lanczos": ("Search", "Tridiagonalization", "extreme_eigenpairs", "search", "tridiagonalize"),
    "density": ("density_of_run", "rademacher_probe", "spectral_density"),
    "distance": ("ShapeDistance", "normalized_measure", "shape_distance"),
    "trace": ("TraceProbes", "hutchinson_trace", "xnystrace", "xtrace"),
    "directional": ("DirectionalCurvature", "directional_curvature"),
    "exact_trace": ("SampleTrace", "sample_trace"),
    "sampling": ("SampleCurvature",),
    "batches": ("batch_spectra", "draw_batches"),
    "certificates": ("certify", "descend", "second_difference", "split_half"),
    "saddle": ("noise_floor", "saddle_report"),
    "measurement": ("MeasureSettings", "Measurement", "measure"),
    "results": (
        "BatchSpectra",
        "Certificates",
        "Descent",
        "Eigenpairs",
        "Interval",
        "PartSpectrum",
        "SaddleReport",
        "SamplingErrors",
        "SpectralDensity",
        "SplitHalf",
        "TraceEstimate",
    ),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
