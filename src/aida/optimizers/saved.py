"""What a saved state must be, looked at before anything of it is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor

from ..backends import blockwise
from .layer_checks import MOMENTS, SCALES


def check_entries(who: str, saved: Mapping[str, Any], live: Iterable[Mapping[str, Any]]) -> None:
    """Raise ValueError unless each parameter's entry of a state dict is whole.

    who: the optimizer that loads it; live: its groups. What lacks a moment is another optimizer's, which
    foreign.py refuses by name; groups of other lengths are refused by torch.
    """
    check_form(saved)
    keys = chain.from_iterable(group["params"] for group in saved["param_groups"])
    params = chain.from_iterable(group["params"] for group in live)
    for key, p in zip(keys, params, strict=False):
        check_entry(who, repr(key), saved["state"].get(key, {}), p)


def check_form(saved: Mapping[str, Any]) -> None:
    """Raise ValueError unless a state dict has groups of parameters, and a dict for each entry of theirs."""
    states, groups = saved["state"], saved["param_groups"]
    if not isinstance(states, Mapping) or not isinstance(groups, list | tuple):
        raise _refusal(f"has a `state` and `param_groups` that are a {_kind(states)} and a {_kind(groups)}")
    for group in groups:
        if not isinstance(group, Mapping) or "params" not in group:
            raise _refusal(f"has {group!r:.60} for a group of parameters")
    for key in chain.from_iterable(group["params"] for group in groups):
        if not isinstance(of_p := states.get(key, {}), Mapping):
            raise _refusal(f"has for parameter {key!r} {of_p!r:.60} in place of a dict")


def check_entry(
    who: str, which: str, of_p: Mapping[str, Any], p: Tensor, names: tuple[str, str] = MOMENTS
) -> None:
    """Raise ValueError unless a parameter's entry is whole. which: the parameter; names: of its moments."""
    if why := _damage(of_p, p, names):
        raise _refusal(f"has for parameter {which} {why}", who)


def _damage(of_p: Mapping[str, Any], p: Tensor, names: tuple[str, str]) -> str | None:
    """What is wrong with a parameter's entry; None where nothing is, or another optimizer saved it."""
    if not {"step", *names} <= {*of_p}:
        return None
    if (count := _number(of_p["step"])) is None or not 0 <= count < math.inf:
        return f"the step {of_p['step']!r:.60}, which is no number of steps"
    if "rounding_step" in of_p and (not isinstance(x := of_p["rounding_step"], Tensor) or _number(x) is None):
        return f"the rounding_step {x!r:.60}, which is no tensor of one number"
    for name, scale, codes in zip(names, SCALES, blockwise.CODES, strict=True):
        x, scales = of_p[name], of_p.get(scale)
        if not isinstance(x, Tensor) and not (name == names[1] and not p.dim() and _number(x) is not None):
            return f"a {_kind(x)} as {name} in place of a tensor"
        if (getattr(x, "dtype", None) is codes) is not (scales is not None):
            return f"codes of 8 bits or their scales alone: {name} of {x.dtype} with{_out(scales)} {scale}"
        if scales is not None and getattr(scales, "shape", None) != (n := (blockwise.blocks(x.numel()),)):
            return f"{scale} of shape {tuple(getattr(scales, 'shape', ()))} where {name} needs {n}"
    return None


def _number(x: Any) -> float | None:
    """The one real number that x is, if it is one."""
    if isinstance(x, Tensor) and (x.numel() != 1 or x.dtype.is_complex or x.dtype.itemsize == 1):
        return None
    if isinstance(x, bool | str):
        return None
    try:
        return float(x)
    except (TypeError, ValueError, RuntimeError):
        return None


def _out(scales: Any) -> str:
    return "out" if scales is None else ""


def _kind(x: Any) -> str:
    return type(x).__name__


def _refusal(why: str, who: str = "the optimizer") -> ValueError:
    return ValueError(
        f"this state {why}: nothing was loaded; give {who} the state as it was saved, or load the model "
        "alone and let a new optimizer begin with empty moments"
    )
