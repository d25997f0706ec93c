"""Loss-landscape analysis for class-imbalanced learning and any PyTorch classifier.

Importing this package is cheap: the rooms (`landscape.data`, `landscape.training`, `landscape.curvature`, ...) are
imported by name when they are needed, so that drawing a figure from a results file never loads torch.
"""

__version__ = "0.1.0"
