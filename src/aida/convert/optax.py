"""States of optax, found in what holds them and put into torch's form; optax and JAX need not be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

FIELDS = ("count", "mu", "nu")
SOURCES = {"ScaleByBeliefState": "optax.adabelief", "ScaleByAdamState": "optax.adam"}


def find_state(given: Any) -> tuple[str | None, Mapping[str, Any]] | None:
    """(the source's name where its class tells, {count, mu, nu}) of the one such state in this one; or None.

    Raises ValueError where there are several.
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
    step = float(np.asarray(fields["count"]))
    state = {key: {"step": step, "exp_avg": mu[key], "exp_avg_var": nu[key]} for key in mu}
    return {"state": state, "param_groups": [{"params": [*mu]}]}


def _search(given: Any) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    fields = given if isinstance(given, Mapping) else _fields(given)
    if fields is not None and all(name in fields for name in FIELDS):
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


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[Any, torch.Tensor]]:
    """(name, tensor): names joined by dots, or the place in a list."""
    if isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from _leaves(part, (*path, str(key)))
    elif isinstance(tree, list | tuple) and not path:
        for i, part in enumerate(tree):
            yield i, _tensor(part)
    elif tree is not None:
        yield ".".join(path) or 0, _tensor(tree)


def _tensor(x: Any) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x.detach()
    array = np.asarray(x)
    if array.dtype.name == "bfloat16":  # JAX's, which torch does not read
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))
