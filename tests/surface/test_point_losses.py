"""Losses of many points: against plain float64 forwards, part by part; folding must not change the function."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from support.problems import COUNTS, LABELS, NUM_CLASSES, PROBLEMS, WEIGHTS, model_and_samples
from torch import Tensor, nn
from torch.func import functional_call

from landscape.errors import LandscapeError
from landscape.losses import LOSSES, ClassificationLoss, build_loss
from landscape.models import build_model, model_names
from landscape.surface.evaluate import PointLosses

Direction = dict[str, Tensor]
PARTS = [torch.nonzero(c == LABELS).flatten() for c in range(NUM_CLASSES)] + [torch.arange(len(LABELS))]
CE = build_loss("ce", COUNTS)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One thread, whatever the machine has; tests that want more say so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def direction_of(model: nn.Module, seed: int, names: Sequence[str] | None = None) -> Direction:
    """Gaussian, every tensor as long as the model's own."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in model.named_parameters():
        if names is None or name in names:
            z = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            found[name] = z * (parameter.detach().norm() / z.norm())
    return found


def two_directions(model: nn.Module) -> list[Direction]:
    return [direction_of(model, 1), direction_of(model, 2)]


def trained(model: nn.Module) -> nn.Module:
    """Statistics and shifts of batch normalisation that are not the initial ones, outputs of order 1 to 10."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.3, generator=generator)
            layer.running_var.uniform_(0.5, 2.0, generator=generator)
            nn.init.normal_(layer.weight, 0.5, 0.1, generator=generator)
            nn.init.normal_(layer.bias, 0.0, 0.3, generator=generator)
    return model.eval()


def oracle(
    model: nn.Module,
    loss: ClassificationLoss,
    inputs: Tensor,
    targets: Tensor,
    members: Sequence[Tensor],
    directions: Sequence[Mapping[str, Tensor]],
    point: Sequence[float],
) -> tuple[NDArray[Any], NDArray[Any]]:
    """A plain forward in float64, every part on its own."""
    exact = copy.deepcopy(model).double().eval()
    state = {**dict(exact.named_parameters()), **dict(exact.named_buffers())}
    state = {name: tensor.detach() for name, tensor in state.items()}
    for step, direction in zip(point, directions, strict=True):
        state |= {name: state[name] + step * d.double() for name, d in direction.items()}
    loss = loss.to(dtype=torch.float64)
    losses, accuracies = [], []
    for index in members:
        x = inputs[index]
        with torch.no_grad():
            logits = functional_call(exact, state, (x.double() if x.is_floating_point() else x,))
        losses.append(loss(logits, targets[index]).mean.item())
        accuracies.append((logits.argmax(1) == targets[index]).double().mean().item())
    return np.array(losses), np.array(accuracies)


def images(number: int, size: int, channels: int = 3) -> Tensor:
    return torch.randn(number, channels, size, size, generator=torch.Generator().manual_seed(3))


class TestLibraryModels:
    @pytest.mark.parametrize("name", model_names())
    def test_agrees_with_float64(self, name: str) -> None:
        size = 8 if name in ("convnet", "mlp", "resnet34-cifar") else 32
        model = trained(build_model(name, num_classes=4, image_size=size, seed=0))
        inputs, targets = images(6, size), torch.tensor([0, 1, 2, 3, 0, 1])
        members = [torch.tensor([0, 4]), torch.arange(6), torch.tensor([2, 1])]
        directions = two_directions(model)
        found = PointLosses(model, CE, inputs, targets, members, directions=directions)
        losses, accuracies = found([[0, 0], [0.02, -0.03]])
        for row, point in enumerate([[0, 0], [0.02, -0.03]]):
            expected, shares = oracle(model, CE, inputs, targets, members, directions, point)
            np.testing.assert_allclose(losses[row], expected, rtol=1e-6)
            np.testing.assert_array_equal(accuracies[row], shares)

    @pytest.mark.parametrize("head", ["cosine", "learned-cosine", "learned-cosine-legacy"])
    def test_cosine_heads(self, head: str) -> None:
        model = trained(build_model("resnet20", num_classes=4, head=head, seed=0))
        loss = build_loss("ldam", COUNTS) if head == "cosine" else CE
        inputs, directions = images(13, 32), two_directions(model)
        found, _ = PointLosses(model, loss, inputs, LABELS, PARTS, directions=directions)([[0.3, -0.1]])
        expected, _ = oracle(model, loss, inputs, LABELS, PARTS, directions, [0.3, -0.1])
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)

    @pytest.mark.parametrize(("name", "number"), [("resnet20", 19), ("convnet", 3), ("mlp", 0)])
    def test_every_batch_norm_is_folded(self, name: str, number: int) -> None:
        model = build_model(name, num_classes=4, image_size=16, seed=0)
        found = PointLosses(model, CE, images(13, 16), LABELS, PARTS, directions=[direction_of(model, 1)])
        words = f"{number} batch normalisations folded"
        assert (words in found.describe()) == (number > 0)
        assert "channels-last" in found.describe()
        assert "13 samples a point" in found.describe()

    def test_float64_is_exact(self) -> None:
        model = trained(build_model("convnet", num_classes=4, seed=0))
        inputs, directions = images(13, 8), two_directions(model)
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=directions, dtype=torch.float64, chunk=5)
        expected, _ = oracle(model, CE, inputs, LABELS, PARTS, directions, [1.5, -0.7])
        np.testing.assert_allclose(found([[1.5, -0.7]])[0][0], expected, rtol=1e-12)


class TestParts:
    def setup_method(self) -> None:
        self.model = trained(build_model("convnet", num_classes=4, in_channels=1, seed=0))
        self.inputs = images(13, 8, channels=1)
        self.directions = two_directions(self.model)

    def build(self, members: Sequence[Tensor], loss: ClassificationLoss = CE, **settings: Any) -> PointLosses:
        return PointLosses(
            self.model, loss, self.inputs, LABELS, members, directions=self.directions, **{"chunk": 4, **settings}
        )

    def test_a_class_alone_is_the_class_among_others(self) -> None:
        points = [[0.0, 0.0], [0.4, 0.2], [-1.0, 0.3]]
        together, shares = self.build(PARTS)(points)
        for part, index in enumerate(PARTS):
            alone = PointLosses(
                self.model, CE, self.inputs[index], LABELS[index], [torch.arange(len(index))],
                directions=self.directions,
            )  # fmt: skip
            losses, accuracies = alone(points)
            np.testing.assert_allclose(losses[:, 0], together[:, part], rtol=1e-6)
            np.testing.assert_array_equal(accuracies[:, 0], shares[:, part])

    def test_classes_weighted_by_their_counts_are_the_whole(self) -> None:
        losses, accuracies = self.build(PARTS)([[0.5, -0.5]])
        counts = np.array([len(index) for index in PARTS[:-1]])
        np.testing.assert_allclose(losses[0, :-1] @ counts / 13, losses[0, -1], rtol=1e-13)
        np.testing.assert_allclose(accuracies[0, :-1] @ counts / 13, accuracies[0, -1], rtol=1e-13)

    def test_parts_may_overlap_and_leave_samples_out(self) -> None:
        members = [torch.tensor([9, 2, 5]), torch.tensor([5, 2])]
        found = self.build(members)
        assert found.num_samples == 3
        for row, point in enumerate([[0.1, 0.0], [0.0, -0.4]]):
            expected, shares = oracle(self.model, CE, self.inputs, LABELS, members, self.directions, point)
            losses, accuracies = found([point])
            np.testing.assert_allclose(losses[0], expected, rtol=1e-6, err_msg=str(row))
            np.testing.assert_array_equal(accuracies[0], shares)

    @pytest.mark.parametrize(("name", "weights"), list(itertools.product(LOSSES, (None, WEIGHTS))))
    def test_losses_and_their_weights(self, name: str, weights: Tensor | None) -> None:
        loss = build_loss(name, COUNTS, class_weights=weights)
        found = self.build(PARTS, loss, dtype=torch.float64)([[0.2, 0.1]])[0]
        expected, _ = oracle(self.model, loss, self.inputs, LABELS, PARTS, self.directions, [0.2, 0.1])
        np.testing.assert_allclose(found[0], expected, rtol=1e-11)

    @pytest.mark.parametrize("chunk", [1, 3, 13, 100])
    def test_any_size_of_a_forward(self, chunk: int) -> None:
        found = self.build(PARTS, chunk=chunk, dtype=torch.float64)
        assert found.chunk == min(chunk, 13)
        expected = self.build(PARTS, dtype=torch.float64)([[0.2, 0.1]])
        np.testing.assert_allclose(found([[0.2, 0.1]]), expected, rtol=1e-13)

    def test_memory_counts_what_is_held(self) -> None:
        parameters = sum(p.numel() for p in self.model.parameters()) + 2 * (16 + 32 + 32)
        few, many = self.build(PARTS, chunk=1), self.build(PARTS, chunk=13)
        assert many.memory_bytes - few.memory_bytes == 12 * 4 * 16 * 64 * 4  # 16 channels of 8×8 in float32
        assert few.memory_bytes >= 13 * 64 * 4 + parameters * (8 * 4 + 4)


class TestPoints:
    def setup_method(self) -> None:
        self.model = trained(build_model("convnet", num_classes=4, in_channels=1, seed=0))
        self.inputs = images(13, 8, channels=1)
        self.directions = two_directions(self.model)
        self.found = PointLosses(self.model, CE, self.inputs, LABELS, PARTS, directions=self.directions, chunk=5)

    def test_the_origin_is_the_model_itself(self) -> None:
        losses, accuracies = self.found([[0.0, 0.0]])
        with torch.no_grad():
            logits = self.model(self.inputs)
        np.testing.assert_allclose(losses[0, -1], F.cross_entropy(logits, LABELS).item(), rtol=1e-6)
        assert accuracies[0, -1] == (logits.argmax(1) == LABELS).double().mean().item()

    def test_the_way_to_a_point_does_not_matter(self) -> None:
        points = np.random.default_rng(0).normal(size=(40, 2)) * 3
        forth, back = self.found(points), self.found(points[::-1])
        np.testing.assert_array_equal(forth[0], back[0][::-1])
        np.testing.assert_array_equal(forth[0][7], self.found(points[7:8])[0][0])

    def test_second_difference_along_the_head_is_that_of_the_hessian(self) -> None:
        """Along the weights of a linear head, L is smooth: vᵀHv from autograd is the second derivative of the line."""
        model = copy.deepcopy(self.model).double()
        v = direction_of(model, 4, ["head.weight"])
        found = PointLosses(model, CE, self.inputs.double(), LABELS, PARTS, directions=[v], dtype=torch.float64)

        def along(step: Tensor) -> Tensor:
            state = {"head.weight": model.head.weight.detach() + step * v["head.weight"]}
            return F.cross_entropy(functional_call(model, state, (self.inputs.double(),)), LABELS)

        curvature = torch.func.hessian(along)(torch.zeros((), dtype=torch.float64)).item()
        h = 1e-3
        before, here, after = found([[-h], [0], [h]])[0][:, -1]
        np.testing.assert_allclose((before - 2 * here + after) / h**2, curvature, rtol=1e-5)

    def test_buffers_move_only_where_named(self) -> None:
        other = trained(build_model("convnet", num_classes=4, in_channels=1, seed=5))
        for layer in (other.bn1, other.bn2):
            layer.running_var.mul_(3)
            layer.running_mean.add_(1)
        own, theirs = self.model.state_dict(), other.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        way = {name: theirs[name].double() - own[name].double() for name in floating}
        buffers = {name for name, _ in self.model.named_buffers()}
        only = {name: d for name, d in way.items() if name not in buffers}
        found = PointLosses(self.model, CE, self.inputs, LABELS, PARTS, directions=[way, only])
        losses = found([[1.0, 0.0], [0.0, 1.0]])[0]
        all_theirs = oracle(other, CE, self.inputs, LABELS, PARTS, [], [])[0]
        np.testing.assert_allclose(losses[0], all_theirs, rtol=1e-6)
        for name, buffer in other.named_buffers():
            if name in floating:
                buffer.copy_(own[name])
        own_statistics = oracle(other, CE, self.inputs, LABELS, PARTS, [], [])[0]
        np.testing.assert_allclose(losses[1], own_statistics, rtol=1e-6)
        assert not np.allclose(all_theirs, own_statistics, rtol=1e-3)

    def test_negative_variance_is_a_hole(self) -> None:
        way = {"bn1.running_var": self.model.bn1.running_var.clone()}
        losses, accuracies = PointLosses(self.model, CE, self.inputs, LABELS, PARTS, directions=[way])([[-2.0], [1.0]])
        assert np.isnan(losses[0]).all()
        assert (accuracies[0] == 0).all()
        assert np.isfinite(losses[1]).all()

    def test_an_infinite_class_leaves_the_others_alone(self) -> None:
        model = nn.Linear(2, NUM_CLASSES, bias=False)
        inputs = torch.randn(13, 2, generator=torch.Generator().manual_seed(0))
        inputs[:, 1] = 0
        inputs[LABELS == 2, 1] = 1e10
        push = torch.zeros(NUM_CLASSES, 2)
        push[0, 1] = 1.0
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=[{"weight": push}])
        losses, accuracies = found([[1e30]])
        assert not np.isfinite(losses[0, [2, 4]]).any()
        expected = oracle(model, CE, inputs, LABELS, PARTS, [{"weight": push}], [0.0])
        np.testing.assert_allclose(losses[0, [0, 1, 3]], expected[0][[0, 1, 3]], rtol=1e-6)
        np.testing.assert_array_equal(accuracies[0, [0, 1, 3]], expected[1][[0, 1, 3]])

    def test_the_callers_model_and_tensors_are_untouched(self) -> None:
        model = self.model.train()
        model.conv1.weight.requires_grad_(False)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        places = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
        inputs = self.inputs.clone()
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=self.directions, chunk=5)
        expected = found([[0.3, 0.3]])[0]
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == places
        assert model.training
        assert model.bn1.training
        assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["conv1.weight"]
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert torch.equal(inputs, self.inputs)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
        np.testing.assert_array_equal(found([[0.3, 0.3]])[0], expected)


class ReadTwice(nn.Module):
    """The convolution's output goes past the normalisation as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        return self.head((self.bn(h) + h.relu()).mean((2, 3)))


