"""Which saved parameter is which of the optimizer's: by names, or by the order that torch's load goes by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Saved:
    """A saved parameter: its name or None, its group's index, its state, empty before its first step."""

    key: Any
    name: str | None
    group: int
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pair:
    """What the optimizer's state dict calls a parameter, the parameter, and what was saved of it."""

    key: Any
    label: str
    p: Tensor
    saved: Saved


def saved_parameters(given: Mapping[str, Any], param_names: Iterable[str] | None) -> list[Saved]:
    """The saved parameters in order."""
    groups = given["param_groups"]
    keys = [(key, i) for i, group in enumerate(groups) for key in group["params"]]
    names: list[Any] = [
        name
        for group in groups
        for name in group.get("param_names") or [k if isinstance(k, str) else None for k in group["params"]]
    ]
    if param_names is not None:
        names = [*param_names]
    if len(names) != len(keys) or (param_names is not None and len({*names}) != len(names)):
        raise ValueError(
            f"param_names has {len(names)} names ({len({*names})} different) for the {len(keys)} "
            "parameters of the saved state: give one for each, in the order of its groups"
        )
    return [
        Saved(key, name, i, given["state"].get(key) or {}) for (key, i), name in zip(keys, names, strict=True)
    ]


def match(
    saved: list[Saved], live: list[dict[str, Any]], target: list[dict[str, Any]], told: bool = False
) -> tuple[list[Pair], list[str]]:
    """The pairs in the optimizer's order, and what to warn of.

    live: the optimizer's groups; target: those of its state dict. told: whether the names were given.
    Raises ValueError where it cannot be told which is which, or where shapes differ.
    """
    ours = [
        (key, p, name)
        for group, of_state in zip(live, target, strict=True)
        for key, p, name in zip(
            of_state["params"],
            group["params"],
            group.get("param_names") or [None] * len(group["params"]),
            strict=True,
        )
    ]
    if told and any(name is None for _, _, name in ours):
        raise ValueError(
            "param_names are given and the optimizer's parameters have no names: build it of "
            "model.named_parameters(), or leave param_names out where both have one order"
        )
    by_name = {s.name: s for s in saved if s.name is not None}
    notes: list[str] = []
    if len(by_name) == len(saved) and all(name is not None for _, _, name in ours):
        pairs = [Pair(key, repr(name), p, by_name[name]) for key, p, name in ours if name in by_name]
        if saved and not pairs:
            raise ValueError(
                f"no name of the saved parameters is one of the optimizer's: {_some([*by_name])} and "
                f"{_some([name for _, _, name in ours])}; give param_names=, the saved parameters' names as "
                "the optimizer has them"
            )
        matched = {pair.saved.name for pair in pairs}
        if new := [name for _, _, name in ours if name not in matched]:
            notes.append(f"the saved state has no {_some(new)}: what is not there begins anew")
        if lost := [name for name in by_name if name not in matched]:
            notes.append(f"the optimizer has no {_some(lost)}: left out of what is converted")
    else:
        pairs = _by_order(saved, ours, [len(group["params"]) for group in live])
    for pair in pairs:
        _check_shape(pair)
    return pairs, notes


def _by_order(saved: list[Saved], ours: list[tuple[Any, Tensor, Any]], sizes: list[int]) -> list[Pair]:
    count = 1 + max((s.group for s in saved), default=-1)
    theirs = [sum(s.group == i for s in saved) for i in range(count)]
    if theirs != sizes:
        raise ValueError(
            f"the saved state has groups of {theirs} parameters and the optimizer groups of {sizes}: without "
            "names it cannot be told which is which; build the optimizer with the groups of then, or of "
            "model.named_parameters() and give param_names=, the saved parameters' names in their order"
        )
    return [
        Pair(key, f"{i} (counted over all groups)", p, s)
        for i, ((key, p, _), s) in enumerate(zip(ours, saved, strict=True))
    ]


def _check_shape(pair: Pair) -> None:
    for name in ("exp_avg", "exp_avg_var", "exp_avg_sq"):
        shape = tuple(getattr(pair.saved.state.get(name), "shape", pair.p.shape))
        is_pooled = name != "exp_avg" and not shape
        if shape != tuple(pair.p.shape) and not is_pooled:
            raise ValueError(
                f"parameter {pair.label} has the shape {tuple(pair.p.shape)} and its saved moments "
                f"{shape}: the parameters come in another order or from another model"
            )


def _some(names: list[Any]) -> str:
    return ", ".join(map(repr, names[:3])) + f" and {len(names) - 3} more" * (len(names) > 3)
