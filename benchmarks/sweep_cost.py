"""Does a search that starts from the previous checkpoint's eigenvectors take fewer products than one that starts anew?

python benchmarks/sweep_cost.py --run runs/resnet20 --max-samples 50
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from landscape.curvature import HessianOperator, class_parts, rademacher_probe, search, whole_part
from landscape.curvature.measurement import warm_start
from landscape.study import StudyPlan, build_problem, open_subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a training with --save-every")
    parser.add_argument("--classes", default="0,9")
    parser.add_argument("--max-samples", type=int, default=50, help="images of a part, evenly spread over it")
    parser.add_argument("--pairs", type=int, default=5, help="an end")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()

    previous: dict[str, torch.Tensor] = {}
    totals = {"cold": 0, "warm": 0}
    for path in sorted(arguments.run.glob("epoch-*.safetensors")):
        subject = open_subject(path)
        images = subject.data.train
        problem = build_problem(subject, StudyPlan(), images, torch.device(arguments.device))
        classes = [int(c) for c in arguments.classes.split(",")]
        for part in [whole_part(), *class_parts(images.labels, subject.data.class_names, classes)]:
            index = torch.arange(len(images.labels)) if part.samples is None else part.samples
            few = index[torch.linspace(0, len(index) - 1, min(arguments.max_samples, len(index))).round().long()]
            op = HessianOperator(problem.restrict(dataclasses.replace(part, samples=few)))
            starts = {"cold": rademacher_probe(op, 0, 0)}
            if part.path in previous:
                starts["warm"] = warm_start(previous[part.path], starts["cold"])
            found = {name: search(op, arguments.pairs, start=start) for name, start in starts.items()}
            spent = {name: result.pairs.num_matvecs for name, result in found.items()}
            if "warm" in spent:
                totals = {name: totals[name] + spent[name] for name in totals}
            print(f"{path.stem} {part.label:<12} " + ", ".join(f"{name} {count}" for name, count in spent.items()))
            previous[part.path] = torch.as_tensor(found["cold"].pairs.vectors)
    print(f"in all, where both ran: cold {totals['cold']} products, warm {totals['warm']}")


if __name__ == "__main__":
    main()
