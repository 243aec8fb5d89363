"""Which backend runs a step; mirrors torch.optim's foreach=None, fused=None."""

from __future__ import annotations

from typing import cast

from . import eager, foreach
from .contract import Backend


def choose(*, use_foreach: bool | None, use_fused: bool | None, differentiable: bool) -> Backend:
    """The backend for one group; asking for what cannot be had raises RuntimeError with the reason."""
    if use_fused:
        raise RuntimeError(
            "fused=True cannot be had: this version of aida has no fused backend yet; "
            "use fused=None, which takes the fastest backend there is, or foreach=True"
        )
    if differentiable or use_foreach is False:
        return cast(Backend, eager)
    return cast(Backend, foreach)
