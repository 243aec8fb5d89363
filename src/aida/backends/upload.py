"""Numbers brought to a device without waiting for it, within the capture of a CUDA graph too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

captured: list[
    Any
] = []  # a graph reads what it was given at every replay, and nothing says when the graph is gone


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured."""
    return (
        device.type == "cuda"
        and not torch.compiler.is_compiling()
        and torch.cuda.is_current_stream_capturing()
    )


def upload(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor on the device, without waiting for it: from pinned memory, which alone a graph can capture."""
    pinned = device.type in ("cuda", "xpu") and not torch.compiler.is_compiling()
    host = torch.tensor(numbers, dtype=dtype, device="cpu", pin_memory=pinned)
    if capturing(device):
        captured.append(host)
    return host.to(device, non_blocking=True)
