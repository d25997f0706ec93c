"""A study: a checkpoint, or a sweep over many, and its data in, a results file out. What `landscape spectrum` does.

This is the one place where the rooms meet: `training` gives the model and the data, `curvature` the numbers, `store`
keeps them. `subject` says what is measured, `plan` which parts on which samples, `cost` what that takes and what a
budget holds, `runner` does it. It decides what is written beside the numbers, and computes no number itself.
"""

from landscape.study.cost import Budget, Cost
from landscape.study.plan import StudyPlan, build_problem, plan_parts
from landscape.study.runner import Quiet, StudyProgress, run_study
from landscape.study.subject import Measured, Subject, Sweep, open_subject, open_sweep

__all__ = [
    "Budget",
    "Cost",
    "Measured",
    "Quiet",
    "StudyPlan",
    "StudyProgress",
    "Subject",
    "Sweep",
    "build_problem",
    "open_subject",
    "open_sweep",
    "plan_parts",
    "run_study",
]
