"""Every figure from nothing at the smoke scale: what is drawn is what was trained and measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import support.runs  # noqa: F401  one thread: nets this small are slower on several
from landscape_figures import NAMES, load_figure
from landscape_figures.figure import Results
from landscape_figures.making import Work
from landscape_figures.s2 import LOSSES, PLACES
from landscape_figures.scales import SMOKE
from landscape_figures.steps import in_order
from matplotlib.text import Text
from support.command import Call

from landscape.curvature.results import PartSpectrum
from landscape.plotting import Drawing, read_drawing, save_figure
from landscape.store import SpectrumFile
from landscape.training.finished import FinishedRun
from landscape.twostage.toy import TOY_CLASSIFIERS, run_toy

# Of the draw exp:20 from 122 digits a class.
COUNTS = [122, 87, 62, 44, 32, 23, 16, 11, 8, 6]
CLASSES = {"head": 0, "mid": 5, "tail": 9}


def _part(file: SpectrumFile, place: str) -> PartSpectrum:
    return file.read_part(f"class/{CLASSES[place]}")


def _same_ends(arrays: Any, prefix: str, parts: Sequence[PartSpectrum]) -> None:
    for end in ("lambda_min", "lambda_max"):
        drawn = arrays[f"{prefix}{end}"].ravel()
        np.testing.assert_array_equal(drawn, [getattr(part.saddle, end) for part in parts])


def _shares(run: FinishedRun, key: str = "groups") -> list[float]:
    last = run.history[-1]
    return [last["accuracy"], *(last[key][group] for group in ("head", "mid", "tail"))]


# ---------------------------------------------------------------------- what each figure has to show


def _s1(drawing: Drawing, results: Results) -> None:
    assert [panel["kind"] for panel in drawing.settings["panels"].values()] == [
        "class-sizes", "density", "surface-3d", "surface-3d",
    ]  # fmt: skip
    assert drawing.arrays["a/counts"].tolist() == COUNTS
    assert drawing.arrays["a/groups"].tolist() == ["head"] * 3 + ["mid"] * 4 + ["tail"] * 3
    spectra = results.spectra["CE+DRW"]
    _same_ends(drawing.arrays, "b/", [_part(spectra, "head"), _part(spectra, "tail")])
    for panel, place in (("c", "head"), ("d", "tail")):
        surface = results.surfaces[place]
        assert surface.kind == "eigen"
        assert surface.parts == (f"class/{CLASSES[place]}",)
        np.testing.assert_array_equal(drawing.arrays[f"{panel}/0/losses"], surface.losses)
        correct = results.runs["CE+DRW"].history[-1]["per_class"][CLASSES[place]]
        label = CLASSES[place]
        assert drawing.arrays[f"{panel}/labels"].tolist() == [f"{place}: {label}, {100 * correct:.1f} % correct"]
        # At θ it is the loss that the spectrum was measured at.
        centre = surface.losses[0, SMOKE.points // 2, SMOKE.points // 2]
        assert centre == pytest.approx(_part(spectra, place).saddle.loss, rel=1e-4)


def _s2(drawing: Drawing, results: Results) -> None:
    assert drawing.settings["columns"] == 3
    parts = [_part(results.spectra[loss], place) for loss in LOSSES for place in PLACES]
    _same_ends(drawing.arrays, "", parts)
    assert len({drawing.arrays[f"{name}/mean"].tobytes() for name in drawing.arrays["parts"]}) == 12
    assert drawing.arrays["num_samples"].tolist() == [122, 23, 6] * 4


def _s3(drawing: Drawing, results: Results) -> None:
    assert drawing.arrays["methods"].tolist() == ["SGD", "SAM"]
    assert drawing.arrays["parts"].tolist() == list(LOSSES)
    _same_ends(
        drawing.arrays, "", [_part(results.spectra[loss + end], "tail") for end in ("", "+SAM") for loss in LOSSES]
    )


def _s4(drawing: Drawing, results: Results) -> None:
    assert drawing.settings["switches"] == [["DRW", 16.0]]
    assert [panel["quantity"] for panel in drawing.settings["panels"]] == [
        "lambda_min",
        "lambda_max",
        "curvature_ratio",
    ]
    for number, (quantity, method, part) in enumerate(drawing.settings["curves"]):
        assert drawing.arrays[f"{number}/epochs"].tolist() == [4, 8, 12, 16, 20]
        file = results.spectra[method]
        expected = [getattr(file.read_part(f"epoch/{epoch}/{part}").saddle, quantity) for epoch in (4, 8, 12, 16, 20)]
        np.testing.assert_array_equal(drawing.arrays[f"{number}/values"], expected)
    assert len(drawing.settings["curves"]) == 3 * 2 * 2


def _s5(drawing: Drawing, results: Results) -> None:
    radii = drawing.arrays["values"].tolist()
    assert radii == [0.02, 0.05, 0.1, 0.2]
    for place, rho in enumerate(radii):
        runs = [results.runs[f"{rho:g} CE+DRW+SAM, seed {seed}"] for seed in SMOKE.seeds]
        assert all(run.info.recipe["optimizer"]["rho"] == rho for run in runs)
        shares = 100 * np.array([_shares(run) for run in runs])
        for curve in range(4):
            assert drawing.arrays[f"0/{curve}/mean"][place] == pytest.approx(shares[:, curve].mean())
            assert drawing.arrays[f"0/{curve}/deviation"][place] == pytest.approx(shares[:, curve].std(ddof=1))
        ratio = _part(results.spectra[f"{rho:g}"], "tail").saddle.curvature_ratio
        assert drawing.arrays["1/0/mean"][place] == ratio


def _table(rows: dict[str, str], data_sets: Sequence[str] = ()) -> Callable[[Drawing, Results], None]:
    """A check of the table whose rows are of the runs ``METHOD, seed N``, or of ``METHOD on DATA SET, seed N``."""
    expected = [(row, f"{method} on {each}") for each in data_sets for row, method in rows.items()]
    expected = expected or list(rows.items())

    def check(drawing: Drawing, results: Results) -> None:
        assert drawing.arrays["rows"].tolist() == [row for row, _ in expected]
        assert drawing.arrays["columns"].tolist() == ["all", "head", "mid", "tail"]
        assert drawing.settings["sections"] == [[each, len(rows)] for each in data_sets]
        for row, (_, method) in enumerate(expected):
            runs = [results.runs[f"{method}, seed {seed}"] for seed in SMOKE.seeds]
            shares = 100 * np.array([_shares(run) for run in runs])
            np.testing.assert_allclose(drawing.arrays["values"][row], shares.mean(axis=0))
            np.testing.assert_allclose(drawing.arrays["errors"][row], shares.std(axis=0, ddof=1))
            assert {run.info.recipe["data"]["imbalance"] for run in runs} == {("exp:20", "exp:50")[row // len(rows)]}

    return check


def _s7(drawing: Drawing, results: Results) -> None:
    assert drawing.settings["methods"] == ["CE", "CE+SAM", "CE+DRW", "CE+DRW+SAM"]
    for row, method in enumerate(drawing.settings["methods"]):
        runs = [results.runs[f"{method}, seed {seed}"] for seed in SMOKE.seeds]
        classes = np.array([run.history[-1]["per_class"] for run in runs])
        np.testing.assert_allclose(drawing.arrays["mean"][row], classes.mean(axis=0))
    assert drawing.arrays["counts"].tolist() == COUNTS


def _i1(drawing: Drawing, results: Results) -> None:
    assert drawing.settings["panels"]["a"]["settings"]["rotated"]
    assert drawing.arrays["a/counts"].tolist() == COUNTS
    assert drawing.arrays["b/methods"].tolist() == ["SGD", "SAM", "ImbSAM"]
    assert drawing.arrays["b/parts"].tolist() == ["group/head", "group/tail"]
    for number, surface in enumerate(results.surfaces.values()):
        assert surface.complete
        rows = [surface.parts.index(part) for part in ("group/head", "group/tail")]
        np.testing.assert_array_equal(drawing.arrays[f"b/{number}/losses"], surface.losses[rows])


def _e1(drawing: Drawing, results: Results) -> None:
    stages, *accuracies = drawing.settings["panels"].values()
    assert stages["kind"] == "stages"
    assert stages["settings"]["eta"] == 40
    assert [method["name"] for method in stages["settings"]["methods"]] == ["SGD", "SAM", "ImbSAM", "SSE-SAM"]
    assert [method["switches"] for method in stages["settings"]["methods"]] == [[], [], [], [["stage II", 14]]]
    # Group → method → (last epoch of a bar, its radius), as methods are published.
    bars = {
        "head": [[(20, 0.0)], [(20, 0.05)], [(20, 0.0)], [(14, 0.05), (20, 0.0)]],
        "tail": [[(20, 0.0)], [(20, 0.05)], [(20, 0.05)], [(14, 0.1), (20, 0.1)]],
    }
    for group, methods in bars.items():
        for number, expected in enumerate(methods):
            spans, radii = (drawing.arrays[f"a/{number}/{group}/{name}"] for name in ("spans", "radii"))
            assert [(end, rho) for end, rho in zip(spans[:, 1], radii[:, 0], strict=True)] == expected
            np.testing.assert_array_equal(radii[:, 0], radii[:, 1])
    for letter, group, panel in zip("bc", ("head", "tail"), accuracies, strict=True):
        assert panel["kind"] == "training"
        assert panel["settings"]["switches"] == [["stage II", 14.0]]
        assert panel["settings"]["parts"] == [f"group/{group}"]
        expected = [line["groups_by_count"][group] for line in results.runs["SSE-SAM"].history]
        np.testing.assert_array_equal(drawing.arrays[f"{letter}/0/values"], expected)


def _e2(drawing: Drawing, results: Results) -> None:
    assert drawing.arrays["methods"].tolist() == ["SGD", "SAM", "ImbSAM", "SSE-SAM"]
    parts = [_part(file, place) for file in results.spectra.values() for place in ("head", "tail")]
    _same_ends(drawing.arrays, "", parts)


def _t1(drawing: Drawing, results: Results) -> None:
    file = results.calibrations["TailCalibX"]
    assert [panel["kind"] for panel in drawing.settings["panels"].values()] == [
        "tsne",
        "nearest-class",
        "decision-regions",
    ]
    generated = drawing.arrays["a/generated"].astype(bool)
    real = np.bincount(drawing.arrays["a/labels"][~generated])
    assert real.tolist() == COUNTS
    assert (real + np.bincount(drawing.arrays["a/labels"][generated], minlength=10) >= 122).all()
    made = file.points["generated"]
    tail = made["labels"] == 9
    assert drawing.arrays["b/generated"][9, 9] == pytest.approx((made["nearest_sample"][tail] == 9).mean())
    toy = run_toy()
    assert drawing.arrays["c/titles"].tolist() == list(TOY_CLASSIFIERS) == ["long-tailed", "resampled", "TailCalibX"]
    np.testing.assert_array_equal(drawing.arrays["c/points"], toy.points.numpy())
    np.testing.assert_array_equal(drawing.arrays["c/accuracy"], [each.result.per_class for each in toy.classifiers])
    # As the caption has it.
    as_they_are, resampled, generated = drawing.arrays["c/accuracy"].mean(axis=1)
    assert as_they_are < generated < resampled
    assert drawing.arrays["c/accuracy"][:, -1].argmax() == 2


def _layers(drawing: Drawing, results: Results, epochs: Sequence[int] = (4, 12, 20)) -> list[PartSpectrum]:
    assert drawing.arrays["epochs"].tolist() == list(epochs)
    names = ["conv1", "bn1", "conv2", "bn2", "conv3", "bn3", "head"]
    assert drawing.arrays["parts"].tolist()[-7:] == [f"layer/{name}" for name in names]
    return [results.spectra["layers"].read_part(f"epoch/20/{part}") for part in drawing.arrays["parts"]]


def _h1(drawing: Drawing, results: Results) -> None:
    assert _layers(drawing, results)[0].part == "epoch/20/all"
    assert np.isfinite(drawing.arrays["share"]).all()


def _h2(drawing: Drawing, results: Results) -> None:
    sizes = [part.num_parameters for part in _layers(drawing, results)]
    assert drawing.arrays["num_parameters"].tolist() == sizes
    assert (drawing.arrays["distance"] > 0).all()


def _h3(drawing: Drawing, results: Results) -> None:
    parts = _layers(drawing, results, epochs=(4, 8, 12, 16, 20))
    for name in ("lambda_max", "trace"):
        np.testing.assert_array_equal(drawing.arrays[name][-1], [getattr(part.saddle, name) for part in parts])


_ESCAPES = {"SGD": "", "PGD": "+PGD", "LPF-SGD": "+LPF-SGD", "SAM": "+SAM", "ASAM": "+ASAM"}
_PENALTIES = ("baseline", "HTR, all layers", "HTR, middle layers", "HTR, Gauss-Newton", "CE+SAM")
CHECKS = {
    "S1": _s1,
    "S2": _s2,
    "S3": _s3,
    "S4": _s4,
    "S5": _s5,
    "S6": _table({row: f"CE+DRW{end}" for row, end in _ESCAPES.items()}, ("digits, IF 20", "digits, IF 50")),
    "S7": _s7,
    "I1": _i1,
    "E1": _e1,
    "E2": _e2,
    "T1": _t1,
    "H1": _h1,
    "H2": _h2,
    "H3": _h3,
    "H4": _table({name: name for name in _PENALTIES}),
}
# What must be read on the page: units and names of axes.
WORDS = {
    "S1": ("training images", "eigenvalues per decade", "loss (nats)", " % correct"),
    "S2": ("eigenvalue λ", "eigenvalues per decade"),
    "S3": ("eigenvalue λ", "eigenvalues per decade", "SAM"),
    "S4": ("epoch", "DRW", "λ$_{min}$", "tail: 9"),
    "S5": ("radius ρ of SAM", "test accuracy (%)"),
    "S6": ("test accuracy, %", "LPF-SGD", "IF 50"),
    "S7": ("test accuracy", "tail"),
    "I1": ("training images", "loss (nats)", "ImbSAM", "tail"),
    "E1": ("epoch", "head: test accuracy", "tail: test accuracy", "stage II", "ρ = 0.1", "η = 40 images", "SSE-SAM"),
    "E2": ("eigenvalue λ", "SSE-SAM", "tail: 9"),
    "T1": ("generated features", "class of the nearest training feature", "feature 1", "class 5: "),
    "H1": ("eigenvalue in units", "conv2"),
    "H2": ("to the whole network", "conv2"),
    "H3": ("epoch", "trace"),
    "H4": ("test accuracy, %", "HTR, middle layers"),
}


def _check(names: Sequence[str], call: Call, folder: Path, subtests: pytest.Subtests) -> None:
    work, output = Work(folder / "work"), folder / "out"
    made = call("figures", "make", *names, "--work", work.root, "-o", output, "--device", "cpu")
    assert made.code == 0, made.err
    for name in names:
        with subtests.test(msg=name):
            needs = load_figure(name).needs(SMOKE)
            results = Results.of(needs, {step.key: work.place(step) for step in in_order(needs.steps)})
            drawing = read_drawing(output / f"{name}.h5")
            CHECKS[name](drawing, results)
            written = " ".join(text.get_text() for text in drawing.figure.findobj(Text))
            assert [words for words in WORDS[name] if words not in written] == []
            assert (output / f"{name}.pdf").read_bytes().startswith(b"%PDF")
            with h5py.File(output / f"{name}.h5") as file:
                assert json.loads(file.attrs["recipe"])["figure"] == name
                assert "Smoke scale:" in file.attrs["caption"]
            # The file alone draws the same picture.
            again = save_figure(drawing.figure, folder / "again.png")
            assert again.read_bytes() == (output / f"{name}.png").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in sorted(work.root.rglob("*"))}
    other = call(
        "figures", "make", names[0], "--work", work.root, "-o", folder / "neurips", "--style", "neurips",
        "--column", "single",
    )  # fmt: skip
    assert other.code == 0, other.err
    assert "0 to do" in other.out
    assert {path: path.stat().st_mtime_ns for path in sorted(work.root.rglob("*"))} == before
    restyled = read_drawing(folder / "neurips" / f"{names[0]}.h5")
    assert restyled.look.venue == "neurips"
    first = read_drawing(output / f"{names[0]}.h5")
    assert all(np.array_equal(restyled.arrays[key], values) for key, values in first.arrays.items())


# Two tests, so that two workers share them: what the halves have in common takes seconds.


def test_the_figures_about_sam_on_reweighted_losses(call: Call, tmp_path: Path, subtests: pytest.Subtests) -> None:
    _check([name for name in NAMES if name.startswith("S")], call, tmp_path, subtests)
    table = (tmp_path / "out" / "S6.md").read_text()
    assert "LPF-SGD" in table
    assert "LPF-SGD" in (tmp_path / "out" / "S6.tex").read_text()


def test_the_figures_about_everything_else(call: Call, tmp_path: Path, subtests: pytest.Subtests) -> None:
    _check([name for name in NAMES if not name.startswith("S")], call, tmp_path, subtests)


def test_every_figure_is_checked() -> None:
    assert set(CHECKS) == set(WORDS) == set(NAMES)
