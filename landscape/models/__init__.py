"""What is trained: CIFAR ResNets, torchvision's ResNets, small nets, linear and cosine heads."""

from landscape.models.heads import CosineHead, LearnedCosineHead, LinearHead, head_kind, head_names, make_head
from landscape.models.registry import build_model, import_factory, model_names

__all__ = [
    "CosineHead",
    "LearnedCosineHead",
    "LinearHead",
    "build_model",
    "head_kind",
    "head_names",
    "import_factory",
    "make_head",
    "model_names",
]
