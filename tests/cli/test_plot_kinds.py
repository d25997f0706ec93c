"""What `landscape plot` draws of which files: every kind once through the command, and refusals that name a way on."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from landscape_cli.plot_kinds import KINDS, Request, _marks, default_kind, draw
from support import surfaces
from support.command import Call
from support.runs import tiny_recipe

from landscape.curvature import MeasureSettings
from landscape.errors import LandscapeError
from landscape.plotting import read_drawing
from landscape.store import SpectrumFile
from landscape.store.surface_file import SurfaceFile
from landscape.study import StudyPlan, open_subject, open_sweep, run_study
from landscape.training.loop import Silent, train
from landscape.training.seeds import train_seeds

QUICK = MeasureSettings(num_pairs=1, num_probes=2, max_probes=2, num_steps=12, max_matvecs=30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its epochs, the same of two seeds, spectra of its end and of its epochs, a plane and a line."""
    root = tmp_path_factory.mktemp("kinds")
    recipe = tiny_recipe(loss={"reweight": "drw"}, schedule={"epochs": 3}, run={"save_every": 1})
    train(recipe, root / "run")
    train_seeds(recipe, root / "seeds", [0, 1], progress=lambda _: nullcontext(Silent()))
    samples = StudyPlan(per_class=True, per_group=True, settings=QUICK, max_samples=20)
    for plan in (samples, replace(samples, per_class=False, per_group=False, classes="0,3", per_layer=True)):
        run_study(open_subject(root / "run"), plan, root / "spectra.h5", command="test")
    epochs = sorted((root / "run").glob("epoch-*.safetensors"))
    plan = StudyPlan(whole=True, per_group=True, settings=QUICK, max_samples=20)
    run_study(open_sweep(epochs), plan, root / "sweep.h5", command="test")
    SurfaceFile.write(root / "plane.h5", {"loss": "ce"}, [{"command": "test"}], surfaces.plane())
    SurfaceFile.write(root / "line.h5", {"loss": "ce"}, [{"command": "test"}], surfaces.line())
    (root / "copy.h5").write_bytes((root / "spectra.h5").read_bytes())
    return root


DRAWN = {
    "density": ["spectra.h5", "--parts", "class/*"],
    "density-overlay": ["spectra.h5", "copy.h5", "--parts", "group/*"],
    "density-cumulative": ["spectra.h5", "--parts", "group/*"],
    "classes": ["spectra.h5", "copy.h5", "--parts", "class/*"],
    "escape": ["spectra.h5", "--parts", "group/*"],
    "saddle-scatter": ["spectra.h5", "--by", "class", "--quantities", "curvature_ratio,accuracy"],
    "heat-map": ["spectra.h5", "--quantities", "trace"],
    "training": ["run", "sweep.h5", "--names", "a,b"],
    "accuracy": ["run", "seeds"],
    "class-sizes": ["run"],
    "surface": ["plane.h5"],
    "surface-3d": ["plane.h5"],
    "surface-line": ["line.h5"],
}


@pytest.mark.parametrize("kind", DRAWN)
def test_every_kind_is_drawn_and_drawn_again(
    call: Call, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.chdir(folder)
    first, again = tmp_path / "first.png", tmp_path / "again.png"
    outcome = call("plot", *DRAWN[kind], "--kind", kind, "-o", first)
    assert outcome.code == 0, outcome.err
    with h5py.File(f"{first}.h5") as file:
        assert file.attrs["kind"] == read_drawing(f"{first}.h5").kind
        assert file.attrs["command"].startswith("landscape plot ")
    assert call("plot", f"{first}.h5", "-o", again).code == 0
    assert first.read_bytes() == again.read_bytes()
    assert call("plot", f"{first}.h5", "--style", "aaai", "--column", "single", "-o", again).code == 0
    assert first.read_bytes() != again.read_bytes()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["spectra.h5"], "density"),
        (["spectra.h5", "sweep.h5"], "classes"),
        (["run"], "training"),
        (["plane.h5"], "surface"),
        (["line.h5"], "surface-line"),
        (["results.json"], "anomaly"),
    ],
)
def test_what_a_file_is_drawn_as(folder: Path, files: Sequence[str], kind: str) -> None:
    assert default_kind([folder / name for name in files]) == kind


