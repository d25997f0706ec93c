"""What bad input gets: one or two lines that name the fault and the fix, exit code 1, and nothing half-written."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import pytest
import torch
from support.command import Call
from support.runs import files_below, tiny_recipe, write_image_folder
from support.spectra import part_spectrum

from landscape.models import build_model
from landscape.store import SpectrumFile
from landscape.training import train

FEW = ("--pairs", "1", "--max-matvecs", "6", "--probes", "1", "--max-probes", "1", "--steps", "2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a small run, to be copied and damaged."""
    folder = tmp_path_factory.mktemp("bad") / "run"
    train(tiny_recipe(schedule={"epochs": 1}), folder)
    return files_below(folder)


@pytest.fixture(scope="module")
def spectra_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = SpectrumFile.create(tmp_path_factory.mktemp("spectra") / "x.h5", {"loss": "ce"})
    file.write_part(part_spectrum("all", "all", num_parameters=60, num_probes=2, num_steps=6))
    return file.path


@pytest.fixture
def place(tmp_path: Path, trained: dict[str, bytes], spectra_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: a run, and things that look like what is wanted but are not."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    (tmp_path / "run").mkdir()
    for name, content in trained.items():
        (tmp_path / "run" / name).write_bytes(content)
    (tmp_path / "cut.safetensors").write_bytes(trained["last.safetensors"][:2000])
    (tmp_path / "words.h5").write_text("not HDF5")
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        file["x"] = [1, 2]
    with h5py.File(tmp_path / "newer.h5", "w") as file:
        file.attrs.update({"schema": "landscape-spectra", "schema_version": 99})
    for name in ("spectra.h5", "figure.pdf.h5", "spectra.pdf"):
        (tmp_path / name).write_bytes(spectra_file.read_bytes())
    torch.save(build_model("mlp", num_classes=10, in_channels=1, image_size=8).state_dict(), tmp_path / "net.h5")
    state = dict.fromkeys(["conv1.weight", "fc.bias"], torch.zeros(2))
    torch.save({"state_dict": state}, tmp_path / "other.pth")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    (tmp_path / "empty").mkdir()
    images = write_image_folder(tmp_path / "images", {"ant": 3, "bee": 3})
    (images / "train" / "cat").mkdir()
    (images / "test" / "cat").mkdir()
    (tmp_path / "nets.py").write_text(
        "from landscape.models import build_model\n"
        "def mlp():\n    return build_model('mlp', num_classes=10, in_channels=1, image_size=8)\n"
    )
    (tmp_path / "bad.toml").write_text("[optimizer]\nroh = 0.5\n")
    return tmp_path


FOREIGN = "--model nets:mlp --data digits --normalize none"

CASES: dict[str, tuple[str, list[str]]] = {
    "missing checkpoint": ("spectrum gone -o x.h5", ["no checkpoint at gone", "folder of `landscape train"]),
    "missing checkpoint, evaluate": ("evaluate gone", ["no checkpoint at gone"]),
    "missing checkpoint, info": ("info gone", ["no checkpoint at gone"]),
    "a folder that is no run": ("evaluate empty", ["empty", "last.safetensors"]),
    "truncated checkpoint": ("spectrum cut.safetensors -o x.h5", ["cut.safetensors", "truncated"]),
    "truncated checkpoint, evaluate": ("evaluate cut.safetensors", ["cut.safetensors", "truncated"]),
    "truncated checkpoint, info": ("info cut.safetensors", ["cut.safetensors", "truncated"]),
    "text as a checkpoint": (f"evaluate nets.py {FOREIGN}", ["nets.py", "not a checkpoint"]),
    "wrong architecture": (
        f"spectrum other.pth {FOREIGN} -o x.h5",
        ["missing: fc1.weight", "not in the model: conv1.weight, fc.bias"],
    ),
    "foreign without a model": ("spectrum other.pth -o x.h5", ["--model package.module:factory"]),
    "foreign without data": ("spectrum other.pth --model nets:mlp -o x.h5", ["give --data"]),
    "pickled module": (f"evaluate module.pt {FOREIGN}", ["--allow-pickle"]),
    "unknown factory": ("evaluate run --model nets:mpl --data digits --normalize none", ["'mpl'", "'mlp'"]),
    "class without samples": ("train --data folder:images -o new", ["'cat'", "no images"]),
    "no train folder": ("train --data folder:empty -o new", ["no train/ folder", "empty/train/<class>"]),
    "no such folder": ("train --data folder:gone -o new", ["no folder", "gone"]),
    "unknown source": ("train --data digitz -o new", ["'digitz'", "did you mean 'digits'"]),
    "unknown class": ("spectrum run --classes 3,eleven -o x.h5", ["unknown class 'eleven'"]),
    "class out of range": ("spectrum run --classes 10 -o x.h5", ["class 10 does not exist", "10"]),
    "unknown layer": ("spectrum run --layers fc9 -o x.h5", ["no layer matches 'fc9'", "did you mean"]),
    "not HDF5": ("saddle words.h5", ["words.h5", "not an HDF5 file"]),
    "not ours": ("saddle theirs.h5", ["theirs.h5", "landscape spectrum"]),
    "newer schema": ("saddle newer.h5", ["schema version 99", "upgrade"]),
    "not HDF5, plot": ("plot words.h5 -o x.pdf", ["words.h5", "not an HDF5 file"]),
    "newer schema, plot": ("plot newer.h5 -o x.pdf", ["schema version 99"]),
    "newer schema, info": ("info newer.h5", ["schema version 99"]),
    "missing results": ("plot gone.h5 -o x.pdf", ["gone.h5", "landscape spectrum"]),
    "results into a file that is not ours": (f"spectrum run {' '.join(FEW)} -o theirs.h5", ["theirs.h5"]),
    "results into a newer file": (f"spectrum run {' '.join(FEW)} -o newer.h5", ["schema version 99"]),
    "training loss of a foreign checkpoint": (
        f"spectrum run/last.safetensors {FOREIGN} --loss training -o x.h5",
        ["--loss ce"],
    ),
    "unknown key": ("train bad.toml -o new", ["bad.toml", "optimizer.roh", "'rho'"]),
    "unknown key in --set": ("train --set optimizer.roh=1 -o new", ["optimizer.roh"]),
    "--set without section": ("train --set rho=1 -o new", ["section.key=value"]),
    "no recipe": ("train gone.toml -o new", ["no recipe at gone.toml"]),
    "impossible value": ("train --lr -1 -o new", ["optimizer.lr = -1.0", "greater than 0"]),
    "ldam on a linear head": ("train --loss ldam --head linear -o new", ["ldam", "model.head"]),
    "a setting of another optimiser": ("train --data digits --model mlp --rho 1 -o new", ["'sgd'", "'rho'"]),
    "a tail setting without a tail": ("train --data digits --model mlp --eta 9 -o new", ["'sgd'", "'eta'"]),
    "a missing setting": ("train --data digits --model mlp --optimizer sse-sam -o new", ["head_rho"]),
    "a second run": ("train --data digits -o run", ["--resume", "--overwrite"]),
    "nothing to resume": ("train --data digits --resume -o new", ["nothing to resume"]),
    "another recipe on resuming": ("train --resume --lr 0.4 -o run", ["optimizer.lr = 0.05, not 0.4"]),
    "a cosmetic imbalance": ("train --data digits --imbalance long -o new", ["'long'", "exp:IF"]),
    "unknown normalisation": ("train --data digits --normalize cifer -o new", ["'cifer'", "MEAN/STD"]),
    "unknown model": ("train --data digits --model resnet3 -o new", ["'resnet3'", "did you mean"]),
    "unknown device": ("train --data digits --device gpu -o new", ["'gpu'", "auto"]),
    "unknown device, spectrum": ("spectrum run --device gpu -o x.h5", ["'gpu'", "auto"]),
    "a folder as output": (f"spectrum run {' '.join(FEW)} -o empty", ["empty"]),
    "the checkpoint as output": (
        f"spectrum run {' '.join(FEW)} --overwrite -o run/last.safetensors",
        ["run/last.safetensors", "ends in .h5 or .hdf5"],
    ),
    "a checkpoint called .h5 as output": (
        f"spectrum net.h5 {FOREIGN} {' '.join(FEW)} --overwrite -o net.h5",
        ["net.h5", "is not replaced", "another -o"],
    ),
    "overwriting somebody's HDF5": (
        f"spectrum run {' '.join(FEW)} --overwrite -o theirs.h5",
        ["theirs.h5", "is not replaced", "another -o"],
    ),
    "a figure over spectra": ("plot spectra.h5 -o figure.pdf", ["figure.pdf.h5", "holds results", "another -o"]),
    "a figure over its own spectra": ("plot spectra.pdf -o spectra.pdf", ["spectra.pdf", "holds results"]),
    "a batch size without batches": (f"spectrum run {' '.join(FEW)} --batch-size 9 -o x.h5", ["--per-batch N"]),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_a_line_and_leaves_no_file(call: Call, place: Path, case: str) -> None:
    line, words = CASES[case]
    before = files_below(place)
    outcome = call(*line.split())
    assert outcome.code == 1, outcome.out
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.strip().splitlines()) <= 2
    for word in words:
        assert word in outcome.err
    after = {name: content for name, content in files_below(place).items() if "__pycache__" not in name}
    assert after == before
    assert not (place / "new").exists()


@pytest.mark.parametrize("suffix", ["docx", "h5", ""])
def test_a_figure_of_an_unknown_kind_is_refused(call: Call, place: Path, suffix: str) -> None:
    assert call("spectrum", "run", "--classes", 9, *FEW, "-o", "x.h5").code == 0
    before = files_below(place)
    outcome = call("plot", "x.h5", "-o", f"figure.{suffix}".rstrip("."))
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert files_below(place) == before


def test_parts_that_are_not_there_are_refused(call: Call, place: Path) -> None:
    assert call("spectrum", "run", "--classes", 9, *FEW, "-o", "x.h5").code == 0
    outcome = call("plot", "x.h5", "--parts", "group/*", "-o", "x.pdf")
    assert (outcome.code, "class/9" in outcome.err) == (1, True)
    assert not (place / "x.pdf").exists()


def test_another_setting_does_not_spoil_a_results_file(call: Call, place: Path) -> None:
    assert call("spectrum", "run", "--classes", 9, *FEW, "-o", "x.h5").code == 0
    before = files_below(place)
    outcome = call("spectrum", "run", "--classes", 0, *FEW, "--seed", 1, "-o", "x.h5")
    assert (outcome.code, "seed = 0" in outcome.err, "--overwrite" in outcome.err) == (1, True, True)
    assert files_below(place) == before


def test_overwriting_with_a_wrong_recipe_keeps_the_old_run(call: Call, place: Path) -> None:
    before = files_below(place)
    assert call("train", "--data", "folder:empty", "--overwrite", "-o", "run").code == 1
    assert files_below(place) == before


def test_a_pickled_module_is_read_with_permission(call: Call, place: Path) -> None:
    import nets  # type: ignore[import-not-found]

    torch.save(nets.mlp(), place / "whole.pt")
    words = ("evaluate", "whole.pt", *FOREIGN.split(), "--json")
    assert call(*words).code == 1
    assert call(*words, "--allow-pickle").code == 0


@pytest.mark.parametrize("width", ["60", "80", "200"])
def test_an_error_is_one_line_on_any_terminal(
    call: Call, place: Path, monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    outcome = call("spectrum", "other.pth", *FOREIGN.split(), "-o", "x.h5")
    assert len(outcome.err.strip().splitlines()) == 1


def test_square_brackets_of_a_path_are_no_markup(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "[bold]x[/bold]" / "gone"
    outcome = call("info", path)
    assert (outcome.code, str(path) in outcome.err) == (1, True)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        *[(f"spectrum run -o x.h5 {flag} {value}", flag)
          for flag in ("--target", "--tol", "--weight-decay", "--logit-scale") for value in ("nan", "inf")],
        ("spectrum run -o x.h5 --seed 9223372036854775808", "--seed"),
        ("spectrum run -o x.h5 --data-seed 9223372036854775808", "--data-seed"),
        ("train -o new --data digits --lr nan", "--lr"),
        ("train -o new --data digits --optimizer sam --rho inf", "--rho"),
        ("train -o new --data digits --seed 9223372036854775808", "--seed"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_wrong_calls_that_name_their_flag(
    call: Call, place: Path, words: str, flag: str
) -> None:
    before = files_below(place)
    outcome = call(*words.split())
    assert outcome.code == 2
    assert flag in outcome.err.split("Usage", 1)[1]
    assert files_below(place) == before
    assert not (place / "new").exists()


@pytest.mark.parametrize(("word", "meant"), [("spectra", "spectrum"), ("sadle", "saddle"), ("plots", "plot")])
def test_a_mistyped_command_gets_a_suggestion(call: Call, word: str, meant: str) -> None:
    outcome = call(word, "x.h5")
    assert outcome.code == 2
    assert f"No such command '{word}'; did you mean '{meant}'?" in outcome.err


def test_an_output_is_not_replaced_through_a_link(call: Call, place: Path) -> None:
    (place / "link.h5").symlink_to(place / "run" / "last.safetensors")
    before = files_below(place)
    outcome = call("spectrum", "run", *FEW, "--overwrite", "-o", "link.h5")
    assert (outcome.code, "is not replaced" in outcome.err) == (1, True)
    assert files_below(place) == before
