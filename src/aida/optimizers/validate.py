"""Checks of a parameter group; every message names the argument, the value and the fix."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

# Keys that schedulers and trainers keep in a group beside the optimizer's own.
FOREIGN_KEYS = (
    "params",
    "param_names",
    "name",
    "initial_lr",
    "max_lr",
    "min_lr",
    "max_momentum",
    "base_momentum",
    "swa_lr",
    "lr_scale",
    "lr_mult",
)


def check_keys(where: str, keys: Iterable[str], known: Iterable[str], silent: Iterable[str] = ()) -> None:
    """Raise TypeError at the first key that is neither known nor silently accepted, with the nearest name."""
    known = sorted(known)
    for key in keys:
        if key not in known and key not in silent:
            near = difflib.get_close_matches(key, [*known, *silent], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise TypeError(f"{where} has no argument {key!r}: {hint}")


def check_group(group: Mapping[str, Any]) -> None:
    """Raise ValueError, TypeError or RuntimeError where a merged group cannot be stepped with."""
    _check_lr(group)
    b1, b2 = group["betas"]
    for i, b in enumerate((b1, b2)):
        if not 0.0 <= b < 1.0:
            raise ValueError(f"Invalid beta parameter at index {i}: {b}; it must lie in [0, 1), as 0.9 does")
    _check_positive("eps", group["eps"], "it bounds the stepsize by sqrt((1-beta2)/eps)")
    if not group["weight_decay"] >= 0.0:
        raise ValueError(f"Invalid weight_decay value: {group['weight_decay']}; it must be 0 or more")
    if "K" in group:
        K = group["K"]
        if isinstance(K, bool) or not isinstance(K, Integral) or K < 0:
            raise ValueError(
                f"Invalid number of projections K: {K!r}; it must be an integer of 0 or more, such as 2"
            )
        _check_positive("xi", group["xi"], "it keeps a zero gradient from giving 0/0")
    if "layerwise" in group and group["layerwise"] not in ("pre", "post"):
        raise ValueError(f"Invalid layerwise: {group['layerwise']!r}; it must be 'pre' or 'post'")
    if group["foreach"] and group["fused"]:
        raise RuntimeError("`fused` and `foreach` cannot be `True` together; leave one of them None")
    if group["differentiable"] and (group["foreach"] or group["fused"]):
        raise RuntimeError(
            "`differentiable` needs the tensor-by-tensor step: leave `foreach` and `fused` None"
        )
    _check_rounding(group)
    _warn_where_eps_underflows(group)


def _check_rounding(group: Mapping[str, Any]) -> None:
    if group["state_dtype"] not in (None, torch.float32, torch.bfloat16):
        raise ValueError(
            f"Invalid state_dtype: {group['state_dtype']!r}; it must be None, torch.float32 or "
            "torch.bfloat16 (float16 cannot hold v, which squares gradients)"
        )
    seed = group["seed"]
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**32:
        raise ValueError(f"Invalid seed: {seed!r}; it must be an integer from 0 to 2**32 - 1")
    if group["differentiable"] and (group["state_dtype"] == torch.bfloat16 or group["stochastic_rounding"]):
        raise RuntimeError(
            "`differentiable` cannot be had with random rounding, which has no derivative: "
            "leave `state_dtype` None and `stochastic_rounding` False"
        )


def _check_lr(group: Mapping[str, Any]) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"Tensor lr must be 1-element, but it has {lr.numel()}")
        if lr.device.type != "cpu":
            return  # its value is not looked at: that would wait for the device
    if not lr >= 0.0:
        raise ValueError(f"Invalid learning rate: {lr}; it must be 0 or more")


def _check_positive(name: str, value: float, why: str) -> None:
    if not value > 0.0:
        raise ValueError(f"Invalid {name} value: {value}; it must be above 0, since {why}")


def _warn_where_eps_underflows(group: Mapping[str, Any]) -> None:
    floor = group["eps"] / (1 - group["betas"][1])
    for p in group["params"]:
        dtype = torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32
        if floor < (tiny := torch.finfo(dtype).tiny):
            warnings.warn(
                f"eps={group['eps']} underflows: the step is computed in {dtype}, where eps/(1-beta2)="
                f"{floor:.1e} is below the smallest normal number, {tiny:.1e}; use a larger eps",
                stacklevel=6,
            )
            return
