"""Features of a checkpoint: the layer is found, and its input times its weights are the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.photographs import write_photographs
from support.runs import tiny_recipe, write_image_folder
from torch import Tensor, nn

from landscape.errors import LandscapeError
from landscape.models import build_model, head_names
from landscape.study import Subject, open_subject
from landscape.training import Recipe, train
from landscape.training.evaluation import evaluate, predict
from landscape.twostage import feature_batches, find_feature_layer, head_of


def subject_of(tmp_path: Path, **sections: dict[str, Any]) -> Subject:
    train(tiny_recipe(**{"schedule": {"epochs": 1}, **sections}), tmp_path / "run")
    return open_subject(tmp_path / "run")


def collected(subject: Subject, split: Any, **options: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
    layer = find_feature_layer(subject.model, subject.normalization(subject.data.first_images(2)))
    batches = list(feature_batches(subject.model, layer, subject.data, split, subject.normalization, **options))
    return layer, *(torch.from_numpy(np.concatenate(column)) for column in zip(*batches, strict=True))


@pytest.mark.parametrize("head", head_names())
def test_features_through_the_head_are_the_logits(head: str, tmp_path: Path) -> None:
    subject = subject_of(tmp_path, model={"head": head})
    layer, features, labels, predicted = collected(subject, "test")
    assert (layer.name, layer.kind, layer.width) == ("head", head, 64)
    logits = predict(subject.model, subject.data.test.images, subject.normalization)
    stored = head_of(layer.head(subject.logit_scale))
    torch.testing.assert_close(stored(features), logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, subject.data.test.labels)
    assert float((predicted == labels).float().mean()) == pytest.approx(
        evaluate(subject.model, subject.data.test, subject.normalization).accuracy
    )


def test_training_features_come_in_the_order_of_the_training_labels(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    _, features, labels, _ = collected(subject, "train")
    assert torch.equal(labels, subject.data.train_labels)
    single = predict(subject.model, subject.data.train.images[300:301], subject.normalization)
    torch.testing.assert_close(subject.model.head(features[300:301]), single, rtol=1e-5, atol=1e-5)


def test_augmentation_is_drawn_with_the_seed(tmp_path: Path) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 20, "bee": 9}, size=(16, 16))
    recipe = Recipe.parse(
        {
            "data": {"source": f"folder:{images}", "imbalance": "none"},
            "model": {"name": "convnet"},
            "schedule": {"epochs": 1},
        }
    )
    train(recipe, tmp_path / "run")
    subject = open_subject(tmp_path / "run")
    plain = collected(subject, "train")[1]
    first, again, other = (collected(subject, "train", augmentation="crop-flip", seed=seed)[1] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, plain)
    assert torch.equal(collected(subject, "train", augmentation="crop-flip")[2], subject.data.train_labels)


def test_lists_are_streamed_and_their_augmentation_is_a_random_part(tmp_path: Path) -> None:
    source = write_photographs(tmp_path / "photographs", {0: 9, 1: 5})
    data = {"source": source, "root": str(tmp_path / "photographs"), "image_size": 32, "workers": 0}
    train(Recipe.parse({"data": data, "model": {"name": "convnet"}, "schedule": {"epochs": 1}}), tmp_path / "run")
    subject = open_subject(tmp_path / "run")
    _, plain, labels, _ = collected(subject, "train")
    assert "train" not in subject.data.__dict__  # the cached split in memory: it was never asked for
    assert torch.equal(labels, subject.data.train_labels)
    logits = predict(subject.model, subject.data.train.images, subject.normalization)
    torch.testing.assert_close(subject.model.head(plain), logits, rtol=1e-5, atol=1e-5)
    first, again = (collected(subject, "train", augmentation="resized-crop", seed=3)[1] for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, plain)


@pytest.mark.parametrize("name", ["convnet", "resnet20", "bbn-resnet32", "resnet18"])
def test_the_head_is_found_whatever_it_is_called(name: str) -> None:
    model = build_model(name, num_classes=4, seed=0).eval()
    found = find_feature_layer(model, torch.randn(2, 3, 32, 32))
    assert found.name == ("fc" if name == "resnet18" else "head")
    assert found.module is model.get_submodule(found.name)


class Foreign(nn.Module):
    """A model with a linear layer after which something still happens, and a layer on maps."""

    def __init__(self, *, scaled: bool) -> None:
        super().__init__()
        self.conv, self.body = nn.Conv2d(1, 4, 3), nn.Linear(4, 6)
        self.out, self.unused = nn.Linear(6, 10, bias=False), nn.Linear(6, 10)
        self.scaled = scaled

    def forward(self, images: Tensor) -> Tensor:
        z = self.out(torch.relu(self.body(self.conv(images).mean((2, 3)))))
        return 2 * z if self.scaled else z


def test_a_layer_that_does_not_make_the_logits_must_be_named() -> None:
    images = torch.randn(3, 1, 8, 8)
    found = find_feature_layer(Foreign(scaled=False).eval(), images)
    assert (found.name, found.kind) == ("out", "linear")
    assert head_of(found.head(1.0))(torch.randn(2, 6)).shape == (2, 10)  # without a bias
    model = Foreign(scaled=True).eval()
    with pytest.raises(LandscapeError, match=r"no linear or cosine layer of Foreign makes its logits.*--layer"):
        find_feature_layer(model, images)
    named = find_feature_layer(model, images, "out")
    assert (named.kind, named.width) == ("none", 6)
    with pytest.raises(LandscapeError, match="no head"):
        head_of(named.head(1.0))
    with pytest.raises(LandscapeError, match=r"'ouf'.*did you mean 'out'"):
        find_feature_layer(model, images, "ouf")
    with pytest.raises(LandscapeError, match="'unused' is not called"):
        find_feature_layer(model, images, "unused")
    with pytest.raises(LandscapeError, match=r"'conv' does not take one vector an image but \(3, 1, 8, 8\)"):
        find_feature_layer(model, images, "conv")


class Flattening(nn.Module):
    """As in many tutorials: ``view`` does not take maps that are laid out channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 5, 3), nn.Linear(5 * 36, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.conv(images).relu().view(-1, 5 * 36))


