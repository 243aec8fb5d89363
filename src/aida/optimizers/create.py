"""An optimizer by name, with weight decay only where it is wanted."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch.optim.optimizer import Optimizer, ParamsT

from .. import optimizers


def optimizer_names() -> list[str]:
    """Every name that create_optimizer knows: this family's members, then torch.optim's."""
    return [*_classes()]


def create_optimizer(
    name: str, params: torch.nn.Module | ParamsT, *, no_decay: Iterable[str] = (), **arguments: Any
) -> Optimizer:
    """The optimizer called `name` (any case), such as "aida", "ladam", "adamw" or "sgd".

    params: a model, whose trainable parameters are taken with their names, or what torch.optim takes.
    no_decay: patterns (as in fnmatch) of names of parameters that get weight_decay=0, such as "*.bias"; it
    needs names, so a model or named parameters. arguments: the optimizer's own.
    Raises ValueError for an unknown name, with the nearest one, and where no_decay has no names to match.
    """
    classes = _classes()
    if name.lower() not in classes:
        near = difflib.get_close_matches(name.lower(), classes, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(classes)}"
        raise ValueError(f"unknown optimizer {name!r}: {hint}")
    if isinstance(params, torch.nn.Module):
        params = [(n, p) for n, p in params.named_parameters() if p.requires_grad]
        if not params:
            raise ValueError("the model has no trainable parameter: every requires_grad is False")
    patterns = (no_decay,) if isinstance(no_decay, str) else tuple(no_decay)
    if patterns:
        params = _split(params, patterns)
    return classes[name.lower()](params, **arguments)


def _split(params: Any, patterns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Two groups: decayed as asked, and not at all."""
    params = list(params)
    if not all(isinstance(entry, tuple) for entry in params):
        raise ValueError(
            f"no_decay={patterns} needs parameter names: give the model itself or model.named_parameters()"
        )
    spared = {n for n, _ in params if any(fnmatchcase(n, pattern) for pattern in patterns)}
    if not spared:
        warnings.warn(
            f"no_decay={patterns} matches no parameter; the names are like {params[0][0]!r}", stacklevel=3
        )
    groups = [
        {"params": [entry for entry in params if entry[0] not in spared]},
        {"params": [entry for entry in params if entry[0] in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _classes() -> dict[str, type[Optimizer]]:
    ours = {n.lower(): getattr(optimizers, n) for n in optimizers.__all__}
    found = {n.lower(): c for n, c in vars(torch.optim).items() if isinstance(c, type)}
    return {**ours, **{n: c for n, c in found.items() if issubclass(c, Optimizer) and c is not Optimizer}}
