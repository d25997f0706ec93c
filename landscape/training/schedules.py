"""Learning rate by epoch, scaled to any number of epochs."""

from __future__ import annotations

import math

from landscape.switches import milestone
from landscape.training.recipe import ScheduleRecipe


def learning_rate(schedule: ScheduleRecipe, base: float, epoch: int) -> float:
    """The rate of one epoch, ``0 ≤ epoch < epochs``.

    - ``step``, scaled from 200 epochs: base · (e+1)/W in the W = 2.5 % warm-up epochs, base until 80 %, base · 0.01
      until 90 %, base · 0.0001 to the end. (The LDAM recipe; two factors of 0.01, not of 0.1.)
    - ``cosine``: ½ base (1 + cos(π e/E)), so the first epoch runs at base and the last one above 0.
    - ``cosine-early``: ½ base (1 + cos(π(e+1)/E)), stepped before each epoch as in the released code of ImbSAM and
      SSE-SAM: the last epoch runs at 0 and changes batch-norm statistics alone.
    - ``constant``.
    """
    epochs = schedule.epochs
    if schedule.name == "constant":
        return base
    if schedule.name in ("cosine", "cosine-early"):
        done = epoch if schedule.name == "cosine" else epoch + 1
        return 0.5 * base * (1 + math.cos(math.pi * done / epochs))
    warmup = round(0.025 * epochs)
    first = milestone(0.8, epochs)
    second = max(round(0.9 * epochs), first + 1)
    if epoch < warmup:
        return base * (epoch + 1) / warmup
    if epoch < first:
        return base
    return base * (0.01 if epoch < second else 0.0001)
