"""What comes after the first stage: features of a checkpoint, and classifiers made anew from them alone."""

from landscape.twostage.distributions import Calibration, ClassDistributions, balancing_seeds, on_sphere, tukey
from landscape.twostage.features import FeatureLayer, feature_batches, find_feature_layer, head_of
from landscape.twostage.second_stage import SecondStage, SeedOutcome, kept_per_class
from landscape.twostage.settings import METHODS, TABLES, Method, TwoStageSettings, nearest_table, two_stage_settings
from landscape.twostage.toy import Toy, ToySettings, run_toy

__all__ = [
    "METHODS",
    "TABLES",
    "Calibration",
    "ClassDistributions",
    "FeatureLayer",
    "Method",
    "SecondStage",
    "SeedOutcome",
    "Toy",
    "ToySettings",
    "TwoStageSettings",
    "balancing_seeds",
    "feature_batches",
    "find_feature_layer",
    "head_of",
    "kept_per_class",
    "nearest_table",
    "on_sphere",
    "run_toy",
    "tukey",
    "two_stage_settings",
]