def test_a_foreign_model_may_flatten_by_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_image_folder(tmp_path / "images", {"ant": 7, "bee": 5})
    torch.save(Flattening().state_dict(), tmp_path / "theirs.pt")
    data = {"source": f"folder:{images}", "imbalance": "none", "normalize": "none"}
    subject = open_subject(tmp_path / "theirs.pt", model=f"{__name__}:Flattening", data=data)
    for augmentation in ("none", "crop-flip"):
        layer, features, labels, _ = collected(subject, "train", augmentation=augmentation)
        assert features.shape == (12, 180)
    expected = predict(subject.model, subject.data.train.images, subject.normalization)
    plain = collected(subject, "train")[1]
    torch.testing.assert_close(head_of(layer.head(1.0))(plain), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(labels, subject.data.train_labels)


def test_a_weight_that_is_computed_is_stored_as_it_is_used() -> None:
    model = Foreign(scaled=False).eval()
    torch.nn.utils.parametrizations.weight_norm(model.out)
    images = torch.randn(3, 1, 8, 8)
    found = find_feature_layer(model, images)
    stored = head_of(found.head(1.0))
    features = torch.randn(4, 6)
    torch.testing.assert_close(stored(features), model.out(features))


def test_a_diverged_network_is_named_as_such() -> None:
    model = Foreign(scaled=False).eval()
    with torch.no_grad():
        model.out.weight[0, 0] = float("nan")
    with pytest.raises(LandscapeError, match=r"not finite.*earlier checkpoint"):
        find_feature_layer(model, torch.randn(3, 1, 8, 8))


def test_hooks_are_gone_afterwards(tmp_path: Path) -> None:
    subject = subject_of(tmp_path)
    collected(subject, "test")
    assert not any(module._forward_hooks for module in subject.model.modules())
