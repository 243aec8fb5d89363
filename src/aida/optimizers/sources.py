"""Which optimizer saved a state: load_state_dict names it in its refusal, aida.convert_state converts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOMENTS = ("step", "exp_avg", "exp_avg_var")  # of a parameter's state, here and in most of the sources below
# What the sources below with exp_avg_var keep of a parameter; what has less or more is of another optimizer.
THEIRS = {*MOMENTS, "max_exp_avg_var", "exp_grad_adanorm"}
OURS = "decoupled_weight_decay"  # a group's key that the sources below with exp_avg_var do not have
# Keys of ours that the published code's groups lack: an older state of ours has some of them at least.
OURS_BESIDE = (OURS, "maximize", "foreach", "fused", "capturable", "differentiable", "saved_by")


@dataclass(frozen=True)
class Source:
    """An optimizer of another library whose states can be converted.

    member: ours with its rule. exact: whether training goes on as there, and not only from its moments.
    v: its second moment's key. eps_inside: whether it adds eps into v at every step.
    asked: what it keeps outside of its checkpoints, by the names of its own arguments, with its defaults.
    """

    member: str
    exact: bool = True
    v: str = "exp_avg_var"
    eps_inside: bool = True
    asked: tuple[tuple[str, Any], ...] = ()


_DECAY = (("weight_decouple", True), ("fixed_decay", False))
_COUPLED = (("weight_decouple", False), ("fixed_decay", False), ("rectify", False))
_RECTIFIED = (("degenerated_to_sgd", True), ("n_sma_threshold", 5))
_BETAS = (("b1", 0.9), ("b2", 0.999))

SOURCES = {
    "pytorch_optimizer.Aida": Source("Aida", asked=(("k", 2), ("xi", 1e-20), *_RECTIFIED)),
    "pytorch_optimizer.AdaBelief": Source("AdaBelief", asked=_RECTIFIED),
    "adabelief_pytorch.AdaBelief": Source(
        "AdaBelief", asked=(("rectify", True), *_DECAY, ("degenerated_to_sgd", True))
    ),
    "timm.AdaBelief": Source("AdaBelief"),
    "published.Aida": Source("Aida", asked=(("K", 2), ("xi", 1e-20))),
    "published.LAdam": Source("LAdam", asked=_COUPLED),
    "published.LAdaBelief": Source("LAdaBelief", asked=_COUPLED),
    "optax.adabelief": Source("AdaBelief", asked=(*_BETAS, ("eps", 1e-16), ("eps_root", 1e-16))),
    "optax.adam": Source("AdamPlus", exact=False, eps_inside=False, asked=_BETAS),
    "torch.Adam": Source("AdamPlus", exact=False, v="exp_avg_sq", eps_inside=False),
    "torch.AdamW": Source("AdamPlus", exact=False, v="exp_avg_sq", eps_inside=False),
}

# Keys of a group that tell who saved it, where OURS is not there: its states have THEIRS, since all of
# pytorch_optimizer has weight_decouple, and RAdam the buffer of adabelief-pytorch.
MARKS = {
    "degenerated_to_sgd": ("timm's AdaBelief", ("timm.AdaBelief",)),
    "weight_decouple": (
        "pytorch_optimizer",
        ("pytorch_optimizer.Aida", "pytorch_optimizer.AdaBelief"),
    ),
    "fixed_decay": ("pytorch_optimizer", ()),
    "ams_bound": ("pytorch_optimizer", ()),
    "decoupled_decay": ("timm", ()),
    "buffer": ("adabelief-pytorch", ("adabelief_pytorch.AdaBelief",)),
}

# Names in a parameter's state that tell the same, where MOMENTS are not all there.
STATES = {
    "exp_avg_sq": "torch's Adam, AdamW or a like one",
    "square_avg": "torch's RMSprop or Adadelta",
    "exp_inf": "torch's Adamax",
    "momentum_buffer": "SGD with momentum",
    "sum": "torch's Adagrad",
}


@dataclass(frozen=True)
class Saver:
    """Who saved a group: in words, and the names in SOURCES that it may be."""

    title: str
    why: str
    sources: tuple[str, ...] = ()


def saver(group: Mapping[str, Any], states: Iterable[Mapping[str, Any]]) -> Saver | None:
    """Which other optimizer saved this group and its parameters' states; None where nothing tells of one."""
    states = [*states]
    if OURS not in group and (mark := next((key for key in MARKS if key in group), None)):
        title, sources = MARKS[mark]
        if sources and (others := [state for state in states if state and not has_moments(state)]):
            why = f"its parameters' states have {', '.join(map(repr, others[0]))}"
            return Saver(f"another optimizer (its groups have {mark!r})", why)
        why = "its v has eps inside and its weight decay other names"
        return Saver(f"{title} (its groups have {mark!r})", why, sources)
    for state in states:
        if missing := [name for name in MOMENTS if name not in state]:
            title = next((STATES[name] for name in STATES if name in state), "another optimizer")
            why = f"it has {', '.join(map(repr, state))} and no {' or '.join(map(repr, missing))}"
            return Saver(title, why, _torchs(group, state))
        if not any(key in group for key in OURS_BESIDE):
            pooled = getattr(state["exp_avg_var"], "ndim", 0) < getattr(state["exp_avg"], "ndim", 0)
            names = ("published.LAdam", "published.LAdaBelief") if pooled else ("published.Aida",)
            title = f"the published code of {' or '.join(name.partition('.')[2] for name in names)}"
            return Saver(f"{title} (its groups have no {OURS!r})", "its v has eps inside", names)
    return None


def has_moments(state: Mapping[str, Any]) -> bool:
    """Whether a parameter's state is as the sources with exp_avg_var keep it."""
    return {"exp_avg", "exp_avg_var"} <= {*state} <= THEIRS


def _torchs(group: Mapping[str, Any], state: Mapping[str, Any]) -> tuple[str, ...]:
    """Adam, AdamW, or both where the group does not tell and it makes a difference."""
    if "amsgrad" not in group or not {"step", "exp_avg", "exp_avg_sq"} <= {*state}:
        return ()
    if OURS in group:
        return ("torch.AdamW",) if group[OURS] else ("torch.Adam",)
    return ("torch.Adam", "torch.AdamW") if group.get("weight_decay") else ("torch.Adam",)
