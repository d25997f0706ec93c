"""Principal components of a training against the singular value decomposition of the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from landscape.errors import LandscapeError
from landscape.surface.directions import Vector
from landscape.surface.trajectory import trajectory_slice

SHAPES = {"conv": (3, 2, 2), "bias": (5,)}


def as_vectors(rows: np.ndarray) -> list[Vector]:
    """One vector a row, cut into tensors."""
    sizes = [int(np.prod(shape)) for shape in SHAPES.values()]
    cut = (torch.tensor(row).split(sizes) for row in rows)
    return [
        {name: piece.reshape(shape) for (name, shape), piece in zip(SHAPES.items(), pieces, strict=True)}
        for pieces in cut
    ]


def flat(vector: Vector) -> np.ndarray:
    return torch.cat([vector[name].reshape(-1) for name in SHAPES]).numpy()


def labels(count: int) -> list[str]:
    return [f"epoch {t}" for t in range(count)]


def test_a_planted_plane_is_found_with_its_own_coordinates() -> None:
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((17, 2)))
    planted = rng.standard_normal((6, 2)) * [30.0, 2.0]
    planted -= planted[-1]
    found = trajectory_slice(as_vectors(planted @ basis.T), labels(6))
    assert found.explained_variance is not None
    assert found.marks is not None
    assert found.mark_distances is not None
    assert found.explained_variance.sum() == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(found.mark_distances, 0, atol=1e-12)
    np.testing.assert_allclose(found.norms, 1, rtol=1e-12)
    assert found.cosine == pytest.approx(0, abs=1e-12)
    # Distances within the plane are those of the planted points: units are neither stretched nor squared.
    for first in range(6):
        for second in range(6):
            there = np.linalg.norm(planted[first] - planted[second])
            assert np.linalg.norm(found.marks[first] - found.marks[second]) == pytest.approx(there, abs=1e-11)
    np.testing.assert_allclose(found.marks[-1], 0, atol=1e-12)


def test_components_and_variance_are_those_of_the_whole_matrix() -> None:
    rng = np.random.default_rng(1)
    rows = np.cumsum(rng.standard_normal((9, 17)), axis=0)
    rows -= rows[-1]
    found = trajectory_slice(as_vectors(rows), labels(9))
    _, lengths, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.explained_variance, lengths[:2] ** 2 / np.sum(lengths**2), rtol=1e-10)
    for direction, expected in zip(found.directions, right, strict=False):
        sign = 1 if rows[0] @ expected >= 0 else -1
        np.testing.assert_allclose(flat(direction), sign * expected, atol=1e-10)
    plane = np.stack([flat(direction) for direction in found.directions])
    np.testing.assert_allclose(found.marks, rows @ plane.T, atol=1e-10)
    off = np.linalg.norm(rows - rows @ plane.T @ plane, axis=1)
    np.testing.assert_allclose(found.mark_distances, off, atol=1e-10)
    assert found.mark_labels == tuple(labels(9))


def test_the_grid_covers_the_trajectory_with_one_margin() -> None:
    rng = np.random.default_rng(2)
    rows = np.cumsum(rng.standard_normal((7, 17)), axis=0)
    found = trajectory_slice(as_vectors(rows - rows[-1]), labels(7))
    assert found.marks is not None
    (low1, high1), (low2, high2) = found.ranges
    least, most = found.marks.min(axis=0), found.marks.max(axis=0)
    rooms = [*(least - [low1, low2]), *([high1, high2] - most)]
    np.testing.assert_allclose(rooms, 0.15 * np.ptp(found.marks, axis=0).max(), rtol=1e-12)


def test_buffers_move_by_the_same_mixtures() -> None:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((3, 17))
    rows -= rows[-1]
    # In step with the first parameter, so they must be its multiple everywhere on the plane, which holds all three.
    buffers = [{"mean": torch.tensor([2 * row[0]])} for row in rows]
    found = trajectory_slice(as_vectors(rows), labels(3), buffers=buffers)
    for direction, moved in zip(found.directions, found.buffers, strict=True):
        assert float(moved["mean"]) == pytest.approx(2 * flat(direction)[0], abs=1e-12)


def test_a_line_is_the_first_component() -> None:
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((5, 17))
    vectors = as_vectors(rows - rows[-1])
    line, plane = trajectory_slice(vectors, labels(5), 1), trajectory_slice(vectors, labels(5), 2)
    np.testing.assert_array_equal(flat(line.directions[0]), flat(plane.directions[0]))
    np.testing.assert_array_equal(line.marks[:, 0], plane.marks[:, 0])  # type: ignore[index]


def test_too_few_checkpoints_are_refused() -> None:
    rows = np.outer([2.0, 1.0, 0.0], np.ones(17))
    with pytest.raises(LandscapeError, match="--dims 1"):
        trajectory_slice(as_vectors(rows), labels(3))
    with pytest.raises(LandscapeError, match="all the same"):
        trajectory_slice(as_vectors(np.zeros((3, 17))), labels(3), 1)
    with pytest.raises(LandscapeError, match="take 3 at least"):
        trajectory_slice(as_vectors(rows[1:]), labels(2))
