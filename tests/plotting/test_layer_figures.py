"""Figures of layers: what is drawn is what the quadrature says; what cannot be drawn is refused with the way out."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from landscape_cli.plot_kinds import Request, draw
from support.command import Call
from support.spectra import part_spectrum

from landscape.curvature.distance import shape_distance
from landscape.curvature.results import PartSpectrum
from landscape.errors import LandscapeError
from landscape.plotting import layer_densities, layer_distance, layer_training, save_drawing
from landscape.store import SpectrumFile

LAYERS = ["conv1", "layer1.0.conv1", "layer1.0.bn1", "fc"]


def parts(step: int, *, probes: int = 3, missing: tuple[str, ...] = ()) -> list[PartSpectrum]:
    """The whole and four layers; curvature falls with the step."""
    names = ["all", *(f"layer/{layer}" for layer in LAYERS)]
    found = [
        part_spectrum(
            name, name.removeprefix("layer/"), rarity=0.1 + 0.2 * place, num_parameters=1500 - 200 * place,
            num_probes=probes, num_steps=25, seed=10 * step + place,
        )
        for place, name in enumerate(names)
    ]  # fmt: skip
    return [
        dataclasses.replace(part, saddle=dataclasses.replace(part.saddle, lambda_max=100.0 / step, trace=10.0 - step))
        for part in found
        if part.part not in missing
    ]


SWEEP = {epoch: parts(epoch) for epoch in (1, 2, 3, 4)}

RECIPE = '[data]\n[optimizer]\nname = "sgd"\n[loss]\nreweight = "{}"\ndefer = 0.5\n[schedule]\nepochs = 4\n'


def write(path: Path, sweep: dict[int, list[PartSpectrum]], recipe: str = "") -> Path:
    file = SpectrumFile.create(path, {"epochs": list(sweep), "recipe": recipe})
    for epoch, spectra in sweep.items():
        for spectrum in spectra:
            file.write_part(dataclasses.replace(spectrum, part=f"epoch/{epoch}/{spectrum.part}"))
    return path


def test_distances_are_those_to_the_whole_of_the_same_epoch() -> None:
    arrays = layer_distance(SWEEP).arrays
    assert arrays["labels"].tolist() == LAYERS
    assert arrays["epochs"].tolist() == [1, 2, 3, 4]
    assert arrays["num_parameters"].tolist() == [1300, 1100, 900, 700]
    for row, spectra in enumerate(SWEEP.values()):
        for place, layer in enumerate(spectra[1:]):
            found = shape_distance(layer.density, spectra[0].density)
            assert arrays["distance"][row, place] == found.value
            assert arrays["standard_error"][row, place] == found.standard_error


def test_a_layer_that_is_not_there_leaves_a_gap_and_one_probe_no_error_bar() -> None:
    sweep = {1: parts(1, probes=1), 2: parts(2, missing=("layer/fc",))}
    drawing = layer_distance(sweep)
    assert np.isnan(drawing.arrays["distance"]).tolist() == [[False] * 4, [False] * 3 + [True]]
    assert np.isinf(drawing.arrays["standard_error"][0]).all()
    top = drawing.figure.axes[0]
    assert np.isfinite(top.get_ylim()).all()
    # An epoch without the whole is left out.
    assert layer_distance({1: parts(1), 2: parts(2, missing=("all",))}).arrays["epochs"].tolist() == [1]


def test_densities_are_shares_of_the_eigenvalues_in_units_of_the_mean() -> None:
    drawing = layer_densities(SWEEP)
    arrays = drawing.arrays
    assert arrays["parts"].tolist() == ["all", *(f"layer/{layer}" for layer in LAYERS)]
    assert arrays["epochs"].tolist() == [1, 3, 4]
    assert arrays["share"].shape == (3, 5, arrays["normalized"].size)
    places = np.arcsinh(arrays["normalized"] / 0.01)
    area = np.trapezoid(arrays["share"] / np.log(10), places, axis=-1)
    np.testing.assert_allclose(area, 1.0, atol=2e-3)
    # Multiplying a spectrum by a number changes nothing.
    one = SWEEP[1]
    density = one[1].density
    larger = dataclasses.replace(density, nodes=5 * density.nodes, deflated=5 * density.deflated)
    again = layer_densities({1: [one[0], dataclasses.replace(one[1], density=larger)]}).arrays
    np.testing.assert_allclose(again["share"][0, 1], layer_densities({1: one[:2]}).arrays["share"][0, 1], atol=1e-12)
    titles = [axes.get_title() for axes in drawing.figure.axes]
    assert titles[:5] == ["whole network", *LAYERS]


def test_labels_of_the_densities_do_not_overlap() -> None:
    many = [dataclasses.replace(SWEEP[1][1], part=f"layer/l{i}", label=f"l{i}") for i in range(38)]
    for spectra in (SWEEP[1], [SWEEP[1][0], *many]):
        figure = layer_densities({None: spectra}).figure
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        for axes in figure.axes:
            boxes = [label.get_window_extent(renderer) for label in axes.get_xticklabels() if label.get_visible()]
            boxes = sorted((box for box in boxes if box.width), key=lambda box: box.x0)
            inside = [box for box in boxes if axes.bbox.x0 - 5 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 5]
            assert all(one.x1 <= other.x0 for one, other in itertools.pairwise(inside))


def test_training_shows_both_ends_of_every_epoch_and_the_switch() -> None:
    drawing = layer_training(SWEEP, switches={"DRW": 3})
    arrays = drawing.arrays
    assert arrays["lambda_max"][:, 0].tolist() == [100.0, 50.0, 100 / 3, 25.0]
    assert arrays["trace"][:, 2].tolist() == [9.0, 8.0, 7.0, 6.0]
    assert arrays["trace_standard_error"].shape == (4, 5)
    left, right = drawing.figure.axes[:2]
    assert [axes.get_yscale() for axes in (left, right)] == ["log", "log"]
    assert any(line.get_linestyle() == "--" and list(line.get_xdata()) == [3, 3] for line in left.lines)
    assert "DRW" in [text.get_text() for text in left.texts]
    assert not any(line.get_linestyle() == "--" for line in layer_training(SWEEP).figure.axes[0].lines)


def test_a_trace_below_zero_has_an_axis_that_shows_it() -> None:
    fallen = {
        epoch: [dataclasses.replace(s, saddle=dataclasses.replace(s.saddle, trace=3.0 - epoch)) for s in SWEEP[epoch]]
        for epoch in (1, 2, 4)
    }
    axes = layer_training(fallen).figure.axes[1]
    assert axes.get_yscale() == "asinh"
    assert axes.get_ylim()[0] < -1


@pytest.mark.parametrize("draw", [layer_densities, layer_distance, layer_training])
def test_what_is_missing_is_named_with_the_way_to_it(draw: object) -> None:
    assert callable(draw)
    for epochs, words in (
        ({1: parts(1, missing=("all",))}, "whole network"),
        ({1: parts(1)[:1]}, "--per-layer"),
        ({}, "--whole --per-layer"),
    ):
        with pytest.raises(LandscapeError, match=words):
            draw(epochs)
    with pytest.raises(LandscapeError, match="--save-every"):
        layer_training({3: parts(3)})
    many = [dataclasses.replace(SWEEP[1][1], part=f"layer/l{i}", label=f"l{i}") for i in range(65)]
    with pytest.raises(LandscapeError, match="--parts"):
        layer_densities({None: [SWEEP[1][0], *many]})


def test_the_command_draws_each_kind_of_a_sweep(call: Call, tmp_path: Path) -> None:
    recipe = RECIPE.format("drw")
    sweep = write(tmp_path / "sweep.h5", SWEEP, recipe)
    for kind in ("layer-densities", "layer-distance", "layer-training"):
        done = call("plot", sweep, "--kind", kind, "-o", tmp_path / f"{kind}.png")
        assert done.code == 0, done.err
        assert "is a sweep" not in done.out
    with h5py.File(tmp_path / "layer-distance.png.h5") as file:
        assert file["arrays/distance"].shape == (4, 4)
    one = call(
        "plot", sweep, "--kind", "layer-distance", "--epoch", 2, "--parts", "layer/layer1*", "-o", tmp_path / "x.pdf"
    )
    assert one.code == 0, one.err
    with h5py.File(tmp_path / "x.pdf.h5") as file:
        assert file["arrays/parts"].asstr()[...].tolist() == ["layer/layer1.0.conv1", "layer/layer1.0.bn1"]
    refused = call("plot", sweep, sweep, "--kind", "layer-distance", "--names", "a,b", "-o", tmp_path / "y.pdf")
    assert refused.code == 1
    assert "one file" in refused.err


def test_the_switch_comes_from_the_recipe(tmp_path: Path) -> None:
    for reweight, marked in (("drw", True), ("none", False)):
        path = write(tmp_path / f"{reweight}.h5", SWEEP, RECIPE.format(reweight))
        lines = draw(Request((path,)), "layer-training").figure.axes[0].lines
        assert any(line.get_linestyle() == "--" and list(line.get_xdata()) == [2, 2] for line in lines) == marked


def test_the_same_figure_has_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.pdf"):
        save_drawing(layer_distance(SWEEP), tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()


def test_drawing_layers_needs_no_torch() -> None:
    code = "import sys, landscape.plotting, landscape.curvature.distance; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
