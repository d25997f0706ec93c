"""The grid of runs as a file, its table, and what of it may be claimed (no torch)."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scipy.stats import wilcoxon

from landscape.atomic import atomic_replacement
from landscape.errors import LandscapeError
from landscape.json_text import json_text
from landscape.spread import Spread

SCHEMA, SCHEMA_VERSION = "landscape-anomaly", 1
FILE_NAME = "results.json"
BASELINE = "sgd"

Metric = Literal["auc_roc", "auc_pr"]
METRICS: tuple[Metric, Metric] = ("auc_roc", "auc_pr")

TITLES = {
    "devnet": "DevNet",
    "deepsad": "DeepSAD",
    "prenet": "PReNet",
    "sgd": "SGD",
    "sam": "SAM",
    "imbsam": "ImbSAM",
    "auc_roc": "AUC-ROC",
    "auc_pr": "AUC-PR",
}
"""What tables and figures call methods, optimisers and metrics."""


@dataclass(frozen=True)
class RunResult:
    """What one run reached."""

    data: str  # name of the data set
    method: str
    optimizer: str
    seed: int
    auc_roc: float  # in [0, 1], on the test split, at the last epoch
    auc_pr: float  # in [0, 1]
    prevalence: float  # share of anomalies in the test split: the AUC-PR of random scores
    head_loss: float  # mean training loss of unlabelled rows, or of pairs of them
    tail_loss: float  # mean training loss of labelled anomalies, or of pairs with them
    checkpoint: str  # relative to the folder of the results


@dataclass(frozen=True)
class Sample(Spread):
    """AUCs over seeds, or differences of them."""

    @property
    def claim(self) -> Literal["higher", "lower", ""]:
        """Of differences: whether their mean is further from 0 than two standard errors, of three seeds or more."""
        if len(self.values) < 3 or not abs(self.mean) > 2 * self.standard_error:
            return ""
        return "higher" if self.mean > 0 else "lower"


@dataclass(frozen=True)
class Contrast:
    """An optimiser against another, of one method, over data sets."""

    method: str
    optimizer: str
    baseline: str
    metric: Metric
    differences: dict[str, Sample]  # by data set: optimizer − baseline, seed by seed
    p_value: float  # Wilcoxon's signed-rank test on the means over seeds, two-sided, exact; NaN below two data sets

    @property
    def mean(self) -> float:
        """Mean over data sets of the means over seeds."""
        return statistics.fmean(sample.mean for sample in self.differences.values())

    @property
    def standard_error(self) -> float:
        """Of :attr:`mean`, over data sets."""
        return Sample(tuple(sample.mean for sample in self.differences.values())).standard_error


@dataclass(frozen=True)
class GridResults:
    """All runs of a folder."""

    runs: tuple[RunResult, ...]
    settings: dict[str, Any]  # what all of them share
    command: str

    def names(self, field: Literal["data", "method", "optimizer"]) -> list[str]:
        """The data sets, methods or optimisers, in the order in which they were named."""
        return list(dict.fromkeys(getattr(run, field) for run in self.runs))

    def by_seed(self, data: str, method: str, optimizer: str, metric: Metric) -> dict[int, float]:
        """Seed → number."""
        return {
            run.seed: getattr(run, metric)
            for run in self.runs
            if (run.data, run.method, run.optimizer) == (data, method, optimizer)
        }

    def sample(self, data: str, method: str, optimizer: str, metric: Metric) -> Sample | None:
        """The numbers of one cell of the table; ``None`` where there is no run."""
        values = self.by_seed(data, method, optimizer, metric)
        return Sample(tuple(values.values())) if values else None

    def prevalence(self, data: str) -> float:
        """Share of anomalies in the test split, mean over seeds."""
        return statistics.fmean(run.prevalence for run in self.runs if run.data == data)

    def contrast(self, method: str, optimizer: str, metric: Metric, baseline: str = BASELINE) -> Contrast | None:
        """An optimiser against ``baseline``, over the data sets and seeds that both have; ``None`` without any."""
        differences = {}
        for data in self.names("data"):
            ours, theirs = (self.by_seed(data, method, name, metric) for name in (optimizer, baseline))
            shared = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
            if shared:
                differences[data] = Sample(tuple(shared))
        if not differences:
            return None
        p_value = signed_rank_p([sample.mean for sample in differences.values()])
        return Contrast(method, optimizer, baseline, metric, differences, p_value)

    def contrasts(self) -> list[Contrast]:
        """ImbSAM against the same method with SGD and with SAM, and SAM against SGD, as far as there are runs."""
        pairs = [("imbsam", "sgd"), ("imbsam", "sam"), ("sam", "sgd")]
        found = [
            self.contrast(method, optimizer, metric, baseline)
            for method in self.names("method")
            for optimizer, baseline in pairs
            for metric in METRICS
        ]
        return [contrast for contrast in found if contrast is not None]

    def save(self, path: Path) -> None:
        """Write runs, table and tests as JSON, in one atomic step."""
        cells = [
            {"data": data, "method": method, "optimizer": optimizer, "metric": metric, "mean": sample.mean,
             "sd": sample.standard_deviation, "seeds": len(sample.values)}
            for data in self.names("data")
            for method in self.names("method")
            for optimizer in self.names("optimizer")
            for metric in METRICS
            if (sample := self.sample(data, method, optimizer, metric)) is not None
        ]  # fmt: skip
        content = {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "settings": self.settings,
            "runs": [asdict(run) for run in self.runs],
            "cells": cells,
            "contrasts": [_contrast_row(contrast) for contrast in self.contrasts()],
        }
        with atomic_replacement(path) as partial:
            partial.write_text(json_text(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> GridResults:
        """Read what :meth:`save` wrote, from the file or from its folder.

        Raises:
            LandscapeError: missing, something else, or of a newer version.
        """
        path = path / FILE_NAME if path.is_dir() else path
        if not path.is_file():
            raise LandscapeError(f"no results at {path}: `landscape anomaly … -o FOLDER` writes FOLDER/{FILE_NAME}")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise LandscapeError(f"{path} is not JSON: {error}") from None
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise LandscapeError(f"{path} has schema '{schema}', not '{SCHEMA}': give a file of `landscape anomaly`")
        if content["schema_version"] > SCHEMA_VERSION:
            raise LandscapeError(
                f"{path} has version {content['schema_version']} of {SCHEMA}, this landscape reads {SCHEMA_VERSION}: "
                "upgrade it"
            )
        return cls(tuple(RunResult(**run) for run in content["runs"]), content["settings"], content["command"])


def is_results(path: Path) -> bool:
    """Whether a path is the results of `landscape anomaly`, or their folder."""
    return (path / FILE_NAME).is_file() if path.is_dir() else path.suffix == ".json"


def describe(path: Path) -> list[tuple[str, str]]:
    """What a results file holds, as rows (label, value) for people.

    Raises:
        LandscapeError: as :meth:`GridResults.load`.
    """
    results = GridResults.load(path)
    seeds = sorted({run.seed for run in results.runs})
    return [
        ("file", str(path)),
        ("schema", f"{SCHEMA} {SCHEMA_VERSION}"),
        ("command", results.command),
        *((key, str(value)) for key, value in results.settings.items()),
        ("runs", str(len(results.runs))),
        ("data sets", _listed(results.names("data"))),
        ("methods", _listed(results.names("method"))),
        ("optimisers", _listed(results.names("optimizer"))),
        ("seeds", _listed(seeds)),
        ("tests", _listed([f"{c.method} {c.optimizer}−{c.baseline} {c.metric} p = {c.p_value:.2g}"
                           for c in results.contrasts()])),
    ]  # fmt: skip


def signed_rank_p(differences: Sequence[float]) -> float:
    """p of Wilcoxon's signed-rank test that differences are symmetric about 0: two-sided, exact, zeros left out.

    With nine differences the smallest p is 2/2⁹ = 0.0039. NaN for fewer than two differences that are not 0.
    """
    moved = [value for value in differences if value != 0]
    return float(wilcoxon(moved, method="exact").pvalue) if len(moved) > 1 else math.nan


def _contrast_row(contrast: Contrast) -> dict[str, Any]:
    return {
        "method": contrast.method,
        "optimizer": contrast.optimizer,
        "baseline": contrast.baseline,
        "metric": contrast.metric,
        "mean": contrast.mean,
        "se": contrast.standard_error,
        "p_wilcoxon": contrast.p_value,
        "by_data": {
            data: {"mean": sample.mean, "se": sample.standard_error, "claim": sample.claim}
            for data, sample in contrast.differences.items()
        },
    }


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))