class CalledTwice(nn.Module):
    """One convolution before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, NUM_CLASSES)
        self.one, self.two = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.conv(self.one(self.conv(x)).relu())).mean((2, 3)))


class Tied(nn.Module):
    """Two convolutions with one weight, which two foldings would change twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        self.one, self.two, self.head = nn.BatchNorm2d(1), nn.BatchNorm2d(1), nn.Linear(1, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.second(self.one(self.first(x)).relu())).mean((2, 3)))


class Views(nn.Module):
    """``.view`` refuses channels-last activations; the normalisation has no weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(1, 3, 3, groups=1), nn.BatchNorm2d(3, affine=False)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(27, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.bn(self.conv(x)).relu().view(len(x), 27)))


class WrittenTo(nn.Module):
    """Something changes the convolution's output in place on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv(x)
        h.relu_()
        return self.head(self.bn(h).mean((2, 3)))


class TestForeignModels:
    @pytest.mark.parametrize("name", PROBLEMS)
    def test_any_module(self, name: str) -> None:
        model, samples = model_and_samples(name)
        directions = two_directions(model)
        found = PointLosses(model, CE, *samples, PARTS, directions=directions, dtype=torch.float64, chunk=4)
        expected, shares = oracle(model, CE, *samples, PARTS, directions, [0.7, -0.2])
        losses, accuracies = found([[0.7, -0.2]])
        np.testing.assert_allclose(losses[0], expected, rtol=1e-11)
        np.testing.assert_array_equal(accuracies[0], shares)

    @pytest.mark.parametrize(
        ("kind", "folds", "channels_last"),
        [(ReadTwice, 0, True), (CalledTwice, 0, True), (Tied, 0, True), (WrittenTo, 0, True), (Views, 1, False)],
    )
    def test_folded_only_where_it_is_the_same_function(
        self, kind: type[nn.Module], folds: int, channels_last: bool
    ) -> None:
        torch.manual_seed(0)
        model = kind()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                layer.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
        inputs, directions = images(13, 5, channels=1), two_directions(model)
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=directions, dtype=torch.float64, chunk=6)
        assert ("folded" in found.describe()) == (folds > 0)
        assert ("channels-last" in found.describe()) == channels_last
        expected, _ = oracle(model, CE, inputs, LABELS, PARTS, directions, [0.7, -0.2])
        np.testing.assert_allclose(found([[0.7, -0.2]])[0][0], expected, rtol=1e-11)

    def test_a_model_that_insists_on_float32(self) -> None:
        class Single(nn.Linear):
            def forward(self, x: Tensor) -> Tensor:
                if self.weight.dtype != torch.float32:
                    raise RuntimeError("only float32")
                return super().forward(x)

        model, inputs = Single(5, NUM_CLASSES), torch.randn(13, 5)
        losses = PointLosses(model, CE, inputs, LABELS, PARTS, directions=[direction_of(model, 1)])([[0.0]])[0]
        np.testing.assert_allclose(losses[0, -1], F.cross_entropy(model(inputs), LABELS).item(), rtol=1e-6)


