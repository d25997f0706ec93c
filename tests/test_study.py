"""A study: the parts it measures, on the right samples, with the right loss; and that resuming repeats nothing."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.runs import files_below, tiny_recipe, write_image_folder
from torch import Tensor

from landscape.curvature import MeasureSettings, Part, measurement
from landscape.errors import LandscapeError
from landscape.losses import effective_number_weights
from landscape.store import SpectrumFile, describe
from landscape.study import Quiet, StudyPlan, Subject, open_subject, run_study, runner
from landscape.training import Recipe, load_checkpoint, train

QUICK = MeasureSettings(num_pairs=1, tol=0.05, max_matvecs=12, num_probes=2, max_probes=2, num_steps=6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two epochs of CE-DRW, the second with class weights; both checkpoints kept."""
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    train(tiny_recipe(loss={"reweight": "drw"}, schedule={"epochs": 2}, run={"save_every": 1}), folder)
    return folder


@pytest.fixture(scope="module")
def subject(run: Path) -> Subject:
    return open_subject(run)


class Recorder(Quiet):
    """Hears what is measured; can stop as Ctrl-C does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.measured: list[str] = []
        self.already: list[str] = []
        self.matvecs = 0
        self.products = 0
        self.stop_at = stop_at

    def cost(self, estimate: Any) -> None:
        self.matvecs = estimate.matvecs

    def part(self, part: Part, number: int, total: int, products: int) -> None:
        if number == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append(part.path)

    def product(self, count: int) -> None:
        self.products += count

    def skipped(self, part: Part, remark: str) -> None:
        self.already.append(part.path)


def logits_of(subject: Subject, images: Tensor) -> Tensor:
    with torch.no_grad():
        return subject.model.float()(subject.normalization(images))


def arrays(path: Path) -> dict[str, Any]:
    """Everything below /spectra except the clock, and which of several runs it was."""
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        found.update({f"{name}@{key}": value for key, value in node.attrs.items() if key not in ("seconds", "run")})
        if isinstance(node, h5py.Dataset):
            found[name] = node[...]

    with h5py.File(path) as file:
        file["spectra"].visititems(visit)
    return found


def assert_same_numbers(first: Path, second: Path) -> None:
    one, two = arrays(first), arrays(second)
    assert sorted(one) == sorted(two)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


# ---------------------------------------------------------------------- which parts


@pytest.mark.parametrize(
    ("choice", "paths"),
    [
        ({}, ["all"]),
        ({"classes": "9,0"}, ["class/0", "class/9"]),
        ({"whole": True, "classes": "4"}, ["all", "class/4"]),
        ({"per_group": True}, ["group/head", "group/mid", "group/tail"]),
        ({"per_layer": True}, ["layer/fc1", "layer/fc2", "layer/head"]),
        ({"layers": ("fc*",)}, ["layer/fc1", "layer/fc2"]),
        ({"classes": "9", "layers": ("head",)}, ["class/9/layer/head"]),
        ({"per_group": True, "layers": ("head", "fc2")},
         [f"group/{g}/layer/{layer}" for g in ("head", "mid", "tail") for layer in ("fc2", "head")]),
        ({"per_group": True, "classes": "1"}, ["group/head", "group/mid", "group/tail", "class/1"]),
    ],
)  # fmt: skip
def test_a_plan_names_its_parts(subject: Subject, tmp_path: Path, choice: dict[str, Any], paths: list[str]) -> None:
    heard = Recorder()
    plan = StudyPlan(**choice, settings=QUICK, max_samples=10)
    file = run_study(subject, plan, tmp_path / "x.h5", progress=heard)
    assert file.complete_parts() == heard.measured == paths
    assert [spectrum.part for spectrum in file.read_all()] == paths


def test_per_class_measures_every_class_under_its_name(tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"ant": 9, "bee": 6, "cat": 3})
    recipe = {"data": {"source": f"folder:{root}"}, "model": {"name": "mlp"}, "schedule": {"epochs": 1}}
    train(Recipe.parse(recipe), tmp_path / "run")
    file = run_study(open_subject(tmp_path / "run"), StudyPlan(per_class=True, settings=QUICK), tmp_path / "x.h5")
    found = [(s.part, s.label, s.num_samples) for s in file.read_all()]
    assert found == [("class/0", "ant", 9), ("class/1", "bee", 6), ("class/2", "cat", 3)]


# ---------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("split", ["train", "test"])
def test_loss_gradient_and_accuracy_are_those_of_the_part(subject: Subject, tmp_path: Path, split: Any) -> None:
    plan = StudyPlan(whole=True, classes="0,9", per_group=True, split=split, dtype="float64", settings=QUICK)
    spectra = {s.part: s for s in run_study(subject, plan, tmp_path / "x.h5").read_all()}
    data = subject.data.split(split)
    counts = subject.data.counts
    assert list(counts) == sorted(counts, reverse=True)
    members = {"all": range(10), "class/0": [0], "class/9": [9], "group/head": range(3), "group/tail": range(7, 10)}
    for part, classes in members.items():
        chosen = torch.isin(data.labels, torch.tensor(list(classes)))
        model = load_checkpoint(subject.path).build_model().double()
        logits = model(subject.normalization(data.images[chosen], dtype=torch.float64))
        loss = F.cross_entropy(logits, data.labels[chosen])
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        assert spectra[part].num_samples == int(chosen.sum())
        assert spectra[part].num_parameters == 8970
        assert spectra[part].saddle.loss == pytest.approx(loss.item(), rel=1e-9)
        assert spectra[part].saddle.gradient_norm == pytest.approx(norm.item(), rel=1e-6)
        right = (logits.argmax(1) == data.labels[chosen]).double().mean().item()
        assert spectra[part].accuracy == pytest.approx(right)


def test_a_class_and_layer_is_a_diagonal_block_of_the_dense_hessian(subject: Subject, tmp_path: Path) -> None:
    settings = MeasureSettings(num_pairs=1, tol=1e-8, max_matvecs=400, num_probes=1, max_probes=1, num_steps=3)
    plan = StudyPlan(classes="5", layers=("head",), dtype="float64", settings=settings)
    (spectrum,) = run_study(subject, plan, tmp_path / "x.h5").read_all()
    model = load_checkpoint(subject.path).build_model().double()
    data = subject.data.train
    images, labels = data.images[data.labels == 5], data.labels[data.labels == 5]
    kept: list[Tensor] = []
    model.head.register_forward_hook(lambda module, inputs, output: kept.append(inputs[0].detach()))
    model(subject.normalization(images, dtype=torch.float64))
    weight, bias = model.head.weight.detach(), model.head.bias.detach()

    def loss(flat: Tensor) -> Tensor:
        w, b = flat[: weight.numel()].view_as(weight), flat[weight.numel() :]
        return F.cross_entropy(F.linear(kept[0], w, b), labels)

    dense = torch.func.hessian(loss)(torch.cat([weight.flatten(), bias]))
    values = torch.linalg.eigvalsh(dense)
    assert spectrum.num_parameters == len(values) == 650
    assert spectrum.saddle.lambda_max == pytest.approx(values[-1].item(), rel=1e-6)
    assert abs(spectrum.saddle.lambda_min - values[0].item()) < 1e-6 * values[-1].item()


def test_a_cosine_head_is_measured_on_scaled_logits(tmp_path: Path) -> None:
    train(tiny_recipe(loss={"name": "ldam", "logit_scale": 20.0}, schedule={"epochs": 1}), tmp_path / "run")
    subject = open_subject(tmp_path / "run")
    assert subject.logit_scale == 20.0
    file = run_study(subject, StudyPlan(dtype="float64", settings=QUICK), tmp_path / "x.h5")
    data = subject.data.train
    cosines = logits_of(subject, data.images)
    assert cosines.abs().max() <= 1 + 1e-6
    expected = F.cross_entropy(20 * cosines, data.labels).item()
    assert file.read_part("all").saddle.loss == pytest.approx(expected, rel=1e-5)
    assert abs(expected - F.cross_entropy(cosines, data.labels).item()) > 0.1
    assert file.meta["logit_scale"] == 20.0


@pytest.mark.parametrize(("checkpoint", "weighted"), [("epoch-0001", False), ("last", True)])
def test_the_training_loss_carries_the_weights_of_its_epoch(
    run: Path, tmp_path: Path, checkpoint: str, weighted: bool
) -> None:
    subject = open_subject(run / f"{checkpoint}.safetensors")
    plan = StudyPlan(whole=True, classes="9", loss="training", dtype="float64", settings=QUICK)
    file = run_study(subject, plan, tmp_path / "x.h5")
    data = subject.data.train
    logits = logits_of(subject, data.images).double()
    weights = effective_number_weights(subject.data.counts, 0.9999)
    expected = F.cross_entropy(logits, data.labels, weight=weights if weighted else None).item()
    other = F.cross_entropy(logits, data.labels, weight=None if weighted else weights).item()
    assert abs(expected - other) > 0.05
    assert file.read_part("all").saddle.loss == pytest.approx(expected, rel=1e-5)
    # On one class the weight cancels.
    plain = F.cross_entropy(logits[data.labels == 9], data.labels[data.labels == 9]).item()
    assert file.read_part("class/9").saddle.loss == pytest.approx(plain, rel=1e-5)


def test_groups_are_those_of_the_training(run: Path, tmp_path: Path) -> None:
    # On all images no class is rare; head, mid and tail are still what they were for the training.
    trained, balanced = open_subject(run), open_subject(run, data={"imbalance": "none"})
    assert len(set(balanced.data.counts)) < len(set(trained.data.counts))
    assert balanced.groups == trained.groups != balanced.data.groups[0]
    file = run_study(balanced, StudyPlan(per_group=True, max_samples=10, settings=QUICK), tmp_path / "x.h5")
    assert list(file.meta["class_groups"]) == [trained.groups.of(label) for label in range(10)]


def test_the_training_loss_belongs_to_the_training_counts(run: Path) -> None:
    # Measured on all images, the weights are still those of the long tail that was trained on.
    balanced = open_subject(run, data={"imbalance": "none"})
    assert balanced.data.counts != balanced.training_counts
    expected = effective_number_weights(open_subject(run).data.counts, 0.9999)
    assert torch.equal(balanced.loss("training").class_weights, expected)  # type: ignore[arg-type]


def test_max_samples_takes_a_seeded_subset_of_every_part(subject: Subject, tmp_path: Path) -> None:
    def losses(name: str, seed: int, **choice: Any) -> dict[str, tuple[int, float]]:
        plan = StudyPlan(**choice, max_samples=15, settings=dataclasses.replace(QUICK, seed=seed))
        file = run_study(subject, plan, tmp_path / f"{name}.h5")
        return {s.part: (s.num_samples, s.saddle.loss) for s in file.read_all()}

    first = losses("a", 0, whole=True, classes="0,9")
    again = losses("b", 0, whole=True, classes="0,9")
    other = losses("c", 1, whole=True, classes="0,9")
    assert first == again
    # Class 9 has 12 images, fewer than asked for.
    assert {part: count for part, (count, _) in first.items()} == {"all": 15, "class/0": 15, "class/9": 12}
    assert first["all"] != other["all"]
    assert first["class/0"] != other["class/0"]
    assert first["class/9"] == pytest.approx(other["class/9"])
    # A layer of a part sees the samples of that part.
    layers = losses("d", 0, classes="0", layers=("head",))
    assert layers["class/0/layer/head"] == first["class/0"]


def test_batch_statistics_are_those_of_the_part(tmp_path: Path) -> None:
    train(tiny_recipe(model={"name": "convnet"}, schedule={"epochs": 1}), tmp_path / "run")
    subject = open_subject(tmp_path / "run")
    plan = StudyPlan(classes="2", batch_norm="batch", chunk_size=1000, dtype="float64", settings=QUICK)
    spectrum = run_study(subject, plan, tmp_path / "x.h5").read_part("class/2")
    data = subject.data.train
    images, labels = data.images[data.labels == 2], data.labels[data.labels == 2]
    model = load_checkpoint(tmp_path / "run").build_model().double()
    inputs = subject.normalization(images, dtype=torch.float64)
    frozen = F.cross_entropy(model(inputs), labels).item()
    logits = model.train()(inputs)
    assert spectrum.saddle.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-9)
    assert spectrum.saddle.loss != pytest.approx(frozen, rel=1e-3)
    assert spectrum.accuracy == pytest.approx((logits.argmax(1) == labels).double().mean().item())


def test_the_file_says_what_was_measured(run: Path, subject: Subject, tmp_path: Path) -> None:
    plan = StudyPlan(classes="9", settings=QUICK, max_samples=5)
    file = run_study(subject, plan, tmp_path / "x.h5", command="landscape spectrum …")
    meta = file.meta
    assert meta["checkpoint_sha256"] == load_checkpoint(run).sha256
    assert meta["dataset_fingerprint"] == subject.data.train.fingerprint()
    assert Recipe.parse(Recipe.load(run / "recipe.toml")).to_toml() == meta["recipe"]
    expected = {
        "model": "mlp", "epoch": 2, "split": "train", "loss": "ce", "dtype": "float32", "batch_norm": "eval",
        "max_samples": 5, "seed": 0, "imbalance": "exp:10", "normalize": "0.5/0.5", "num_parameters": 8970,
        "num_steps": 6, "logit_scale": 1.0,
    }  # fmt: skip
    assert {key: meta[key] for key in expected} == expected
    assert list(meta["class_counts"]) == list(subject.data.counts)
    assert meta["class_names"] == list(subject.data.class_names)
    assert list(file.runs()) == [1]
    run_record = file.runs()[1]
    assert (run_record["command"], run_record["source"]) == ("landscape spectrum …", "digits")
    assert run_record["torch_version"] == str(torch.__version__)
    assert not set(run_record) & set(meta)


def documented_entries(heading: str) -> tuple[set[str], set[str]]:
    """What a section of the schema page lists, and what of it is marked †."""
    page = (Path(__file__).parents[1] / "docs" / "schema.md").read_text(encoding="utf-8")
    section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    documented, decisive = set(), set()
    for row in (line for line in section.splitlines() if line.startswith("| `")):
        cell = row.split("|")[1]
        names = re.findall(r"`(\w+)`", cell)
        documented.update(names)
        decisive.update(names if "†" in cell else [])
    return documented, decisive


def test_the_schema_page_names_every_entry_of_runs(measured: Path) -> None:
    assert documented_entries("`/runs`: one group a command") == (set(SpectrumFile.open(measured).runs()[1]), set())


def test_the_schema_page_names_every_entry_of_meta_and_those_that_must_agree(measured: Path) -> None:
    documented, decisive = documented_entries("`/meta`")
    sweep = {"epochs", "checkpoints", "checkpoints_sha256"}
    assert documented == set(SpectrumFile.open(measured).meta) | sweep
    assert decisive == {*runner.DECISIVE, "checkpoint_sha256", "checkpoints_sha256", "recipe"}


# ---------------------------------------------------------------------- resuming


def test_a_killed_study_goes_on_with_the_missing_parts_and_the_same_numbers(subject: Subject, tmp_path: Path) -> None:
    plan = StudyPlan(whole=True, classes="0,5,9", settings=QUICK, keep_vectors=True)
    whole = Recorder()
    run_study(subject, plan, tmp_path / "whole.h5", progress=whole)
    with pytest.raises(KeyboardInterrupt):
        run_study(subject, plan, tmp_path / "broken.h5", progress=Recorder(stop_at=2))
    assert SpectrumFile.open(tmp_path / "broken.h5").complete_parts() == ["all", "class/0"]
    rest = Recorder()
    run_study(subject, plan, tmp_path / "broken.h5", progress=rest)
    assert rest.already == ["all", "class/0"]
    assert rest.measured == ["class/5", "class/9"]
    assert rest.matvecs * 2 == whole.matvecs
    assert 0 < rest.products < whole.products
    assert_same_numbers(tmp_path / "whole.h5", tmp_path / "broken.h5")
    # Complete: nothing is computed, nothing is written.
    before = (tmp_path / "broken.h5").read_bytes()
    idle = Recorder()
    run_study(subject, plan, tmp_path / "broken.h5", progress=idle)
    assert (idle.measured, idle.products) == ([], 0)
    assert (tmp_path / "broken.h5").read_bytes() == before


def test_a_file_of_two_commands_says_which_made_what(subject: Subject, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    batches = {"num_batches": 2, "batch_size": 20}
    with pytest.raises(KeyboardInterrupt):
        run_study(subject, StudyPlan(classes="0,5,9", settings=QUICK), path, command="A", progress=Recorder(stop_at=2))
    # Neither a run that finds nothing to do nor one that is stopped before its first part is among them.
    run_study(subject, StudyPlan(classes="0,5", settings=QUICK), path, command="idle")
    with pytest.raises(KeyboardInterrupt):
        run_study(subject, StudyPlan(classes="9", settings=QUICK), path, command="B", progress=Recorder(stop_at=0))
    plan = StudyPlan(classes="0,5,9", settings=QUICK, chunk_size=50, **batches)  # type: ignore[arg-type]
    run_study(subject, plan, path, command="C")
    file = run_study(subject, dataclasses.replace(plan, num_batches=3), path, command="D")
    assert {number: run["command"] for number, run in file.runs().items()} == {1: "A", 2: "C", 3: "D"}
    assert [run["chunk_size"] for run in file.runs().values()] == [0, 50, 50]
    assert {part: known.run for part, known in file.summaries().items()} == {"class/0": 1, "class/5": 1, "class/9": 2}
    with h5py.File(path) as stored:
        assert stored["spectra/batches/run"][...].tolist() == [2, 2, 3]
    rows = describe(path)
    assert [value for label, value in rows if label == "  made"] == [
        "class/0, class/5",
        "class/9, 2 of batches",
        "1 of batches",
    ]


def test_a_part_does_not_depend_on_the_others(subject: Subject, tmp_path: Path) -> None:
    run_study(subject, StudyPlan(classes="0,9", settings=QUICK), tmp_path / "both.h5")
    run_study(subject, StudyPlan(classes="9", settings=QUICK), tmp_path / "one.h5")
    run_study(subject, StudyPlan(classes="0", settings=QUICK), tmp_path / "one.h5")
    assert_same_numbers(tmp_path / "both.h5", tmp_path / "one.h5")


@pytest.fixture(scope="module")
def measured(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("measured") / "x.h5"
    run_study(subject, StudyPlan(classes="9", settings=QUICK), path)
    return path


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("split", {"split": "test"}),
        ("loss", {"loss": "training"}),
        ("dtype", {"dtype": "float64"}),
        ("max_samples", {"max_samples": 7}),
        ("num_pairs", {"settings": dataclasses.replace(QUICK, num_pairs=2)}),
        ("tol", {"settings": dataclasses.replace(QUICK, tol=0.01)}),
        ("max_matvecs", {"settings": dataclasses.replace(QUICK, max_matvecs=20)}),
        ("num_probes", {"settings": dataclasses.replace(QUICK, num_probes=1)}),
        ("max_probes", {"settings": dataclasses.replace(QUICK, max_probes=3)}),
        ("target", {"settings": dataclasses.replace(QUICK, target=0.2)}),
        ("num_steps", {"settings": dataclasses.replace(QUICK, num_steps=4)}),
        ("num_trace_probes", {"settings": dataclasses.replace(QUICK, num_trace_probes=3)}),
        ("seed", {"settings": dataclasses.replace(QUICK, seed=1)}),
        ("radius", {"settings": dataclasses.replace(QUICK, radius=0.1)}),
    ],
)
def test_another_setting_is_refused_and_named(
    subject: Subject, measured: Path, key: str, change: dict[str, Any]
) -> None:
    before = measured.read_bytes()
    plan = dataclasses.replace(StudyPlan(classes="0", settings=QUICK), **change)
    with pytest.raises(LandscapeError) as caught:
        run_study(subject, plan, measured)
    # The test split is other images too; whichever is named first is the reason.
    assert f"with {key} = " in str(caught.value) or (key == "split" and "dataset_fingerprint" in str(caught.value))
    assert "--overwrite" in str(caught.value)
    assert measured.read_bytes() == before


def test_every_setting_of_a_measurement_is_tried_above() -> None:
    tried = {"num_pairs", "tol", "max_matvecs", "num_probes", "max_probes", "target", "num_steps", "num_trace_probes"}
    tried |= {"seed", "radius"}
    assert {field.name for field in dataclasses.fields(MeasureSettings)} == tried


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("dataset_fingerprint", {"imbalance": "exp:5"}),
        ("dataset_fingerprint", {"draw_seed": 1}),
        ("normalize", {"normalize": "none"}),
    ],
)
def test_other_data_are_refused_and_named(run: Path, measured: Path, key: str, data: dict[str, Any]) -> None:
    with pytest.raises(LandscapeError, match=f"with {key} = "):
        run_study(open_subject(run, data=data), StudyPlan(classes="0", settings=QUICK), measured)


def test_another_checkpoint_is_refused_and_named(run: Path, measured: Path) -> None:
    with pytest.raises(LandscapeError, match="with checkpoint_sha256 = "):
        run_study(open_subject(run / "epoch-0001.safetensors"), StudyPlan(classes="0", settings=QUICK), measured)


def test_other_class_sizes_are_refused_on_one_test_split_too(run: Path, tmp_path: Path) -> None:
    # The test images are the same, but which classes are head and tail is not.
    plan = StudyPlan(per_group=True, split="test", settings=QUICK, max_samples=5)
    run_study(open_subject(run), plan, tmp_path / "x.h5")
    with pytest.raises(LandscapeError, match="with class_counts = "):
        run_study(open_subject(run, data={"imbalance": "none"}), plan, tmp_path / "x.h5")


def test_overwrite_starts_again(subject: Subject, tmp_path: Path) -> None:
    run_study(subject, StudyPlan(classes="9", settings=QUICK), tmp_path / "x.h5")
    plan = StudyPlan(classes="0", dtype="float64", settings=QUICK)
    assert run_study(subject, plan, tmp_path / "x.h5", overwrite=True).complete_parts() == ["class/0"]


# ---------------------------------------------------------------------- foreign checkpoints

FACTORIES = """
import torch
from torch import nn
from landscape.models import build_model

