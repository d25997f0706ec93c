"""The cosine head with a learned scale, in the trainer and under the Hessian."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.runs import tiny_recipe

from landscape.curvature import HessianOperator, Problem, Samples
from landscape.curvature.affine import curved_parameters
from landscape.curvature.exact_trace import sample_trace
from landscape.errors import LandscapeError
from landscape.losses import build_loss
from landscape.models import LearnedCosineHead, build_model, head_kind, head_names, make_head
from landscape.study import open_subject
from landscape.training import Recipe, load_checkpoint, train

LEARNED = ("learned-cosine", "learned-cosine-legacy")


def test_the_formula() -> None:
    head = LearnedCosineHead(6, 4).double()
    with torch.no_grad():
        head.bias.copy_(torch.arange(4.0))
        head.raw_scale.fill_(-0.3)
    x = torch.randn(5, 6, dtype=torch.float64)
    cosines = F.cosine_similarity(x[:, None], head.weight[None], dim=-1)
    expected = torch.log1p(torch.exp(torch.tensor(-0.3, dtype=torch.float64))) * cosines + torch.arange(4.0)
    torch.testing.assert_close(head(x), expected)


def test_legacy_normalises_every_feature_over_the_classes() -> None:
    head = LearnedCosineHead(6, 4, legacy=True)
    x = torch.randn(5, 6)
    over_classes = head.weight / head.weight.norm(dim=0, keepdim=True)
    torch.testing.assert_close(head(x), F.softplus(head.raw_scale) * F.normalize(x) @ over_classes.T)
    # What is wrong with it: class vectors of different lengths, so that cosines are none.
    assert over_classes.norm(dim=1).std() > 0.05
    torch.testing.assert_close(over_classes.norm(dim=0), torch.ones(6))


@pytest.mark.parametrize("kind", LEARNED)
def test_it_starts_with_scale_ten_and_no_offsets(kind: str) -> None:
    head = make_head(kind, 64, 10)
    assert {name: parameter.numel() for name, parameter in head.named_parameters()} == {
        "weight": 640, "bias": 10, "raw_scale": 1,
    }  # fmt: skip
    assert float(F.softplus(head.raw_scale.detach())) == pytest.approx(10.0000454)
    assert not head.bias.any()
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(10))


def test_every_head_knows_its_name() -> None:
    assert [head_kind(make_head(name, 3, 2)) for name in head_names()] == list(head_names())
    assert head_kind(torch.nn.Conv2d(1, 1, 1)) is None


@pytest.mark.parametrize("kind", LEARNED)
def test_a_dead_feature_vector_has_finite_derivatives_of_every_order(kind: str) -> None:
    head = make_head(kind, 4, 3).double()
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    parameters = (x, *head.parameters())
    gradients = torch.autograd.grad(F.cross_entropy(head(x), torch.tensor([0, 1])), parameters, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in gradients), parameters)
    assert all(torch.isfinite(t).all() for t in (*gradients, *second))


def test_bfloat16_does_not_reach_the_cosines() -> None:
    head = LearnedCosineHead(16, 3)
    x = torch.randn(8, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(x))


def test_the_backbone_of_tailcalibx_has_128_features() -> None:
    model = build_model("bbn-resnet32", num_classes=100, head="learned-cosine", seed=0).eval()
    assert model.head.weight.shape == (100, 128)
    plain = build_model("resnet32", num_classes=100, seed=0)
    block = sum(p.numel() for p in model.branch1.parameters())
    backbone = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("head."))
    assert backbone == sum(p.numel() for name, p in plain.named_parameters() if not name.startswith("head.")) + block
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model(torch.randn(2, 3, 32, 32))
    assert seen[0].shape == (2, 128)
    assert not torch.equal(seen[0][:, :64], seen[0][:, 64:])  # two blocks, not one twice


# ---------------------------------------------------------------------- in a recipe


def test_the_scale_is_in_the_model_not_in_the_loss() -> None:
    recipe = Recipe.parse({"model": {"head": "learned-cosine"}})
    assert (recipe.head, recipe.logit_scale) == ("learned-cosine", 1.0)
    assert Recipe.parse({"model": {"head": "cosine"}}).logit_scale == 30.0


@pytest.mark.parametrize("head", ["linear", *LEARNED])
def test_ldam_takes_bare_cosines_alone(head: str) -> None:
    with pytest.raises(LandscapeError, match=r"ldam.*model\.head = 'cosine'"):
        Recipe.parse({"loss": {"name": "ldam"}, "model": {"head": head}})


def test_a_trained_checkpoint_is_opened_with_its_head(tmp_path: Path) -> None:
    train(tiny_recipe(model={"head": "learned-cosine"}, schedule={"epochs": 2}), tmp_path / "run")
    model = load_checkpoint(tmp_path / "run").build_model()
    assert isinstance(model.head, LearnedCosineHead)
    assert model.head.raw_scale.item() != 10.0  # it learns
    assert float(model.head.bias.abs().max()) > 0
    subject = open_subject(tmp_path / "run")
    assert subject.logit_scale == 1.0
    assert subject.loss("ce").logit_scale == 1.0


# ---------------------------------------------------------------------- under the Hessian


@pytest.mark.parametrize("kind", LEARNED)
def test_every_layer_below_is_curved_so_the_exact_trace_stands_back(kind: str) -> None:
    """Normalised features and weights: H − G has a diagonal, and the proof of an affine layer must fail for all."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU(), make_head(kind, 6, 3)).double().eval()
    inputs, labels = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % 3
    problem = Problem(model, build_loss("ce", (4, 4, 4)), Samples(inputs, labels), dtype=torch.float64)
    assert set(curved_parameters(problem)) == set(problem.parameter_names)
    assert sample_trace(problem) is None
    operator = HessianOperator(problem)
    dense = operator @ torch.eye(operator.shape[0], dtype=torch.float64)
    assert torch.linalg.eigvalsh((dense + dense.T) / 2)[0] < 0
    torch.testing.assert_close(dense, dense.T, rtol=1e-9, atol=1e-10)
