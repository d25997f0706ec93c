"""From a recipe to a checkpoint: the loop, schedules, evaluation, and the files a run leaves."""

from landscape.store.history import EpochRecord, read_history
from landscape.training.checkpoint import Checkpoint, CheckpointInfo, load_checkpoint, load_state, save_checkpoint
from landscape.training.evaluation import Evaluation, evaluate, evaluate_with_flips, predict
from landscape.training.loop import TrainingResult, train
from landscape.training.recipe import Recipe

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "EpochRecord",
    "Evaluation",
    "Recipe",
    "TrainingResult",
    "evaluate",
    "evaluate_with_flips",
    "load_checkpoint",
    "load_state",
    "predict",
    "read_history",
    "save_checkpoint",
    "train",
]
