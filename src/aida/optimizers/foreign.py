"""States of other optimizers, refused when they are loaded: a step would go wrong with them, or fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

NAMES = ("step", "exp_avg", "exp_avg_var")  # of a parameter's state
MEMBERS_OWN = ("K", "xi", "layerwise")  # arguments that tell members of the family apart

# Keys of groups that tell who saved a state, where decoupled_weight_decay, which is ours and torch's, is not.
MARKS = {
    "degenerated_to_sgd": "timm's AdaBelief",
    "weight_decouple": "pytorch_optimizer",
    "fixed_decay": "pytorch_optimizer",
    "ams_bound": "pytorch_optimizer",
    "decoupled_decay": "timm",
    "buffer": "adabelief-pytorch",
    "amsgrad": "another library's optimizer",
}

# Names in a parameter's state that tell the same.
STATES = {
    "exp_avg_sq": "torch's Adam, AdamW or a like one",
    "square_avg": "torch's RMSprop or Adadelta",
    "exp_inf": "torch's Adamax",
    "momentum_buffer": "SGD with momentum",
    "sum": "torch's Adagrad",
}


def check_groups(who: str, groups: Iterable[Mapping[str, Any]], known: Iterable[str]) -> None:
    """Raise ValueError where a saved group is another optimizer's, as its keys tell.

    known: the arguments of `who`. Older groups of its own may lack any of them but lr.
    """
    ours = {*MEMBERS_OWN} & {*known}
    for group in groups:
        if "decoupled_weight_decay" in group:
            if theirs := _difference({*MEMBERS_OWN} & {*group}, ours):
                raise _refusal(who, f"an optimizer {theirs}", "its v is that of another rule")
        elif mark := next((key for key in MARKS if key in group), None):
            why = "its v has eps inside and its weight decay other names"
            raise _refusal(who, f"{MARKS[mark]} (its groups have {mark!r})", why)


def check_state(who: str, p: Tensor, state: Mapping[str, Any], layerwise: str | None) -> None:
    """Raise ValueError where a parameter's saved state is not one of `who`."""
    if not state:
        return
    if missing := [name for name in NAMES if name not in state]:
        source = next((STATES[name] for name in STATES if name in state), "another optimizer")
        why = f"it has {', '.join(map(repr, state))} and no {' or '.join(map(repr, missing))}"
        raise _refusal(who, source, why)
    v = state["exp_avg_var"]
    dims = getattr(v, "ndim", 0)
    if layerwise == "pre" and dims > 0:
        why = f"its v has the shape {tuple(v.shape)}, where layerwise='pre' keeps one number a layer"
        raise _refusal(who, "a member with v for each weight", why)
    if layerwise != "pre" and dims == 0 and p.dim() > 0:
        why = f"its v is one number for the layer of shape {tuple(p.shape)}, where {who} keeps one a weight"
        raise _refusal(who, "a member with layerwise='pre'", why)


def _difference(theirs: set[str], ours: set[str]) -> str:
    more, less = sorted(theirs - ours), sorted(ours - theirs)
    parts = [f"with {', '.join(more)}"] * bool(more) + [f"without {', '.join(less)}"] * bool(less)
    return " and ".join(parts)


def _refusal(who: str, source: str, why: str) -> ValueError:
    return ValueError(
        f"this state was saved by {source}, not by {who}: {why}; load it into that optimizer, or load the "
        "model alone and let a new optimizer begin with empty moments"
    )
