"""Parts with every further check filled in, as the command line shows them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from landscape.curvature.results import (
    Certificates,
    Descent,
    Interval,
    PartSpectrum,
    SamplingErrors,
    SplitHalf,
    TraceEstimate,
)

LAYERS = ("conv1", "bn1", "[odd] name", "fc")


def with_certificates(spectrum: PartSpectrum, **changes: Any) -> PartSpectrum:
    """The same part with made-up checks; ``changes`` replaces fields of :class:`Certificates`."""
    low = spectrum.saddle.lambda_min
    certificates = Certificates(
        threshold=1.5e-3,
        fraction_below=Interval(0.0125, 0.01, 0.015),
        second_difference=1.0001 * low,
        second_difference_error=1e-3 * abs(low),
        descent=Descent(np.array([-0.2, -0.1, 0.0, 0.1, 0.2]), np.array([1.0, 0.75, 0.8, 0.9, 1.2])),
        gauss_newton_curvature=0.25,
        gauss_newton_trace=123.0,
        gauss_newton_trace_standard_error=4.5,
        split_half=SplitHalf(
            found=low, confirmed=0.5 * low, standard_error=0.1 * abs(low), num_samples=250, p_value=2e-7
        ),
        sampling=SamplingErrors(num_blocks=12, lambda_max=6.5, lambda_min=0.75, trace=31.0, negative_mass=2.25),
    )
    certificates = dataclasses.replace(certificates, **changes)
    return dataclasses.replace(spectrum, saddle=dataclasses.replace(spectrum.saddle, certificates=certificates))


def with_layer_traces(spectrum: PartSpectrum, scale: float = 1.0) -> PartSpectrum:
    """The same part with traces of four layers: scale · (11, −1, 2, 28), standard errors scale · (1, 1, 1, 2)."""
    errors = np.array([1.0, 1.0, 1.0, 2.0])  # of two probes, whose mean is half their distance away from either
    middle, offsets = np.array([1.0, -1.0, 2.0, 8.0]), np.array([10.0, 0.0, 0.0, 20.0])
    rows = scale * np.stack([middle - errors, middle + errors])
    trace = TraceEstimate(
        samples=rows.sum(axis=1),
        offset=scale * float(offsets.sum()),
        layer_names=LAYERS,
        layer_samples=rows,
        layer_offsets=scale * offsets,
    )
    return dataclasses.replace(spectrum, trace=trace)
