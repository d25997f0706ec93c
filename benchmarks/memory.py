"""Does memory stay where the cost line put it, and does it stay there over a thousand products?

python benchmarks/memory.py --run runs/resnet20 --max-samples 100
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path

import torch

from landscape.curvature import HessianOperator, MeasureSettings, Problem, Samples
from landscape.losses import build_loss
from landscape.models import build_model
from landscape.study import Cost, Quiet, StudyPlan, open_subject, run_study


class CostLine(Quiet):
    """Keeps what a study announces, and the peak of the process up to then."""

    announced: Cost
    before = 0.0

    def cost(self, estimate: Cost) -> None:
        self.announced, self.before = estimate, resident()


def resident() -> float:
    """MB of this process that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def growth(model_name: str, products: int) -> None:
    """Products one after the other, on a network small enough for a leak to show."""
    torch.manual_seed(0)
    model = build_model(model_name, num_classes=10, in_channels=1, image_size=8)
    samples = Samples(torch.randn(300, 1, 8, 8), torch.arange(300) % 10)
    problem = Problem(model, build_loss("ce", [1] * 10), samples, chunk_size=100)
    vector = torch.randn(problem.num_parameters)
    for engine in ("traced", "double-backward"):
        op = HessianOperator(problem, engine=engine)
        seen = []
        for product in range(products + 50):
            op @ vector
            if product in (49, products + 49):  # the first fifty fill the allocator's pools
                seen.append(resident())
        print(f"{model_name}, {engine}: {seen[0]:.0f} MB, after {products} more products {seen[1] - seen[0]:+.1f} MB")


def announced(run: Path, max_samples: int | None) -> None:
    """One study of the whole data of a run."""
    plan = StudyPlan(whole=True, max_samples=max_samples, settings=MeasureSettings(num_probes=2, num_steps=60))
    line = CostLine()
    with tempfile.TemporaryDirectory() as folder:
        run_study(open_subject(run), plan, Path(folder) / "x.h5", progress=line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    used, said = peak - line.before, line.announced.bytes / 1e6
    print(f"{run}: announced {said:.0f} MB, peak {used:.0f} MB above the {line.before:.0f} MB before it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of a training, to compare peak and announcement")
    parser.add_argument("--max-samples", type=int)
    parser.add_argument("--model", default="convnet")
    parser.add_argument("--products", type=int, default=1000)
    arguments = parser.parse_args()
    growth(arguments.model, arguments.products)
    if arguments.run is not None:
        announced(arguments.run, arguments.max_samples)


if __name__ == "__main__":
    main()
