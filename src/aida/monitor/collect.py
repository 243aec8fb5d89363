"""From an optimizer to rows: every layer's sums, over shards too, brought to the host without a wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import sharding
from ..optimizers.release import FreedGradient
from . import measures
from .definitions import Definition, definition_for
from .record import Row
from .sums import BINS, EXTREMES, SUMS, as_real, histogram_top, layer_sums

Select = Callable[[str, Tensor], bool]
"""Whether a layer is measured, of its name and its parameter."""


@dataclass(frozen=True, slots=True)
class Layer:
    """What the host has to know of a layer beside its sums."""

    number: int
    name: str
    parameter: Tensor
    cap: float | None
    rule: Any
    pooled: bool
    has_g: bool
    has_m: bool
    decay: float

    def row(self, sums: Any, extremes: Any) -> Row:
        s = dict(zip(SUMS, sums[: len(SUMS)].tolist(), strict=True))
        s |= dict(zip(EXTREMES, extremes.tolist(), strict=True))
        counts = sums[len(SUMS) :].round().astype("int64")
        numel = int(s["n"]) // (2 if self.parameter.is_complex() else 1)
        about = {"kind": "stepsize", "step": int(s["step"]), "layer": self.number,
                 "parameter": self.name, "numel": numel}  # fmt: skip
        of_u = measures.stepsizes(s, counts, histogram_top(self.cap), self.cap, self.pooled)
        return (
            about | of_u | measures.directions(s, self.rule, self.has_g, self.has_m, self.pooled, self.decay)
        )


class Pending:
    """A record under way from the device; rows() waits for it, ready() tells whether it would have to."""

    def __init__(self, layers: list[Layer], sums: list[Tensor], extremes: list[Tensor]) -> None:
        self.layers = layers
        self.events: dict[torch.device, Any] = {}
        tables: dict[torch.device, list[int]] = {}
        for i, x in enumerate(sums):
            tables.setdefault(x.device, []).append(i)
        self.places = [(i, device, j) for device, indices in tables.items() for j, i in enumerate(indices)]
        self.tables = {
            device: [self._to_host(torch.stack([of[i] for i in indices])) for of in (sums, extremes)]
            for device, indices in tables.items()
        }

    def _to_host(self, table: Tensor) -> Tensor:
        if table.device.type == "cpu":
            return table
        pinned = table.device.type in ("cuda", "xpu")
        host = torch.empty(table.shape, dtype=table.dtype, pin_memory=pinned)
        host.copy_(table, non_blocking=True)
        event = self.events[table.device] = torch.get_device_module(table.device).Event()
        event.record()
        return host

    def ready(self) -> bool:
        return all(event.query() for event in self.events.values())

    def rows(self) -> list[Row]:
        for event in self.events.values():
            event.synchronize()
        arrays = {device: [x.double().numpy() for x in table] for device, table in self.tables.items()}
        found = {i: (arrays[device][0][j], arrays[device][1][j]) for i, device, j in self.places}
        return [layer.row(*found[i]) for i, layer in enumerate(self.layers)]


@torch.no_grad()
def collect(optimizer: Optimizer, model: torch.nn.Module | None, select: Select | None) -> Pending:
    """Start the record of the optimizer's layers as its last step left them; gradients where there still are.

    Where layers are sharded, every rank that shares one has to call this.
    """
    define = definition_for(optimizer)
    named = [(name, p, group) for name, p, group in named_parameters(optimizer, model)
             if select is None or select(name, p)] if define else []  # fmt: skip
    layers, all_sums, all_extremes = [], [], []
    for number, (name, p, group) in enumerate(named, 1):
        state = optimizer.state.get(p)
        if not state or not p.numel() or not define:
            continue
        definition = define(optimizer, group, state)
        g = p.grad if p.grad is not None and not p.grad.is_sparse else None
        g = None if isinstance(g, FreedGradient) else g
        sums, extremes = layer_sums(*_local(p, g, definition))
        all_sums.append(sums)
        all_extremes.append(extremes)
        layers.append(
            Layer(number, name, p, definition.cap, definition.rule, definition.pooled,
                  g is not None, definition.m is not None, definition.weight_decay)
        )  # fmt: skip
    if sharding.active():
        _reduce([p for _, p, _ in named], layers, all_sums, all_extremes, optimizer)
    return Pending(layers, all_sums, all_extremes)


def _local(p: Tensor, g: Tensor | None, d: Definition) -> tuple[Tensor, Tensor | None, Definition]:
    """This rank's plain tensors, complex ones as reals."""
    names = [k for k in ("v", "m", "less", "buffer") if getattr(d, k) is not None]
    tensors = sharding.local(p, p if g is None else g, *(getattr(d, k) for k in names))
    p, g_, *moments = map(as_real, tensors)
    return p, None if g is None else g_, replace(d, **dict(zip(names, moments, strict=True)))


def _reduce(
    params: list[Tensor], layers: list[Layer], sums: list[Tensor], extremes: list[Tensor], optimizer: Any
) -> None:
    groups = getattr(optimizer, "reduce_groups", None)
    for rows, width, maximum in ((sums, len(SUMS) + BINS, False), (extremes, len(EXTREMES), True)):
        totals = sharding.Totals(params, width, groups, maximum)
        totals([([layer.parameter], row) for layer, row in zip(layers, rows, strict=True)])


def named_parameters(
    optimizer: Optimizer, model: torch.nn.Module | None
) -> Iterator[tuple[str, Tensor, dict[str, Any]]]:
    """(name, parameter, group): the name in `model`, else in named parameters, else the number from 0.

    What DistributedDataParallel and torch.compile put before a name is left out.
    """
    names = {}
    for name, p in model.named_parameters() if model is not None else ():
        names[p] = name.removeprefix("module.").replace("_orig_mod.", "")
    number = 0
    for group in optimizer.param_groups:
        own = group.get("param_names", {})
        for i, p in enumerate(group["params"]):
            yield names.get(p) or (own[i] if own else str(number)), p, group
            number += 1


def layer_stepsizes(
    optimizer: Optimizer, model: torch.nn.Module | None = None, select: Select | None = None
) -> list[Row]:
    """A row of measures for each layer that was stepped, as the last step left it (record.py lists them).

    u = 1/(sqrt(v/(1-b2^t) + eps/(1-b2)) + eps_out) for the family; definitions.py has the others. It leaves
    out lr and the first bias correction, as the figure of arXiv 2203.13273 does.
    select: of a layer's name and parameter, whether it is measured and numbered (default: all).
    Gradients still in p.grad give cos and norms of g. An optimizer without adaptive stepsizes gives no rows.
    Where layers are sharded, every rank has to call this; rows are of whole layers.
    """
    return collect(optimizer, model, select).rows()
