"""What makes a class a member: its rule in plain numbers, and a signature that shows every argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

SUMS = ("gg", "gm", "mm")  # what every function rule is given


def plain_rule(who: str, rule: Any, known: Mapping[str, Any]) -> tuple[Any, tuple[str, ...]]:
    """The rule as a class holds it, and the names of those of the member's arguments that it takes.

    A constant becomes two floats, a plain function a static one. known: the member's arguments.
    Raises TypeError for anything else, and for a function of what is neither a sum nor an argument.
    """
    if isinstance(rule, staticmethod | classmethod):
        function: Any = rule.__func__
    else:
        function = rule
    if not callable(function):
        try:
            alpha, beta = map(float, function)
        except (TypeError, ValueError):
            raise TypeError(
                f"{who}.rule is {rule!r}; it must be a pair of numbers (alpha, beta), or a function of "
                "gg, gm, mm that gives them"
            ) from None
        return (alpha, beta), ()
    names = [*inspect.signature(function).parameters]
    if isinstance(rule, classmethod) or (isinstance(rule, FunctionType) and names[:1] == ["self"]):
        names = names[1:]
    elif isinstance(rule, FunctionType):
        rule = staticmethod(rule)
    taken = tuple(names[len(SUMS) :])
    if tuple(names[: len(SUMS)]) != SUMS or not {*taken} <= {*known}:
        raise TypeError(
            f"{who}.rule takes ({', '.join(names)}); it must take gg, gm, mm and then only arguments that "
            f"{who}.own gives a default, such as own = Options(K=2, xi=1e-20)"
        )
    return rule, taken


def whole_signature(
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
