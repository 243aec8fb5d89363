"""The state of a parameter: what is made at its first step, in which types, and what a load completes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from .. import sharding
from ..backends import blockwise
from .foreign import SAVED_BY, check_source
from .layer_checks import MOMENTS, SCALES, check_codes_of_group
from .layers import SAVED_LAYERS, Layering
from .validate import Checked, check_group, state_dtype

Group = dict[str, Any]


def new_state(p: Tensor, group: Group, slices: int = 0) -> dict[str, Any]:
    """The state of a parameter that was never stepped, which steps outside of inference mode can write.

    slices: how many it is cut into, each of which has a pooled v of its own.
    """
    with nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False):
        return _new_state(p, group, slices)


def _new_state(p: Tensor, group: Group, slices: int) -> dict[str, Any]:
    m_dtype, v_dtype = moment_dtypes(p, group)
    state = {"step": new_step(p, group), "exp_avg": _zeros(p, m_dtype)}
    if group.get("layerwise") == "pre":
        state["exp_avg_var"] = torch.zeros((slices,) if slices else (), dtype=v_dtype, device=p.device)
    else:
        state["exp_avg_var"] = _zeros(p, v_dtype)
    for name, scale in zip(MOMENTS, SCALES, strict=True):
        if state[name].dtype in blockwise.CODES:
            state[scale] = torch.zeros(blockwise.blocks(p.numel()), dtype=torch.float32, device=p.device)
    if rounds(group) and (group["capturable"] or isinstance(group["lr"], Tensor)):  # see step.py, _ticks
        state["rounding_step"] = torch.zeros_like(state["step"], dtype=torch.int64)
    return state


def _zeros(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Codes are contiguous: their blocks then do not depend on how a checkpoint was laid out."""
    if dtype in blockwise.CODES:
        return torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format)
    return torch.zeros_like(p, dtype=dtype)


def new_step(p: Tensor, group: Group) -> Tensor:
    """A step counter at 0, of the type and on the device that torch's Adam gives it."""
    device = p.device if group["capturable"] else "cpu"
    wide = torch.get_default_dtype() == torch.float64 and not group["fused"]  # as torch's
    dtype = torch.float64 if wide else torch.float32
    return torch.zeros((), dtype=dtype, device=device)


def moment_dtypes(p: Tensor, group: Group) -> tuple[torch.dtype, torch.dtype]:
    """Of m and v, which differ in 8 bits, and where v is one real number, which is kept in full."""
    full = torch.promote_types(p.dtype, torch.float32)
    if p.is_complex():
        return full, full.to_real() if group.get("layerwise") == "pre" else full
    kept = state_dtype(group) or full
    kinds = blockwise.CODES if kept in blockwise.CODES else (kept, kept)
    return kinds[0], full if group.get("layerwise") == "pre" else kinds[1]


def rounds(group: Group) -> bool:
    """Whether the group's step rounds stochastically."""
    return state_dtype(group) in (torch.bfloat16, torch.int8) or group["stochastic_rounding"]


@torch.no_grad()
def is_state_init_step(
    groups: Iterable[Group], state: Any, reduce_groups: sharding.ReduceGroups | None, layering: Layering
) -> bool:
    """Whether this first step has zero gradients and lr 0: checkpoint tools make the state so.

    It does make the state, and must not count.
    """
    rates = [group["lr"] for group in groups]
    if any((isinstance(lr, Tensor) and lr.device.type != "cpu") or lr != 0 for lr in rates):
        return False
    params = [(p, group) for group in groups for p in group["params"]]
    with_gradient = [(p, group) for p, group in params if p.grad is not None]
    counts = any(p.grad.is_sparse or _may_move(sharding.shard(p.grad)) for p, _ in with_gradient)
    if sharding.active():
        counts = sharding.LayerReduction((p for p, _ in params), 1, reduce_groups).any(counts)
    if not counts:
        for p, group in with_gradient:
            if not state[p]:
                state[p] = new_state(p, group, len(layering.slices(p)))
    return not counts


def _may_move(g: Tensor) -> bool:
    """Whether a gradient is other than zero; on meta, where tools make states alone, it is no number."""
    return g.device.type != "meta" and bool(g.any())


def complete_groups(
    cls: type,
    own: Mapping[str, Checked],
    defaults: Mapping[str, Any],
    state: Mapping[str, Any],
    layering: Layering,
) -> None:
    """Check a loaded or copied state and give its groups the newer arguments that an older one lacks.

    own: the hyperparameters of the class. layering: the layers of the groups' parameters.
    Raises ValueError for another optimizer's state and for values that no group may have.
    """
    groups = state["param_groups"]
    for group in groups:
        check_group(group, own)
        check_codes_of_group(group, layering.slices)
    check_source(cls, defaults, groups, state["state"], layering)
    for group in groups:
        group.pop(SAVED_BY, None)
        group.pop(SAVED_LAYERS, None)
        for key, default in defaults.items():
            group.setdefault(key, default)


def renew_counters(groups: Iterable[Group], state: Any) -> None:
    """Give loaded layers their own counters: older states have plain numbers, and torch shares tensors."""
    for group in groups:
        for p in group["params"]:
            if p in state and "step" in (of_p := state[p]):
                of_p["step"] = new_step(p, group).fill_(float(of_p["step"]))


def restore_types(groups: Iterable[Group], state: Any, loaded: Mapping[str, Any]) -> None:
    """Take moments as the state dict `loaded` has them, which torch casts to the parameter's type."""
    keys = chain.from_iterable(group["params"] for group in loaded["param_groups"])
    params = ((p, group) for group in groups for p in group["params"])
    for key, (p, group) in zip(keys, params, strict=True):
        saved = loaded["state"].get(key, {})
        if "rounding_step" in saved:
            state[p]["rounding_step"] = saved["rounding_step"].detach().to(p.device, torch.int64, copy=True)
        for name, scale, dtype in zip(MOMENTS, SCALES, moment_dtypes(p, group), strict=True):
            if name in saved:
                state[p].pop(scale, None)
                state[p] |= _in_type(saved[name].detach(), saved.get(scale), dtype, p.device, (name, scale))


def _in_type(
    x: Tensor, scales: Tensor | None, dtype: torch.dtype, device: torch.device, names: tuple[str, str]
) -> dict[str, Tensor]:
    """A copy of a saved moment in the type that a group keeps, with its scales where these are 8 bits."""
    if scales is not None and x.dtype != dtype:
        x, scales = blockwise.decode(x.to(device), scales.detach().to(device)), None
    if dtype not in blockwise.CODES:
        return {names[0]: x.to(device, dtype, copy=True)}
    if scales is None:
        return dict(zip(names, blockwise.encode(x.to(device), dtype), strict=True))
    return dict(zip(names, (x.to(device, copy=True), scales.detach().to(device, copy=True)), strict=True))


def moments(of_p: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """m and v of a parameter's state as numbers: as they are stored, or what codes of 8 bits stand for."""
    stored = [(of_p[name], of_p.get(scale)) for name, scale in zip(MOMENTS, SCALES, strict=True)]
    m, v = (x if scales is None else blockwise.decode(x, scales) for x, scales in stored)
    return m, v
