"""The trace on its own, when no density is wanted."""

from __future__ import annotations

import numpy as np
import torch

from landscape.curvature.density import deflation_basis, rademacher_probe
from landscape.curvature.operators import SymmetricOperator
from landscape.curvature.results import Eigenpairs, TraceEstimate
from landscape.errors import LandscapeError


def hutchinson_trace(
    op: SymmetricOperator, *, num_probes: int = 30, deflate: Eigenpairs | None = None, seed: int = 0
) -> TraceEstimate:
    """tr H = Σ_d λ_d + E[zᵀPHPz] over Rademacher probes z, with P projecting the converged ``deflate`` pairs out.

    A density already holds this estimate (:meth:`SpectralDensity.trace`); this is the cheaper way when the trace is all
    that is asked for. The number of probes is fixed beforehand: stopping when the running mean settles is biased.

    Raises:
        LandscapeError: no probe.

    Cost: ``num_probes`` products. Variance of one probe: 2(‖A‖_F² − Σ a_ii²) with A = PHP.
    Source: Hutchinson 1990; deflation as in Gambhir, Stathopoulos and Orginos 2017.
    """
    if num_probes < 1:
        raise LandscapeError(f"num_probes = {num_probes}: at least 1 probe is needed")
    rows, values = deflation_basis(op, deflate)
    generator = torch.Generator().manual_seed(seed)
    samples = np.zeros(num_probes)
    for probe in range(num_probes):
        vector = rademacher_probe(op, generator)
        if rows is not None:
            vector = vector - (rows @ vector) @ rows
        samples[probe] = float(vector.double() @ (op @ vector).double())
    return TraceEstimate(samples=samples, offset=float(values.sum()))
