"""Head, mid and tail: the two conventions in use for grouping the classes of a long-tailed set.

The literature reports group accuracies under both, often without saying which, so a grouping carries its convention.

| convention | cut by | groups of CIFAR-100-LT | used by |
|---|---|---|---|
| index | rank by class size, whatever IF | 36 / 35 / 29 | MiSLAS, Saddle |
| count | images a class: many > 100, few < 20 | 35 / 35 / 30 (IF 100), 69 / 31 / 0 (IF 10) | OLTR, ImbSAM, SSE-SAM |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from landscape.errors import LandscapeError

# Number of classes -> head, mid, tail (Zhong et al., CVPR 2021): CIFAR-10, CIFAR-100, ImageNet-LT, iNaturalist 2018.
_PUBLISHED_SIZES = {10: (3, 4, 3), 100: (36, 35, 29), 1000: (390, 445, 165), 8142: (842, 3701, 3599)}


@dataclass(frozen=True)
class ClassGroups:
    """A partition of the classes into head, mid and tail. A group may be empty."""

    convention: str  # which rule made the cut, e.g. "index 36/35/29" or "count >100/<20"
    head: tuple[int, ...]  # class labels, largest class first
    mid: tuple[int, ...]
    tail: tuple[int, ...]

    def of(self, label: int) -> str:
        """Name of the group that class ``label`` is in: ``head``, ``mid`` or ``tail``."""
        for name, members in self.items():
            if label in members:
                return name
        raise LandscapeError(f"class {label} is in no group of '{self.convention}'")

    def items(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Pairs of group name and class labels, head first; empty groups included."""
        yield from (("head", self.head), ("mid", self.mid), ("tail", self.tail))


def _by_size(counts: Sequence[int]) -> list[int]:
    # sorted() is stable: among classes of one size the lower label comes first, on every machine.
    return sorted(range(len(counts)), key=lambda label: -counts[label])


def groups_by_index(counts: Sequence[int]) -> ClassGroups:
    """Cut the classes by rank: sorted by descending size, the first are head and the last are tail.

    Sizes 3/4/3 for 10 classes, 36/35/29 for 100, 390/445/165 for 1000 and 842/3701/3599 for 8142; any other number of
    classes is cut in the proportions of 100. From three classes on no group is empty; two classes are head and tail.

    Args:
        counts: training images, one entry a class in label order.

    Source: the configuration of MiSLAS (Zhong et al., CVPR 2021).
    """
    num_classes = len(counts)
    if num_classes in _PUBLISHED_SIZES:
        head, mid, tail = _PUBLISHED_SIZES[num_classes]
    else:
        head = min(max(1, round(0.36 * num_classes)), num_classes)
        tail = min(max(1, round(0.29 * num_classes)), num_classes - head)
        mid = num_classes - head - tail
    order = _by_size(counts)
    return ClassGroups(
        convention=f"index {head}/{mid}/{tail}",
        head=tuple(order[:head]),
        mid=tuple(order[head : head + mid]),
        tail=tuple(order[head + mid :]),
    )


def groups_by_count(counts: Sequence[int], many: int = 100, few: int = 20) -> ClassGroups:
    """Cut the classes by their number of training images: head has more than ``many``, tail fewer than ``few``.

    Both inequalities are strict: a class of exactly 100 or exactly 20 images is mid. For CIFAR-10-LT, where no class is
    that small, SSE-SAM takes ``many=1000, few=200``.

    Args:
        counts: training images, one entry a class in label order.
        many: images; the head lies above.
        few: images; the tail lies below.

    Raises:
        LandscapeError: ``few`` above ``many``, which would put a class into two groups.

    Source: OLTR (Liu et al., CVPR 2019).
    """
    if few > many:
        raise LandscapeError(f"group thresholds many={many}, few={few}: 'few' must not be larger than 'many'")
    order = _by_size(counts)
    return ClassGroups(
        convention=f"count >{many}/<{few}",
        head=tuple(label for label in order if counts[label] > many),
        mid=tuple(label for label in order if few <= counts[label] <= many),
        tail=tuple(label for label in order if counts[label] < few),
    )
