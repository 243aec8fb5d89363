"""What makes a class a member: its rule, the rule's own hyperparameters, and a signature that shows them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from math import isfinite
from types import FunctionType
from typing import Any

from ..backends.contract import SUMS
from .hyperparameter import Hyperparameter
from .names import KEPT
from .validate import PLAIN

OF_GROUPS = ("betas", "eps", "weight_decay")  # what every group has as plain numbers, for rules too
# What a group has beside a rule's own hyperparameters, and __init__ or torch's schedulers give.
TAKEN = ("lr", *OF_GROUPS, "reduce_groups", "layers", *KEPT, *SUMS)


def own_hyperparameters(
    who: str, own: Any, inherited: Mapping[str, Hyperparameter], options: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Hyperparameter]]:
    """(plain defaults of all that a class names in `own`, its hyperparameters with their ranges).

    own: by name, a default or a Hyperparameter; a default alone keeps the range that a base class gives.
    options: arguments that every member has, whose defaults `own` may change.
    Raises TypeError where `own` is no mapping or a name is taken, TypeError or ValueError for a default that
    cannot be.
    """
    defaults: dict[str, Any] = {}
    hyperparameters: dict[str, Hyperparameter] = {}
    if not isinstance(own, Mapping):
        raise TypeError(
            f"{who}.own is {own!r}; it must be a dict of defaults by name, as own = dict(power=0.5)"
        )
    for name, value in own.items():
        if name in TAKEN:
            raise TypeError(
                f"{who}.own has {name!r}, which {_owner(name)}: give the hyperparameter another name"
            )
        try:
            if name in options or name in PLAIN:
                defaults[name] = PLAIN[name](value)
                continue
            if not isinstance(value, Hyperparameter):
                known = inherited.get(name)
                value = replace(known, default=known.plain(name, value)) if known else Hyperparameter(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{who}.own[{name!r}]: {error}") from None
        hyperparameters[name], defaults[name] = value, value.default
    return defaults, hyperparameters


def _owner(name: str) -> str:
    if name in SUMS:
        return "is the name of a sum"
    if name in KEPT:
        return "torch or a scheduler keeps in a parameter group"
    return "every optimizer of the family has already (a subclass changes its default in __init__)"


def plain_rule(who: str, rule: Any, known: Collection[str]) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """The rule as a class holds it, and the names of the sums and of the hyperparameters that it takes.

    A constant becomes two floats, a plain function a static one. known: the member's arguments.
    Raises TypeError for anything else, and for a function of what is neither a sum nor an argument.
    """
    function: Any = rule.__func__ if isinstance(rule, staticmethod | classmethod) else rule
    if not callable(function):
        return _constant(who, function), (), ()
    parameters = [*inspect.signature(function).parameters.values()]
    if isinstance(rule, classmethod):
        parameters = parameters[1:]
    elif isinstance(rule, FunctionType):
        rule = staticmethod(rule)
    names = [p.name for p in parameters]
    if names[:1] == ["self"]:
        raise TypeError(
            f"{who}.rule is a method: what it reads from self is in no parameter group and no checkpoint; "
            "leave `self` out, and give the rule's own hyperparameters to `own`"
        )
    count = next((i for i, name in enumerate(names) if name not in SUMS), len(names))
    sums, taken = tuple(names[:count]), tuple(names[count:])
    packed = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if packed or any(p.kind is p.KEYWORD_ONLY for p in parameters[:count]):
        raise TypeError(
            f"{who}.rule takes ({_shown(parameters)}): name each sum and each hyperparameter, as "
            "(gg, gm, mm, *, power)"
        )
    for name in taken:
        if name not in known:
            raise TypeError(f"{who}.rule takes ({_shown(parameters)}): {_unknown(who, name, known)}")
    if not sums:
        raise TypeError(
            f"{who}.rule takes ({_shown(parameters)}), which has none of the sums {', '.join(SUMS)}: let it "
            "begin with those that it needs, or give a constant pair (alpha, beta)"
        )
    return rule, sums, taken


def _constant(who: str, rule: Any) -> tuple[float, float]:
    try:
        alpha, beta = map(float, rule)
    except (TypeError, ValueError):
        raise TypeError(
            f"{who}.rule is {rule!r}; it must be a pair of numbers (alpha, beta), or a function of "
            "gg, gm, mm that gives them"
        ) from None
    if not (isfinite(alpha) and isfinite(beta)):
        raise TypeError(f"{who}.rule is {rule!r}; its numbers (alpha, beta) must be finite")
    return alpha, beta


def _unknown(who: str, name: str, known: Collection[str]) -> str:
    """Why a rule cannot take an argument of this name, and what to do."""
    if name == "lr":
        return (
            "lr may be a tensor, on any device, and is not given to rules; let the rule take a "
            "hyperparameter of its own, which a scheduler may set beside lr"
        )
    if name in SUMS:
        return f"its sums must come first, and {name} comes after a hyperparameter"
    near = difflib.get_close_matches(name, [*SUMS, *known], n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? Else " if near else ""
    return (
        f"{name!r} is neither one of the sums {', '.join(SUMS)} nor in {who}.own; {meant}give it a default, "
        f"as own = dict({name}=0.5)"
    )


def _shown(parameters: list[inspect.Parameter]) -> str:
    return ", ".join(str(p) if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) else p.name for p in parameters)


def show_arguments(cls: Any, base: type, options: Mapping[str, Any]) -> None:
    """Complete a subclass's docstring and signature, for help(), by its base's arguments and the options."""
    if doc := cls.__dict__.get("__doc__"):
        cls.__doc__ = _whole_docstring(doc, base.__doc__)
    if "__signature__" not in cls.__dict__:
        cls.__signature__ = _whole_signature(cls.__init__, base.__init__, options)


def _whole_docstring(own: str, base: str | None) -> str:
    """A subclass's docstring with the base's paragraph on arguments, of which it tells its own alone."""
    title = "Arguments of every optimizer of the family:"
    told = [x for x in inspect.cleandoc(base or "").split("\n\n") if x.startswith("Arguments:")]
    if not told or title in own:
        return own
    return f"{inspect.cleandoc(own)}\n\n{title}{told[0].removeprefix('Arguments:')}\n"


def _whole_signature(
    init: Callable[..., Any], base: Callable[..., Any], options: Mapping[str, Any]
) -> inspect.Signature:
    """`init`'s signature with what its **kwargs stand for: the base's arguments and the options.

    An init without **kwargs takes what it names, and no more is shown.
    """
    named = [*inspect.signature(init).parameters.values()][1:]
    shown = [p for p in named if p.kind is not inspect.Parameter.VAR_KEYWORD]
    if len(shown) == len(named):
        return inspect.Signature(shown)
    passed_on = [p for p in [*inspect.signature(base).parameters.values()][2:] if p.kind is not p.VAR_KEYWORD]
    rest = {p.name: p.default for p in passed_on} | {**options}
    taken = {p.name for p in shown}
    keyword = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(name, keyword, default=d) for name, d in rest.items() if name not in taken]
    return inspect.Signature([*shown, *more])
