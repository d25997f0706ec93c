"""The cosine head against cosines."""

import pytest
import torch
import torch.nn.functional as F

from landscape.errors import LandscapeError
from landscape.models import CosineHead, build_model, make_head


def test_outputs_are_cosines() -> None:
    head = CosineHead(6, 4).double()
    x = torch.randn(50, 6, dtype=torch.float64) * torch.logspace(-6, 6, 50, dtype=torch.float64)[:, None]
    expected = F.cosine_similarity(x[:, None], head.weight[None], dim=-1, eps=1e-30)
    torch.testing.assert_close(head(x), expected, rtol=1e-12, atol=1e-12)
    aligned = head(torch.cat([head.weight, -head.weight]))
    torch.testing.assert_close(aligned.diagonal(), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(aligned[4:].diagonal(), -torch.ones(4, dtype=torch.float64))


def test_lengths_of_features_and_class_vectors_do_not_matter() -> None:
    head = CosineHead(8, 3).double()
    x = torch.randn(5, 8, dtype=torch.float64)
    before = head(x)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([[0.1], [3.0], [1e4]]))
    torch.testing.assert_close(head(1e-3 * x), before)


def test_class_vectors_start_as_unit_vectors_without_bias() -> None:
    head = make_head("cosine", 64, 10)
    assert [name for name, _ in head.named_parameters()] == ["weight"]
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(10))


def test_network_outputs_stay_within_one() -> None:
    model = build_model("resnet20", num_classes=10, head="cosine", seed=0).eval()
    outputs = model(100 * torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert outputs.abs().max() <= 1 + 1e-6
    assert outputs.std() > 1e-3
    torch.testing.assert_close(model.head.weight.norm(dim=1), torch.ones(10))  # Kaiming must not touch it


def test_a_dead_feature_vector_has_finite_derivatives_of_every_order() -> None:
    head = CosineHead(4, 3).double()
    x = torch.zeros(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.equal(head(x), torch.zeros(2, 3, dtype=torch.float64))
    parameters = (x, head.weight)
    gradients = torch.autograd.grad(F.cross_entropy(head(x), torch.tensor([0, 1])), parameters, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in gradients), parameters)
    assert all(torch.isfinite(t).all() for t in (*gradients, *second))


def test_unknown_head_is_quoted() -> None:
    with pytest.raises(LandscapeError, match=r"'cosin'.*'linear' or 'cosine'"):
        build_model("mlp", num_classes=2, head="cosin")
