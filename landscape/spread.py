"""A number over several seeds, and how much it varies between them (no torch)."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Numbers of runs that differ in nothing but their seed."""

    values: tuple[float, ...]  # one a seed, in the order of the seeds

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def standard_deviation(self) -> float:
        """Between seeds, with the divisor n − 1; NaN for a single seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan

    @property
    def standard_error(self) -> float:
        """Of the mean: s.d./√n; NaN for a single seed."""
        return self.standard_deviation / math.sqrt(len(self.values))
