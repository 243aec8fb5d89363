"""From a parameter group to the layers of a step, gathered anew only where something has changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import is_, itemgetter
from typing import Any

import torch
from torch import Tensor

from .. import sharding
from ..backends.contract import Layers

MOMENTS = ("exp_avg", "exp_avg_var")


@dataclass(slots=True)
class Gathered:
    """A group's layers of one device and type that have a gradient, with their states and step counters."""

    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # each layer's place in the whole optimizer
    layers: Layers = field(default_factory=lambda: Layers([], [], [], [], []))
    idle: list[Tensor] = field(default_factory=list)  # the group's other parameters, without a gradient

    def again(self, params: list[Tensor], state: Any) -> bool:
        """Whether the group is as it was, but for new gradients, which are taken."""
        if len(self.params) + len(self.idle) != len(params) or any(p.grad is not None for p in self.idle):
            return False
        present = [p for p in params if p.grad is not None] if self.idle else params
        grads: list[Any] = [p.grad for p in present]
        layers = self.layers
        same = (
            all(map(is_, present, self.params))
            and all(map(is_, map(state.get, present), self.states))
            and all(map(is_, map(itemgetter("exp_avg"), self.states), layers.m))
            and all(map(is_, map(itemgetter("exp_avg_var"), self.states), layers.v))
            and all(map(is_, map(itemgetter("step"), self.states), self.steps))
            and all(g is not None and g.layout is torch.strided for g in grads)
        )
        if same:
            layers.g = grads
        return same

    def release(self) -> None:
        """Let go of the gradients, which their owner may free."""
        self.layers.g = []


def gather(
    group: dict[str, Any],
    first: int,
    state: Any,
    init_state: Callable[[Tensor, dict[str, Any], dict[str, Any]], None],
    whole_numel: dict[Tensor, int],
    who: str,
) -> list[Gathered]:
    """The group's layers that have a gradient, by device and type; a new one's state is made.

    first: the number of the group's first parameter in the optimizer. whole_numel: elements of whole layers
    that only the caller knows. Raises RuntimeError for a sparse gradient, which `who` does not support.
    """
    found: dict[Any, Gathered] = {}
    idle = []
    may_be_sharded = sharding.active()
    for number, p in enumerate(group["params"], first):
        g = p.grad
        if g is None:
            idle.append(p)
            continue
        if g.is_sparse:
            raise RuntimeError(
                f"{who} does not support sparse gradients: build the layer with sparse=False, or give its "
                "parameters to torch.optim.SparseAdam"
            )
        of_p = state[p]
        if not of_p:
            init_state(p, of_p, group)
        tensors = p, g, of_p["exp_avg"], of_p["exp_avg_var"]
        if may_be_sharded:
            tensors = sharding.local(*tensors)
        numel = (whole_numel.get(p) if whole_numel else None) or p.numel()
        if p.is_complex():
            tensors, numel = tuple(map(_real, tensors)), 2 * numel
        entry = found.setdefault((tensors[0].device, p.dtype), Gathered(idle=idle))
        entry.params.append(p)
        entry.states.append(of_p)
        entry.steps.append(of_p["step"])
        entry.numbers.append(number)
        layers = entry.layers
        for to, x in zip((layers.p, layers.g, layers.m, layers.v), tensors, strict=True):
            to.append(x)
        layers.numel.append(numel or 1)  # an empty layer's sums are 0
    return list(found.values())


def may_be_kept(found: list[Gathered], whole_numel: dict[Tensor, int]) -> bool:
    """Whether `again` sees every change: not of local shards or real views, which are made anew each time."""
    return (
        len(found) == 1
        and not sharding.active()
        and not whole_numel
        and not torch.compiler.is_compiling()
        and all(map(is_, found[0].params, found[0].layers.p))
    )


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