def test_a_kind_draws_what_the_files_hold(folder: Path) -> None:
    """Names of the command's options end up as the right arguments of the library's functions."""
    held = {part.part: part for part in SpectrumFile.open(folder / "spectra.h5").read_all()}
    names = [f"class/{number}" for number in range(10)]
    drawing = draw(
        Request((folder / "spectra.h5",), quantities=["curvature_ratio", "lambda_max"], by="class"), "saddle-scatter"
    )
    np.testing.assert_array_equal(drawing.arrays["x"][0], [held[name].saddle.curvature_ratio for name in names])
    np.testing.assert_array_equal(drawing.arrays["y"][0], [held[name].saddle.lambda_max for name in names])
    seeds = draw(Request((folder / "run", folder / "seeds")), "accuracy").arrays
    assert np.isnan(seeds["deviation"][0]).all()
    assert np.isfinite(seeds["deviation"][1]).all()
    training = draw(Request((folder / "run", folder / "sweep.h5"), parts="group/tail"), "training")
    assert training.settings["switches"] == [["DRW", 2.0]]
    shown = training.settings["curves"]
    assert ["test_accuracy", "run", "group/tail"] in shown
    assert ["lambda_min", "sweep", "group/tail"] in shown
    assert {part for quantity, _, part in shown if quantity != "train_loss"} == {"group/tail"}
    heat = draw(Request((folder / "spectra.h5",), quantities=["lambda_max"]), "heat-map").arrays
    row, column = heat["rows"].tolist().index("class/3"), 0
    layer = heat["layers"][column]
    assert heat["values"][row, column] == held[f"class/3/layer/{layer}"].saddle.lambda_max


@pytest.mark.parametrize(
    ("files", "kind", "said", "message"),
    [
        (
            ["spectra.h5", "sweep.h5"],
            "density",
            {},
            "draws one file; give one: several are compared by --kind density-overlay, --kind classes",
        ),
        (["spectra.h5"], "density", {"by": "class"}, "no use for --by: that is for --kind saddle-scatter"),
        (["spectra.h5"], "density", {"names": ["a"]}, "no use for --names: that is for several files"),
        (["plane.h5"], "surface", {"epoch": 3}, "no use for --epoch: that is for --kind density"),
        (["run"], "density", {}, "draw it with --kind training, accuracy, class-sizes"),
        (["spectra.h5"], "surface", {}, "draw it with --kind density, density-overlay"),
        (["plane.h5"], "training", {}, "draw it with --kind surface, surface-3d, surface-line"),
        (["plane.h5"], "surface", {"parts": "layer/*"}, "no part matches 'layer/\\*'; there are: "),
        (["line.h5"], "surface", {}, "has one dimension: draw it with --kind surface-line"),
        (["spectra.h5"], "heat-map", {"quantities": ["a", "b"]}, "shows 1 quantity, got a, b"),
        (["spectra.h5"], "saddle-scatter", {"quantities": ["trace"]}, "shows 2 quantities, got trace"),
        (["run"], "training", {"quantities": ["acuracy"]}, "no quantity 'acuracy'"),
        (["spectra.h5"], "training", {}, "needs two epochs or more"),
        (["nowhere"], "class-sizes", {}, "no run in"),
        (["run", "run"], "accuracy", {}, "need 2 different names"),
    ],
)
def test_what_cannot_be_drawn_names_a_way_on(
    folder: Path, files: Sequence[str], kind: str, said: dict[str, object], message: str
) -> None:
    request = Request(tuple(folder / name for name in files), **said)  # type: ignore[arg-type]
    with pytest.raises(LandscapeError, match=message):
        draw(request, kind)


def test_a_switch_is_named_after_its_method_where_methods_differ() -> None:
    assert _marks({"a": {"DRW": 160}, "b": {}, "c": {"DRW": 160, "stage II": 180}}) == {"DRW": 160, "stage II": 180}
    assert _marks({"a": {"DRW": 160}, "b": {"DRW": 80}}) == {"DRW of a": 160, "DRW of b": 80}


def test_accuracies_of_a_run_that_goes_on_are_told_from_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "run", tmp_path / "half")
    lines = (tmp_path / "half" / "history.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "half" / "history.jsonl").write_text("".join(lines[:2]))
    with pytest.warns(UserWarning, match="half has finished 2 of its 3 epochs"):
        draw(Request((folder / "run", tmp_path / "half")), "accuracy")


def test_classes_are_drawn_with_their_training_images(folder: Path) -> None:
    drawing = draw(Request((folder / "spectra.h5",), parts="class/*"), "classes")
    counts = SpectrumFile.open(folder / "spectra.h5").meta["class_counts"]
    np.testing.assert_array_equal(drawing.arrays["class_size"][0], counts)


def test_results_without_a_figure_are_told_apart(call: Call, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file.attrs["schema"] = "landscape-features"
    refused = call("plot", tmp_path / "features.h5", "-o", tmp_path / "a.png")
    assert (refused.code, "no kind draws" in refused.err) == (1, True)


def test_every_kind_is_tried_here_or_beside() -> None:
    of_layers = {"layer-densities", "layer-distance", "layer-training"}
    elsewhere = {"tsne", "nearest-class", "anomaly"}
    assert set(KINDS) == set(DRAWN) | of_layers | elsewhere


def test_a_drawing_is_drawn_as_it_is(call: Call, folder: Path, tmp_path: Path) -> None:
    assert call("plot", folder / "plane.h5", "-o", tmp_path / "a.png").code == 0
    refused = call("plot", tmp_path / "a.png.h5", "--kind", "surface-3d", "-o", tmp_path / "b.png")
    assert (refused.code, "give the results it was made from" in refused.err) == (1, True)