def mlp():
    return build_model("mlp", num_classes=10, in_channels=1, image_size=8)

class Tanh(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp()
    def state_dict(self, *args, **kwargs):
        return self.net.state_dict(*args, **kwargs)
    def load_state_dict(self, state, strict=True):
        return self.net.load_state_dict(state, strict)
    def forward(self, x):
        return torch.tanh(self.net(x))

def five():
    return build_model("mlp", num_classes=5, in_channels=1, image_size=8)

def cosine():
    return build_model("mlp", num_classes=10, in_channels=1, image_size=8, head="cosine")

class Summing(Tanh):
    def forward(self, x):
        return torch.cumsum(self.net(x), 1)

def coloured():
    return build_model("mlp", num_classes=10, in_channels=3, image_size=8)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


DIGITS = {"source": "digits", "imbalance": "exp:10", "normalize": "0.5/0.5"}


def test_a_foreign_checkpoint_gives_the_numbers_of_its_own(
    run: Path, subject: Subject, tmp_path: Path, factories: str
) -> None:
    state = {f"module.{name}": tensor for name, tensor in load_checkpoint(run).state.items()}
    torch.save({"state_dict": state, "epoch": 2}, tmp_path / "theirs.pth")
    plan = StudyPlan(classes="0,9", settings=QUICK)
    foreign = open_subject(tmp_path / "theirs.pth", model=f"{factories}:mlp", data=DIGITS)
    run_study(subject, plan, tmp_path / "ours.h5")
    meta = run_study(foreign, plan, tmp_path / "theirs.h5").meta
    assert_same_numbers(tmp_path / "ours.h5", tmp_path / "theirs.h5")
    assert (meta["recipe"], meta["epoch"], meta["model"]) == ("", -1, f"{factories}:mlp")
    with pytest.raises(LandscapeError, match="--loss ce"):
        run_study(foreign, dataclasses.replace(plan, loss="training"), tmp_path / "z.h5")
    assert not (tmp_path / "z.h5").exists()
    # The same file read as another network is another question.
    other = open_subject(tmp_path / "theirs.pth", model=f"{factories}:Tanh", data=DIGITS)
    with pytest.raises(LandscapeError, match="with model = "):
        run_study(other, plan, tmp_path / "theirs.h5")


def test_a_model_that_cannot_be_traced_and_a_density_without_memory_are_said(
    run: Path, tmp_path: Path, factories: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_checkpoint(run).state, tmp_path / "theirs.pth")
    subject = open_subject(tmp_path / "theirs.pth", model=f"{factories}:Summing", data=DIGITS)
    # Room for seven vectors: enough for the search, too few for six steps beside two outliers.
    monkeypatch.setattr(measurement, "free_memory", lambda device: 4 * 7 * 4 * 8970)
    settings = dataclasses.replace(QUICK, tol=1e-3, max_matvecs=60)
    file = run_study(subject, StudyPlan(classes="0,9", settings=settings), tmp_path / "x.h5")
    for part in file.read_all():
        assert (part.engine, part.untraced_reason) == ("double-backward", "not known to be traceable: cumsum")
        assert part.density.deflated.size >= 2
        assert part.density.reorthogonalized is False
    rows = dict(describe(file.path))
    assert rows["  not traced"] == "class/0, class/9: not known to be traceable: cumsum"
    assert rows["two-vector densities"].startswith("class/0, class/9: ")


def test_the_scale_of_a_foreign_cosine_head_is_said_and_kept(tmp_path: Path, factories: str) -> None:
    train(tiny_recipe(loss={"name": "ldam", "logit_scale": 20.0}, schedule={"epochs": 1}), tmp_path / "run")
    own = open_subject(tmp_path / "run")
    torch.save(load_checkpoint(tmp_path / "run").state, tmp_path / "theirs.pt")
    plan = StudyPlan(classes="0", settings=QUICK)
    run_study(own, plan, tmp_path / "ours.h5")

    def foreign(scale: float | None) -> Subject:
        named = f"{factories}:cosine"
        return open_subject(tmp_path / "theirs.pt", model=named, data=DIGITS, logit_scale=scale)

    assert run_study(foreign(20.0), plan, tmp_path / "theirs.h5").meta["logit_scale"] == 20.0
    assert_same_numbers(tmp_path / "ours.h5", tmp_path / "theirs.h5")
    with pytest.raises(LandscapeError, match=r"logit_scale = 20\.0, this run has logit_scale = 1\.0"):
        run_study(foreign(None), plan, tmp_path / "theirs.h5")
    with pytest.raises(LandscapeError, match=r"logit scale -1: .* positive"):
        foreign(-1.0)
    with pytest.raises(LandscapeError, match="knows its own scale"):
        open_subject(tmp_path / "run", logit_scale=20.0)


@pytest.mark.parametrize(
    ("factory", "data", "words"),
    [
        ("mlp", {"source": "digits"}, "give --normalize"),
        ("mlp", {"normalize": "none"}, "give --data"),
        ("five", DIGITS, r"does not fit the model.*head\.bias is \(10,\)"),
        ("nothing", DIGITS, "has no 'nothing'"),
        ("coloured", DIGITS, r"fc1\.weight is \(64, 64\), the model wants \(64, 192\)"),
        ("mlp", {**DIGITS, "normalize": "cifar"}, "3 channels"),
        ("mlp", {**DIGITS, "source": "digit"}, "did you mean 'digits'"),
    ],
)
def test_what_does_not_fit_a_foreign_checkpoint_is_named(
    run: Path, factories: str, factory: str, data: dict[str, Any], words: str
) -> None:
    with pytest.raises(LandscapeError, match=words):
        open_subject(run / "last.safetensors", model=f"{factories}:{factory}", data=data)


@pytest.mark.parametrize(
    ("factory", "words"),
    [("five", r"answers 1 image with shape \(1, 5\).*10 classes"), ("coloured", "Mlp cannot take images of 1×8×8")],
)
def test_a_model_for_other_data_is_refused(tmp_path: Path, factories: str, factory: str, words: str) -> None:
    module = __import__(factories)
    torch.save(getattr(module, factory)().state_dict(), tmp_path / "net.pt")
    with pytest.raises(LandscapeError, match=words) as caught:
        open_subject(tmp_path / "net.pt", model=f"{factories}:{factory}", data=DIGITS)
    assert "\n" not in str(caught.value)


def test_data_with_other_classes_are_refused(run: Path, tmp_path: Path) -> None:
    root = write_image_folder(tmp_path / "images", {"ant": 2, "bee": 2})
    with pytest.raises(LandscapeError, match=r"trained on 10 classes, .* has 2.*--data"):
        open_subject(run, data={"source": f"folder:{root}", "imbalance": "none"})


def test_a_relative_folder_starts_where_the_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the root of the training, which may be on another machine."""
    recipe = {"model": {"name": "mlp"}, "schedule": {"epochs": 1}}
    root = write_image_folder(tmp_path / "then" / "images", {"ant": 4, "bee": 3})
    train(Recipe.parse({"data": {"source": f"folder:{root}"}, **recipe}), tmp_path / "run")
    (tmp_path / "then").rename(tmp_path / "now")
    monkeypatch.chdir(tmp_path / "now")
    assert open_subject(tmp_path / "run", data={"source": "folder:images"}).data.counts == (4, 3)


def test_data_with_the_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    """The labels would mean other outputs, and every accuracy and curvature would be that of another class."""
    recipe = {"model": {"name": "mlp"}, "schedule": {"epochs": 1}}
    root = write_image_folder(tmp_path / "images", {"ant": 4, "bee": 3, "cat": 2})
    train(Recipe.parse({"data": {"source": f"folder:{root}"}, **recipe}), tmp_path / "run")
    other = write_image_folder(tmp_path / "other", {"bee": 3, "cat": 4, "dog": 2})
    with pytest.raises(LandscapeError, match=r"class 'bee' is output 1 of .* but class 0 of"):
        open_subject(tmp_path / "run", data={"source": f"folder:{other}"})
    renamed = write_image_folder(tmp_path / "renamed", {"a": 3, "b": 4, "c": 2})
    assert open_subject(tmp_path / "run", data={"source": f"folder:{renamed}"}).data.class_names == ("a", "b", "c")


def test_unknown_classes_and_layers_name_the_nearest_and_write_nothing(subject: Subject, tmp_path: Path) -> None:
    for choice, words in (
        ({"classes": "zero"}, "unknown class 'zero'"),
        ({"classes": "10"}, "class 10 does not exist"),
        ({"layers": ("haed",)}, "no layer matches 'haed'; did you mean 'head'"),
    ):
        with pytest.raises(LandscapeError, match=words):
            run_study(subject, StudyPlan(**choice, settings=QUICK), tmp_path / "x.h5")  # type: ignore[arg-type]
    assert files_below(tmp_path) == {}
