"""Which arithmetic a measurement may use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextlib.contextmanager
def exact_arithmetic(device: torch.device) -> Iterator[None]:
    """Gradients on and every shortcut off, whatever the caller has set; all is put back afterwards.

    TF32 and autocast round at 1e-3 and 1e-2 of a product, which would put a floor under the sign of every small
    eigenvalue. Fused attention has no second derivative, the plain formula has.
    """
    backends: Any = torch.backends
    switches = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
    saved = [switch.fp32_precision for switch in switches]
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # PyTorch refuses to answer once the newer switches were used; the older one is then untouched
        precision = "highest"
    try:
        torch.set_float32_matmul_precision("highest")
        for switch in switches:
            switch.fp32_precision = "ieee"
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for switch, value in zip(switches, saved, strict=True):
            switch.fp32_precision = value
