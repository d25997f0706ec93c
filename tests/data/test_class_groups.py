"""Head, mid and tail under both conventions, against the published sizes."""

import pytest
import torch

from landscape.data import ClassGroups, class_counts, groups_by_count, groups_by_index
from landscape.errors import LandscapeError


def _sizes(groups: ClassGroups) -> tuple[int, ...]:
    return tuple(len(members) for _, members in groups.items())


@pytest.mark.parametrize(
    ("num_classes", "sizes"),
    [(10, (3, 4, 3)), (100, (36, 35, 29)), (1000, (390, 445, 165)), (8142, (842, 3701, 3599)), (200, (72, 70, 58))],
)
def test_sizes_by_index(num_classes: int, sizes: tuple[int, ...]) -> None:
    groups = groups_by_index(range(num_classes, 0, -1))
    assert _sizes(groups) == sizes
    assert groups.convention == "index " + "/".join(map(str, sizes))
    assert groups.head + groups.mid + groups.tail == tuple(range(num_classes))


def test_by_index_every_number_of_classes_is_partitioned() -> None:
    for num_classes in range(1, 400):
        groups = groups_by_index([5] * num_classes)
        assert sum(_sizes(groups)) == num_classes
        assert min(_sizes(groups)) >= 0
        assert num_classes < 3 or min(_sizes(groups)) > 0
    assert _sizes(groups_by_index([3, 1])) == (1, 0, 1)


def test_by_index_sorts_by_size_and_keeps_label_order_among_equals() -> None:
    groups = groups_by_index([5, 9, 9, 1, 5, 5, 7, 2, 2, 9])
    assert groups.head == (1, 2, 9)
    assert groups.mid == (6, 0, 4, 5)
    assert groups.tail == (7, 8, 3)


@pytest.mark.parametrize(("imbalance", "sizes"), [(100, (35, 35, 30)), (50, (41, 41, 18)), (10, (69, 31, 0))])
def test_published_sizes_by_count(imbalance: int, sizes: tuple[int, ...]) -> None:
    groups = groups_by_count(class_counts(f"exp:{imbalance}", (500,) * 100))
    assert _sizes(groups) == sizes
    assert groups.convention == "count >100/<20"


def test_published_sizes_by_count_for_cifar10() -> None:
    assert _sizes(groups_by_count(class_counts("exp:100", (5000,) * 10), many=1000, few=200)) == (4, 3, 3)


def test_count_thresholds_are_strict() -> None:
    groups = groups_by_count([101, 100, 20, 19])
    assert (groups.head, groups.mid, groups.tail) == ((0,), (1, 2), (3,))


def test_of_is_the_inverse_of_items() -> None:
    groups = groups_by_count([19, 101, 50])
    assert [groups.of(label) for label in range(3)] == ["tail", "head", "mid"]
    with pytest.raises(LandscapeError, match="class 3 is in no group"):
        groups.of(3)


def test_thresholds_that_overlap_are_refused() -> None:
    with pytest.raises(LandscapeError, match="many=20, few=100"):
        groups_by_count([1, 2], many=20, few=100)


def test_group_accuracies_weighted_by_size_give_the_overall_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 100
    correct = torch.rand(2000, generator=generator) < 0.4
    counts = class_counts("exp:100", (500,) * 100)
    for groups in (groups_by_index(counts), groups_by_count(counts)):
        total = 0.0
        for _, members in groups.items():
            total += len(members) * correct[torch.isin(labels, torch.tensor(members))].double().mean().item()
        assert total / 100 == pytest.approx(correct.double().mean().item(), abs=1e-12)
