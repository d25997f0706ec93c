"""What features and calibration files hold, against the networks and features that they were made from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.runs import tiny_recipe, write_image_folder

from landscape.store.features_file import FeaturesFile
from landscape.study import Subject, open_subject
from landscape.training import Recipe, train
from landscape.training.checkpoint import file_sha256
from landscape.twostage import FeatureLayer, SecondStage, find_feature_layer, two_stage_settings
from landscape.twostage.record import record_features, record_outcomes


def _layer(subject: Subject) -> FeatureLayer:
    return find_feature_layer(subject.model, subject.normalization(subject.data.first_images(2)))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> FeaturesFile:
    folder = tmp_path_factory.mktemp("digits")
    train(tiny_recipe(), folder / "run")
    subject = open_subject(folder / "run")
    return record_features(subject, _layer(subject), folder / "features.h5")


def _stage(file: FeaturesFile, method: str, epochs: int | None = 1) -> SecondStage:
    settings = two_stage_settings(method, file.class_counts, source="digits", epochs=epochs)  # type: ignore[arg-type]
    return SecondStage(file, settings, "cpu")


def test_training_images_alone_are_augmented_and_each_is_counted_once(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 20, "bee": 9}, test=4, size=(16, 16))
    sections = {"data": {"source": f"folder:{images}"}, "model": {"name": "convnet"}, "schedule": {"epochs": 1}}
    train(Recipe.parse(sections), tmp_path / "run")
    subject = open_subject(tmp_path / "run")
    seen: list[int] = []
    files = {
        name: record_features(subject, _layer(subject), tmp_path / f"{name}.h5", on_images=seen.append, **options)
        for name, options in {
            "plain": {},
            "drawn": {"augmentation": "crop-flip", "seed": 3},
            "again": {"augmentation": "crop-flip", "seed": 3},
            "other": {"augmentation": "crop-flip", "seed": 4},
        }.items()
    }
    training = {name: file.read("train").features for name, file in files.items()}
    np.testing.assert_array_equal(training["drawn"], training["again"])
    assert not np.array_equal(training["drawn"], training["other"])
    assert not np.array_equal(training["drawn"], training["plain"])
    for file in files.values():
        np.testing.assert_array_equal(file.read("test").features, files["plain"].read("test").features)
    told = {name: (file.meta["augment"], file.meta["seed"]) for name, file in files.items()}
    assert (told["plain"], told["drawn"]) == (("none", 0), ("crop-flip", 3))
    assert told["other"] == ("crop-flip", 4)
    assert sum(seen) == 4 * (29 + 8)


def test_a_split_that_is_left_out_is_not_there(tmp_path: Path) -> None:
    train(tiny_recipe(schedule={"epochs": 1}), tmp_path / "run")
    subject = open_subject(tmp_path / "run")
    file = record_features(subject, _layer(subject), tmp_path / "x.h5", splits=("test",), command="landscape x")
    assert file.splits == ("test",)
    assert (file.meta["command"], file.meta["epoch"], file.meta["device"]) == ("landscape x", 1, "cpu")


def test_points_are_those_of_the_first_seed_with_their_nearest_by_loops(digits: FeaturesFile, tmp_path: Path) -> None:
    stage = _stage(digits, "tailcalibx")
    outcomes = [stage.run(seed) for seed in (0, 1)]
    file = record_outcomes(digits, stage, outcomes, tmp_path / "x.h5", command="landscape x")
    inputs, labels = stage.inputs.double().numpy(), stage.labels.numpy()
    means = np.stack([inputs[labels == label].sum(axis=0) for label in range(10)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    made, real = file.points["generated"], file.points["real"]
    assert outcomes[0].generated is not None
    np.testing.assert_array_equal(made["features"], outcomes[0].generated.features.numpy())
    np.testing.assert_array_equal(real["features"], stage.inputs.numpy()[real["index"]])
    np.testing.assert_array_equal(made["neighbors"], stage.calibration.neighbors[made["seeds"]])
    for points, own in ((made, None), (real, real["index"])):
        for row, point in enumerate(points["features"].astype(float)):
            similarity = inputs @ point
            if own is not None:
                similarity[own[row]] = -np.inf
            first, second = np.sort(similarity)[[-1, -2]]
            if first - second > 1e-6:
                assert points["nearest_sample"][row] == labels[similarity.argmax()]
            ordered = np.sort(means @ point)
            if ordered[-1] - ordered[-2] > 1e-6:
                assert points["nearest_mean"][row] == (means @ point).argmax()
    # Else a mistaken distance would go unseen.
    assert (made["nearest_sample"] != made["nearest_mean"]).any()


def test_accuracies_and_classifiers_are_those_of_every_seed(digits: FeaturesFile, tmp_path: Path) -> None:
    stage = _stage(digits, "crt")
    outcomes = [stage.run(seed) for seed in (5, 2)]
    file = record_outcomes(digits, stage, outcomes, tmp_path / "x.h5", command="landscape x")
    test = digits.read("test")
    counted = [np.bincount(test.labels[test.predicted == test.labels], minlength=10), np.bincount(test.labels)]
    assert file.accuracy["seeds"].tolist() == [5, 2]
    np.testing.assert_array_equal(file.accuracy["before"], counted[0])
    np.testing.assert_array_equal(file.accuracy["total"], counted[1])
    for row, outcome in enumerate(outcomes):
        logits = stage.test_inputs @ outcome.classifier["weight"].T + outcome.classifier["bias"]
        right = (logits.argmax(1) == torch.as_tensor(test.labels)).numpy()
        np.testing.assert_array_equal(file.accuracy["correct"][row], np.bincount(test.labels[right], minlength=10))
        with h5py.File(file.path) as raw:
            np.testing.assert_array_equal(raw["classifier/weight"][row], outcome.classifier["weight"])
    assert file.meta["features_sha256"] == file_sha256(digits.path)
    assert file.meta["checkpoint_sha256"] == digits.meta["checkpoint_sha256"]
    assert file.meta["command"] == "landscape x"
    assert file.points == {}


def test_tau_is_kept_for_every_seed(digits: FeaturesFile, tmp_path: Path) -> None:
    stage = _stage(digits, "tau-norm", epochs=None)
    outcomes = [replace(stage.run(0), tau=tau) for tau in (0.5, 0.7)]
    file = record_outcomes(digits, stage, outcomes, tmp_path / "x.h5")
    assert file.accuracy["tau"].tolist() == [0.5, 0.7]
