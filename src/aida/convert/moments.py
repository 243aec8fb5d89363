"""A saved parameter's counter and moments, in our form: v without eps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .. import sharding
from ..optimizers.saved import check_entry
from ..optimizers.sources import SOURCES, THEIRS
from .matching import Pair


def moments(name: str, pair: Pair, theirs: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    """Of one parameter. theirs: its saved group with the arguments given; live: the optimizer's group."""
    source = SOURCES[name]
    saved = {**{key: x for key, x in theirs.items() if key == "step"}, **pair.saved.state}
    missing = [key for key in ("step", "exp_avg", source.v) if key not in saved]
    if missing:
        has = ", ".join(map(repr, pair.saved.state))
        raise ValueError(
            f"the saved state of parameter {pair.label} has {has} and no {' or '.join(map(repr, missing))}, "
            f"so that it is none of {name}: give the source that saved it"
        )
    if source.v == "exp_avg_var" and (more := [key for key in pair.saved.state if key not in THEIRS]):
        raise ValueError(
            f"the saved state of parameter {pair.label} has {' and '.join(map(repr, more))} too, so that "
            f"it is none of {name}: it is of another rule, which no member has"
        )
    check_entry("convert_state", pair.label, saved, pair.p, ("exp_avg", source.v))
    step = float(saved["step"])
    m, v = saved["exp_avg"].detach(), torch.as_tensor(saved[source.v]).detach()
    pooled = live.get("layerwise") == "pre"
    if v.dim() < m.dim() and not pooled:
        raise ValueError(
            f"v of parameter {pair.label} is one number for the layer, where the optimizer keeps one for "
            "each weight: load it into a member with layerwise='pre'"
        )
    return {
        "step": torch.tensor(step, dtype=torch.float64),
        "exp_avg": m,
        "exp_avg_var": _without_eps(name, pair, v, step, theirs, pooled),
    }


@torch.no_grad()
def _without_eps(
    name: str, pair: Pair, v: Tensor, step: float, theirs: Mapping[str, Any], pooled: bool
) -> Tensor:
    full = torch.promote_types(v.dtype, torch.float32)
    place = torch.device("cpu") if v.device.type == "mps" else v.device  # which has no float64
    wide = v.to(place, torch.promote_types(v.dtype, torch.float64), copy=True)
    real = torch.view_as_real(wide) if wide.is_complex() else wide
    if SOURCES[name].eps_inside:
        if lost := [key for key in ("betas", "eps") if key not in theirs]:
            raise ValueError(
                f"the group of parameter {pair.label} has no {' and no '.join(map(repr, lost))}, without "
                f"which eps cannot be taken off v: give the state as {name} saved it"
            )
        b2 = float(theirs["betas"][1])
        inside = float(theirs.get("eps_root", theirs["eps"])) * (1 - b2**step) / (1 - b2)
        real.sub_(inside)
        # What rounding takes off, at each of 1/(1-b2) steps: half a unit in the last place as v decays, half
        # as eps is added, and a quarter as b2 itself is rounded.
        room = inside * min(1.0, 2 * torch.finfo(v.dtype).eps / (1 - b2))
        if _sum(real < -room) > 0:
            raise ValueError(
                f"v of parameter {pair.label} is smaller than what eps alone adds up to in {step:.0f} steps, "
                f"{inside:.3g}: {name} ran with another eps, or stepped this parameter less often than it "
                f"counted; correct eps, or delete state_dict['state'][{pair.saved.key!r}] to begin this "
                "parameter anew"
            )
        real.clamp_(min=0)
    if pooled and v.dim() == pair.p.dim() and v.dim() > 0:
        return (_sum(real) / max(pair.p.numel(), 1)).to(full.to_real() if full.is_complex else full)
    return wide.to(full)


def _sum(x: Any) -> Tensor:
    """Over the whole of a tensor, alike on every rank that has a piece of it."""
    return x.sum().full_tensor() if sharding.is_dtensor(x) else x.sum()
