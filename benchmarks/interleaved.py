"""Contenders that take turns in one process: machines drift, ratios of neighbours do not."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def seconds_of(run: Callable[[], object]) -> float:
    """Wall time of one call; the call itself must wait for its device."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, unit: str
) -> dict[str, tuple[float, float]]:
    """Median seconds of every contender, and the median of its ratios to ``unit`` in the same round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            seconds[name].append(seconds_of(run))
    return {
        name: (
            statistics.median(values),
            statistics.median(value / one for value, one in zip(values, seconds[unit], strict=True)),
        )
        for name, values in seconds.items()
    }
