"""The methods against numbers by hand, and what a step of each optimiser descends."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.anomalies import write_table
from torch import Tensor

from landscape.anomaly.methods import METHODS, DeepSad, DeviationLoss, DevNet, DistanceLoss, PairLoss, PReNet, method_of
from landscape.anomaly.protocol import DetectionData, draw, read_table
from landscape.anomaly.training import DetectorRecipe, GroupMeanObjective, _generator, new_detector, train_detector
from landscape.errors import LandscapeError
from landscape.optim import build_optimizer


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DetectionData:
    table = read_table(write_table(tmp_path_factory.mktemp("tables") / "a.npz", rows=1200, anomalies=120))
    return draw(table, labelled=0.1, seed=0)


def recipe(method: str, optimizer: str = "imbsam", **changes: float) -> DetectorRecipe:
    options = {"rho": 0.05, "labelled": 0.1, "seed": 0, "epochs": 2, **changes}
    return DetectorRecipe.of(method, optimizer, **options)  # type: ignore[arg-type]


def test_deviation_loss_by_hand() -> None:
    deviations, labels = torch.tensor([[-1.5], [2.0], [-1.0], [4.5], [7.0]]), torch.tensor([0, 0, 1, 1, 1])
    assert DeviationLoss().per_sample(deviations, labels).tolist() == [1.5, 2.0, 6.0, 0.5, 0.0]
    total, weight = DeviationLoss()(deviations, labels)
    assert (float(total), float(weight)) == (10.0, 5.0)


def test_distance_loss_by_hand() -> None:
    displacements, labels = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 2.0]]), torch.tensor([0, 1, 1])
    expected = [25.0, 1 / (0.25 + 1e-6), 1 / (4.0 + 1e-6)]
    assert DistanceLoss().per_sample(displacements, labels).tolist() == pytest.approx(expected, rel=1e-6)


def test_pair_loss_by_hand() -> None:
    """Targets 0, 4, 8 for pairs with 0, 1, 2 labelled anomalies."""
    relations, kinds = torch.tensor([[-0.5], [1.0], [3.0], [9.0], [7.5]]), torch.tensor([0, 0, 1, 2, 2])
    assert PairLoss().per_sample(relations, kinds).tolist() == [0.5, 1.0, 1.0, 1.0, 0.5]


def test_class_weights_of_a_detector() -> None:
    loss = DistanceLoss().with_class_weights(torch.tensor([0.5, 3.0]))
    total, weight = loss(torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 0, 1]))
    assert float(total) == pytest.approx(0.5 * 1 + 0.5 * 4 + 3 / 2.000001)
    assert float(weight) == 4.0


def test_devnet_is_a_deviation_from_its_reference(data: DetectionData) -> None:
    """5,000 draws of N(0, 1) have a mean within 0.06 and a deviation within 5 % of 1, and are not exactly those."""
    detector = new_detector(recipe("devnet"), data.train)
    assert isinstance(detector, DevNet)
    mean, std = float(detector.reference_mean), float(detector.reference_std)
    assert 0 < abs(mean) < 0.06
    assert 0 < abs(std - 1) < 0.05
    with torch.no_grad():
        raw = detector.score(torch.relu(detector.hidden(data.test)))
        assert torch.allclose(detector(data.test) * std + mean, raw, atol=1e-6)
    assert sum(p.numel() for p in detector.parameters()) == 20 * 3 + 41


def test_the_centre_of_deepsad(data: DetectionData) -> None:
    """c is the mean output of the fresh network, coordinates below 0.1 pushed to ±0.1; outputs are φ − c."""
    detector = new_detector(recipe("deepsad"), data.train)
    assert isinstance(detector, DeepSad)
    with torch.no_grad():
        raw = detector(data.train) + detector.center
    for center, mean in zip(detector.center.tolist(), raw.mean(0).tolist(), strict=True):
        assert center == pytest.approx(mean if abs(mean) >= 0.1 else 0.1 if mean >= 0 else -0.1, abs=1e-6)
    assert not any("bias" in name for name, _ in detector.named_parameters())
    constant = torch.zeros(1, 3)
    assert torch.equal(detector(constant)[0], -detector.center)  # without biases nothing but c is constant


def test_scores_of_prenet_are_means_over_pairs(data: DetectionData) -> None:
    """30 pairs with labelled anomalies on the left, 30 with unlabelled rows on the right, each asked for itself."""
    detector = new_detector(recipe("prenet"), data.train)
    rows = data.test[:7]
    with torch.no_grad():
        found = detector.scores(rows, data.unlabelled, data.anomalies, torch.Generator().manual_seed(5))
        generator = torch.Generator().manual_seed(5)
        left = data.anomalies[torch.randint(len(data.anomalies), (30,), generator=generator)]
        right = data.unlabelled[torch.randint(len(data.unlabelled), (30,), generator=generator)]
        expected = [
            (
                detector(torch.stack([left, row.expand(30, 3)], 1)).mean()
                + detector(torch.stack([row.expand(30, 3), right], 1)).mean()
            )
            / 2
            for row in rows
        ]
    assert torch.allclose(found, torch.stack(expected), atol=1e-6)


@pytest.mark.parametrize("method", list(METHODS))
def test_batches_are_half_head_and_half_tail(data: DetectionData, method: str) -> None:
    detector = new_detector(recipe(method), data.train)
    inputs, kinds = detector.draw_batches(data.unlabelled, data.anomalies, 3, 64, torch.Generator().manual_seed(0))
    tail = torch.tensor(detector.is_tail)[kinds]
    assert inputs.shape[:2] == (3, 64)
    assert int(tail.sum()) == 32
    unlabelled, anomalies = ({tuple(row) for row in rows.tolist()} for rows in (data.unlabelled, data.anomalies))
    for batch in inputs:
        for sample, kind in zip(batch, kinds.tolist(), strict=True):
            rows = [tuple(row) for row in sample.reshape(-1, 3).tolist()]
            assert sum(row in anomalies for row in rows) == kind
            assert sum(row in unlabelled for row in rows) == len(rows) - kind
    if method == "prenet":
        assert torch.bincount(kinds).tolist() == [32, 16, 16]


@pytest.mark.parametrize("method", list(METHODS))
def test_the_tail_gradient_is_the_mean_over_labelled_anomalies(data: DetectionData, method: str) -> None:
    """The groups of a batch are divided each by its own count, sample by sample, and the whole is their sum."""
    detector = new_detector(recipe(method), data.train)
    inputs, kinds = detector.draw_batches(data.unlabelled, data.anomalies, 1, 64, torch.Generator().manual_seed(0))
    inputs, kinds = inputs[0, :52], kinds[:52]  # groups of different size
    is_tail = torch.tensor(detector.is_tail)
    losses = GroupMeanObjective(detector, detector.loss, inputs, kinds, is_tail)(update_statistics=True)
    by_sample = [
        _gradient(detector.loss(detector(one[None]), kind[None]).total, detector)
        for one, kind in zip(inputs, kinds, strict=True)
    ]
    tail = is_tail[kinds]
    assert (int(tail.sum()), int((~tail).sum())) == (20, 32)
    expected = {name: torch.stack([g for g, t in zip(by_sample, tail, strict=True) if bool(t) == side]).mean(0)
                for name, side in (("head", False), ("tail", True))}  # fmt: skip
    assert losses.head is not None
    assert losses.tail is not None
    for name, loss in (("head", losses.head), ("tail", losses.tail)):
        assert torch.allclose(_gradient(loss, detector), expected[name], rtol=1e-4, atol=1e-5)
    assert float(losses.total.detach()) == float((losses.head + losses.tail).detach())


def _gradient(loss: Tensor, detector: torch.nn.Module) -> Tensor:
    pieces = torch.autograd.grad(loss, list(detector.parameters()), retain_graph=True)
    return torch.cat([piece.flatten() for piece in pieces])


def test_a_step_of_imbsam_by_hand(data: DetectionData) -> None:
    """w − lr·(∇L_head(w) + ∇L_tail(w + ρ·g_t/‖g_t‖)), with the groups' means."""
    detector = new_detector(recipe("deepsad"), data.train).double()
    inputs, kinds = detector.draw_batches(data.unlabelled, data.anomalies, 1, 64, torch.Generator().manual_seed(0))
    inputs, tail = inputs[0].double(), kinds == 1

    def mean(chosen: Tensor) -> Tensor:
        return detector.loss.per_sample(detector(inputs[chosen]), kinds[chosen]).mean()

    before = torch.nn.utils.parameters_to_vector(detector.parameters()).detach()
    head, climb = _gradient(mean(~tail), detector), _gradient(mean(tail), detector)
    torch.nn.utils.vector_to_parameters(before + 0.05 * climb / (climb.norm() + 1e-12), detector.parameters())
    expected = before - 0.01 * (head + _gradient(mean(tail), detector))
    torch.nn.utils.vector_to_parameters(before, detector.parameters())
    optimizer = build_optimizer("imbsam", detector.parameters(), lr=0.01, momentum=0.9, weight_decay=0.0, rho=0.05)
    optimizer.step(GroupMeanObjective(detector, detector.loss, inputs, kinds, torch.tensor([False, True])))
    after = torch.nn.utils.parameters_to_vector(detector.parameters()).detach()
    assert torch.allclose(after, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", list(METHODS))
def test_a_run_of_sgd_by_hand(data: DetectionData, method: str) -> None:
    """20 steps an epoch: momentum 0.9, weight decay, the rate ½(1 + cos(πe/E)) of the first, gradients of norm ≤ 1."""
    chosen = dataclasses.replace(recipe(method, "sgd", epochs=2), weight_decay=0.01)
    detector = new_detector(chosen, data.train)
    velocity = [torch.zeros_like(p) for p in detector.parameters()]
    generator, clipped = _generator(chosen.seed, "batches"), 0
    for rate in (chosen.lr, chosen.lr / 2):
        inputs, kinds = detector.draw_batches(data.unlabelled, data.anomalies, 20, 512, generator)
        tail = torch.tensor(detector.is_tail)[kinds]
        for batch in inputs:
            losses = detector.loss.per_sample(detector(batch), kinds)
            gradient = torch.autograd.grad(losses[~tail].mean() + losses[tail].mean(), list(detector.parameters()))
            norm = torch.cat([g.flatten() for g in gradient]).norm()
            clipped += bool(norm > 1)
            with torch.no_grad():
                for p, v, g in zip(detector.parameters(), velocity, gradient, strict=True):
                    v.mul_(0.9).add_(g / norm.clamp(min=1) + 0.01 * p)
                    p.sub_(rate * v)
    assert clipped > 0
    found = train_detector(data, chosen).detector
    for one, other in zip(found.parameters(), detector.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", list(METHODS))
def test_without_a_radius_the_optimisers_are_the_same(data: DetectionData, method: str) -> None:
    """So that what differs in a table is the perturbation: not the rate, not the batches, not the start."""
    trained = [train_detector(data, recipe(method, name, rho=0.0)) for name in ("sgd", "sam", "imbsam")]
    weights = [torch.nn.utils.parameters_to_vector(each.detector.parameters()) for each in trained]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])
    moved = train_detector(data, recipe(method, "imbsam", rho=0.05))
    assert not torch.equal(weights[0], torch.nn.utils.parameters_to_vector(moved.detector.parameters()))


