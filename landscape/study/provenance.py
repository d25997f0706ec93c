"""What a results file says beside its numbers: what was asked, and what answered."""

from __future__ import annotations

import platform
import time

import numpy as np
import scipy
import torch

import landscape
from landscape.store import MetaValue
from landscape.study.plan import StudyPlan
from landscape.study.subject import Measured, MeasuredSamples


def question(subject: Measured, plan: StudyPlan, images: MeasuredSamples) -> dict[str, MetaValue]:
    """Model, data and loss: what all the runs that fill one file share, whatever they compute of it."""
    return {
        **subject.describe(),
        "dataset_fingerprint": images.fingerprint(),
        "split": plan.split,
        "loss": plan.loss,
        "max_samples": plan.max_samples if plan.max_samples is not None else 0,
        "seed": plan.settings.seed,
        "class_names": list(subject.data.class_names),
        "class_counts": list(subject.data.counts),
        "class_groups": [subject.groups.of(label) for label in range(len(subject.data.class_names))],
    }


def run_record(subject: Measured, device: torch.device, command: str) -> dict[str, str | int]:
    """The command, when, with what and on what: what may differ between the runs that fill one file."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "command": command,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "landscape_version": landscape.__version__,
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
        "scipy_version": scipy.__version__,
        "python_version": platform.python_version(),
        "device": str(device),
        "device_name": name,
        "num_threads": torch.get_num_threads(),
        "source": subject.source,
    }
