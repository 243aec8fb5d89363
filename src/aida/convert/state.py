"""aida.convert_state, the door: which source, which parameter is which, then values and moments."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim.optimizer import Optimizer

from ..optimizers.base import Layerwise
from ..optimizers.foreign import SAVED_BY, check_keys, member_name
from ..optimizers.saved import check_form
from ..optimizers.sources import SOURCES, saver
from .matching import match, saved_parameters
from .moments import moments
from .optax import as_state_dict, find_state
from .values import ask, values_of

RESIDUALS = {  # whose square each member averages
    "AdamPlus": "g",
    "LAdam": "g",
    "AdaBelief": "m - g",
    "LAdaBelief": "m - g",
    "Aida": "the projected m - g",
    "LAida": "the projected m - g",
}


def convert_state(
    state_dict: Any,
    optimizer: Optimizer,
    source: str = "auto",
    *,
    param_names: Iterable[str] | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """The state that another optimizer saved, as one that `optimizer.load_state_dict` takes.

    Training goes on as the source's would have, where the source has the same rule: AdaBelief of
    pytorch_optimizer, adabelief-pytorch, timm and optax into AdaBelief; Aida of pytorch_optimizer and of the
    published code into Aida; LAdam and LAdaBelief of the published code into theirs. Elsewhere, and from Adam
    and AdamW, it is a warm start: counters, m and v are taken, v being an average of another square, and a
    warning says so. Many sources add eps into v at every step; here it is stored without, so that

        v <- max(v - eps*(1-b2^t)/(1-b2), 0)

    computed in float64. A pooled v (layerwise="pre") takes the mean of an elementwise one.

    Arguments:
        state_dict: what the source's `state_dict()` gave; of optax, an optimizer state that holds one
            ScaleByBeliefState or ScaleByAdamState, whose mu and nu are trees named as the parameters here
            (what makes a torch state dict of the Flax parameters makes it of these, too), or lists of arrays
            in the optimizer's order. It is not changed.
        optimizer: any member of the family, over the same parameters; it is not changed either. Its groups
            keep what the source does not have: state_dtype, layerwise, foreach, seed, and so on; and lr and
            weight_decay where the source is optax. lr, betas, eps, weight decay and its kind, rectify,
            maximize and a user's own keys, such as a scheduler's `initial_lr`, come from the source, as in
            torch's load_state_dict; only Adam's eps, which means another thing, does not.
        source: "auto", or the library and the optimizer, such as "timm.AdaBelief", where the state does not
            tell. Known are the keys of the table in docs/guide/old-checkpoints.md.
        param_names: names of the saved parameters, in the order of its groups, for a state that lacks them
            and an optimizer that has them. Where both sides have names, the optimizer's from
            `model.named_parameters()`, groups may differ, and parameters that only one side has are left out,
            with a warning. Without names, the order and the sizes of groups must agree, as for torch's
            load_state_dict. Default: None.
        arguments: what the source keeps outside of its checkpoints, by its own name, such as k and xi of
            pytorch_optimizer's Aida, or rectify of adabelief-pytorch. The error that asks for one tells the
            source's default.

    Returns a state dict; its tensors of m are the source's own, which load_state_dict copies.

    Raises TypeError for what is no state dict, optimizer or argument of the source; ValueError for a source
    that cannot be told, arguments that are missing, parameters that cannot be matched, and for what has no
    counterpart here: amsgrad, a fixed weight decay, a step that waits for the rectification.

    Example:
        >>> import aida, torch, warnings
        >>> model = torch.nn.Linear(3, 2)
        >>> old = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> old.step()
        >>> optimizer = aida.Aida(model.parameters())
        >>> with warnings.catch_warnings(action="ignore"):  # it is a warm start
        ...     state = aida.convert_state(old.state_dict(), optimizer, source="torch.AdamW")
        >>> optimizer.load_state_dict(state)
        >>> optimizer.param_groups[0]["weight_decay"], optimizer.param_groups[0]["decoupled_weight_decay"]
        (0.1, True)
    """
    if not isinstance(optimizer, Layerwise):
        raise TypeError(
            f"convert_state makes a state for an optimizer of aida, not for {type(optimizer).__name__}: "
            "build the new optimizer first, and unwrap it where a trainer has wrapped it"
        )
    name, given = _told(state_dict, source, optimizer)
    of_source = SOURCES[name]
    saved = saved_parameters(given, param_names)
    target = optimizer.state_dict()
    pairs, notes = match(saved, optimizer.param_groups, target["param_groups"], param_names is not None)
    if not optimizer.layering.is_plain and any(g.get("layerwise") == "pre" for g in optimizer.param_groups):
        raise ValueError(
            "convert_state makes one pooled v per tensor, and this optimizer has other layers: build it with "
            "layers='tensor', or with layerwise='post' or a member whose v has an entry for each weight"
        )
    exact = of_source.exact and member_name(type(optimizer)) == of_source.member
    read = ask(name, given["param_groups"], arguments, exact)
    state: dict[Any, Any] = {}
    groups = []
    for group, live in zip(target["param_groups"], optimizer.param_groups, strict=True):
        keys = {*group["params"]}
        of_group = [pair for pair in pairs if pair.key in keys]
        theirs = [read[i] for i in sorted({pair.saved.group for pair in of_group})]
        new = values_of(name, optimizer, live, theirs)
        groups.append({**group, **new, SAVED_BY: member_name(type(optimizer))})
        for pair in of_group:
            if pair.saved.state:
                state[pair.key] = moments(name, pair, read[pair.saved.group], live)
    if not exact:
        notes.insert(0, _warm(name, optimizer))
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return {"state": state, "param_groups": groups}


def _told(given: Any, source: str, optimizer: Layerwise) -> tuple[str, Mapping[str, Any]]:
    """The source's name in SOURCES, and its state in the form of torch."""
    wanted = source.replace("-", "_")
    known = [name for name in SOURCES if wanted in (name, name.partition(".")[0])]
    if source != "auto" and not known:
        raise ValueError(f"source={source!r} is unknown: give 'auto' or one of {', '.join(SOURCES)}")
    if (found := find_state(given)) is not None:
        names: tuple[str, ...] = (found[0],) if found[0] else ("optax.adabelief", "optax.adam")
        given = as_state_dict(found[1])
        _check_names(given, optimizer)
    elif not isinstance(given, Mapping):
        raise TypeError(
            "convert_state takes what the source's state_dict() gave, or an optax state with count, mu and "
            f"nu, not {given!r:.60}; read a file with torch.load first"
        )
    else:
        check_keys("convert_state takes the dict that the source's state_dict() gave", given)
        check_form(given)
        names = _candidates(given, source)
    if known:
        names = tuple(name for name in names if name in known) or tuple(known)
    if len(names) == 1:
        return names[0], given
    told = f"may be of {' or '.join(names)}" if names else "does not tell which optimizer saved it"
    choice = " or ".join(f"source={name!r}" for name in names or SOURCES)
    raise ValueError(f"this state {told}: give {choice}")