@pytest.mark.parametrize("method", list(METHODS))
def test_training_never_sees_the_test_split(data: DetectionData, method: str) -> None:
    """Other test rows and labels give the same weights, those of the last epoch, and other AUCs."""
    other = DetectionData(data.train, data.labels, data.contamination, data.test.flip(0), data.test_labels)
    one, two = (train_detector(each, recipe(method)) for each in (data, other))
    for first, second in zip(one.detector.state_dict().values(), two.detector.state_dict().values(), strict=True):
        assert torch.equal(first, second)
    assert one.auc_pr != two.auc_pr
    assert (one.head_loss, one.tail_loss) == (two.head_loss, two.tail_loss)


def test_a_detector_finds_what_is_easy(data: DetectionData) -> None:
    """Anomalies 2.5 deviations away in three features: the AUCs are far above those of chance."""
    for method in METHODS:
        trained = train_detector(data, recipe(method, "sgd", epochs=10))
        assert trained.auc_roc > 0.95, method
        assert trained.auc_pr > 0.8, method


def test_a_rate_that_diverges_is_named(data: DetectionData) -> None:
    with pytest.raises(LandscapeError, match="diverged: give a --lr below"):
        train_detector(data, recipe("deepsad", "sgd", lr=1e30))


def test_unknown_method() -> None:
    with pytest.raises(LandscapeError, match="did you mean 'devnet'"):
        method_of("devnett")


def test_frozen_pairs(data: DetectionData) -> None:
    detector = PReNet(3)
    pairs, kinds = detector.frozen_samples(data.train, data.labels, torch.Generator().manual_seed(1))
    again, _ = detector.frozen_samples(data.train, data.labels, torch.Generator().manual_seed(1))
    assert pairs.shape == (4096, 2, 3)
    assert torch.bincount(kinds).tolist() == [2048, 1024, 1024]
    assert torch.equal(pairs, again)
