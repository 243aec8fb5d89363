"""The values of groups: which come from the source, what has to be asked for, what cannot be carried over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..optimizers.base import Layerwise
from ..optimizers.foreign import SAVED_BY
from ..optimizers.sources import OURS, SOURCES
from ..optimizers.validate import check_group

# The source's name of an argument of ours, where it is another.
RENAMED = {"weight_decouple": OURS, "decoupled_decay": OURS, "k": "K"}
TAKEN = ("lr", "betas", "eps", "weight_decay", "rectify", "maximize", OURS, "K", "xi")

# What the sources keep in groups for themselves; other keys are a user's own.
THEIRS = {
    *RENAMED,
    *TAKEN,
    *(key for source in SOURCES.values() for key, _ in source.asked),
    *("params", "param_names", "step", "buffer", SAVED_BY),
    *("foreach", "fused", "capturable", "differentiable"),
    *("amsgrad", "ams_bound", "adanorm", "adanorm_r", "adam_debias", "nesterov"),
}

# Arguments that no checkpoint holds and nearly nobody gives: they need not be given.
RARE = {"pytorch_optimizer": ("maximize",), "optax": ("nesterov",)}

LARGEST_V = "it divides by the largest v so far, which no member keeps"
REFUSED = {
    "amsgrad": LARGEST_V,
    "ams_bound": LARGEST_V,
    "adanorm": "it scales gradients by a running norm, which no member has",
    "adam_debias": "it leaves out the correction of m for its start at zero, which every member makes",
    "nesterov": "it steps along a momentum of the next step, which no member has",
}


def ask(name: str, groups: list[Any], arguments: Mapping[str, Any], exact: bool) -> list[dict[str, Any]]:
    """The saved groups, each with the arguments given.

    Raises TypeError for an argument that the source does not have, ValueError for those that it needs, and
    for settings that have no counterpart.
    """
    asked = dict(SOURCES[name].asked)
    rare = RARE.get(name.partition(".")[0], ())
    if unknown := [key for key in arguments if key not in asked and key not in rare]:
        raise TypeError(
            f"convert_state takes no {', '.join(map(repr, unknown))} for {name}: "
            + (
                f"it takes {', '.join([*asked, *rare])}"
                if asked
                else "its checkpoints hold all that is needed"
            )
        )
    read = [{**group, **arguments} for group in groups]
    missing = {
        key: default
        for key, default in asked.items()
        if any(key not in group and _matters(key, group, arguments, asked, exact) for group in read)
    }
    if missing:
        usual = ", ".join(f"{key}={default!r}" for key, default in missing.items())
        raise ValueError(
            f"checkpoints of {name} do not hold {', '.join(missing)}: give them as the old run had them, by "
            f"keyword; its defaults are {usual}"
        )
    for group in read:
        _refuse(name, group)
        if "b2" in group:
            group["betas"] = (group.pop("b1"), group.pop("b2"))
    return read


def _matters(
    key: str, group: Mapping[str, Any], arguments: Mapping[str, Any], asked: Mapping[str, Any], exact: bool
) -> bool:
    if key in ("k", "K", "xi"):
        return exact
    if key == "weight_decouple":
        return bool(group.get("weight_decay"))
    if key == "fixed_decay":  # which coupled decay never is
        return bool(group.get("weight_decay")) and bool(
            group.get("weight_decouple", asked["weight_decouple"])
        )
    if key in ("degenerated_to_sgd", "n_sma_threshold"):
        return bool(group.get("rectify", asked.get("rectify")))
    return True


def _refuse(name: str, group: Mapping[str, Any]) -> None:
    for key, why in REFUSED.items():
        if group.get(key):
            raise ValueError(f"a state of {name} with {key}={group[key]!r} cannot be converted: {why}")
    decoupled = group.get("weight_decouple", group.get("decoupled_decay"))
    if group.get("fixed_decay") and group.get("weight_decay") and decoupled:
        raise ValueError(
            f"a state of {name} with fixed_decay=True cannot be converted: it decays by weight_decay, not by "
            "lr*weight_decay; for one lr, set weight_decay/lr in its groups and fixed_decay to False"
        )
    if group.get("rectify"):
        if name.startswith("published."):
            raise ValueError(
                f"a state of {name} with rectify=True cannot be converted: it rectifies from rho > 4 on, and "
                "ours, as AdaBelief's, from 5 on"
            )
        if group.get("degenerated_to_sgd") is False:
            raise ValueError(
                f"a state of {name} with degenerated_to_sgd=False cannot be converted: it skips the first "
                "steps of a parameter, where ours are those of SGD"
            )
        if group.get("n_sma_threshold", 5) != 5:
            raise ValueError(
                f"a state of {name} with n_sma_threshold={group['n_sma_threshold']!r} cannot be converted: "
                "ours is 5"
            )
    if "eps_root" in group and group["eps_root"] != group["eps"]:
        raise ValueError(
            f"a state of {name} with eps={group['eps']!r} and eps_root={group['eps_root']!r} cannot be "
            "converted: AdaBelief here has one eps, inside the root and outside"
        )


def values_of(
    name: str, optimizer: Layerwise, live: Mapping[str, Any], theirs: list[dict[str, Any]]
) -> dict[str, Any]:
    """What a group of the optimizer takes from the saved groups of its parameters."""
    taken = [_taken(name, group, live) for group in theirs]
    if not taken:
        return {}
    for key in taken[0]:
        if any(bool(other.get(key) != taken[0][key]) for other in taken[1:]):
            raise ValueError(
                f"parameters of one group of the optimizer come from saved groups with different {key}, "
                f"{' and '.join(repr(other.get(key)) for other in taken)}: build it with the groups of then"
            )
    own = {key: x for key, x in theirs[0].items() if key not in THEIRS} if len(theirs) == 1 else {}
    new = {**own, **taken[0]}
    check_group({**live, **new}, optimizer.hyperparameters)
    return new


def _taken(name: str, group: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, Any]:
    values = {RENAMED.get(key, key): x for key, x in group.items()}
    if name.startswith("torch."):
        values.setdefault(OURS, name == "torch.AdamW")
    elif name == "published.Aida":
        values |= {OURS: False, "rectify": False}
    elif name.startswith(("published.", "adabelief_pytorch.")):
        values.setdefault(OURS, live[OURS])  # no weight is decayed: it makes no difference
    if not SOURCES[name].eps_inside:
        values.pop("eps", None)
    return {key: values[key] for key in TAKEN if key in values and key in live}