def _candidates(given: Mapping[str, Any], source: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for group in given["param_groups"]:
        if (member := group.get(SAVED_BY)) is not None:
            raise ValueError(
                f"this state was saved by {member} of aida: load it into that member as it is; there is no "
                "conversion between members"
            )
        states = [given["state"][key] for key in group["params"] if given["state"].get(key)]
        if (found := saver(group, states)) is not None:
            if source == "auto" and not found.sources:
                raise ValueError(
                    f"this state was saved by {found.title}: {found.why}; from it there is no conversion, "
                    f"unless source= names one of {', '.join(SOURCES)} that keeps the same state"
                )
            names |= dict.fromkeys(found.sources)
    return tuple(names)


def _check_names(given: Mapping[str, Any], optimizer: Layerwise) -> None:
    """JAX sorts the names of a tree, so that its order tells nothing."""
    has_names = all("param_names" in group for group in optimizer.param_groups)
    if not has_names and any(isinstance(key, str) for key in given["state"]):
        raise ValueError(
            "the trees of this optax state have names and the optimizer's parameters have none: build it of "
            "model.named_parameters(), or give mu and nu as lists in the optimizer's order"
        )


def _warm(name: str, optimizer: Layerwise) -> str:
    source = SOURCES[name]
    who, member = type(optimizer).__name__, member_name(type(optimizer))
    theirs, ours = RESIDUALS[source.member], RESIDUALS.get(member, "its own r")
    v = (
        f"v is the source's average of {theirs} squared"
        if theirs == ours
        else f"v is the source's average of {theirs} squared, where {who} averages {ours} squared, which "
        "fades over about 1/(1-beta2) steps"
    )
    eps = (
        "" if source.eps_inside else "; eps stays the optimizer's, since the source adds it outside the root"
    )
    alike = "; optax.adamax and optax.yogi have states of the same class, which no member goes on from"
    eps += alike * (name == "optax.adam")
    told = "a warm start and no continuation: counters and m are the source's"
    return f"{who} from {name}: {told}, and {v}{eps}"
