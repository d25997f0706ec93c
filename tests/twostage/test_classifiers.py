"""Second stages on features made up for the test: each method against what it says it computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import LandscapeError
from landscape.models import LearnedCosineHead, make_head
from landscape.store.features_file import FeaturesFile, FeatureWriter
from landscape.twostage import SecondStage, head_of, nearest_table, on_sphere, two_stage_settings
from landscape.twostage.classifiers import TauNorm, choose_tau, fit, held_out
from landscape.twostage.distributions import balancing_seeds
from landscape.twostage.second_stage import _GeneratedEpochs

COUNTS = (60, 20, 6)
WIDTH = 8
QUICK = {"epochs": 2, "batch_size": 32}


def features_of(counts: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.rand(len(counts), WIDTH, generator=torch.Generator().manual_seed(9))
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return (centres[labels] + 0.6 * torch.randn(len(labels), WIDTH, generator=generator)).relu(), labels


def write_features(
    path: Path,
    counts: tuple[int, ...] = COUNTS,
    *,
    head: torch.nn.Module | None = None,
    kind: str = "linear",
    shift: float = 0.0,
    logit_scale: float = 1.0,
) -> FeaturesFile:
    """A features file of a made-up checkpoint with this head; ``shift`` is added to every feature."""
    torch.manual_seed(0)
    head = head or make_head(kind, WIDTH, len(counts))
    meta: dict[str, Any] = {
        "checkpoint": "x", "checkpoint_sha256": "0", "model": "m", "recipe": "", "epoch": 4, "layer": "head",
        "source": "digits", "imbalance": "exp:10", "class_names": [f"c{i}" for i in range(len(counts))],
        "class_counts": list(counts),
    }  # fmt: skip
    stored = {"kind": kind, "logit_scale": logit_scale, **{name: t.numpy() for name, t in head.state_dict().items()}}
    with FeaturesFile.writing(path, meta, stored) as file:
        for name, sizes, seed in (("train", counts, 1), ("test", (30,) * len(counts), 2)):
            features, labels = features_of(sizes, seed)
            features = features + shift
            writer = FeatureWriter(file.create_group(name), len(labels))
            with torch.no_grad():
                predicted = head(features).argmax(1)
            for rows in torch.arange(len(labels)).split(50):
                writer.add(features[rows].numpy(), labels[rows].numpy(), predicted[rows].numpy())
            writer.check_full()
    return FeaturesFile.open(path)


def _rows_in(rows: Tensor, among: Tensor) -> Tensor:
    return (rows[:, None] == among).all(2).any(1)


def stage_of(file: FeaturesFile, method: str, **given: Any) -> SecondStage:
    return SecondStage(file, two_stage_settings(method, file.class_counts, first_epochs=4, **given))  # type: ignore[arg-type]


# ---------------------------------------------------------------------- generated epochs


@pytest.mark.parametrize("method", ["tailcalibx", "tailcalib", "modals"])
def test_an_epoch_has_every_class_equally_often_and_all_real_features(method: str, tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5"), method, **QUICK)
    epochs = _GeneratedEpochs(stage, torch.Generator().manual_seed(0))
    first, second = (list(epochs.epoch(n, torch.Generator().manual_seed(n))) for n in (0, 1))
    inputs, labels = (torch.cat(column) for column in zip(*first, strict=True))
    assert torch.bincount(labels).tolist() == [60, 60, 60]
    torch.testing.assert_close(inputs.norm(dim=1), torch.ones(180))
    # Every real feature once, bit for bit.
    assert _rows_in(stage.inputs, inputs).all()
    again = torch.cat([batch for batch, _ in second])
    moved = (~_rows_in(inputs, again)).sum()
    assert (moved == 0) if method == "tailcalib" else (moved == 180 - 86)  # drawn once, or anew
    assert epochs.kept is not None
    assert torch.equal(stage.labels[epochs.kept.seeds], epochs.kept.labels)
    assert torch.bincount(epochs.kept.labels, minlength=3).tolist() == [0, 40, 54]


def test_the_points_that_are_kept_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5"), "tailcalibx", **QUICK)
    epochs = _GeneratedEpochs(stage, torch.Generator().manual_seed(0))
    first, last = (torch.cat([batch for batch, _ in epochs.epoch(n, torch.Generator().manual_seed(n))]) for n in (0, 1))
    assert epochs.kept is not None
    assert _rows_in(epochs.kept.features, last).all()
    assert not _rows_in(epochs.kept.features, first).any()


def test_legacy_drops_the_last_batch_keeps_its_rate_and_normalises_over_classes(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    right, legacy = (stage_of(file, "tailcalibx", legacy=flag, power=0.9, **QUICK) for flag in (False, True))
    sizes = [
        [
            len(batch)
            for batch, _ in _GeneratedEpochs(stage, torch.Generator().manual_seed(0)).epoch(0, torch.Generator())
        ]
        for stage in (right, legacy)
    ]
    assert sizes == [[32] * 5 + [20], [32] * 5]
    assert [stage.steps_per_epoch for stage in (right, legacy)] == [6, 5]
    heads = [stage._new_classifier(0) for stage in (right, legacy)]
    assert [head.legacy for head in heads if isinstance(head, LearnedCosineHead)] == [False, True]
    rates: dict[bool, list[float]] = {False: [], True: []}
    plain_step = torch.optim.SGD.step
    for stage in (right, legacy):

        def step(self: torch.optim.SGD, kept: list[float] = rates[stage.settings.legacy]) -> Any:
            kept.append(self.param_groups[0]["lr"])
            return plain_step(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.SGD, "step", step)
            stage.run(0)
    assert rates[False] == pytest.approx([0.01] * 6 + [0.005] * 6)  # cosine, stepped after an epoch
    assert rates[True] == pytest.approx([0.01] * 10)
    # Published: statistics of features before the ladder, seeds after it.
    raw = F.normalize(torch.from_numpy(file.read("train").features))
    torch.testing.assert_close(legacy.distributions.means[2], raw[legacy.labels == 2].mean(0))
    torch.testing.assert_close(right.distributions.means[2], raw.pow(0.9)[right.labels == 2].mean(0))


def test_test_features_go_through_the_same_transform(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    stage = stage_of(file, "tailcalibx", power=0.5)
    torch.testing.assert_close(stage.test_inputs, on_sphere(torch.from_numpy(file.read("test").features), 0.5))
    torch.testing.assert_close(stage.inputs, on_sphere(torch.from_numpy(file.read("train").features), 0.5))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("power", [0.0, 3.0])
def test_neighbours_and_means_of_real_features_by_hand(power: float, legacy: bool, tmp_path: Path) -> None:
    """‖μ_k − x̃‖ with x̃ behind the ladder and not at length 1; μ of the same features, or of those before it."""
    file = write_features(tmp_path / "f.h5")
    stage = stage_of(file, "tailcalibx", power=power, neighbors=2, legacy=legacy)
    train = file.read("train")
    unit = train.features.astype(float) / np.linalg.norm(train.features, axis=1, keepdims=True)
    moved = np.log(unit + 1e-6) if power == 0 else unit**power
    base = unit if legacy else moved
    means = np.stack([base[train.labels == label].mean(0) for label in range(3)])
    nearest = np.linalg.norm(moved[:, None] - means, axis=2).argsort(1)[:, :2]
    np.testing.assert_array_equal(np.sort(stage.calibration.neighbors.numpy()), np.sort(nearest))
    expected = (means[nearest].sum(1) + moved) / 3
    found = stage.calibration.means(stage.seeds, torch.arange(len(moved)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_modals_moves_a_feature_by_a_share_of_its_classs_deviation(tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5"), "modals", noise=0.5)
    for label in range(3):
        expected = stage.seeds[stage.labels == label].std(0)
        torch.testing.assert_close(stage.deviations[label], expected, rtol=1e-4, atol=1e-6)
    index = balancing_seeds(stage.labels, 3, torch.Generator().manual_seed(1))
    drawn = _GeneratedEpochs(stage, torch.Generator())._draw(index, torch.Generator().manual_seed(2))
    noise = torch.randn(len(index), WIDTH, generator=torch.Generator().manual_seed(2))
    deviations = torch.stack([stage.seeds[stage.labels == label].std(0) for label in range(3)])
    expected = stage.seeds[index] + 0.5 * deviations[stage.labels[index]] * noise
    torch.testing.assert_close(drawn, F.normalize(expected), rtol=1e-4, atol=1e-5)


def test_modals_leaves_tukeys_ladder_out(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    stage = stage_of(file, "modals", table="10")  # whose λ is 0.9
    torch.testing.assert_close(stage.inputs, F.normalize(torch.from_numpy(file.read("train").features)))
    torch.testing.assert_close(stage.test_inputs, F.normalize(torch.from_numpy(file.read("test").features)))


def test_a_class_of_one_has_the_pooled_deviation(tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5", (20, 5, 1)), "modals")
    pooled = torch.stack([stage.seeds[stage.labels == label].var(0) for label in (0, 1)]).mean(0).sqrt()
    torch.testing.assert_close(stage.deviations[2], pooled, rtol=1e-4, atol=1e-6)


def test_a_singleton_class_is_trained_and_evaluated(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5", (20, 5, 1))
    for method in ("tailcalibx", "modals", "crt", "ncm"):
        outcome = stage_of(file, method, **({} if method == "ncm" else QUICK)).run(0)
        assert sum(outcome.result.total) == 90
        assert all(tensor.isfinite().all() for tensor in outcome.classifier.values())


# ---------------------------------------------------------------------- seeds and accuracy


def test_a_seed_gives_one_outcome_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5"), "tailcalibx", **QUICK)
    state = torch.get_rng_state()
    first, other, again = stage.run(0), stage.run(1), stage.run(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first.classifier[name], again.classifier[name]) for name in first.classifier)
    assert not torch.equal(first.classifier["weight"], other.classifier["weight"])


def test_the_classifiers_separate_what_is_separable_and_help_the_tail(tmp_path: Path) -> None:
    biased = torch.nn.Linear(WIDTH, 3)
    with torch.no_grad():
        biased.bias[:] = torch.tensor([40.0, 0.0, 0.0])  # calls everything the head class
    file = write_features(tmp_path / "f.h5", head=biased)
    for method in ("tailcalibx", "tailcalib", "modals", "crt", "ncm"):
        stage = stage_of(file, method, **({} if method == "ncm" else {"epochs": 12, "batch_size": 16}))
        assert stage.before.per_class == (1.0, 0.0, 0.0)
        after = stage.run(0).result.per_class
        assert min(after) > 0.6, (method, after)


def test_a_second_stage_on_balanced_data_generates_nothing(tmp_path: Path) -> None:
    outcome = stage_of(write_features(tmp_path / "f.h5", (20, 20, 20)), "tailcalibx", **QUICK).run(0)
    assert outcome.generated is not None
    assert len(outcome.generated.labels) == 0


def test_training_is_sgd_by_its_formula(tmp_path: Path) -> None:
    """v ← m·v + ∇L + d·w, w ← w − lr_e·v with lr_e = ½ lr (1 + cos(π e/E)), on one batch an epoch."""
    settings = two_stage_settings("crt", COUNTS, epochs=4, lr=0.3, momentum=0.8, weight_decay=0.05)
    features, labels = features_of(COUNTS, 3)
    inputs, classifier = features.double(), torch.nn.Linear(WIDTH, 3, bias=False).double()
    weight = classifier.weight.detach().clone()
    velocity = torch.zeros_like(weight)
    fit(classifier, lambda *_: iter([(inputs, labels)]), settings, torch.Generator(), lambda: None)
    for epoch in range(4):
        residual = (inputs @ weight.T).softmax(1) - F.one_hot(labels, 3)
        velocity = 0.8 * velocity + residual.T @ inputs / len(labels) + 0.05 * weight
        weight -= 0.5 * 0.3 * (1 + np.cos(np.pi * epoch / 4)) * velocity
    torch.testing.assert_close(classifier.weight.detach(), weight, rtol=1e-10, atol=1e-12)


# ---------------------------------------------------------------------- baselines


def test_lws_scales_cosines_as_the_training_loss_did(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5", kind="cosine", logit_scale=30.0)
    stage = stage_of(file, "lws", epochs=1)
    raw = torch.from_numpy(file.read("train").features)
    torch.testing.assert_close(stage.inputs, 30 * head_of(file.head)(raw).detach())


def test_lws_learns_scales_on_the_checkpoints_logits(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    stage = stage_of(file, "lws", epochs=1)
    head = head_of(file.head)
    raw = torch.from_numpy(file.read("test").features)
    torch.testing.assert_close(stage.test_inputs, head(raw).detach())
    outcome = stage.run(0)
    assert list(outcome.classifier) == ["scales"]
    assert not torch.equal(outcome.classifier["scales"], torch.ones(3))
    predicted = (outcome.classifier["scales"] * head(raw)).argmax(1)
    labels = torch.from_numpy(file.read("test").labels)
    assert outcome.result.accuracy == pytest.approx(float((predicted == labels).float().mean()))


def test_tau_norm_divides_by_a_power_of_the_length() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    torch.testing.assert_close(TauNorm(weight, 0.0).weight.detach(), weight)
    torch.testing.assert_close(TauNorm(weight, 1.0).weight.detach(), torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    torch.testing.assert_close(TauNorm(weight, 0.5).weight.detach()[0], weight[0] / 5**0.5)


def test_tau_is_the_best_on_the_share_and_the_least_of_several() -> None:
    weight = torch.tensor([[10.0, 0.0], [0.0, 1.0]])
    features, labels = torch.tensor([[1.0, 0.1], [0.5, 1.0]]), torch.tensor([0, 1])
    tau = choose_tau(weight, features, labels)
    assert tau == 0.7  # 10^(1−τ)·0.5 < 1 from τ = 0.70 on
    assert choose_tau(weight, features[:1], labels[:1]) == 0.0
    # Classes count alike: two of ten head images may be lost for the only one of the tail.
    many = torch.cat([features[:1].expand(8, -1), features[1:].expand(3, -1)])
    assert choose_tau(weight, many, torch.tensor([0] * 10 + [1])) == 0.7


def test_tau_is_chosen_without_the_test_features(tmp_path: Path) -> None:
    features, labels = features_of((50, 50, 50), 4)
    means = F.normalize(torch.stack([features[labels == label].mean(0) for label in range(3)]))
    long = torch.nn.Linear(WIDTH, 3)
    with torch.no_grad():
        long.weight.copy_(means * torch.tensor([[30.0], [5.0], [1.0]]))
    stage = stage_of(write_features(tmp_path / "f.h5", head=long), "tau-norm")
    chosen = stage.run(0).tau
    assert chosen is not None
    assert chosen > 0
    stage.test_inputs, stage.test_labels = -stage.test_inputs, stage.test_labels.flip(0)
    assert stage.run(0).tau == chosen


def test_the_held_out_share_has_some_of_every_class() -> None:
    _, labels = features_of((50, 10, 1), 0)
    chosen = held_out(labels, 0.2, torch.Generator().manual_seed(0))
    assert torch.bincount(labels[chosen]).tolist() == [10, 2, 1]
    assert len(chosen.unique()) == len(chosen)


def test_tau_norm_needs_class_vectors_with_lengths(tmp_path: Path) -> None:
    with pytest.raises(LandscapeError, match=r"tau-norm.*'learned-cosine'.*linear head"):
        stage_of(write_features(tmp_path / "f.h5", kind="learned-cosine"), "tau-norm")


@pytest.mark.parametrize("distance", ["cosine", "l2"])
def test_ncm_is_the_nearest_mean(distance: str, tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    train, test = file.read("train"), file.read("test")
    means = np.stack([train.features[train.labels == label].mean(0) for label in range(3)])
    if distance == "l2":
        predicted = np.linalg.norm(test.features[:, None] - means, axis=2).argmin(1)
    else:
        predicted = (test.features @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(1)
    stage = stage_of(file, "ncm", distance=distance)
    assert not stage.is_seeded
    assert stage.run(0).result.accuracy == pytest.approx((predicted == test.labels).mean())


def test_resampling_draws_classes_equally_often(tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5"), "crt")
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([labels for n in range(100) for _, labels in stage._resampled(n, generator)])
    shares = torch.bincount(drawn).double() / len(drawn)
    assert len(drawn) == 100 * sum(COUNTS)
    assert ((shares - 1 / 3).abs() < 5 * (2 / 9 / len(drawn)) ** 0.5).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", ["tailcalibx", "tailcalib", "modals", "crt", "lws", "tau-norm", "ncm"])
def test_a_gpu_comes_to_the_accuracy_of_the_cpu(method: str, tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    trained = {} if method in ("tau-norm", "ncm") else {"epochs": 20, "batch_size": 16}
    settings = two_stage_settings(method, file.class_counts, **trained)  # type: ignore[arg-type]
    here, there = (SecondStage(file, settings, device).run(0) for device in ("cpu", "cuda"))
    # Another generator draws other points, so trained classifiers agree in what they learn and not in every image.
    tolerance = 0.0 if method == "ncm" else 0.08
    assert there.result.accuracy == pytest.approx(here.result.accuracy, abs=tolerance)


# ---------------------------------------------------------------------- nearest classes


def test_nearest_classes_are_those_of_the_nearest_training_features(tmp_path: Path) -> None:
    stage = stage_of(write_features(tmp_path / "f.h5"), "tailcalibx")
    index = stage.some_real(4)
    assert torch.bincount(stage.labels[index]).tolist() == [4, 4, 4]
    itself = stage.nearest(stage.inputs[index])
    assert torch.equal(itself.sample, stage.labels[index])
    distances = torch.cdist(stage.inputs[index], stage.inputs)
    distances[torch.arange(len(index)), index] = torch.inf
    assert torch.equal(stage.nearest(stage.inputs[index], without=index).sample, stage.labels[distances.argmin(1)])
    means = torch.stack([stage.inputs[stage.labels == label].mean(0) for label in range(3)])
    angles = F.cosine_similarity(stage.inputs[index][:, None], means, dim=2)
    assert torch.equal(itself.mean, angles.argmax(1))
    assert len(itself.mean.unique()) > 1


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("counts", "source", "expected"),
    [
        ((5000, 50), "cifar10", ("100", 1.0, 0.0, 3, 0.7)),
        ((500, 11), "cifar100", ("50", 0.9, 0.2, 3, 0.0)),
        ((500, 50), "cifar100", ("10", 0.9, 0.0, 2, 0.9)),
        ((500, 5), "mini-imagenet", ("mini-imagenet-lt", 1.0, 0.0, 3, 0.7)),
        ((500, 499), "cifar100", ("10", 0.9, 0.0, 2, 0.9)),
    ],
)
def test_published_constants_by_imbalance(counts: tuple[int, ...], source: str, expected: tuple[Any, ...]) -> None:
    settings = two_stage_settings("tailcalibx", counts, source=source)
    found = (settings.table, settings.power, settings.alpha, settings.neighbors, settings.momentum)
    assert found == expected
    assert (settings.lr, settings.weight_decay, settings.batch_size, settings.epochs) == (0.01, 5e-4, 128, 150)
    assert nearest_table(counts, source) == expected[0]


def test_what_is_given_wins_and_what_means_nothing_is_refused() -> None:
    given = two_stage_settings("tailcalibx", (100, 1), table="10", power=0.5, epochs=3, first_epochs=24)
    assert (given.power, given.neighbors, given.epochs) == (0.5, 2, 3)
    assert two_stage_settings("tailcalib", (100, 1), first_epochs=24).epochs == 24
    crt = two_stage_settings("crt", (100, 1), first_epochs=24)
    assert (crt.epochs, crt.lr, crt.momentum, crt.batch_size) == (10, 0.2, 0.9, 512)
    with pytest.raises(LandscapeError, match=r"'crt' has no --lam.*tailcalibx, tailcalib"):
        two_stage_settings("crt", (100, 1), power=0.9)
    with pytest.raises(LandscapeError, match="--lam -1"):
        two_stage_settings("tailcalibx", (100, 1), power=-1.0)
    with pytest.raises(LandscapeError, match=r"'ncm' has no --imbalance-table.*modals"):
        two_stage_settings("ncm", (100, 1), table="50")
    with pytest.raises(LandscapeError, match=r"--holdout.*--tau"):
        two_stage_settings("tau-norm", (100, 1), tau=1.0, holdout=0.5)
    assert two_stage_settings("tau-norm", (100, 1), tau=1.0).own() == {"tau": 1.0}
    with pytest.raises(LandscapeError, match="--imbalance-table '20'"):
        two_stage_settings("tailcalibx", (100, 1), table="20")


def _mend(name: str, value: Any) -> Any:
    def change(held: h5py.File) -> None:
        array = value(held[name][...])
        del held[name]
        held[name] = array

    return change


def _with(place: Any, value: Any) -> Any:
    def change(array: Any) -> Any:
        array[place] = value
        return array

    return change


BROKEN = {
    "a training feature": (_mend("train/features", _with((3, 2), np.nan)), r"train split.*not finite, first in row 3"),
    "a test feature": (_mend("test/features", _with((0, 0), np.inf)), r"test split.*not finite, first in row 0"),
    "an empty class": (_mend("train/labels", lambda a: a.clip(max=1)), r"class 'c2' has no training features"),
    "labels outside": (_mend("train/labels", _with(0, 3)), r"labels outside 0 … 2"),
    "labels that are fractions": (_mend("test/labels", lambda a: a + 0.5), r"test split.*no whole numbers"),
    "lengths": (_mend("train/labels", lambda a: a[1:]), r"not one row of features, one label"),
    "widths": (_mend("test/features", lambda a: a[:, 1:]), r"8 training features and 7 test features"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("method", ["tailcalibx", "crt", "tau-norm"])
def test_features_that_are_none_are_refused_by_every_method(case: str, method: str, tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5")
    change, expected = BROKEN[case]
    with h5py.File(file.path, "r+") as held:
        change(held)
    with pytest.raises(LandscapeError, match=expected):
        stage_of(file, method)


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as held:
        writer = FeatureWriter(held.create_group("train"), 4)
        good = np.ones((2, 3), np.float32), np.zeros(2, np.int64), np.zeros(2, np.int64)
        writer.add(*good)
        good[0][1, 2] = np.inf
        with pytest.raises(LandscapeError, match="image 3 of train"):
            writer.add(*good)


def test_what_cannot_be_done_is_refused_with_the_way_out(tmp_path: Path) -> None:
    file = write_features(tmp_path / "f.h5", shift=-1.0)
    with pytest.raises(LandscapeError, match="--lam 1"):
        stage_of(file, "tailcalibx", power=0.9)
    with pytest.raises(LandscapeError, match="--neighbors 5"):
        stage_of(write_features(tmp_path / "g.h5"), "tailcalibx", neighbors=5)
