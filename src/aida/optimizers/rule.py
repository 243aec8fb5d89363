"""How a rule is called, and what it must return: one form in every backend, on every device, in the monitor.

A rule is given one tensor [L] for each sum that it takes, with one entry for each of the L layers that step
together: layers of one parameter group, on one device and of one type, that have a gradient, in the order
of the group. The tensors are of float64 (float32 where the device has no float64), on the layers' device. It
returns (alpha, beta), each a number for all layers, a tensor of no dimensions, or a tensor [L].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import family
from ..backends.contract import SUMS, Coefficients, Projection

LIMIT = torch.finfo(torch.float32).max  # what every backend can compute with


@dataclass  # neither frozen nor slotted: torch 2.6 cannot compile a step that makes such an object
class BoundRule:
    """A member's function rule with the hyperparameters of one parameter group; a function of its sums.

    Its fields are all that it depends on.
    """

    function: Callable[..., Any]
    sums: tuple[str, ...]  # what it takes, in order
    hyperparameters: dict[str, Any]
    name: str
    mixes_layers: bool

    def __call__(self, *sums: Tensor) -> Any:
        return self.function(*sums, **self.hyperparameters)

    def is_made_of_the_same(self, other: BoundRule) -> bool:
        """Whether the other's fields are the very objects that this one has: either serves for both.

        Values are compared as objects, since equal ones may differ: 0.0 and -0.0, 1 and True, a tensor that
        was written to.
        """
        mine, its = self.hyperparameters, other.hyperparameters
        return (
            _is_same_function(self.function, other.function)
            and (self.sums, self.name, self.mixes_layers) == (other.sums, other.name, other.mixes_layers)
            and mine.keys() == its.keys()
            and all(its[name] is value for name, value in mine.items())
        )


Rule = Coefficients | BoundRule  # a constant (alpha, beta), or a function


def known_to_backends(rule: Rule) -> Coefficients | Projection | None:
    """The rule in a form that a backend can evaluate by itself; None for a function of one's own."""
    if not callable(rule):
        return rule
    return Projection(**rule.hyperparameters) if rule.function is family.projection else None


def coefficients(rule: Any, gram: Any) -> Coefficients:
    """(alpha, beta) of the layers whose sums are gram [L, 4], as numbers or arrays of gram's own kind.

    rule: a constant, a BoundRule, or any function of (gg, gm, mm) in the form above. Coefficients are held
    within float32; one that is not finite, as where sums are infinite, is taken as 1, which is no projection.
    So an infinite gradient makes its own element nan and not its whole layer, as in torch's Adam.
    Raises RuntimeError where the rule returns anything else, or writes to its sums.
    """
    if not callable(rule):
        return rule
    if isinstance(gram, Tensor):
        return _call(rule, gram)
    if isinstance(rule, BoundRule) and rule.function is family.projection:
        # It is on + - * / alone, so NumPy's arrays do: 15 us a step where tensors take 41, of 200 layers.
        with np.errstate(all="ignore"):
            alpha, beta = rule(*gram.T[:3])
            return _usable_array(alpha), _usable_array(beta)
    alpha, beta = _call(rule, torch.from_numpy(gram))
    return tuple(c.numpy() if isinstance(c, Tensor) else c for c in (alpha, beta))  # type: ignore[return-value]


def _is_same_function(f: Any, g: Any) -> bool:
    """Whether they are one function; a class method is another object each time that it is looked up."""
    if isinstance(f, MethodType) and isinstance(g, MethodType):
        return f.__func__ is g.__func__ and f.__self__ is g.__self__
    return f is g


def where_finite(x: Any, chosen: Any, other: Any) -> Any:
    """`chosen` where x is finite, else `other`; all NumPy's or all torch's."""
    of: Any = torch if isinstance(x, Tensor) else np
    return of.where(of.isfinite(x), chosen, other)


def _call(rule: Any, gram: Tensor) -> Coefficients:
    name = getattr(rule, "name", "the rule")
    taken = getattr(rule, "sums", SUMS[:3])
    columns = dict(zip(SUMS, gram.unbind(1), strict=True))
    sums = [columns[sum_] for sum_ in taken]
    if torch.compiler.is_compiling():
        return _usable_pair(rule(*sums), gram, name)
    version = None if gram.is_inference() else gram._version
    try:
        pair = rule(*sums)
    except Exception as error:
        given = f"{', '.join(taken)} of {len(gram)} layers"
        error.add_note(f"{name} raised this, given {given}: nothing was stepped")
        raise
    if version is not None and gram._version != version:
        raise RuntimeError(
            f"{name} writes to the sums that it is given: nothing was stepped; compute new tensors, such as "
            "gg * 2 in place of gg.mul_(2)"
        )
    return _usable_pair(pair, gram, name)


def _usable_pair(pair: Any, gram: Tensor, name: str) -> Coefficients:
    if not isinstance(pair, (tuple, list)):  # torch 2.6 compiles no union of types
        raise _refusal(name, _described(pair), len(gram))
    if len(pair) != 2:
        raise _refusal(name, f"{len(pair)} values", len(gram))
    alpha, beta = (
        _usable(c, gram, f"{name} gave {which}") for c, which in zip(pair, ("alpha", "beta"), strict=True)
    )
    return alpha, beta


def _usable(c: Any, gram: Tensor, who: str) -> Any:
    count = len(gram)
    if isinstance(c, (int, float)) and not isinstance(c, bool):
        if not isfinite(c):
            raise RuntimeError(f"{who} = {c}, which is not finite: nothing was stepped; correct the rule")
        return min(max(c, -LIMIT), LIMIT)
    wanted = f"return a number, or a tensor of shape ({count},) as its sums have"
    if not isinstance(c, Tensor) or c.dtype == torch.bool or c.is_complex():
        raise RuntimeError(f"{who} as {_described(c)}: nothing was stepped; {wanted}")
    if c.shape not in ((), (count,)):
        raise RuntimeError(f"{who} as {_described(c)}: nothing was stepped; {wanted}")
    if c.ndim and c.device != gram.device:
        raise RuntimeError(
            f"{who} on {c.device} where its sums are on {gram.device}: nothing was stepped; make new tensors "
            "with device=gg.device"
        )
    c = c.to(gram.dtype)  # narrow types cannot hold the limits
    return where_finite(c, c.clip(-LIMIT, LIMIT), 1.0)


def _usable_array(c: Any) -> Any:
    if not isinstance(c, np.ndarray) or np.maximum.reduce(np.abs(c)) <= LIMIT:  # which is false for nan
        return c
    return where_finite(c, c.clip(-LIMIT, LIMIT), 1.0)


def _refusal(name: str, given: str, count: int) -> RuntimeError:
    return RuntimeError(
        f"{name} gave {given}, not (alpha, beta): nothing was stepped; return two numbers, or two tensors of "
        f"shape ({count},) as its sums have"
    )


def _described(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"a tensor of {x.dtype} and shape {tuple(x.shape)}"
    if isinstance(x, np.ndarray | np.generic):
        return "an array of NumPy, which devices other than the CPU do not have"
    return repr(x) if x is None or isinstance(x, int | float | str) else f"a {type(x).__name__}"
