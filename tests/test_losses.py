"""Losses against their formulas, their special cases and the values published with the methods."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, hessian, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from landscape.errors import LandscapeError
from landscape.losses import (
    LOSSES,
    ClassificationLoss,
    CrossEntropy,
    Ldam,
    LossSum,
    VectorScaling,
    build_loss,
    class_weights_at,
    effective_number_weights,
)

# Exponential long tails with n_max/n_min = 100, as drawn from CIFAR-10 and CIFAR-100.
CIFAR10_LT = [int(5000 * 0.01 ** (c / 9)) for c in range(10)]
CIFAR100_LT = [int(500 * 0.01 ** (c / 99)) for c in range(100)]
COUNTS = [50, 20, 5]


def batch(num_classes: int = 3, size: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.arange(size) % num_classes
    return logits, labels


def reference(name: str, logits: Tensor, labels: Tensor, counts: list[int]) -> list[float]:
    """The losses written out with scalar arithmetic, at the settings of :func:`build`."""
    result = []
    n_min, n_max, total = min(counts), max(counts), sum(counts)
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        z = [2 * value for value in row]
        if name == "ldam":
            z[label] -= 2 * 0.4 * (n_min / counts[label]) ** 0.25
        if name in ("vs", "cdt"):
            z = [value * (n / n_max) ** 0.3 for value, n in zip(z, counts, strict=True)]
        if name in ("vs", "la"):
            z = [value + 1.2 * math.log(n / total) for value, n in zip(z, counts, strict=True)]
        p = math.exp(z[label]) / sum(math.exp(value) for value in z)
        result.append(-math.log(p) * ((1 - p) ** 1.5 if name == "focal" else 1))
    return result


def build(name: str, counts: list[int] = COUNTS, **settings: object) -> ClassificationLoss:
    chosen = {"logit_scale": 2.0, "max_margin": 0.4, "gamma": 0.3, "tau": 1.2, "focal_gamma": 1.5} | settings
    return build_loss(name, counts, **chosen)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_equal_their_formulas(name: str) -> None:
    logits, labels = batch()
    expected = torch.tensor(reference(name, logits, labels, COUNTS), dtype=torch.float64)
    torch.testing.assert_close(build(name).per_sample(logits, labels), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_first_and_second_derivatives(name: str) -> None:
    logits, labels = batch(size=4)
    logits.requires_grad_()
    loss = build(name, class_weights=torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))
    assert gradcheck(lambda z: loss(z, labels).mean, logits)
    assert gradgradcheck(lambda z: loss(z, labels).mean, logits)


@pytest.mark.parametrize("name", LOSSES)
def test_traces_and_transforms(name: str) -> None:
    logits, labels = batch()
    other = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = build(name)

    def curvature(z: Tensor, y: Tensor) -> Tensor:
        return hessian(lambda point: loss(point, y).mean)(z)

    traced = make_fx(curvature)(logits, labels)
    labels_of_other = labels.flip(0)
    torch.testing.assert_close(traced(other, labels_of_other), curvature(other, labels_of_other))
    one_by_one = vmap(lambda z, y: loss.per_sample(z[None], y[None])[0])(logits, labels)
    torch.testing.assert_close(one_by_one, loss.per_sample(logits, labels))


@pytest.mark.parametrize("name", LOSSES)
def test_dtype_follows_the_logits(name: str) -> None:
    logits, labels = batch()
    exact = build(name)
    as_double = exact.per_sample(logits, labels)
    for loss in (exact, exact.to(dtype=torch.float32)):
        single = loss.per_sample(logits.float(), labels)
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), as_double, rtol=2e-6, atol=1e-6)
    half = exact.per_sample(logits.bfloat16(), labels)
    torch.testing.assert_close(half, exact.per_sample(logits.bfloat16().float(), labels), rtol=0, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_to_moves_every_tensor(name: str) -> None:
    loss = build(name, class_weights=torch.ones(3)).to("meta", torch.float32)
    total, weight = loss(torch.empty(5, 3, device="meta"), torch.zeros(5, dtype=torch.long, device="meta"))
    assert (total.device.type, weight.device.type) == ("meta", "meta")
    assert (total.dtype, total.shape, weight.shape) == (torch.float32, (), ())


def test_sums_add_up_over_chunks() -> None:
    logits, labels = batch(size=11)
    loss = build("ce", class_weights=torch.tensor([0.1, 1.0, 1.9], dtype=torch.float64))
    parts = [loss(logits[i : i + 3], labels[i : i + 3]) for i in range(0, 11, 3)]
    joined = LossSum(torch.stack([p.total for p in parts]).sum(), torch.stack([p.weight for p in parts]).sum())
    whole = loss(logits, labels)
    torch.testing.assert_close(joined.mean, whole.mean, rtol=1e-14, atol=0)
    expected = F.cross_entropy(2 * logits, labels, weight=loss.class_weights)  # torch also divides by Σ w
    torch.testing.assert_close(whole.mean, expected, rtol=1e-14, atol=0)
    plain = loss.with_class_weights(None)(logits, labels)
    assert plain.weight == 11
    torch.testing.assert_close(plain.mean, F.cross_entropy(2 * logits, labels), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_matter_only_between_classes(name: str) -> None:
    logits, labels = batch()
    weights = torch.tensor([0.2, 1.0, 1.8], dtype=torch.float64)
    loss = build(name, class_weights=weights)
    scaled = loss.with_class_weights(17 * weights)
    torch.testing.assert_close(scaled(logits, labels).mean, loss(logits, labels).mean, rtol=1e-13, atol=0)
    plain = loss.with_class_weights(None)
    assert abs(loss(logits, labels).mean - plain(logits, labels).mean) > 1e-3
    one_class = torch.full_like(labels, 2)
    torch.testing.assert_close(loss(logits, one_class).mean, plain(logits, one_class).mean, rtol=1e-13, atol=0)
    # Also the curvature of a single class cannot see its weight.
    bent = [hessian(lambda z, of=of: of(z, one_class).mean)(logits) for of in (loss, plain)]
    torch.testing.assert_close(bent[0], bent[1], rtol=1e-12, atol=1e-15)


def test_ldam_margins_of_the_paper() -> None:
    ten = build_loss("ldam", CIFAR10_LT)
    hundred = build_loss("ldam", CIFAR100_LT)
    assert isinstance(ten, Ldam)
    assert isinstance(hundred, Ldam)
    assert ten.logit_scale == 30
    expected = torch.tensor([0.1581, 0.1797, 0.2042, 0.4405, 0.5], dtype=torch.float64)
    torch.testing.assert_close(ten.margins[[0, 1, 2, 8, 9]], expected, rtol=0, atol=5e-5)
    assert hundred.margins[0].item() == pytest.approx(0.1581, abs=5e-5)
    assert hundred.margins.max().item() == 0.5
    constants = hundred.margins * torch.tensor(CIFAR100_LT, dtype=torch.float64) ** 0.25
    torch.testing.assert_close(constants, torch.full_like(constants, 0.7477), rtol=0, atol=5e-5)


def test_ldam_special_cases() -> None:
    logits, labels = batch()
    cosines = logits.tanh()
    ce = build_loss("ce", COUNTS, logit_scale=30)
    ldam = build_loss("ldam", COUNTS, max_margin=0)
    torch.testing.assert_close(ldam.per_sample(cosines, labels), ce.per_sample(cosines, labels), rtol=0, atol=0)
    balanced = build_loss("ldam", [40, 40, 40], max_margin=0.3)
    assert isinstance(balanced, Ldam)
    torch.testing.assert_close(balanced.margins, torch.full((3,), 0.3, dtype=torch.float64), rtol=0, atol=0)


def test_vs_values_of_the_paper() -> None:
    for gamma, factor in ((0.3, 3.98), (0.2, 2.51), (0.05, 1.26)):
        vs = build_loss("vs", CIFAR10_LT, gamma=gamma)
        assert isinstance(vs, VectorScaling)
        assert vs.multipliers[0] == 1
        assert 1 / vs.multipliers[-1].item() == pytest.approx(factor, abs=5e-3)
        assert vs.offsets[[0, -1]].tolist() == pytest.approx([-0.909, -5.514], abs=5e-4)
    hundred = build_loss("vs", CIFAR100_LT)
    assert isinstance(hundred, VectorScaling)
    assert hundred.offsets[[0, -1]].tolist() == pytest.approx([-3.077, -7.682], abs=5e-4)


def test_vs_special_cases() -> None:
    logits, labels = batch()

    def losses(name: str, counts: list[int] = COUNTS, **settings: float) -> Tensor:
        return build_loss(name, counts, **settings).per_sample(logits, labels)

    exactly = {"rtol": 0, "atol": 0}
    torch.testing.assert_close(losses("vs", gamma=0, tau=0), losses("ce"), **exactly)
    torch.testing.assert_close(losses("la", gamma=0.7, tau=0.8), losses("vs", gamma=0, tau=0.8), **exactly)
    torch.testing.assert_close(losses("cdt", gamma=0.7, tau=0.8), losses("vs", gamma=0.7, tau=0), **exactly)
    torch.testing.assert_close(losses("vs", [9, 9, 9]), losses("ce"), rtol=1e-14, atol=1e-15)
    assert (losses("la", tau=0.8) - losses("cdt", gamma=0.7)).abs().max() > 0.1


def test_focal_is_cross_entropy_without_its_exponent() -> None:
    logits, labels = batch()
    focal = build_loss("focal", COUNTS, focal_gamma=0).per_sample(logits, labels)
    torch.testing.assert_close(focal, build_loss("ce", COUNTS).per_sample(logits, labels), rtol=1e-14, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_of_a_fitted_sample_has_finite_derivatives(gamma: float) -> None:
    # 1 − p_y is about e^-60 here, far below what 1 − exp(−CE) can resolve.
    logits = torch.tensor([[60.0, 0.0, -5.0]])
    labels = torch.tensor([0])
    loss = build_loss("focal", COUNTS, focal_gamma=gamma)
    gradient = torch.func.grad(lambda z: loss(z, labels).mean)(logits)
    assert gradient.isfinite().all()
    assert hessian(lambda z: loss(z, labels).mean)(logits).isfinite().all()


def test_focal_ignores_class_weights_in_its_probability() -> None:
    logits, labels = batch()
    weights = torch.tensor([0.2, 1.0, 1.8], dtype=torch.float64)
    weighted = build("focal", class_weights=weights)
    torch.testing.assert_close(
        weighted.per_sample(logits, labels), build("focal").per_sample(logits, labels), rtol=0, atol=0
    )
    expected = (weights[labels] * weighted.per_sample(logits, labels)).sum() / weights[labels].sum()
    torch.testing.assert_close(weighted(logits, labels).mean, expected, rtol=1e-14, atol=0)


def test_effective_number_weights_of_the_paper() -> None:
    ten = effective_number_weights(CIFAR10_LT)
    expected = torch.tensor([0.0506, 0.0769, 0.1211, 1.4426, 2.4092, 3.9927], dtype=torch.float64)
    torch.testing.assert_close(ten[[0, 1, 2, 7, 8, 9]], expected, rtol=0, atol=5e-5)
    hundred = effective_number_weights(CIFAR100_LT)
    assert hundred[[0, -1]].tolist() == pytest.approx([0.0449, 4.3783], abs=5e-5)
    assert ten.sum().item() == pytest.approx(10, rel=1e-14)
    assert hundred.sum().item() == pytest.approx(100, rel=1e-14)
    assert effective_number_weights(CIFAR10_LT, beta=0).tolist() == pytest.approx([1.0] * 10, rel=1e-14)
    inverse = 1 / torch.tensor(COUNTS, dtype=torch.float64)
    nearly_one = effective_number_weights(COUNTS, beta=1 - 1e-9)
    torch.testing.assert_close(nearly_one, 3 * inverse / inverse.sum(), rtol=1e-6, atol=0)


def test_when_class_weights_are_in_force() -> None:
    weights = effective_number_weights(COUNTS, 0.99)

    def at(epoch: int, rule: str) -> Tensor | None:
        return class_weights_at(epoch, rule, COUNTS, switch_epoch=160, beta=0.99)

    assert at(0, "none") is None
    assert at(199, "none") is None
    assert at(159, "drw") is None
    for epoch, rule in ((0, "rw"), (160, "drw"), (1000, "drw")):
        torch.testing.assert_close(at(epoch, rule), weights, rtol=0, atol=0)


def test_a_model_can_be_differentiated_through_the_loss() -> None:
    # The Hessian of a convex problem, softmax regression with adjusted logits, has no negative eigenvalue.
    model = torch.nn.Linear(4, 3, bias=False).double()
    inputs = torch.randn(9, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.arange(9) % 3
    loss = build("vs", class_weights=effective_number_weights(COUNTS))

    def objective(weight: Tensor) -> Tensor:
        return loss(functional_call(model, {"weight": weight}, (inputs,)), labels).mean

    eigenvalues = torch.linalg.eigvalsh(hessian(objective)(model.weight.detach()).reshape(12, 12))
    assert eigenvalues[0] > -1e-12 * eigenvalues[-1]
    assert eigenvalues[-1] > 1e-2


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: build_loss("ldan", COUNTS), "'ldan'.*did you mean 'ldam'"),
        (lambda: build_loss("zzz", COUNTS), "'zzz'.*known: ce, focal"),
        (lambda: build_loss("vs", [3, 0, 2]), "class 1 has 0"),
        (lambda: build_loss("ldam", COUNTS, max_margin=-1), "max_margin = -1"),
        (lambda: build_loss("focal", COUNTS, focal_gamma=-1), "focal_gamma = -1"),
        (lambda: build_loss("ce", COUNTS, logit_scale=0), "logit_scale = 0"),
        (lambda: build_loss("ce", COUNTS, class_weights=torch.ones(2)), "(2,).*3 classes"),
        (lambda: build_loss("ce", COUNTS, class_weights=torch.tensor([1.0, 0.0, 1.0])), "positive"),
        (lambda: CrossEntropy().with_class_weights(torch.tensor([1.0, math.nan])), "positive"),
        (lambda: build_loss("vs", COUNTS)(*batch(num_classes=2)), "3 classes.*2 outputs"),
        (lambda: effective_number_weights(COUNTS, beta=1.0), "beta = 1.0"),
        (lambda: class_weights_at(0, "dwr", COUNTS, switch_epoch=1), "'dwr'.*did you mean 'drw'"),
    ],
)
def test_errors_name_the_input(call: Callable[[], object], words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        call()