class Noisy(nn.Linear):
    """Dropout that forgets to ask for the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x))


class KeepsState(nn.Module):
    """Puts its features down and picks them up again a little later, as many published models do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, NUM_CLASSES)
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.features = torch.tanh(self.body(x))
        time.sleep(1e-3)
        return self.head(self.features)


class Fails(nn.Linear):
    """Not while it is looked at, but on the real samples."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.dtype == torch.float32 and bool((x == 9).any()):
            raise ArithmeticError("nine")
        return super().forward(x)


class TestThreads:
    @pytest.mark.parametrize("number", [2, 3])
    def test_the_same_numbers_as_with_one(self, number: int) -> None:
        model = trained(build_model("convnet", num_classes=4, seed=0))
        inputs, directions = images(13, 8), two_directions(model)
        alone = PointLosses(model, CE, inputs, LABELS, PARTS, directions=directions, dtype=torch.float64)
        torch.set_num_threads(number)
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=directions, dtype=torch.float64, chunk=2)
        assert torch.get_num_threads() == number
        assert f"{number} at a time" in found.describe()
        points = np.random.default_rng(0).normal(size=(20, 2))
        np.testing.assert_allclose(found(points), alone(points), rtol=1e-12)
        np.testing.assert_array_equal(found(points), found(points))
        assert torch.get_num_threads() == number

    def test_modules_that_keep_something_between_two_lines(self) -> None:
        torch.manual_seed(0)
        model, inputs = KeepsState(), torch.randn(13, 5)
        directions = two_directions(model)
        torch.set_num_threads(4)
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=directions, chunk=1)
        for point in ([0.0, 0.0], [1.0, -1.0]):
            expected, _ = oracle(model, CE, inputs, LABELS, PARTS, directions, point)
            np.testing.assert_allclose(found([point])[0][0], expected, rtol=1e-5)

    def test_errors_come_out_and_leave_it_usable(self) -> None:
        model, inputs = Fails(5, NUM_CLASSES), torch.zeros(13, 5)
        torch.set_num_threads(2)
        found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=[direction_of(model, 1)], chunk=2)
        found._inputs[12] = 9
        with pytest.raises(ArithmeticError, match="nine"):
            found([[0.0]])
        found._inputs[12] = 0
        assert np.isfinite(found([[0.0]])[0]).all()


class TestRefusals:
    def refused(self, match: str, model: nn.Module | None = None, **changes: Any) -> None:
        model = model or nn.Linear(5, NUM_CLASSES)
        settings: dict[str, Any] = {
            "inputs": torch.randn(13, 5),
            "targets": LABELS,
            "members": PARTS,
            "directions": [direction_of(model, 1)],
        }
        with pytest.raises(LandscapeError, match=match):
            PointLosses(model, CE, **{**settings, **changes})

    def test_what_does_not_fit_is_named(self) -> None:
        self.refused("'weigth', which is no parameter.*did you mean", directions=[{"weigth": torch.zeros(4, 5)}])
        self.refused(r"shape \(5, 4\) for 'weight', which has \(4, 5\)", directions=[{"weight": torch.zeros(5, 4)}])
        self.refused("a line needs one", directions=[])
        self.refused("part 1 has no samples", members=[torch.tensor([0]), torch.tensor([], dtype=torch.int64)])
        self.refused("indices from 0 to 12", members=[torch.tensor([13])])
        self.refused("at least one", members=[])
        self.refused("13 inputs but 12 targets", targets=LABELS[:-1])
        self.refused("at least one sample", chunk=0)
        self.refused("no parameters", model=nn.Identity(), directions=[{}])
        self.refused("cannot take inputs of 6", inputs=torch.randn(13, 6))
        self.refused("one row of outputs", model=nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)))

    def test_outputs_that_depend_on_the_company(self) -> None:
        self.refused("batch statistics or randomness", model=Noisy(5, NUM_CLASSES))
        batch = nn.Sequential(nn.Linear(5, NUM_CLASSES), nn.BatchNorm1d(NUM_CLASSES, track_running_stats=False))
        self.refused("batch statistics or randomness", model=batch)

    def test_coordinates(self) -> None:
        model = nn.Linear(5, NUM_CLASSES)
        found = PointLosses(model, CE, torch.randn(13, 5), LABELS, PARTS, directions=[direction_of(model, 1)])
        with pytest.raises(LandscapeError, match="one row a point"):
            found([[0.0, 0.0]])
        with pytest.raises(LandscapeError, match="finite"):
            found([[np.nan]])
        losses, accuracies = found(np.zeros((0, 1)))
        assert losses.shape == accuracies.shape == (0, len(PARTS))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["resnet20", "convnet", "mlp"])
def test_cuda_agrees_with_float64(name: str) -> None:
    size = 32 if name == "resnet20" else 8
    model = trained(build_model(name, num_classes=4, image_size=size, seed=0))
    inputs, directions = images(13, size), two_directions(model)
    points = np.random.default_rng(0).normal(size=(20, 2)) * 0.05  # more than a pass
    found = PointLosses(model, CE, inputs, LABELS, PARTS, directions=directions, device="cuda")
    losses, accuracies = found(points)
    for row in (0, 19):
        expected, shares = oracle(model, CE, inputs, LABELS, PARTS, directions, points[row])
        np.testing.assert_allclose(losses[row], expected, rtol=3e-6)
        np.testing.assert_array_equal(accuracies[row], shares)
    np.testing.assert_array_equal(found(points)[0], losses)
