"""States of optax, found in what holds them and put into torch's form; optax and JAX need not be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from .values import LARGEST_V

FIELDS = ("count", "mu", "nu")
SOURCES = {"ScaleByBeliefState": "optax.adabelief", "ScaleByAdamState": "optax.adam"}
OWN = "ScaleByAidaState"  # of aida_jax, whose v is without eps


def find_state(given: Any) -> tuple[str | None, Mapping[str, Any]] | None:
    """(the source's name where its class tells, {count, mu, nu}) of the one such state in this one; or None.

    Raises ValueError where there are several, and for a state of aida_jax and of amsgrad.
    """
    if isinstance(given, Mapping) and "param_groups" in given:
        return None
    found = [*_search(given)]
    if len(found) > 1:
        raise ValueError(
            f"this optax state holds {len(found)} with count, mu and nu: convert the one of these parameters "
            "alone, such as opt_state[0]"
        )
    return found[0] if found else None


def as_state_dict(fields: Mapping[str, Any]) -> dict[str, Any]:
    """In torch's form: one group without values, parameters called by their names or numbers."""
    mu, nu = (dict(_leaves(fields[name])) for name in ("mu", "nu"))
    if mu.keys() != nu.keys():
        raise ValueError("mu and nu of this optax state have different names: give trees of one form")
    step = _count(fields["count"])
    state = {
        key: {"step": step, "exp_avg": mu[key], "exp_avg_var": nu[key]}
        for key in mu
        if mu[key] is not None and nu[key] is not None
    }
    return {"state": state, "param_groups": [{"params": [*mu]}]}


def _search(given: Any) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    fields = given if isinstance(given, Mapping) else _fields(given)
    if fields is not None and all(name in fields for name in FIELDS):
        if type(given).__name__ == OWN:
            raise ValueError(
                "this is a state of aida_jax: aida_jax.state_to_torch(state, optimizer, from_tree) makes a "
                "state dict of it, as it is"
            )
        if "nu_max" in fields:
            raise ValueError(f"a state of optax.amsgrad cannot be converted: {LARGEST_V}")
        yield SOURCES.get(type(given).__name__), fields
    elif fields is not None:
        for part in fields.values():
            yield from _search(part)
    elif isinstance(given, list | tuple):
        for part in given:
            yield from _search(part)


def _fields(given: Any) -> dict[str, Any] | None:
    names = getattr(given, "_fields", None)
    return {name: getattr(given, name) for name in names} if isinstance(given, tuple) and names else None


def _count(given: Any) -> float:
    count = np.asarray(given)
    if count.size != 1 or count.dtype.kind not in "iuf":
        raise ValueError(
            f"count of this optax state is {given!r:.60}: it must be one number, the steps taken; of several "
            "states convert one at a time"
        )
    return float(count.reshape(()))


def _leaves(tree: Any) -> Iterator[tuple[Any, torch.Tensor | None]]:
    """(name, tensor): names joined by dots; of a plain list the place in it, and None where it has None."""
    if isinstance(tree, list | tuple) and not any(isinstance(x, Mapping | list | tuple) for x in tree):
        yield from ((i, None if x is None else _tensor(i, x)) for i, x in enumerate(tree))
    else:
        yield from _named(tree, ())


def _named(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[Any, torch.Tensor]]:
    if isinstance(tree, Mapping | list | tuple):
        for key, part in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
            yield from _named(part, (*path, str(key)))
    elif tree is not None:
        name = ".".join(path) or 0
        yield name, _tensor(name, tree)


def _tensor(name: Any, x: Any) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x.detach()
    array = np.asarray(x)
    if array.dtype.name == "bfloat16":  # JAX's, which torch does not read
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "fciub":
        raise ValueError(
            f"'{name}' of this optax state is a {type(x).__name__}, where an array is expected: give trees "
            "of dicts and lists of arrays"
        )
    return torch.from_numpy(np.array(array))
