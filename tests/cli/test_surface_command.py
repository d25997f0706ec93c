"""`landscape surface` from a trained digits network to its file: every kind of direction, stops, refusals."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from rich.console import Console
from support.command import Call
from support.point_losses import PlainPointLosses
from support.runs import tiny_recipe, write_image_folder

from landscape.errors import LandscapeError
from landscape.store import SpectrumFile
from landscape.store.surface_file import SurfaceFile, read_goldstein
from landscape.study import open_subject
from landscape.study import surface as study
from landscape.study.surface import SurfacePlan, run_surface
from landscape.surface.results import Surface
from landscape.training import train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs, all kept."""
    folder = tmp_path_factory.mktemp("surface") / "run"
    train(tiny_recipe(run={"save_every": 1}), folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surface") / "other"
    train(tiny_recipe(run={"seed": 5}, schedule={"epochs": 1}), folder)
    return folder


def own_losses(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every class and of all, and accuracies, straight from the model."""
    subject = open_subject(folder)
    images = subject.data.split("train")
    inputs, targets = subject.samples(images, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        outputs = subject.model(inputs).double()
    losses, right = torch.nn.functional.cross_entropy(outputs, targets, reduction="none"), outputs.argmax(1) == targets
    classes = [targets == c for c in range(10)] + [torch.ones_like(targets, dtype=torch.bool)]
    return tuple(np.array([float(v[chosen].double().mean()) for chosen in classes]) for v in (losses, right))  # type: ignore[return-value]


def test_classes_and_the_whole_from_one_call(call: Call, run: Path, tmp_path: Path) -> None:
    path, export = tmp_path / "x.h5", tmp_path / "g.h5"
    outcome = call("surface", run, "--whole", "--per-class", "--points", "5x3", "-o", path, "--export", export)
    assert outcome.code == 0
    assert "15 points, 11 parts from the same forward passes: about " in outcome.out
    assert f"kept in {path}; next: landscape plot {path} --kind surface -o {tmp_path / 'x.pdf'}" in outcome.out
    file = SurfaceFile.open(path)
    surface = file.surface
    assert surface.losses.shape == (11, 3, 5)
    assert surface.parts == ("all", *(f"class/{c}" for c in range(10)))
    losses, accuracies = own_losses(run)
    order = [10, *range(10)]
    np.testing.assert_allclose(surface.losses[:, 1, 2], losses[order], rtol=1e-5)
    np.testing.assert_allclose(surface.accuracies[:, 1, 2], accuracies[order], rtol=1e-12)
    shares = surface.num_samples[1:] / surface.num_samples[0]
    np.testing.assert_allclose(np.tensordot(shares, surface.losses[1:], 1), surface.losses[0], rtol=1e-6)
    assert file.meta["checkpoint_sha256"] == open_subject(run).sha256
    assert file.meta["normalize_directions"] == "filter"
    np.testing.assert_array_equal(read_goldstein(export).losses[0], surface.losses[0])
    told = call("info", path)
    assert "15 of 15" in told.out
    assert "loss-landscape" in call("info", export).out
    again = call("surface", run, "--whole", "--per-class", "--points", "5x3", "-o", path)
    assert "nothing is left" in again.out
    assert len(SurfaceFile.open(path).runs) == 1


@pytest.mark.parametrize(("words", "kind"), [((), "surface"), (("--dims", 1), "surface-line")])
def test_the_next_command_draws_the_file(
    call: Call, run: Path, tmp_path: Path, words: tuple[object, ...], kind: str
) -> None:
    path = tmp_path / "x.h5"
    told = call("surface", run, "--points", 3, *words, "-o", path).out
    following = re.search("next: landscape (.*)", told)
    assert following is not None
    assert f"--kind {kind} " in following[1]
    assert call(*following[1].split()).code == 0
    assert (tmp_path / "x.pdf").exists()


def test_an_export_into_the_file_itself_is_refused_before_the_walk(call: Call, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    outcome = call("surface", run, "--points", 3, "-o", path, "--export", path)
    assert (outcome.code, "--export and -o are both" in outcome.err) == (1, True)
    assert not path.exists()


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_cuts_no_number_short(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    path = tmp_path / "x.h5"
    run_surface([run], SurfacePlan(points=(3,), per_class=True), path)
    monkeypatch.setattr("landscape_cli.surface.console", Console(width=width, highlight=False))
    told = call("surface", run, "--per-class", "--points", 3, "-o", path).out
    rows = [line for line in told.splitlines() if line.startswith("│")]
    surface = SurfaceFile.open(path).surface
    assert len(rows) == 10
    for row, losses in zip(rows, surface.losses, strict=True):
        assert "…" not in row
        assert len(row) <= width
        words = row.replace("│", " ").split()
        assert {f"{losses[1, 1]:.4g}", f"{losses.min():.4g}"} <= set(words)
        assert (f"{losses.max():.4g}" in words) == (width > 40)


def test_the_tail_is_the_group_where_a_class_has_its_name(call: Call, run: Path, tmp_path: Path) -> None:
    folder = write_image_folder(tmp_path / "images", {"a": 9, "b": 4, "c": 3, "tail": 2, "z": 1})
    recipe = tiny_recipe(
        data={"source": f"folder:{folder}", "imbalance": "none", "image_size": 8}, schedule={"epochs": 1}
    )
    train(recipe, tmp_path / "run")
    for of, images in (("tail", "tail, 1 image:"), ("class/3", "tail, 2 images:"), ("b", "b, 4 images:")):
        words = ("--along", "eigen", "--of", of, "--dims", 1, "--points", 2, "--overwrite")
        assert f"eigenvectors of {images}" in call("surface", tmp_path / "run", *words, "-o", tmp_path / "x.h5").out
    words = ("--along", "checkpoints", "--dims", 1, "-o", tmp_path / "y.h5")
    assert "was trained on other classes than" in call("surface", tmp_path / "run", run, *words).err


@pytest.mark.parametrize(("points", "words_of_stop"), [(0, "the eigenvectors are kept"), (9, "9 points kept")])
def test_stopped_and_gone_on_with_is_as_if_never_stopped(
    call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: int, words_of_stop: str
) -> None:
    words = ("--along", "eigen", "--of", "3", "--classes", "3,7", "--points", 5)
    made: list[PlainPointLosses] = []

    class Stopping(PlainPointLosses):
        stop_after, fastest = points, 7

        def __init__(self, *args: Any, chunk: int | None = None, **rest: Any) -> None:
            super().__init__(*args, chunk=chunk or self.fastest, **rest)

        def __call__(self, coordinates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            made.append(self)
            if self.points_seen >= self.stop_after:
                raise KeyboardInterrupt
            return super().__call__(coordinates)

    monkeypatch.setattr(study, "PointLosses", Stopping)
    path = tmp_path / "x.h5"
    stopped = call("surface", run, *words, "-o", path)
    assert stopped.code == 1
    assert f"{words_of_stop}, the same command" in stopped.err
    monkeypatch.setattr(Stopping, "stop_after", 10**9)
    monkeypatch.setattr(Stopping, "fastest", 9)
    searched: list[object] = []
    monkeypatch.setattr(study, "extreme_eigenpairs", lambda *args, **rest: searched.append(args))
    assert call("surface", run, *words, "-o", path).code == 0
    assert not searched  # along the eigenvectors that the file has kept
    assert made[-1].points_seen == 25 - points
    monkeypatch.undo()
    monkeypatch.setattr(study, "PointLosses", PlainPointLosses)
    run_surface([run], SurfacePlan(along="eigen", of="3", classes="3,7", points=(5,)), tmp_path / "whole.h5")
    resumed, whole = SurfaceFile.open(path), SurfaceFile.open(tmp_path / "whole.h5")
    np.testing.assert_array_equal(resumed.surface.losses, whole.surface.losses)
    np.testing.assert_array_equal(resumed.surface.curvatures, whole.surface.curvatures)
    assert [run["chunk_size"] for run in resumed.runs] == [7, 7]  # the digits depend on it


def test_eigenvectors_of_a_spectrum_file_are_taken(call: Call, run: Path, other: Path, tmp_path: Path) -> None:
    spectra, path = tmp_path / "s.h5", tmp_path / "x.h5"
    words = ("--pairs", 1, "--tol", 0.05, "--max-matvecs", 40, "--probes", 2, "--max-probes", 2, "--steps", 6)
    along = ("--along", "eigen", "--of", "tail", "--spectrum", spectra, "--points", 3)
    assert call("spectrum", run, "--per-group", *words, "-o", spectra).code == 0
    refused = call("surface", run, *along, "-o", path)
    assert "kept no eigenvectors of tail" in refused.err
    assert not path.exists()
    assert call("spectrum", run, "--per-group", *words, "--vectors", "--overwrite", "-o", spectra).code == 0
    outcome = call("surface", run, *along, "--per-group", "-o", path)
    assert outcome.code == 0
    assert "searching" not in outcome.out
    file = SurfaceFile.open(path)
    surface = file.surface
    pairs = SpectrumFile.open(spectra).read_part("group/tail").pairs
    tail = surface.parts.index("group/tail")
    assert surface.axis_labels == ("v_max of tail", "v_min of tail")
    assert surface.curvatures is not None
    np.testing.assert_array_equal(surface.curvatures[tail], [pairs.lambda_max, pairs.lambda_min])
    assert np.isnan(np.delete(surface.curvatures, tail, axis=0)).all()
    vectors = [np.concatenate([values.ravel() for values in each.values()]) for each in file.read_directions()]
    assert pairs.vectors is not None
    for vector, known, size in zip(vectors, (pairs.vectors[:, -1], pairs.vectors[:, 0]), surface.norms, strict=True):
        np.testing.assert_allclose(vector / size, known, atol=1e-6)
    of_another = call("surface", other, *along, "-o", tmp_path / "other.h5")
    assert "are of checkpoint_sha256 = " in of_another.err
    assert "--overwrite" not in of_another.err
    # Vectors of other images are taken, but what λ was there is not said of these.
    few = call("surface", run, *along, "--per-group", "--max-samples", 5, "-o", tmp_path / "few.h5")
    assert "other images than here" in few.out
    assert SurfaceFile.open(tmp_path / "few.h5").surface.curvatures is None


def test_a_line_along_one_end(run: Path, tmp_path: Path) -> None:
    for end in ("min", "max"):
        plan = SurfacePlan(along="eigen", dims=1, end=end, points=(3,))  # type: ignore[arg-type]
        surface = run_surface([run], plan, tmp_path / f"{end}.h5").surface
        assert surface.axis_labels == (f"v_{end} of all",)
        assert surface.losses.shape == (1, 3)


def test_between_checkpoints_each_has_its_own_loss(run: Path, other: Path, tmp_path: Path) -> None:
    plan = SurfacePlan(along="checkpoints", dims=1)
    surface = run_surface([run, other], plan, tmp_path / "x.h5").surface
    assert len(surface.x) == 41
    assert surface.mark_labels == ("run", "other")
    for place, folder in ((0.0, run), (1.0, other)):
        found = surface.losses[0, np.flatnonzero(surface.x == place)[0]]
        assert found == pytest.approx(own_losses(folder)[0][-1], rel=1e-5)


@pytest.mark.parametrize("along", ["checkpoints", "trajectory"])
def test_statistics_that_move_along_are_those_of_each_checkpoint(tmp_path: Path, along: str) -> None:
    folder = tmp_path / "run"
    recipe = tiny_recipe(
        model={"name": "convnet"}, data={"imbalance": "exp:100"}, run={"save_every": 1}, schedule={"epochs": 2}
    )
    train(recipe, folder)
    first = folder / "epoch-0001.safetensors"
    files = [folder] if along == "trajectory" else [folder, first]
    plan = SurfacePlan(along=along, dims=1, points=(2,), interpolate_buffers=True)  # type: ignore[arg-type]
    marks = run_surface(files, plan, tmp_path / "x.h5").surface.marks
    assert marks is not None
    plan = replace(plan, ranges=((0.0, float(marks.max())), None))
    found = run_surface(files, plan, tmp_path / "y.h5").surface.losses[0]
    np.testing.assert_allclose(found, [own_losses(each)[0][-1] for each in (folder, first)], rtol=1e-5)


def test_a_trajectory_comes_from_the_folder_of_its_run(call: Call, run: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    assert call("surface", run, "--along", "trajectory", "--points", 3, "-o", path).code == 0
    surface = SurfaceFile.open(path).surface
    assert surface.mark_labels == ("epoch 1", "epoch 2", "epoch 3", "epoch 4")
    assert surface.marks is not None
    assert surface.mark_distances is not None
    assert surface.explained_variance is not None
    np.testing.assert_allclose(surface.marks[-1], 0, atol=1e-9)
    # Pythagoras: what a mark's coordinates leave of its distance to the origin is its distance to the plane.
    states = [open_subject(run / f"epoch-{epoch:04d}.safetensors").model for epoch in (1, 4)]
    first, last = (torch.cat([p.detach().double().ravel() for p in model.parameters()]) for model in states)
    length = float((first - last).square().sum())
    assert np.sum(surface.marks[0] ** 2) + surface.mark_distances[0] ** 2 == pytest.approx(length, rel=1e-9)
    assert 0.5 < surface.explained_variance.sum() <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--along", "checkpoints"), "1 checkpoint with --along checkpoints: a plane takes three"),
        (("--dims", "1", "--y-range", "0:1"), "leave out --dims 1"),
        (("--norm", "layer", "--along", "eigen"), "--norm and --keep-1d belong to --along random"),
        (("--of", "tail"), "belong to --along eigen"),
        (("--interpolate-buffers",), "belongs to --along checkpoints or trajectory"),
        (("--along", "eigen", "--end", "max"), "--dims 1"),
        (("--along", "eigen", "--of", "tale"), "no such part; did you mean 'tail'?"),
        (("--per-class", "--export", "g.h5"), "add --whole"),
        (("--export", "g.pdf"), "--export 'g.pdf': an export goes into a file that ends in .h5 or .hdf5"),
        (("--range", "1:-1"), "smaller end first"),
        (("--points", "5x5x5"), "write 51, or 51x31"),
        (("--points", "5x5", "--dims", "1"), "a line has one"),
    ],
)
def test_what_means_nothing_is_refused(
    call: Call, run: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    outcome = call("surface", run, *words, "-o", tmp_path / "x.h5")
    assert outcome.code in (1, 2)
    assert message in " ".join(outcome.err.split())
    assert not (tmp_path / "x.h5").exists()


def test_another_question_is_not_mixed_in(call: Call, run: Path, other: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    assert call("surface", run, "--points", 3, "-o", path).code == 0
    before = path.read_bytes()
    for words, key in (
        ((run, "--points", 3, "--seed", 1), "seed"),
        ((run, "--points", 5), "x"),
        ((run, "--points", 3, "--along", "eigen"), "along"),
        ((run, "--points", 3, "--per-class"), "parts"),
        ((run, "--points", 3, "--loss", "training"), "loss"),
        ((run, "--points", 3, "--norm", "layer"), "normalize_directions"),
        ((other, "--points", 3), "checkpoint_sha256"),
    ):
        outcome = call("surface", *words, "-o", path)
        assert outcome.code == 1
        assert f"computed with {key} = " in outcome.err
        assert "--overwrite" in outcome.err
    assert path.read_bytes() == before
    assert call("surface", run, "--points", 3, "--seed", 1, "--overwrite", "-o", path).code == 0


def test_the_schema_page_names_everything_in_a_file(run: Path, other: Path, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    section = page[page.index("`landscape-surface`\n") :].split("\n## ")[0]
    names = {field.name for field in fields(Surface)}
    paths = {"checkpoints": [run, other], "trajectory": [run]}
    for along in ("random", "eigen", "checkpoints", "trajectory"):
        plan = SurfacePlan(along=along, dims=1, points=(2,))  # type: ignore[arg-type]
        path = run_surface(paths.get(along, [run]), plan, tmp_path / f"{along}.h5").path
        with h5py.File(path) as file:
            names |= {*file, *file["meta"].attrs, *file["meta"], *file["runs/1"].attrs, *file["surface"].attrs}
    assert {name for name in names if not re.search(rf"[`/]{name}[`/]", section)} == set()


def test_a_run_without_epochs_has_no_trajectory(other: Path, tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="--save-every"):
        run_surface([other], SurfacePlan(along="trajectory"), tmp_path / "x.h5")
