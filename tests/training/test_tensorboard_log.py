"""The event files say what the history says, also after an interruption."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from support.runs import StopAfter, files_below, tiny_recipe, write_image_folder

from landscape.errors import LandscapeError
from landscape.training import Recipe, read_history, train
from landscape.training import tensorboard as log_module
from landscape.training.tensorboard import FOLDER

SSE_SAM = {"name": "sse-sam", "head_rho": 0.1, "tail_rho": 0.2, "gamma": 0.5, "lr": 0.05}


class Writer:
    """Keeps in a file what PyTorch's writer would."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / f"events.out.tfevents.{id(self)}"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lines: list[str] = []

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.lines.append(f"{tag} {step} {value!r}\n")

    def flush(self) -> None:
        self.path.write_text("".join(self.lines))

    def close(self) -> None:
        self.flush()


def written(folder: Path) -> dict[tuple[str, int], float]:
    """(tag, step) → value over all event files of a run; none twice."""
    lines = [line.split() for path in (folder / FOLDER).iterdir() for line in path.read_text().splitlines()]
    values = {(tag, int(step)): float(value) for tag, step, value in lines}
    assert len(values) == len(lines)
    return values


def expected(folder: Path) -> dict[tuple[str, int], float]:
    values = {}
    for line in read_history(folder):
        scalars = {"train/loss": line["train_loss"], "train/lr": line["lr"], "accuracy/all": line["accuracy"]}
        scalars |= {f"train/{name}": radius for name, radius in line["radii"].items()}
        scalars |= {f"train/{name}": line[name] for name in ("penalty", "trace") if line[name] is not None}
        scalars |= {f"accuracy/{name}": share for name, share in line["groups"].items() if share is not None}
        values |= {(tag, line["epoch"]): value for tag, value in scalars.items()}
    return values


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "import_summary_writer", lambda: Writer)
    monkeypatch.setattr("landscape.training.loop.import_summary_writer", lambda: Writer)


def test_every_scalar_of_every_epoch(tmp_path: Path, stub: None) -> None:
    train(tiny_recipe(optimizer=SSE_SAM, run={"log": "tensorboard"}), tmp_path / "run")
    values = written(tmp_path / "run")
    assert values == expected(tmp_path / "run")
    assert {step for _, step in values} == {1, 2, 3, 4}
    assert {tag for tag, _ in values} >= {
        "train/loss", "train/lr", "train/head_rho",
        "accuracy/all", "accuracy/head", "accuracy/mid", "accuracy/tail",
    }  # fmt: skip


def test_a_penalty_is_drawn(tmp_path: Path, stub: None) -> None:
    htr = {"name": "htr", "weight": 1e-4}
    short = {"epochs": 1, "batch_size": 256}
    train(tiny_recipe(regularizer=htr, schedule=short, run={"log": "tensorboard"}), tmp_path / "run")
    values = written(tmp_path / "run")
    assert values == expected(tmp_path / "run")
    assert {("train/penalty", 1), ("train/trace", 1)} <= set(values)


def test_an_interrupted_run_has_neither_gaps_nor_doubles(tmp_path: Path, stub: None) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(), run, progress=StopAfter(epoch=1))
    for stop in (2, 3):  # switched on late
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe(run={"log": "tensorboard"}), run, resume=True, progress=StopAfter(epoch=stop))
        assert written(run) == expected(run)
    train(tiny_recipe(run={"log": "tensorboard"}), run, resume=True)
    assert written(run) == expected(run)
    train(tiny_recipe(schedule={"epochs": 1}), run, overwrite=True)
    assert not list((run / FOLDER).iterdir())


def test_an_empty_group_is_left_out(tmp_path: Path, stub: None) -> None:
    root = write_image_folder(tmp_path / "images", {"ant": 6, "bee": 3})
    sections: dict[str, Any] = {"data": {"source": f"folder:{root}"}, "model": {"name": "mlp"}}
    train(Recipe.parse({**sections, "schedule": {"epochs": 1}, "run": {"log": "tensorboard"}}), tmp_path / "run")
    tags = {tag for tag, _ in written(tmp_path / "run")}
    assert {"accuracy/head", "accuracy/tail"} <= tags
    assert "accuracy/mid" not in tags


def test_a_missing_package_is_named_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "old")
    before = files_below(tmp_path)
    for folder in ("old", "new"):
        with pytest.raises(LandscapeError, match=r"pip install .*\[tensorboard\]") as caught:
            train(tiny_recipe(run={"log": "tensorboard"}), tmp_path / folder, overwrite=True)
        assert "\n" not in str(caught.value)
    assert files_below(tmp_path) == before


def test_tensorboard_itself_reads_the_history(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_recipe(run={"log": "tensorboard"}), run, progress=StopAfter(epoch=2))
    train(tiny_recipe(run={"log": "tensorboard"}), run, resume=True)
    events = accumulator.EventAccumulator(str(run / FOLDER)).Reload()
    found = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    assert found == pytest.approx(expected(run), rel=1e-6)


def test_a_full_disk_is_named_and_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stub: None) -> None:
    def full(writer: Writer) -> None:
        if len(writer.lines) > 10:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    recipe, run = tiny_recipe(run={"log": "tensorboard"}), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Writer, "flush", full)
        with pytest.raises(LandscapeError, match=r"tensorboard.*No space left") as caught:
            train(recipe, run)
    done = len(read_history(run))
    assert 0 < done < 4
    for words in (f"{run / 'last.safetensors'} (epoch {done})", "--resume goes on"):
        assert words in str(caught.value)
    train(recipe, run, resume=True)
    assert written(run) == expected(run)
