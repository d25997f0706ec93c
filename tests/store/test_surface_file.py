"""Surfaces on disk: as they were, refused where they are another question, and in Goldstein's keys."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from landscape.errors import LandscapeError
from landscape.store.features_file import FEATURES_SCHEMA
from landscape.store.surface_file import (
    SURFACE_SCHEMA,
    SurfaceFile,
    check_surface_output,
    describe_goldstein,
    describe_surface,
    is_goldstein,
    read_goldstein,
    write_goldstein,
)
from landscape.surface.results import Surface

META = {
    "along": "random",
    "seed": 0,
    "checkpoint_sha256": "ab12",
    "class_names": ["cat", "dog"],
    "checkpoint": "x/a.pt",
}
RUN = {"command": "landscape surface x", "device": "cpu"}


def surface(*, line: bool = False) -> Surface:
    """4 × 3 points, one of them missing, one NaN and one infinite; the loss tells its own place."""
    x, y = np.linspace(-1, 2, 4), np.linspace(0, 2, 3)
    shape = (4,) if line else (3, 4)
    losses = np.stack([(x if line else 10 * y[:, None] + x) + 2.0, np.full(shape, 0.5)])
    done = np.ones(shape, dtype=bool)
    done.ravel()[-1] = False
    losses[:, ~done] = np.nan
    losses[0].ravel()[1], losses[0].ravel()[2] = np.nan, np.inf
    dims = 1 if line else 2
    return Surface(
        kind="trajectory",
        x=x,
        y=None if line else y,
        parts=("all", "class/1"),
        labels=("all", "dog"),
        num_samples=np.array([20, 4]),
        losses=losses,
        accuracies=losses / 100,
        done=done,
        norms=np.array([1.5, 2.0])[:dims],
        cosine=float("nan") if line else 0.25,
        axis_labels=("PC 1", "PC 2")[:dims],
        curvatures=np.array([[3.0, -1.0], [np.nan, np.nan]])[:, :dims],
        marks=np.array([[1.0, 0.5], [0.25, 0.0], [0.0, 0.0]])[:, :dims],
        mark_labels=("epoch 1", "epoch 2", "epoch 3"),
        mark_distances=np.array([0.1, 0.2, 0.0]),
        explained_variance=np.array([0.8, 0.15])[:dims],
    )


def assert_same(first: Surface, second: Surface) -> None:
    for field in fields(Surface):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name), err_msg=field.name)


@pytest.mark.parametrize("line", [False, True])
def test_a_file_gives_back_what_was_written(tmp_path: Path, line: bool) -> None:
    written = surface(line=line)
    directions = [{"a.weight": np.ones((2, 3)), "a.bias": np.zeros(2)}, {"a.weight": np.full((2, 3), 2.0)}]
    SurfaceFile.write(tmp_path / "s.h5", META, [RUN, {**RUN, "device": "cuda"}], written, directions)
    file = SurfaceFile.open(tmp_path / "s.h5")
    assert_same(file.surface, written)
    assert file.meta == META
    assert [run["device"] for run in file.runs] == ["cpu", "cuda"]
    kept = file.read_directions()
    assert [list(direction) for direction in kept] == [["a.weight", "a.bias"], ["a.weight"]]
    np.testing.assert_array_equal(kept[1]["a.weight"], directions[1]["a.weight"])


def test_points_of_another_question_are_refused_by_name(tmp_path: Path) -> None:
    file = SurfaceFile.write(tmp_path / "s.h5", META, [RUN], surface())
    file = SurfaceFile.open(file.path)
    file.check_same_question(META)
    file.check_same_question({**META, "checkpoint": "elsewhere/a.pt"})
    with pytest.raises(LandscapeError, match="seed = 0, this run has seed = 1: give --overwrite"):
        file.check_same_question({**META, "seed": 1})
    with pytest.raises(LandscapeError, match=r"end = \(not stored\)"):
        file.check_same_question({**META, "end": "min"})
    with pytest.raises(LandscapeError, match="class_names"):
        file.check_same_question({key: value for key, value in META.items() if key != "class_names"})
    file.check_same_grid(surface())
    for change in (
        {"x": surface().x * (1 + 1e-6)},
        {"x": np.linspace(-1, 1, 4)},
        {"x": np.linspace(-1, 2, 7)},
        {"y": None},
    ):
        with pytest.raises(LandscapeError, match=f"computed with {next(iter(change))} = "):
            file.check_same_grid(replace(surface(), **change))  # type: ignore[arg-type]
    with pytest.raises(LandscapeError, match="parts = all, class/1, this run has parts = all"):
        file.check_same_grid(replace(surface(), parts=("all",)))
    # A range that was computed again, on another machine.
    file.check_same_grid(replace(surface(), x=surface().x * (1 + 1e-15)))


def test_other_files_are_neither_read_nor_replaced(tmp_path: Path) -> None:
    other = tmp_path / "features.h5"
    with h5py.File(other, "w") as file:
        file.attrs["schema"], file.attrs["schema_version"] = FEATURES_SCHEMA, 1
    with pytest.raises(LandscapeError, match=f"schema '{FEATURES_SCHEMA}', not '{SURFACE_SCHEMA}'"):
        SurfaceFile.open(other)
    with pytest.raises(LandscapeError, match="not replaced"):
        check_surface_output(other)
    with pytest.raises(LandscapeError, match="ends in"):
        check_surface_output(tmp_path / "s.pdf")
    newer = SurfaceFile.write(tmp_path / "s.h5", META, [RUN], surface()).path
    check_surface_output(newer)
    with h5py.File(newer, "r+") as file:
        file.attrs["schema_version"] = 2
    with pytest.raises(LandscapeError, match="upgrade"):
        SurfaceFile.open(newer)


def test_the_description_tells_what_is_there(tmp_path: Path) -> None:
    path = SurfaceFile.write(tmp_path / "s.h5", META, [RUN], surface()).path
    rows = dict(describe_surface(path))
    assert rows["schema"] == "landscape-surface 1"
    assert rows["points"] == "11 of 12: the same command goes on"
    assert rows["a₁"] == "-1 to 2 in 4 points: PC 1, ‖d‖ = 1.5, 80.0% of the variance, λ = 3 for all"
    assert rows["loss of all"] == "1 to 23 nats, 2 not finite"
    assert rows["mark epoch 2"] == "0.25, 0; 0.2 off the plane"
    assert rows["run 1"] == RUN["command"]


# ---------------------------------------------------------------------- Goldstein's keys


@pytest.mark.parametrize("line", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_export_reads_back(tmp_path: Path, line: bool, split: str) -> None:
    written, path = surface(line=line), tmp_path / "g.h5"
    write_goldstein(path, written, split=split, source="s.h5")  # type: ignore[arg-type]
    with h5py.File(path) as file:
        stored = {key: file[key][...] for key in file if key != "dir_file"}
        assert file["dir_file"].asstr()[()] == "s.h5"
    shape = (4,) if line else (3, 4)
    loss = stored[f"{split}_loss"]
    # Rows are a₂, columns a₁, as his scripts draw them; not square and not symmetric, so nothing else fits.
    assert loss.shape == shape
    if not line:
        assert loss[2, 1] == 10 * stored["ycoordinates"][2] + stored["xcoordinates"][1] + 2
    assert loss.ravel()[-1] == stored[f"{split}_acc"].ravel()[-1] == -1
    np.testing.assert_allclose(stored[f"{split}_acc"].ravel()[:-1], written.losses[0].ravel()[:-1])  # percent
    np.testing.assert_array_equal(stored["proj_xcoord"], [1, 0.25, 0])
    np.testing.assert_array_equal(stored["explained_variance_ratio_"], written.explained_variance)
    back = read_goldstein(path)
    for name in ("x", "y", "done", "marks", "explained_variance", "kind"):
        np.testing.assert_array_equal(getattr(back, name), getattr(written, name), err_msg=name)
    np.testing.assert_array_equal(back.losses, written.losses[:1])
    np.testing.assert_allclose(back.accuracies, written.accuracies[:1], rtol=1e-15)
    assert back.parts == ("all",)
    assert is_goldstein(path)
    assert not is_goldstein(tmp_path / "nothing.h5")
    assert dict(describe_goldstein(path))["points"].startswith("3 of 4" if line else "11 of 12")


def test_a_grid_that_his_walk_filled_is_read_in_its_order(tmp_path: Path) -> None:
    """His arrays are declared (nx, ny), but filled through meshgrid(x, y).ravel(), where x runs fastest."""
    x, y = np.linspace(-1, 1, 5), np.linspace(0, 3, 2)
    losses = -np.ones((5, 2))
    a1, a2 = (mesh.ravel() for mesh in np.meshgrid(x, y))
    for index in range(7):
        losses.ravel()[index] = a1[index] + 100 * a2[index] + 5
    with h5py.File(tmp_path / "his.h5", "w") as file:
        file["xcoordinates"], file["ycoordinates"], file["train_loss"] = x, y, losses
    found = read_goldstein(tmp_path / "his.h5")
    assert found.kind == "imported"
    assert int(found.done.sum()) == 7
    for row in range(2):
        for column in range(5):
            if found.done[row, column]:
                assert found.losses[0, row, column] == x[column] + 100 * y[row] + 5
    assert np.isnan(found.losses[0][~found.done]).all()
    assert np.isnan(found.accuracies).all()
    assert np.isnan(found.norms).all()


def test_only_an_export_is_replaced_by_an_export(tmp_path: Path) -> None:
    path = tmp_path / "g.h5"
    write_goldstein(path, surface(), split="train")
    write_goldstein(path, surface(), split="test")
    with h5py.File(path, "r+") as file:
        assert "train_loss" not in file
        del file.attrs["exported_by"]
    with pytest.raises(LandscapeError, match="not replaced"):
        write_goldstein(path, surface(), split="train")


def test_what_is_no_surface_or_several_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="add --whole"):
        write_goldstein(tmp_path / "g.h5", replace(surface(), parts=("class/0", "class/1")), split="train")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["xcoordinates"] = np.zeros(3)
    with pytest.raises(LandscapeError, match="train_loss or test_loss"):
        read_goldstein(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        file["test_loss"] = np.zeros(4)
    with pytest.raises(LandscapeError, match="4 losses for a grid of 3"):
        read_goldstein(tmp_path / "x.h5")
    with pytest.raises(LandscapeError, match="train_loss"):
        read_goldstein(tmp_path / "x.h5", split="train")
