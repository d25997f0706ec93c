"""Synthetic long-tailed class spectra: true Lanczos quadrature of a diagonal matrix whose eigenvalues are known."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from landscape.curvature.results import Eigenpairs, PartSpectrum, SaddleReport, SpectralDensity

Array = NDArray[np.float64]

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def class_eigenvalues(rarity: float, num_parameters: int, seed: int) -> Array:
    """A class Hessian's eigenvalues, ascending: dense bulk at 0, a positive tail, few outliers, some negative.

    ``rarity`` runs from 0 (head: sharp valley, little negative) to 1 (tail: larger outliers, strong negative side).
    """
    rng = np.random.default_rng(seed)
    outliers = (8 + 40 * rarity) * np.geomspace(1.0, 0.05, 9) * rng.uniform(0.8, 1.2, 9)
    negative = -(0.05 + 20 * rarity**2) * np.geomspace(1.0, 0.1, 4) * rng.uniform(0.8, 1.2, 4)
    count = num_parameters - outliers.size - negative.size
    bulk = 10.0 ** rng.normal(-3.5, 1.0, count) * np.where(rng.random(count) < 0.25 + 0.2 * rarity, -0.3, 1.0)
    return np.sort(np.concatenate([outliers, negative, np.clip(bulk, negative.min() / 2, outliers.max() / 4)]))


def quadrature_of(
    eigenvalues: Array, *, num_probes: int, num_steps: int, deflate: tuple[int, int] = (0, 0), seed: int = 0
) -> SpectralDensity:
    """Stochastic Lanczos quadrature of diag(eigenvalues) with the ``deflate`` (lowest, highest) pairs projected out."""
    n, (lowest, highest) = eigenvalues.size, deflate
    kept, deflated = eigenvalues[lowest : n - highest], np.r_[eigenvalues[:lowest], eigenvalues[n - highest :]]
    rng = np.random.default_rng(seed)
    nodes, weights, alpha, beta = (np.full((num_probes, num_steps), fill) for fill in (np.nan, 0.0, np.nan, np.nan))
    mass = np.empty(num_probes)
    for probe in range(num_probes):
        vector = rng.standard_normal(kept.size)
        mass[probe] = vector @ vector
        basis = np.zeros((num_steps, kept.size))
        basis[0] = vector / np.sqrt(mass[probe])
        for step in range(num_steps):
            product = kept * basis[step]
            alpha[probe, step] = basis[step] @ product
            for _ in range(2):
                product -= basis[: step + 1].T @ (basis[: step + 1] @ product)
            beta[probe, step] = np.linalg.norm(product)
            if step + 1 < num_steps:
                basis[step + 1] = product / beta[probe, step]
        off = beta[probe, :-1]
        values, vectors = np.linalg.eigh(np.diag(alpha[probe]) + np.diag(off, 1) + np.diag(off, -1))
        nodes[probe], weights[probe] = values, vectors[0] ** 2
    return SpectralDensity(
        nodes, weights, alpha, beta, np.full(num_probes, num_steps), mass, deflated, n, num_probes * num_steps
    )


def part_spectrum(
    part: str = "class/3",
    label: str = "cat",
    *,
    num_samples: int = 500,
    rarity: float = 0.5,
    num_parameters: int = 1500,
    num_probes: int = 4,
    num_steps: int = 40,
    noise_floor: float = 1e-4,
    seed: int = 0,
) -> PartSpectrum:
    """One part with every field filled; its extreme pairs are exact up to the stated residual."""
    eigenvalues = class_eigenvalues(rarity, num_parameters, seed)
    density = quadrature_of(eigenvalues, num_probes=num_probes, num_steps=num_steps, deflate=(4, 9), seed=seed)
    ends = np.r_[eigenvalues[:4], eigenvalues[-9:]]
    residuals = 1e-3 * np.abs(ends)
    gradient_norm, trace = 0.02 + 3 * rarity, density.trace()
    saddle = SaddleReport(
        loss=0.01 + rarity,
        gradient_norm=gradient_norm,
        descent_share=0.02,
        lambda_max=float(ends[-1]),
        lambda_max_residual=float(residuals[-1]),
        lambda_min=float(ends[0]),
        lambda_min_residual=float(residuals[0]),
        noise_floor=noise_floor,
        index_lower_bound=int(np.sum(ends < -noise_floor)),
        negative_mass=density.negative_mass(),
        negative_fraction=density.negative_fraction_of_mass(),
        trace=trace.value,
        trace_standard_error=trace.standard_error,
        gradient_alignment=0.1,
        sam_threshold=2 * gradient_norm / abs(float(ends[0])),
        verdict="saddle" if ends[0] < -noise_floor else "minimum",
        reason="made for a test",
    )
    pairs = Eigenpairs(ends, residuals, residuals <= 1e-2 * np.abs(ends).max(), 1e-2, 60)
    return PartSpectrum(part, label, num_samples, num_parameters, pairs, density, saddle, 1.5, 0.9 - 0.5 * rarity)


def with_lambda_min(spectrum: PartSpectrum, lambda_min: float) -> PartSpectrum:
    """The same part with another reported λ_min."""
    return dataclasses.replace(spectrum, saddle=dataclasses.replace(spectrum.saddle, lambda_min=lambda_min))


def long_tailed_classes(num_classes: int = 10, names: list[str] | None = None, **options: Any) -> list[PartSpectrum]:
    """One part a class, 5000 samples falling to 50, rarer classes with the heavier negative side."""
    names = names or [CIFAR10_CLASSES[c % 10] + ("" if c < 10 else f" {c}") for c in range(num_classes)]
    rarities = np.linspace(0.0, 1.0, num_classes) if num_classes > 1 else np.array([0.5])
    return [
        part_spectrum(
            f"class/{c}", names[c], num_samples=int(5000 * 0.01**rarity), rarity=float(rarity), seed=c, **options
        )
        for c, rarity in enumerate(rarities)
    ]
