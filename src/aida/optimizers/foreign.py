"""States of other optimizers, refused when they are loaded: a step would go wrong with them, or fail."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from .layer_checks import of_other_layers
from .layers import SAVED_LAYERS, Layering
from .sources import OURS, saver

MEMBERS_OWN = ("K", "xi", "layerwise")  # arguments that tell members of the family apart
SAVED_BY = "saved_by"  # a saved group's key for the member's name; live groups do not have it


def member_name(cls: type) -> str:
    """The member that a class is, or extends without a rule of its own: either may load the other's state."""
    rules = {base: inspect.getattr_static(base, "rule", None) for base in cls.__mro__}
    return next(base.__name__ for base in reversed(cls.__mro__) if rules[base] == rules[cls])


def check_is_mapping(who: str, given: Any) -> None:
    """Raise TypeError for what no hook can read as a state dict, such as the path of a file."""
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{who}.load_state_dict takes the dict that {who}.state_dict() gave, not {given!r:.60}; "
            "read a file with torch.load first"
        )


def check_keys(wanted: str, given: Mapping[str, Any]) -> None:
    """Raise TypeError for a dict that is no optimizer's, such as a model's, or a checkpoint with both.

    wanted: who takes what.
    """
    if missing := [key for key in ("state", "param_groups") if key not in given]:
        has = ", ".join(map(repr, [*given][:4])) + ", …" * (len(given) > 4) or "nothing"
        raise TypeError(
            f"{wanted}: this one has {has} and no "
            f"{' or '.join(map(repr, missing))}; of a checkpoint give the optimizer's part"
        )


def check_source(
    cls: type,
    defaults: Mapping[str, Any],
    groups: Iterable[Mapping[str, Any]],
    states: Mapping[Tensor, Any],
    layering: Layering,
) -> None:
    """Raise ValueError where saved groups and their parameters' states are not those of this class.

    defaults: its arguments, of which older groups of its own may lack any. layering: its layers.
    """
    who, member = cls.__name__, member_name(cls)
    ours = {*MEMBERS_OWN} & {*defaults}
    for group in groups:
        if (source := group.get(SAVED_BY, member)) != member:
            raise _refusal(who, source, "its moments are those of another rule")
        saved = [(p, states[p]) for p in group["params"] if states.get(p)]
        if found := saver(group, (state for _, state in saved)):
            raise _refusal(who, found.title, found.why, is_convertible=bool(found.sources))
        if OURS in group and (theirs := _difference({*MEMBERS_OWN} & {*group}, ours)):
            raise _refusal(who, f"an optimizer {theirs}", "its v is that of another rule")
        for p, state in saved:
            layerwise = group.get("layerwise", defaults.get("layerwise"))
            _check_form(who, p, state["exp_avg_var"], layerwise, len(layering.slices(p)))
        _check_layers(who, group.get(SAVED_LAYERS), layering.described(group["params"]))


def _check_layers(who: str, saved: Any, ours: str) -> None:
    if saved not in (None, ours):
        raise ValueError(
            f"this state was saved with layers={saved!r}, and this {who} has layers={ours!r}: give it the "
            f"same `layers`, or remove {SAVED_LAYERS!r} from the state's groups to go on with other layers"
        )


def _check_form(who: str, p: Tensor, v: Any, layerwise: str | None, slices: int) -> None:
    dims = getattr(v, "ndim", 0)
    if layerwise == "pre" and isinstance(v, Tensor) and (why := of_other_layers(p, v, slices)):
        raise ValueError(
            f"exp_avg_var of a parameter of shape {tuple(p.shape)} {why}: give {who} the `layers` that the "
            "state was saved with, or load the model alone and let a new optimizer begin with empty moments"
        )
    if layerwise == "pre" and dims > (slices > 0):
        why = f"its v has the shape {tuple(v.shape)}, where layerwise='pre' keeps one number per layer"
        raise _refusal(who, "a member with v for each weight", why)
    if layerwise != "pre" and dims == 0 and p.dim() > 0:
        why = f"its v is one number for the layer of shape {tuple(p.shape)}, where {who} keeps one per weight"
        raise _refusal(who, "a member with layerwise='pre'", why)


def _difference(theirs: set[str], ours: set[str]) -> str:
    more, less = sorted(theirs - ours), sorted(ours - theirs)
    parts = [f"with {', '.join(more)}"] * bool(more) + [f"without {', '.join(less)}"] * bool(less)
    return " and ".join(parts)


def _refusal(who: str, source: str, why: str, is_convertible: bool = False) -> ValueError:
    fix = (
        "load what aida.convert_state(state_dict, optimizer) makes of it"
        if is_convertible
        else "load it into that optimizer"
    )
    return ValueError(
        f"this state was saved by {source}, not by {who}: {why}; {fix}, or load the "
        "model alone and let a new optimizer begin with empty moments"
    )
