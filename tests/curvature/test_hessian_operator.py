"""Every product against a dense Hessian that torch.func computes in float64."""

import functools
import gc
import weakref
from typing import Any

import pytest
import torch
from scipy.sparse.linalg import eigsh
from support.problems import (
    COUNTS,
    GROUPS,
    LABELS,
    NUM_CLASSES,
    PROBLEMS,
    WEIGHTS,
    DenseOracle,
    hessian_matrix,
    oracle,
    small_loss,
    small_problem,
)
from torch import Tensor, nn

from landscape.curvature import HessianOperator, Part, Problem, Samples, SymmetricOperator, layer_parts
from landscape.curvature.precision import exact_arithmetic
from landscape.losses import build_loss
from landscape.models import build_model

NAMES = [str(c) for c in range(NUM_CLASSES)]


@functools.cache
def dense(name: str, loss: str = "ce", weighted: bool = False) -> Tensor:
    return oracle(name, small_loss(loss, weighted)).hessian()


def assert_same_matrix(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    assert actual.shape == expected.shape
    assert float((actual - expected).norm()) <= tolerance * float(expected.norm())


def class_part(c: int) -> Part:
    return Part(path=f"class/{c}", label=str(c), samples=(c == LABELS).nonzero().flatten())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ["ce", "ldam", "vs"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_operator_is_the_dense_hessian(name: str, loss: str, weighted: bool) -> None:
    problem = small_problem(name, small_loss(loss, weighted), chunk_size=5)
    assert_same_matrix(hessian_matrix(problem), dense(name, loss, weighted))


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_cut_is_its_own_dense_hessian(name: str) -> None:
    loss, reference = small_loss("vs", weighted=True), oracle(name, small_loss("vs", weighted=True))
    problem = small_problem(name, loss, chunk_size=2)
    groups = {g: torch.isin(LABELS, torch.tensor(classes)).nonzero().flatten() for g, classes in GROUPS.items()}
    cuts = {f"class {c}": class_part(c).samples for c in range(NUM_CLASSES)} | groups
    for cut, index in cuts.items():
        restricted = problem.restrict(Part(path=cut, label=cut, samples=index))
        assert_same_matrix(hessian_matrix(restricted), reference.hessian(index=index))
    for layer in layer_parts(problem.parameter_names):
        names = list(layer.parameters or ())
        assert_same_matrix(hessian_matrix(problem.restrict(layer)), reference.hessian(names))
        both = Part(path="x", label="x", samples=groups["tail"], parameters=layer.parameters)
        expected = reference.hessian(names, groups["tail"])
        assert_same_matrix(hessian_matrix(problem.restrict(both)), expected)
        one_after_the_other = problem.restrict(layer).restrict(Part("y", "y", samples=groups["tail"]))
        assert_same_matrix(hessian_matrix(one_after_the_other), expected)


@pytest.mark.parametrize("engine", ["traced", "double-backward"])
@pytest.mark.parametrize("chunk_size", [1, 4, 12, 13, 99])
def test_chunks_of_any_size_give_the_same_matrix(chunk_size: int, engine: Any) -> None:
    expected = dense("conv", "ldam", True)
    problem = small_problem("conv", small_loss("ldam", weighted=True), chunk_size=chunk_size)
    some = torch.randn(len(expected), 8, dtype=torch.float64)
    assert_same_matrix(HessianOperator(problem, engine=engine) @ some, expected @ some)
    assert_same_matrix(HessianOperator(problem, engine=engine, memory_budget=0) @ some, expected @ some)
    _, gradient = problem.value_and_gradient()
    torch.testing.assert_close(gradient, oracle("conv", small_loss("ldam", True)).gradient(), rtol=1e-11, atol=1e-14)


def test_kept_graphs_change_nothing_but_the_cost() -> None:
    problem = small_problem("conv", chunk_size=3)
    vector = torch.randn(problem.num_parameters, dtype=torch.float64)
    kept, rebuilt = HessianOperator(problem), HessianOperator(problem, memory_budget=0)
    first, later = kept @ vector, [kept @ vector, rebuilt @ vector, rebuilt @ vector]
    assert all(torch.equal(first, product) for product in later)
    assert (kept.kept_chunks, rebuilt.kept_chunks, rebuilt.kept_bytes) == (5, 0, 0)
    some = HessianOperator(problem, memory_budget=kept.kept_bytes // 2)
    assert torch.equal(some @ vector, first)
    assert 0 < some.kept_chunks < 5
    assert some.kept_bytes <= some.memory_budget


def test_several_vectors_are_their_single_products() -> None:
    op = HessianOperator(small_problem("cosine"))
    vectors = torch.randn(op.shape[0], 3, dtype=torch.float64)
    block = op @ vectors
    assert op.num_matvecs == 3
    assert torch.equal(block, torch.stack([op @ vectors[:, i] for i in range(3)], dim=1))
    assert op.num_matvecs == 6
    assert torch.equal(op @ vectors.T.contiguous().T, block)
    for wrong in (vectors[:-1], vectors[:, :, None], vectors.T):
        with pytest.raises(ValueError, match=rf"\({op.shape[0]},\)"):
            op @ wrong


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk_size", [1, 5, 13])
def test_classes_add_up_to_the_whole(chunk_size: int, weighted: bool) -> None:
    problem = small_problem("mlp", small_loss("ce", weighted), chunk_size=chunk_size)
    weights = WEIGHTS if weighted else torch.ones(NUM_CLASSES)
    mass = weights * torch.tensor(COUNTS)
    parts = [hessian_matrix(problem.restrict(class_part(c))) * mass[c] for c in range(NUM_CLASSES)]
    assert_same_matrix(torch.stack(parts).sum(0) / mass.sum(), hessian_matrix(problem), 1e-13)
    assert problem.total_weight == pytest.approx(float(mass.sum()), rel=1e-14)


@pytest.mark.parametrize("c", range(NUM_CLASSES))
def test_a_class_hessian_ignores_class_weights(c: int) -> None:
    plain, weighted = (small_problem("mlp", small_loss("vs", w)).restrict(class_part(c)) for w in (False, True))
    assert_same_matrix(hessian_matrix(weighted), hessian_matrix(plain))
    assert weighted.value() == pytest.approx(plain.value(), rel=1e-13)


def test_layer_traces_add_up_to_the_trace() -> None:
    problem = small_problem("conv")
    layers = [hessian_matrix(problem.restrict(part)).trace() for part in layer_parts(problem.parameter_names)]
    assert float(sum(layers)) == pytest.approx(float(dense("conv").trace()), rel=1e-12)
    assert len(layers) == 5


@pytest.mark.parametrize(
    ("name", "head", "size"), [("mlp", "linear", 6), ("convnet", "cosine", 8), ("resnet20", "linear", 8)]
)
def test_library_models_agree_with_forward_over_reverse(name: str, head: str, size: int) -> None:
    model = build_model(name, num_classes=4, in_channels=1, image_size=size, head=head, seed=1).double()
    generator = torch.Generator().manual_seed(2)
    samples = Samples(torch.randn(7, 1, size, size, generator=generator, dtype=torch.float64), LABELS[:7])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    loss = build_loss("ldam" if head == "cosine" else "ce", COUNTS)
    problem = Problem(model, loss, samples, dtype=torch.float64, chunk_size=4)
    vector = torch.randn(problem.num_parameters, generator=generator, dtype=torch.float64)
    expected = DenseOracle(model, loss, samples).product(vector)
    assert_same_matrix(HessianOperator(problem) @ vector, expected, 1e-11)
    single = HessianOperator(problem.with_dtype(torch.float32)) @ vector.float()
    assert_same_matrix(single.double(), expected, 1e-4)


def test_scipy_sees_the_same_matrix() -> None:
    problem = small_problem("conv")
    truth = torch.linalg.eigvalsh(dense("conv"))
    op = HessianOperator(problem)
    for which, expected in (("SA", truth[:3]), ("LA", truth[-3:])):
        values = torch.as_tensor(eigsh(op.to_scipy(), k=3, which=which, return_eigenvectors=False)).sort().values
        torch.testing.assert_close(values, expected, rtol=1e-8, atol=1e-10)
    assert HessianOperator(problem.with_dtype(torch.float32)).to_scipy().dtype == "float32"


def test_explicit_matrix_is_an_operator() -> None:
    matrix = torch.tensor([[2.0, 1.0], [1.0, -3.0]])
    op = SymmetricOperator.from_matrix(matrix)
    assert torch.equal(op @ torch.eye(2), matrix)
    assert op.num_matvecs == 2


class HalfUsed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def test_a_layer_that_the_loss_does_not_see_has_a_zero_hessian() -> None:
    """An auxiliary head that evaluation skips must not stop an analysis layer by layer."""
    samples = Samples(torch.randn(13, 5, dtype=torch.float64), LABELS)
    problem = Problem(HalfUsed(), small_loss(), samples, dtype=torch.float64)
    idle = problem.restrict(Part("x", "x", parameters=("idle.weight", "idle.bias")))
    assert torch.equal(hessian_matrix(idle), torch.zeros(24, 24, dtype=torch.float64))
    value, gradient = idle.value_and_gradient()
    assert value == pytest.approx(problem.value())
    assert not gradient.any()
    assert hessian_matrix(problem)[:24, :24].norm() > 0.1


def test_a_loss_that_is_linear_in_the_parameters_has_a_zero_hessian() -> None:
    samples = Samples(torch.randn(6, 5), torch.zeros(6))
    problem = Problem(nn.Linear(5, 1), lambda z, t: (z.sum(), torch.tensor(float(len(z)))), samples)
    assert not hessian_matrix(problem).any()


class Marked(torch.autograd.Function):
    """The identity, whose node in the graph leaves a trace that dies with it."""

    alive: list[weakref.ref[Any]] = []  # noqa: RUF012

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.token = type("Token", (), {})()
        Marked.alive.append(weakref.ref(ctx.token))
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class MarkedNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sigmoid(Marked.apply(self.first(x))).exp())


@pytest.mark.parametrize("budget", [0, None])
def test_graphs_die_with_their_operator(budget: int | None) -> None:
    """One leaked graph a part would fill the memory after some classes and layers."""
    problem = Problem(MarkedNet(), small_loss(), (torch.randn(13, 5), LABELS), chunk_size=5)
    gc.collect()
    Marked.alive.clear()
    op = HessianOperator(problem, engine="double-backward", memory_budget=budget)
    op @ torch.ones(op.shape[0])
    gc.collect()
    assert sum(token() is not None for token in Marked.alive) == op.kept_chunks
    del op
    gc.collect()
    assert len(Marked.alive) >= 3
    assert not any(token() is not None for token in Marked.alive)


def test_kept_bytes_do_not_count_the_data_set_once_a_chunk() -> None:
    samples = Samples(torch.randn(400, 300), torch.arange(400) % 4)
    model = nn.Sequential(nn.Linear(300, 2), nn.Tanh(), nn.Linear(2, 4))
    held = []
    for chunk_size in (400, 10):
        problem = Problem(model, small_loss(), samples, chunk_size=chunk_size)
        op = HessianOperator(problem, engine="double-backward")
        op @ torch.ones(op.shape[0])
        held.append(op.kept_bytes)
    assert 0 < held[1] < 3 * held[0]
    assert held[1] < samples.inputs.nbytes


def _precision_state() -> list[Any]:
    backends: Any = torch.backends
    switches = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv, backends)
    try:
        legacy = torch.get_float32_matmul_precision()
    except RuntimeError:
        legacy = "mixed"
    return [*(switch.fp32_precision for switch in switches), legacy]


@pytest.mark.parametrize("setting", ["none", "new switch", "medium", "autocast", "no_grad", "inference"])
def test_the_callers_context_neither_matters_nor_changes(setting: str) -> None:
    problem = small_problem("attention", dtype=torch.float32)
    vector = torch.randn(problem.num_parameters)
    expected, expected_loss = HessianOperator(problem) @ vector, problem.value_and_gradient()
    backends: Any = torch.backends
    untouched = _precision_state()
    contexts: dict[str, Any] = {
        "autocast": torch.autocast("cpu", dtype=torch.bfloat16),
        "no_grad": torch.no_grad(),
        "inference": torch.inference_mode(),
    }
    try:
        if setting == "new switch":
            backends.cuda.matmul.fp32_precision = "tf32"
        if setting == "medium":
            torch.set_float32_matmul_precision("medium")
        before = _precision_state()
        with contexts.get(setting, torch.enable_grad()):
            again = small_problem("attention", dtype=torch.float32)
            part = again.restrict(Part("x", "x", samples=torch.arange(13)))
            actual, actual_loss = HessianOperator(part) @ vector, part.value_and_gradient()
            assert torch.is_grad_enabled() == (setting not in ("no_grad", "inference"))
        assert _precision_state() == before
        with exact_arithmetic(torch.device("cpu")):
            inside = _precision_state()
        assert inside[:4] == ["ieee"] * 4
    finally:
        torch.set_float32_matmul_precision("highest")
        for switch, value in zip(
            (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv),
            untouched[:4],
            strict=True,
        ):
            switch.fp32_precision = value
    assert torch.equal(actual, expected)
    assert actual_loss[0] == expected_loss[0]
    assert torch.equal(actual_loss[1], expected_loss[1])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PROBLEMS)
def test_cuda_and_cpu_are_the_same_operator(name: str, dtype: torch.dtype) -> None:
    loss = small_loss("vs", weighted=True)
    on_cpu = small_problem(name, loss, dtype=dtype, chunk_size=5)
    on_gpu = small_problem(name, loss.to("cuda"), dtype=dtype, device="cuda", chunk_size=5)
    torch.set_float32_matmul_precision("high")
    try:
        matrix = hessian_matrix(on_gpu).cpu()
    finally:
        torch.set_float32_matmul_precision("highest")
    assert_same_matrix(matrix, hessian_matrix(on_cpu), 1e-5 if dtype == torch.float32 else 1e-12)
