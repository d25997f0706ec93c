"""A sweep over the checkpoints of one training: one file, parts by epoch, warm starts, and what it refuses."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.runs import files_below, tiny_recipe

from landscape.curvature import Measurement, MeasureSettings, Part
from landscape.errors import LandscapeError
from landscape.store import SpectrumFile, describe
from landscape.study import Quiet, StudyPlan, open_subject, open_sweep, run_study, runner
from landscape.training import load_checkpoint, train
from landscape.training.checkpoint import save_checkpoint

SHARP = MeasureSettings(num_pairs=2, tol=1e-5, max_matvecs=400, num_probes=2, max_probes=2, num_steps=8)
PLAN = StudyPlan(classes="0,9", dtype="float64", settings=SHARP)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three epochs, each kept."""
    folder = tmp_path_factory.mktemp("sweep") / "mlp"
    train(tiny_recipe(schedule={"epochs": 3}, run={"save_every": 1}), folder)
    return folder


def epochs_of(run: Path, *numbers: int) -> list[Path]:
    return [run / f"epoch-{number:04d}.safetensors" for number in numbers]


class Recorder(Quiet):
    """Hears what is measured, what is there already and what is said."""

    def __init__(self) -> None:
        self.measured: list[str] = []
        self.already: list[str] = []
        self.notes: list[str] = []
        self.checkpoints = 0

    def cost(self, estimate: Any) -> None:
        self.checkpoints = estimate.checkpoints

    def part(self, part: Part, number: int, total: int, products: int) -> None:
        assert number == len(self.measured) < total
        self.measured.append(part.path)

    def skipped(self, part: Part, remark: str) -> None:
        self.already.append(part.path)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The start vectors of every measurement, in order."""
    found: list[Any] = []

    class Watched(Measurement):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            found.append(kwargs["warm"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(runner, "Measurement", Watched)
    return found


@pytest.fixture(scope="module")
def swept(run: Path) -> Path:
    path = run.parent / "sweep.h5"
    run_study(open_sweep(epochs_of(run, 3, 1, 2)), PLAN, path)
    return path


def test_a_sweep_holds_the_numbers_of_its_checkpoints_in_the_order_of_epochs(run: Path, swept: Path) -> None:
    file = SpectrumFile.open(swept)
    parts = [f"epoch/{epoch}/class/{c}" for epoch in (1, 2, 3) for c in (0, 9)]
    assert file.complete_parts() == [spectrum.part for spectrum in file.read_all()] == parts
    assert (file.is_sweep, file.measured_epochs(), file.latest_epoch()) == (True, [1, 2, 3], 3)
    for epoch in (1, 2, 3):
        path = run.parent / f"single-{epoch}.h5"
        alone = run_study(open_subject(*epochs_of(run, epoch)), PLAN, path)
        for c in (0, 9):
            one, many = alone.read_part(f"class/{c}"), file.read_part(f"epoch/{epoch}/class/{c}")
            # Started from other vectors, so the same to the tolerance, which bounds the error by its square.
            np.testing.assert_allclose(many.pairs.values, one.pairs.values, atol=1e-6 * one.saddle.lambda_max)
            assert many.saddle.loss == pytest.approx(one.saddle.loss, rel=1e-12)
            assert (many.label, many.num_samples, many.accuracy) == (one.label, one.num_samples, one.accuracy)
            assert many.pairs.vectors is None
    assert [spectrum.part for spectrum in file.read_epoch()] == ["class/0", "class/9"]
    assert file.read_epoch()[0].saddle.loss == file.read_part("epoch/3/class/0").saddle.loss


def test_the_file_says_which_checkpoints(run: Path, swept: Path) -> None:
    meta = SpectrumFile.open(swept).meta
    files = epochs_of(run, 1, 2, 3)
    assert list(meta["epochs"]) == [1, 2, 3]
    assert meta["checkpoints"] == [str(path) for path in files]
    assert meta["checkpoints_sha256"] == [load_checkpoint(path).sha256 for path in files]
    assert len(meta["check_noise"]) == 3
    assert not {"checkpoint", "checkpoint_sha256", "epoch"} & set(meta)
    rows = dict(describe(swept))
    assert rows["parts by epoch"] == "1 (2), 2 (2), 3 (2)"
    assert rows["  class"] == "2: 0, 9"


def test_each_checkpoint_starts_from_the_vectors_of_the_one_before(run: Path, tmp_path: Path, warm: list[Any]) -> None:
    heard = Recorder()
    plan = dataclasses.replace(PLAN, keep_vectors=True)
    file = run_study(open_sweep(epochs_of(run, 1, 2, 3)), plan, tmp_path / "x.h5", progress=heard)
    assert heard.measured == file.complete_parts()
    assert heard.checkpoints == 3
    assert warm[:2] == [None, None]
    for number, (epoch, c) in enumerate([(1, 0), (1, 9), (2, 0), (2, 9)], start=2):
        stored = file.read_part(f"epoch/{epoch}/class/{c}").pairs.vectors
        np.testing.assert_array_equal(warm[number].numpy(), stored)
    assert heard.notes == []


def test_training_goes_on_and_so_does_the_sweep(run: Path, tmp_path: Path, warm: list[Any]) -> None:
    path = tmp_path / "x.h5"
    run_study(open_sweep(epochs_of(run, 1)), PLAN, path)
    before = SpectrumFile.open(path).read_part("epoch/1/class/9")
    heard = Recorder()
    file = run_study(open_sweep(epochs_of(run, 1, 3)), PLAN, path, progress=heard)
    assert heard.already == ["epoch/1/class/0", "epoch/1/class/9"]
    assert heard.measured == ["epoch/3/class/0", "epoch/3/class/9"]
    assert file.read_part("epoch/1/class/9").seconds == before.seconds
    # Their vectors went with the first process, and that is said.
    assert warm == [None] * 4
    assert heard.notes == [
        "epoch 3: the vectors of epoch 1 were not kept (--vectors keeps them), the search starts cold"
    ]
    # An epoch between two others takes its place; the checkpoints of the file need not all be named again.
    run_study(open_sweep(epochs_of(run, 2)), PLAN, path)
    file = SpectrumFile.open(path)
    assert file.measured_epochs() == list(file.meta["epochs"]) == [1, 2, 3]
    assert file.complete_parts()[2:4] == ["epoch/2/class/0", "epoch/2/class/9"]
    content = path.read_bytes()
    run_study(open_sweep(epochs_of(run, 1, 2, 3)), PLAN, path)
    assert path.read_bytes() == content


def test_vectors_in_the_file_warm_a_later_run(run: Path, tmp_path: Path, warm: list[Any]) -> None:
    path = tmp_path / "x.h5"
    plan = dataclasses.replace(PLAN, keep_vectors=True)
    run_study(open_sweep(epochs_of(run, 1)), plan, path)
    heard = Recorder()
    file = run_study(open_sweep(epochs_of(run, 2)), plan, path, progress=heard)
    for start, c in zip(warm[2:], (0, 9), strict=True):
        np.testing.assert_array_equal(start.numpy(), file.read_part(f"epoch/1/class/{c}").pairs.vectors)
    assert heard.notes == []


def test_a_killed_sweep_goes_on(run: Path, swept: Path, tmp_path: Path) -> None:
    class Killer(Recorder):
        def part(self, part: Part, number: int, total: int, products: int) -> None:
            super().part(part, number, total, products)
            if number == 3:
                raise KeyboardInterrupt

    path = tmp_path / "x.h5"
    sweep = open_sweep(epochs_of(run, 1, 2, 3))
    with pytest.raises(KeyboardInterrupt):
        run_study(sweep, PLAN, path, progress=Killer())
    assert SpectrumFile.open(path).complete_parts() == ["epoch/1/class/0", "epoch/1/class/9", "epoch/2/class/0"]
    heard = Recorder()
    file = run_study(sweep, PLAN, path, progress=heard)
    assert heard.measured == ["epoch/2/class/9", "epoch/3/class/0", "epoch/3/class/9"]
    whole = SpectrumFile.open(swept)
    for part in whole.complete_parts():
        expected = whole.read_part(part)
        np.testing.assert_allclose(
            file.read_part(part).pairs.values, expected.pairs.values, atol=1e-6 * expected.saddle.lambda_max
        )


# ---------------------------------------------------------------------- what is refused


def test_another_checkpoint_of_a_known_epoch_is_refused(run: Path, swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    train(tiny_recipe(schedule={"epochs": 3}, run={"save_every": 1, "device": "cpu"}), folder)
    changed = load_checkpoint(*epochs_of(folder, 2))
    changed.state["head.bias"] += 1.0
    save_checkpoint(folder / "epoch-0002.safetensors", changed.build_model(), changed.info)
    before = swept.read_bytes()
    with pytest.raises(LandscapeError, match=r"has epoch 2 of another checkpoint \(SHA-256 .*--overwrite"):
        run_study(open_sweep(epochs_of(folder, 2)), PLAN, swept)
    with pytest.raises(LandscapeError, match=r"two different checkpoints of epoch 2; give one"):
        open_sweep([*epochs_of(run, 2), *epochs_of(folder, 2)])
    assert swept.read_bytes() == before


def test_the_same_checkpoint_twice_is_one(run: Path, tmp_path: Path) -> None:
    shutil.copy(*epochs_of(run, 2), tmp_path / "copy.safetensors")
    sweep = open_sweep([*epochs_of(run, 3, 2), tmp_path / "copy.safetensors"])
    assert sweep.epochs == (2, 3)
    assert sweep.paths == tuple(epochs_of(run, 2, 3))
    assert sweep.first.path == sweep.paths[0]
    second = sweep.subject(1)
    assert (second.epoch, second.path, second.sha256) == (3, sweep.paths[1], load_checkpoint(sweep.paths[1]).sha256)
    assert second.data is sweep.first.data
    state = load_checkpoint(sweep.paths[1]).state
    assert all(torch.equal(value, state[name]) for name, value in second.model.state_dict().items())


def test_another_training_is_refused(run: Path, swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    train(tiny_recipe(schedule={"epochs": 4}, optimizer={"lr": 0.02}, run={"save_every": 1}), folder)
    message = r"optimizer\.lr = 0\.02, not 0\.05"
    with pytest.raises(LandscapeError, match=rf"of another training than .*: {message}"):
        open_sweep([*epochs_of(run, 1), *epochs_of(folder, 4)])
    with pytest.raises(LandscapeError, match=rf"follows another training, this one has {message}"):
        run_study(open_sweep(epochs_of(folder, 4)), PLAN, swept)


def test_a_sweep_and_a_single_checkpoint_do_not_share_a_file(run: Path, swept: Path, tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match="holds a sweep over checkpoints, this is one checkpoint"):
        run_study(open_subject(run), PLAN, swept)
    single = tmp_path / "x.h5"
    run_study(open_subject(run), PLAN, single)
    before = single.read_bytes()
    with pytest.raises(LandscapeError, match=r"holds one checkpoint, .*last.safetensors, which is not among these"):
        run_study(open_sweep(epochs_of(run, 1, 2)), PLAN, single)
    coarse = dataclasses.replace(PLAN, settings=dataclasses.replace(SHARP, tol=0.1))
    with pytest.raises(LandscapeError, match="with tol = "):
        run_study(open_sweep(epochs_of(run, 1, 2, 3)), coarse, single)
    assert single.read_bytes() == before
    file = run_study(open_sweep(epochs_of(run, 1)), PLAN, single, overwrite=True)
    assert file.complete_parts() == ["epoch/1/class/0", "epoch/1/class/9"]


def test_the_file_of_one_checkpoint_becomes_a_sweep_of_several(run: Path, swept: Path, tmp_path: Path) -> None:
    """A glob that matched one file at first."""
    path = tmp_path / "x.h5"
    plan = StudyPlan(classes="0", layers=("head",), num_batches=2, batch_size=20, dtype="float64", settings=SHARP)
    single = run_study(open_subject(epochs_of(run, 2)[0]), PLAN, path)
    run_study(open_subject(epochs_of(run, 2)[0]), plan, path)
    before, batches = {part.part: part for part in single.read_all()}, single.read_batches()
    heard = Recorder()
    file = run_study(open_sweep(epochs_of(run, 1, 2)), PLAN, path, progress=heard)
    assert heard.measured == ["epoch/1/class/0", "epoch/1/class/9"]
    assert heard.already == ["epoch/2/class/0", "epoch/2/class/9"]
    after = {part.part: part for part in file.read_all(2)}
    assert list(after) == [f"epoch/2/{part}" for part in before]
    for part, spectrum in before.items():
        np.testing.assert_array_equal(after[f"epoch/2/{part}"].density.nodes, spectrum.density.nodes)
    moved = file.read_batches(2)
    assert batches is not None
    assert moved is not None
    np.testing.assert_array_equal(moved.values, batches.values)
    known, expected = file.meta, SpectrumFile.open(swept).meta
    assert known["epochs"].tolist() == [1, 2]
    assert known["checkpoints_sha256"] == expected["checkpoints_sha256"][:2]
    np.testing.assert_array_equal(known["check_noise"], expected["check_noise"][:2])
    assert set(known) == set(expected)


def test_a_layer_alone_moves_without_the_class_above_it(run: Path, tmp_path: Path) -> None:
    plan = StudyPlan(classes="0", layers=("head",), dtype="float64", settings=SHARP)
    run_study(open_subject(epochs_of(run, 1)[0]), plan, tmp_path / "x.h5")
    file = run_study(open_sweep(epochs_of(run, 1, 2)), plan, tmp_path / "x.h5")
    assert [part.part for part in file.read_all()] == [f"epoch/{n}/class/0/layer/head" for n in (1, 2)]


def test_two_studies_do_not_write_one_file(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"

    class Second(Quiet):
        refused = 0

        def part(self, part: Part, number: int, total: int, products: int) -> None:
            with pytest.raises(LandscapeError, match=r"another run writes .*x\.h5' \(process \d+\): wait"):
                run_study(open_subject(run), PLAN, path, overwrite=True)
            self.refused += 1

    heard = Second()
    file = run_study(open_subject(run), PLAN, path, progress=heard)
    assert heard.refused == 2
    assert file.complete_parts() == ["class/0", "class/9"]
    assert list(tmp_path.iterdir()) == [path]


def test_another_setting_of_a_sweep_is_refused_and_named(run: Path, swept: Path) -> None:
    before = swept.read_bytes()
    with pytest.raises(LandscapeError, match=r"with (split|dataset_fingerprint) = "):
        run_study(open_sweep(epochs_of(run, 1)), dataclasses.replace(PLAN, split="test"), swept)
    settings = dataclasses.replace(SHARP, tol=0.1)
    with pytest.raises(LandscapeError, match="with tol = "):
        run_study(open_sweep(epochs_of(run, 1)), dataclasses.replace(PLAN, settings=settings), swept)
    assert swept.read_bytes() == before


def test_an_epoch_that_is_not_there(swept: Path, run: Path) -> None:
    with pytest.raises(LandscapeError, match="has no epoch 7: it has 1, 2, 3"):
        SpectrumFile.open(swept).read_epoch(7)
    path = run.parent / "one.h5"
    run_study(open_subject(run), PLAN, path)
    with pytest.raises(LandscapeError, match="has no epoch 1: it is no sweep"):
        SpectrumFile.open(path).read_epoch(1)


# ---------------------------------------------------------------------- foreign checkpoints

DIGITS = {"source": "digits", "imbalance": "exp:10", "normalize": "0.5/0.5"}


def test_foreign_checkpoints_take_their_epoch_from_their_names(
    run: Path, swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_swept.py").write_text(
        "from landscape.models import build_model\n"
        "def mlp():\n    return build_model('mlp', num_classes=10, in_channels=1, image_size=8)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = [tmp_path / f"net5-v2-{number}.pt" for number in (20, 3)]
    for path, own in zip(theirs, epochs_of(run, 2, 1), strict=True):
        torch.save(load_checkpoint(own).state, path)
    sweep = open_sweep(theirs, model="nets_swept:mlp", data=DIGITS)
    assert sweep.epochs == (3, 20)
    file = run_study(sweep, PLAN, tmp_path / "x.h5")
    assert file.meta["recipe"] == ""
    own_file = SpectrumFile.open(swept)
    for epoch, own_epoch in ((3, 1), (20, 2)):
        found, expected = file.read_part(f"epoch/{epoch}/class/0"), own_file.read_part(f"epoch/{own_epoch}/class/0")
        np.testing.assert_allclose(found.pairs.values, expected.pairs.values, rtol=1e-9)
    with pytest.raises(LandscapeError, match="--loss ce"):
        run_study(sweep, dataclasses.replace(PLAN, loss="training"), tmp_path / "y.h5")
    (tmp_path / "final.pt").write_bytes(theirs[0].read_bytes())
    before = files_below(tmp_path)
    with pytest.raises(LandscapeError, match=r"final\.pt does not say its epoch: .* last number"):
        open_sweep([*theirs, tmp_path / "final.pt"], model="nets_swept:mlp", data=DIGITS)
    assert files_below(tmp_path) == before


# ---------------------------------------------------------------------- mini-batches


def test_mini_batches_of_every_epoch_are_kept_and_extended(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    plan = StudyPlan(num_batches=2, batch_size=20, settings=SHARP)
    sweep = open_sweep(epochs_of(run, 1, 2))
    file = run_study(sweep, plan, path)
    assert file.complete_parts() == []
    assert (file.measured_epochs(), file.latest_epoch()) == ([1, 2], None)
    first = file.read_batches(2)
    assert first is not None
    assert first.values.shape == (2, 4)
    assert (first.batch_size, first.num_samples) == (20, 494)
    file = run_study(sweep, dataclasses.replace(plan, num_batches=3, classes="9"), path)
    assert file.complete_parts() == ["epoch/1/class/9", "epoch/2/class/9"]
    more = file.read_batches(2)
    assert more is not None
    np.testing.assert_array_equal(more.values[:2], first.values)
    assert len(more.values) == 3
    assert dict(describe(path))["mini-batches"] == "3 of epoch 2"
    assert more.converged.all()
    assert more.max_matvecs == SHARP.max_matvecs
    for change, words in (({"batch_size": 21}, "batch_size = 20"), ({"weight_decay": 0.5}, "weight_decay = 0,")):
        with pytest.raises(LandscapeError, match=f"mini-batches with {words}.*--overwrite"):
            run_study(sweep, dataclasses.replace(plan, **change), path)  # type: ignore[arg-type]


def test_mini_batches_that_were_interrupted_go_on(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_WRITES", -1.0)
    path = tmp_path / "x.h5"
    plan = StudyPlan(num_batches=3, batch_size=20, settings=SHARP)

    class Killer(Quiet):
        def product(self, count: int) -> None:
            record = SpectrumFile.open(path).read_batches()
            if record is not None and len(record.values) == 2:
                raise KeyboardInterrupt

    subject = open_subject(run)
    whole = run_study(subject, plan, tmp_path / "whole.h5").read_batches()
    with pytest.raises(KeyboardInterrupt):
        run_study(subject, plan, path, progress=Killer())
    monkeypatch.setattr(runner, "_SECONDS_BETWEEN_WRITES", 20.0)
    record = run_study(subject, plan, path).read_batches()
    assert record is not None
    assert whole is not None
    np.testing.assert_array_equal(record.values, whole.values)
    assert record.num_matvecs == whole.num_matvecs
