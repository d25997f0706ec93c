"""The batch objective: how losses split over class groups, and what a forward leaves behind in batch norm."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape.errors import LandscapeError
from landscape.losses import build_loss
from landscape.optim import GroupedObjective, tail_classes

COUNTS = [50, 20, 5]
IS_TAIL = torch.tensor([False, True, True])
WEIGHTS = torch.tensor([0.3, 0.9, 1.8], dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()


def objective(model: nn.Module, labels: Tensor, **settings: object) -> GroupedObjective:
    inputs = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = build_loss("ce", COUNTS, class_weights=WEIGHTS)
    return GroupedObjective(model, loss, inputs, labels, **{"is_tail": IS_TAIL, **settings})


@pytest.mark.parametrize("normalization", ["batch", "group"])
def test_groups_are_the_losses_of_their_samples(normalization: str) -> None:
    labels = torch.tensor([0, 1, 2, 0, 0, 1, 0])
    model = network()
    batch = objective(model, labels, normalization=normalization)
    losses = batch(update_statistics=True)
    per_sample = WEIGHTS[labels] * F.cross_entropy(model(batch.inputs), labels, reduction="none")
    in_tail = labels > 0
    assert (batch.has_head, batch.has_tail) == (True, True)
    torch.testing.assert_close(losses.total, per_sample.sum() / WEIGHTS[labels].sum(), rtol=1e-14, atol=0)
    for group, members in ((losses.head, ~in_tail), (losses.tail, in_tail)):
        shared = WEIGHTS[labels] if normalization == "batch" else WEIGHTS[labels[members]]
        torch.testing.assert_close(group, per_sample[members].sum() / shared.sum(), rtol=1e-14, atol=0)
    is_sum = torch.isclose(losses.head + losses.tail, losses.total, rtol=1e-13, atol=0)
    assert bool(is_sum) == (normalization == "batch")


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("normalization", ["batch", "group"])
@pytest.mark.parametrize(("labels", "present"), [([0, 0, 0], (True, False)), ([1, 2, 2], (False, True))])
def test_a_group_alone_in_the_batch_is_the_total(
    labels: list[int], present: tuple[bool, bool], normalization: str, given: bool
) -> None:
    settings = {"present": present} if given else {}
    batch = objective(network(), torch.tensor(labels), normalization=normalization, **settings)
    assert (batch.has_head, batch.has_tail) == present
    total, head, tail = batch(update_statistics=True)
    assert (head is total, tail is total) == present
    assert (head is None, tail is None) == (not present[0], not present[1])


def test_no_groups_without_tail_classes() -> None:
    batch = objective(network(), torch.tensor([0, 1, 2]), is_tail=None)
    assert (batch.has_head, batch.has_tail) == (False, False)
    assert batch(update_statistics=True)[1:] == (None, None)


def test_statistics_stay_while_the_batch_normalises() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1])
    model = network()
    batch = objective(model, labels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    still = batch(update_statistics=False)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert int(model[1].num_batches_tracked) == 0
    moving = batch(update_statistics=True)
    assert int(model[1].num_batches_tracked) == 1
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])
    assert not torch.equal(model[1].running_var, before["1.running_var"])
    assert torch.equal(still.total, moving.total)
    model.eval()
    assert (batch(update_statistics=False).total - moving.total).abs() > 1e-3


def test_statistics_stay_after_a_failed_forward() -> None:
    model = network()
    batch = objective(model, torch.tensor([0, 1, 2]))
    batch.inputs = batch.inputs[:, :3]
    with pytest.raises(RuntimeError):
        batch(update_statistics=False)
    assert model[1].track_running_stats


def test_layers_that_never_tracked_still_do_not() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)).double()
    objective(model, torch.tensor([0, 1, 2]))(update_statistics=False)
    assert not model[0].track_running_stats


def test_tail_is_strictly_below_eta() -> None:
    assert tail_classes([101, 100, 99, 5], eta=100).tolist() == [False, False, True, True]
    assert tail_classes(torch.tensor([101, 100]), eta=1e9).tolist() == [True, True]
    assert not tail_classes([101, 5], eta=0).any()


def test_unknown_normalization_is_refused() -> None:
    with pytest.raises(LandscapeError, match=r"'groups'.*batch or group"):
        objective(network(), torch.tensor([0, 1, 2]), normalization="groups")
