"""The state of a parameter: what is made at its first step, and in which types."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .step import rounds
from .validate import state_dtype


def new_state(p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    """The state of a parameter that was never stepped, which steps outside of inference mode can write."""
    with nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False):
        return _new_state(p, group)


def _new_state(p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
    m_dtype, v_dtype = moment_dtypes(p, group)
    state = {"step": new_step(p, group), "exp_avg": torch.zeros_like(p, dtype=m_dtype)}
    if group.get("layerwise") == "pre":
        state["exp_avg_var"] = torch.zeros((), dtype=v_dtype, device=p.device)
    else:
        state["exp_avg_var"] = torch.zeros_like(p, dtype=v_dtype)
    if rounds(group) and (group["capturable"] or isinstance(group["lr"], Tensor)):  # see step.py, _ticks
        state["rounding_step"] = torch.zeros_like(state["step"], dtype=torch.int64)
    return state


def new_step(p: Tensor, group: dict[str, Any]) -> Tensor:
    device = p.device if group["capturable"] else "cpu"
    wide = torch.get_default_dtype() == torch.float64 and not group["fused"]  # as torch's
    dtype = torch.float64 if wide else torch.float32
    return torch.zeros((), dtype=dtype, device=device)


def moment_dtypes(p: Tensor, group: dict[str, Any]) -> tuple[torch.dtype, torch.dtype]:
    """Of m and v, which differ where one real v is pooled: it costs nothing to keep in full."""
    full = torch.promote_types(p.dtype, torch.float32)
    if p.is_complex():
        return full, full.to_real() if group.get("layerwise") == "pre" else full
    kept = state_dtype(group) or full
    return kept, full if group.get("layerwise") == "pre" else kept
