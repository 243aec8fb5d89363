"""Which backend runs a step; mirrors torch.optim's foreach=None, fused=None."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from . import cpu, eager, foreach, triton
from .contract import Backend

# By the parameters' device: the backend, and why it cannot step such a parameter (None where it can).
FUSED: dict[str, tuple[Any, Callable[[Tensor], str | None]]] = {
    "cpu": (cpu, lambda p: cpu.unsupported_reason(p.dtype)),
    "cuda": (triton, lambda p: triton.unsupported_reason(p.dtype, p.device)),
    "xpu": (triton, lambda p: triton.unsupported_reason(p.dtype, p.device)),
}


def choose(
    params: list[Tensor], *, use_foreach: bool | None, use_fused: bool | None, differentiable: bool
) -> Backend:
    """The backend for parameters of one device and type; RuntimeError where fused=True is unavailable."""
    if differentiable or (use_foreach is False and not use_fused):
        return cast(Backend, eager)
    if use_foreach:
        return cast(Backend, foreach)
    if use_fused is not False:
        if (why := _why_not_fused(params)) is None:
            return cast(Backend, FUSED[params[0].device.type][0])
        if use_fused:
            raise RuntimeError(
                "`fused=True` requires all the params to be floating point Tensors that a fused backend "
                f"steps, but {why}; or leave fused=None, which takes the fastest backend there is"
            )
    # A tensor subclass may have no operations on lists; asking its type under torch.compile breaks the graph.
    return cast(Backend, foreach if torch.compiler.is_compiling() or not _subclass(params) else eager)


def _subclass(params: list[Tensor]) -> type | None:
    return next(iter({*map(type, params)} - {Tensor, torch.nn.Parameter}), None)


def _why_not_fused(params: list[Tensor]) -> str | None:
    """Why no fused backend can step these parameters, and what to do; None where one can."""
    if torch.compiler.is_compiling():
        return "torch.compile makes its own kernels; step outside of what is compiled"
    device = params[0].device.type
    if device not in FUSED:
        return f"there is no fused backend for {device}; use foreach=True"
    if subclass := _subclass(params):
        return f"a {subclass.__name__} may have no memory of its own; use foreach=False"
    return FUSED[device][1](params[0])
