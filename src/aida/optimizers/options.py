"""The arguments of the whole family, beside lr, betas, eps and weight_decay, and their defaults."""

from __future__ import annotations

from typing import TypedDict

import torch


class Options(TypedDict, total=False):
    """Keyword arguments beside lr, betas, eps and weight_decay; Layerwise tells what they do."""

    K: int
    xi: float
    layerwise: str
    decoupled_weight_decay: bool
    rectify: bool
    state_dtype: str | torch.dtype | None
    stochastic_rounding: bool
    seed: int
    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool


OPTIONS = Options(
    decoupled_weight_decay=False,
    rectify=False,
    state_dtype=None,
    stochastic_rounding=False,
    seed=0,
    maximize=False,
    foreach=None,
    fused=None,
    capturable=False,
    differentiable=False,
)
