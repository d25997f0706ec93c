"""`landscape demo`."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

import rich_click as click
from rich.markup import escape

from landscape.curvature import MeasureSettings
from landscape.plotting import save_drawing
from landscape.study import StudyPlan, open_subject, run_study
from landscape.training.loop import train
from landscape.training.recipe import Recipe

from .plot import draw
from .progress import StudyBar, TrainingBar, console, group_shares
from .tables import print_saddle_table

RUNS: dict[str, dict[str, Any]] = {
    "CE-DRW + SGD": {"name": "sgd"},
    "CE-DRW + SAM": {"name": "sam", "rho": 0.2},
}
EPOCHS = 60
IMBALANCE = "exp:20"


def demo_recipe(optimizer: dict[str, Any]) -> Recipe:
    """A few seconds of training on scikit-learn's digits, cut to a long tail."""
    return Recipe.parse(
        {
            "data": {"source": "digits", "imbalance": IMBALANCE},
            "model": {"name": "convnet"},
            "loss": {"reweight": "drw"},
            "optimizer": {**optimizer, "lr": 0.05},
            "schedule": {"epochs": EPOCHS, "batch_size": 64},
        }
    )


@click.command(name="demo")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("demo"), show_default=True)
def command(output: Path) -> None:
    """Everything once, on embedded data: two trainings on long-tailed digits (CE-DRW with SGD and with SAM), the
    Hessian of every class, the verdicts, and the figures. A minute or two on two cores.
    """
    start = time.monotonic()
    files = []
    for title, optimizer in RUNS.items():
        name = optimizer["name"]
        folder, file = output / name, output / f"{name}.h5"
        with TrainingBar(f"[bold]train {title}[/], digits {IMBALANCE}: ") as bar:
            result = train(demo_recipe(optimizer), folder, overwrite=True, progress=bar)
        console.print(f"  accuracy {result.last.accuracy:.1%} ({group_shares(result.last.groups)})")
        with StudyBar(f"[bold]measure {title}[/]: ") as study:
            spectra = run_study(
                open_subject(folder),
                StudyPlan(per_class=True, settings=MeasureSettings(num_probes=4, max_probes=4, num_steps=60)),
                file,
                overwrite=True,
                command="landscape demo",
                progress=study,
            )
        print_saddle_table(spectra.read_all(), console)
        files.append(file)
    classes = draw(tuple(files), "classes", names=list(RUNS))
    drawings = {
        "density-sgd.pdf": draw((files[0],), "density"),
        "density-sam.pdf": draw((files[1],), "density"),
        "classes.pdf": classes,
        "classes.png": classes,
    }
    figures = [
        save_drawing(drawing, output / name, origin={"command": "landscape demo"})[0]
        for name, drawing in drawings.items()
    ]
    console.print(f"done in {time.monotonic() - start:.0f} s")
    where = {"runs": [output / "sgd", output / "sam"], "spectra": files, "figures": figures}
    for what, paths in where.items():
        console.print(f"  {what:<9} {', '.join(map(str, paths))}", markup=False, soft_wrap=True)
    following = shlex.join(["landscape", "info", str(files[0])])
    console.print(f"next: [bold]{escape(following)}[/], or your own data: [bold]landscape train --help[/]")
