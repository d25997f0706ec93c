"""HTR: its expectation is the trace, its gradient the trace's, and its passes leave nothing behind."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from landscape.curvature.parts import layer_parts
from landscape.errors import LandscapeError
from landscape.losses import ClassificationLoss, build_loss
from landscape.optim import GroupedObjective
from landscape.regularizers import Htr, RegularizedObjective, choose_layers

COUNTS = [5, 3, 2]
LABELS = torch.tensor([0, 1, 0, 2, 0, 1, 0, 2, 1, 0])


def two_layers() -> nn.Module:
    """Eight parameters, so that every vector of signs can be tried."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)).double()


def normalized_net(normalization: nn.Module, kind: torch.dtype = torch.float64) -> nn.Module:
    """A convolution on either side of a normalisation, without kinks, in training mode."""
    torch.manual_seed(2)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), normalization, nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Tanh(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    for parameter in normalization.parameters():
        nn.init.normal_(parameter, mean=0.5)
    return net.to(kind).train()


def objective_of(model: nn.Module, loss: ClassificationLoss | None = None, seed: int = 0) -> GroupedObjective:
    """Random inputs of the right shape; two classes for the two-layer net."""
    generator = torch.Generator().manual_seed(seed)
    parameter = next(model.parameters())
    small = isinstance(model[0], nn.Linear)  # type: ignore[index]
    shape = (len(LABELS), 2) if small else (len(LABELS), 2, 5, 5)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
    labels = LABELS.clamp(max=1) if small else LABELS
    loss = loss or build_loss("ce", COUNTS[: 2 if small else 3])
    return GroupedObjective(model, loss.to(dtype=parameter.dtype), inputs, labels)


def regularized(objective: GroupedObjective, signs: dict[str, Tensor], **settings: Any) -> RegularizedObjective:
    regularizer = Htr(objective.model, **{"weight": 0.5, "trace": "hessian", **settings})
    names = [name for layer in regularizer.layers for name in layer.parameters or ()]
    return RegularizedObjective(objective, regularizer, [{name: signs[name] for name in names}])


def every_sign(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    size = sum(shape.numel() for shape in shapes.values())
    for signs in itertools.product((-1.0, 1.0), repeat=size):
        pieces = torch.tensor(signs, dtype=torch.float64).split([shape.numel() for shape in shapes.values()])
        yield {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def dense_trace(objective: GroupedObjective, kind: str, names: list[str]) -> Tensor:
    """Σ of the diagonals of H or JᵀBJ that belong to ``names``, differentiable, by torch.func."""
    model = objective.model
    parameters = dict(model.named_parameters())

    def logits(values: dict[str, Tensor]) -> Tensor:
        return functional_call(model, {**parameters, **values}, (objective.inputs,))

    def mean(outputs: Tensor) -> Tensor:
        return objective.loss(outputs, objective.labels).mean

    chosen = {name: parameters[name] for name in names}
    total = torch.zeros((), dtype=torch.float64)
    if kind == "hessian":
        blocks = hessian(lambda values: mean(logits(values)))(chosen)
        for name, parameter in chosen.items():
            total = total + blocks[name][name].reshape(parameter.numel(), -1).trace()
        return total
    outputs = logits(parameters)
    curvature = hessian(mean)(outputs).reshape(outputs.numel(), -1)
    for name, block in jacrev(logits)(chosen).items():
        jacobian = block.reshape(outputs.numel(), -1)
        total = total + (jacobian.T @ curvature @ jacobian).trace().to(total)
        assert jacobian.shape[1] == chosen[name].numel()
    return total


def flat(gradient: Any) -> Tensor:
    return torch.cat([entry.reshape(-1) for entry in gradient])


# ---------------------------------------------------------------------- what it estimates


@pytest.mark.parametrize("kind", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("form", ["joint", "masked"])
@pytest.mark.parametrize("layers", ["all", "2"])
def test_over_all_signs_the_mean_is_the_dense_trace_and_so_is_its_gradient(kind: str, form: str, layers: str) -> None:
    model = two_layers()
    objective = objective_of(model)
    found = [
        regularized(objective, signs, form=form, layers=layers, trace=kind).trace_and_gradient()
        for signs in every_sign(model)
    ]
    dense = dense_trace(objective, kind, ["0.weight", "2.weight"] if layers == "all" else ["2.weight"])
    gradient = torch.autograd.grad(dense, list(model.parameters()))
    torch.testing.assert_close(torch.stack([trace for trace, _ in found]).mean(), dense.detach())
    torch.testing.assert_close(torch.stack([flat(entry) for _, entry in found]).mean(0), flat(gradient))


def test_masked_probes_of_the_layers_sum_to_the_trace_and_leave_cross_layer_noise_out() -> None:
    model = two_layers()
    objective = objective_of(model)
    spread = {}
    for signs in itertools.islice(every_sign(model), 3):
        single = [regularized(objective, signs, layers=layer, form="joint").trace_and_gradient()[0] for layer in "02"]
        masked = regularized(objective, signs, form="masked").trace_and_gradient()[0]
        torch.testing.assert_close(sum(single), masked)
    for form in ("joint", "masked"):
        some = itertools.islice(every_sign(model), 0, None, 5)
        samples = [regularized(objective, signs, form=form).trace_and_gradient()[0] for signs in some]
        spread[form] = torch.stack(samples).var()
    assert spread["masked"] < 0.9 * spread["joint"]


def test_several_probes_are_averaged() -> None:
    model = two_layers()
    objective = objective_of(model)
    regularizer = Htr(model, weight=1.0, trace="hessian", probes=3)
    together = regularizer.on(objective)
    single = [RegularizedObjective(objective, regularizer, [signs]).trace_and_gradient() for signs in together.probes]
    trace, gradient = together.trace_and_gradient()
    assert len({float(value) for value, _ in single}) == 3
    torch.testing.assert_close(trace, torch.stack([value for value, _ in single]).mean())
    torch.testing.assert_close(flat(gradient), torch.stack([flat(entry) for _, entry in single]).mean(0))


def test_of_a_relu_network_every_block_is_its_gauss_newton_part_and_only_cross_layer_noise_is_negative() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2)).double()
    objective = objective_of(model)
    regularizer = Htr(model, weight=1.0)
    below = 0
    for _ in range(20):
        signs = regularizer.on(objective).probes[0]
        masked = [
            regularized(objective, signs, form="masked", trace=trace).trace_and_gradient()
            for trace in ("hessian", "gauss-newton")
        ]
        torch.testing.assert_close(masked[0][0], masked[1][0])
        torch.testing.assert_close(flat(masked[0][1]), flat(masked[1][1]))
        assert masked[0][0] > 0
        below += bool(regularized(objective, signs, form="joint").trace_and_gradient()[0] < 0)
    assert below > 0


LOSSES = {
    "ce": build_loss("ce", COUNTS, class_weights=torch.tensor([0.2, 1.0, 1.8])),
    "ldam": build_loss("ldam", COUNTS, logit_scale=3.0),
    "vs": build_loss("vs", COUNTS, class_weights=torch.tensor([0.2, 1.0, 1.8])),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_is_the_form_of_the_dense_matrix_and_never_negative(name: str) -> None:
    model = normalized_net(nn.Identity())
    objective = objective_of(model, LOSSES[name])
    parameters = dict(model.named_parameters())
    outputs = model(objective.inputs)
    curvature = hessian(lambda z: objective.loss(z, objective.labels).mean)(outputs).reshape(outputs.numel(), -1)
    columns = jacrev(lambda values: functional_call(model, values, (objective.inputs,)))(parameters)
    jacobian = torch.cat([columns[name].reshape(outputs.numel(), -1) for name in parameters], dim=1)
    matrix = jacobian.T @ curvature @ jacobian
    regularizer = Htr(model, weight=1.0, trace="gauss-newton")
    for _ in range(4):
        wrapped = regularizer.on(objective)
        (signs,) = wrapped.probes
        vector = flat(signs[name] for name in parameters)
        trace, _ = wrapped.trace_and_gradient()
        assert trace > 0
        torch.testing.assert_close(trace, (vector @ matrix @ vector).detach())


# ---------------------------------------------------------------------- its gradient

NORMALIZATIONS = {
    "batch": lambda: nn.BatchNorm2d(4),
    "batch without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "frozen batch": lambda: nn.BatchNorm2d(4).eval(),
    "instance": lambda: nn.InstanceNorm2d(4, affine=True),
    "instance with statistics": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True).eval(),
    "layer": lambda: nn.LayerNorm([4, 5, 5]),
    "group": lambda: nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("trace", ["hessian", "gauss-newton"])
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_the_exact_gradient_is_the_slope_of_the_penalty_whatever_the_normalization(name: str, trace: str) -> None:
    normalization = NORMALIZATIONS[name]()
    mode = normalization.training
    model = normalized_net(normalization)
    normalization.train(mode)
    objective = objective_of(model)
    wrapped = Htr(model, weight=1.0, trace=trace).on(objective)  # type: ignore[arg-type]
    value, gradient = wrapped.trace_and_gradient()
    if trace == "hessian":  # the value by the second derivatives of PyTorch's own layers
        (signs,) = wrapped.probes
        chosen = list(model.parameters())
        first = torch.autograd.grad(objective(update_statistics=False).total, chosen, create_graph=True)
        product = torch.autograd.grad(first, chosen, [signs[key] for key, _ in model.named_parameters()])
        torch.testing.assert_close(value, flat(product) @ flat(signs.values()))
    torch.manual_seed(5)
    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    ends = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for parameter, entry in zip(model.parameters(), direction, strict=True):
                parameter.add_(entry, alpha=step)
        ends.append(wrapped.trace_and_gradient()[0])
    slope = (ends[0] - ends[1]) / 2e-5
    torch.testing.assert_close(flat(gradient) @ flat(direction), slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("form", ["joint", "masked"])
@pytest.mark.parametrize(("kind", "value_error", "gradient_error"),
                         [(torch.float64, 1e-6, 1e-6), (torch.float32, 1e-2, 3e-2)])  # fmt: skip
def test_finite_differences_agree_with_third_derivatives_where_there_is_no_kink(
    kind: torch.dtype, value_error: float, gradient_error: float, form: str
) -> None:
    model = normalized_net(nn.BatchNorm2d(4), kind)
    objective = objective_of(model)
    signs = Htr(model, weight=1.0).on(objective).probes[0]
    exact, gradient = regularized(objective, signs, form=form).trace_and_gradient()
    value, differences = regularized(objective, signs, form=form, gradient="finite-difference").trace_and_gradient()
    assert abs(value - exact) < value_error * abs(exact)
    assert (flat(differences) - flat(gradient)).norm() < gradient_error * flat(gradient).norm()


def test_the_total_is_the_loss_and_the_penalty_with_both_their_gradients() -> None:
    model = normalized_net(nn.BatchNorm2d(4))
    objective = objective_of(model)
    wrapped = Htr(model, weight=0.3, trace="hessian").on(objective)
    parameters = list(model.parameters())
    plain = objective(update_statistics=False).total
    loss_gradient = torch.autograd.grad(plain, parameters)
    trace, trace_gradient = wrapped.trace_and_gradient()
    total = wrapped(update_statistics=False).total
    gradient = torch.autograd.grad(2 * total, parameters)
    torch.testing.assert_close(total, plain + 0.3 * trace)
    torch.testing.assert_close(flat(gradient), 2 * (flat(loss_gradient) + 0.3 * flat(trace_gradient)))
    torch.testing.assert_close(wrapped.first, torch.stack([0.3 * trace, trace]))


# ---------------------------------------------------------------------- what it rewards


def test_the_clamp_gives_no_reward_below_zero_and_changes_nothing_above() -> None:
    model = normalized_net(nn.BatchNorm2d(4))
    objective = objective_of(model)
    regularizer = Htr(model, weight=0.7, trace="clamped")
    parameters = list(model.parameters())
    plain = flat(torch.autograd.grad(objective(update_statistics=False).total, parameters))
    seen = set()
    for _ in range(40):
        wrapped = regularizer.on(objective)
        trace, trace_gradient = wrapped.trace_and_gradient()
        losses = wrapped(update_statistics=False)
        added = flat(torch.autograd.grad(losses.total, parameters)) - plain
        penalty, before = wrapped.first
        assert before == trace
        seen.add(bool(trace > 0))
        if trace > 0:
            torch.testing.assert_close(penalty, 0.7 * trace)
            torch.testing.assert_close(added, 0.7 * flat(trace_gradient))
        else:
            assert penalty == 0
            assert added.count_nonzero() == 0
        if seen == {True, False}:
            return
    pytest.fail(f"of 40 probes all had the sign {seen}")


# ---------------------------------------------------------------------- what it leaves alone


@pytest.mark.parametrize("settings", [{}, {"trace": "gauss-newton"}, {"gradient": "finite-difference"}])
def test_statistics_weights_gradients_and_mode_stay_as_they_are(settings: dict[str, Any]) -> None:
    model = normalized_net(nn.BatchNorm2d(4))
    alone = normalized_net(nn.BatchNorm2d(4))
    objective = objective_of(model)
    objective_of(alone)(update_statistics=True)
    wrapped = Htr(model, weight=1.0, **settings).on(objective)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped(update_statistics=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    wrapped(update_statistics=True)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not model._forward_hooks


def test_a_step_may_evaluate_its_objective_twice_and_the_next_has_other_probes() -> None:
    model = two_layers()
    regularizer, again = (Htr(model, weight=1.0, seed=4) for _ in range(2))
    wrapped = regularizer.on(objective_of(model))
    first, second = (wrapped(update_statistics=False).total for _ in range(2))
    assert torch.equal(first, second)
    draws = [regularizer.on(objective_of(model)).probes[0] for _ in range(4)]
    assert len({tuple(flat(signs.values()).tolist()) for signs in draws}) > 1
    assert torch.equal(flat(again.on(objective_of(model)).probes[0].values()), flat(wrapped.probes[0].values()))
    other = Htr(model, weight=1.0, seed=5)
    assert not torch.equal(flat(other.on(objective_of(model)).probes[0].values()), flat(wrapped.probes[0].values()))


def test_what_the_history_gets_is_of_the_first_evaluation_not_of_the_perturbed_one() -> None:
    model = two_layers()
    wrapped = Htr(model, weight=2.0, trace="hessian").on(objective_of(model))
    with pytest.raises(RuntimeError, match="no step"):
        _ = wrapped.first
    wrapped(update_statistics=False)
    before = wrapped.first.clone()
    assert before[0] == 2.0 * before[1] != 0
    with torch.no_grad():
        model[0].weight.add_(0.5)  # type: ignore[index, union-attr, operator]
    assert wrapped.trace_and_gradient()[0] != before[1]
    wrapped(update_statistics=False)
    assert torch.equal(wrapped.first, before)


def test_frozen_and_tied_parameters() -> None:
    model = two_layers()
    model[2].weight = model[0].weight  # type: ignore[index]
    objective = objective_of(model)
    signs = {"0.weight": torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)}
    trace, gradient = regularized(objective, signs).trace_and_gradient()
    leaf = model[0].weight  # type: ignore[index]
    (first,) = torch.autograd.grad(objective(update_statistics=False).total, leaf, create_graph=True)
    (product,) = torch.autograd.grad(first, leaf, signs["0.weight"], create_graph=True)
    value = (product * signs["0.weight"]).sum()
    torch.testing.assert_close(trace, value.detach())
    torch.testing.assert_close(flat(gradient), flat(torch.autograd.grad(value, leaf)))
    frozen = two_layers()
    frozen[0].weight.requires_grad_(False)  # type: ignore[index, union-attr]
    assert list(Htr(frozen, weight=1.0).on(objective_of(frozen)).probes[0]) == ["2.weight"]


# ---------------------------------------------------------------------- layers and refusals


def test_layers_are_those_of_the_spectrum_and_the_middle_is_a_third() -> None:
    names = [name for name, _ in normalized_net(nn.BatchNorm2d(4)).named_parameters()]
    assert choose_layers(names, "all") == layer_parts(names)
    assert [part.label for part in choose_layers(names, "all")] == ["0", "1", "3", "7"]
    assert [part.label for part in choose_layers(names, "middle")] == ["1", "3"]
    assert [part.label for part in choose_layers(names, "7, 1")] == ["1", "7"]
    for count, middle in ((1, [0]), (2, [0, 1]), (3, [1]), (5, [1, 2, 3]), (9, [3, 4, 5]), (39, list(range(13, 26)))):
        found = choose_layers([f"m{i}.weight" for i in range(count)], "middle")
        assert [int(part.label[1:]) for part in found] == middle


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": "fc"}, "no layer matches 'fc'"),
        ({"trace": "gauss-newton", "gradient": "finite-difference"}, "exact gradient"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LandscapeError, match=words):
        Htr(two_layers(), weight=1.0, **settings)


def test_differences_are_refused_under_dropout() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Linear(2, 2))
    with pytest.raises(LandscapeError, match="dropout"):
        Htr(model, weight=1.0, gradient="finite-difference")
    Htr(model, weight=1.0)


def test_an_operation_without_a_forward_derivative_is_named() -> None:
    model = two_layers()
    model[0] = nn.utils.parametrizations.weight_norm(model[0])  # type: ignore[index, operator]
    objective = objective_of(model)
    with pytest.raises(LandscapeError, match=r"no forward derivative .*_weight_norm_interface.*finite-difference"):
        Htr(model, weight=1.0).on(objective)(update_statistics=False)
    wrapped = Htr(model, weight=1.0, gradient="finite-difference").on(objective)
    value, _ = wrapped.trace_and_gradient()
    # By the loss alone: PyTorch's second derivatives of weight normalisation are wrong.
    losses = []
    for step in (1e-4, -1e-4, -1e-4):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(wrapped.probes[0][name], alpha=step)
        losses.append(float(objective(update_statistics=False).total.detach()))
    assert float(value) == pytest.approx((losses[0] - 2 * losses[1] + losses[2]) / 1e-8, rel=1e-4)


def test_a_batch_in_pieces_is_refused() -> None:
    model = two_layers()
    with pytest.raises(LandscapeError, match="whole batch"):
        Htr(model, weight=1.0).on(objective_of(model)).split(2)
