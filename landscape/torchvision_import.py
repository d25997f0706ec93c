"""The one door through which the project reaches torchvision.

PyPI's torchvision carries a compiled library built for CUDA. Beside a CPU-only torch that library does not load, and
torchvision then fails at import, because it registers shape rules for two of the library's operators. Nothing here uses
those operators, so declaring them is enough to make datasets, transforms and models work.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

from landscape.errors import LandscapeError

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A torch.library.Library withdraws its operators when it is collected, so whatever is declared lives as long as we do.
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled operators cannot be loaded.

    A plain import comes first. Only when it fails for want of a ``torchvision::`` operator are the schemas of
    ``torchvision::nms`` and ``torchvision::qnms`` declared (without an implementation) and the import repeated.

    Returns:
        The torchvision module; ``datasets``, ``models`` and ``transforms`` are loaded with it.

    Raises:
        LandscapeError: torchvision is not installed.
        RuntimeError: what torchvision itself raised, if it is anything but a missing operator.
    """
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise LandscapeError("torchvision is not installed; run: python -m pip install torchvision") from error
    except RuntimeError as error:
        if not str(error).startswith("operator torchvision::"):
            raise
    # Python drops the package that failed but keeps the submodules it had finished; they must not be reused.
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return importlib.import_module("torchvision")
