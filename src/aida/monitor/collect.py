"""From an optimizer to rows: every layer's sums, over shards too, brought to the host without a wait.

What is measured on a device is a tensor, or a slice of one. A layer is one of these, or several tensors,
whose sums are added on the host.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import sharding
from ..backends.contract import SUMS as GRAM
from ..optimizers.release import FreedGradient
from ..optimizers.rule import coefficients
from . import measures
from .definitions import Definition, definition_for, stepped, unknown
from .layer_sums import BINS, EXTREMES, SUMS, as_real, histogram_top, layer_sums, sums_dtype
from .names import named_layers, unwrapped
from .schema import Row
from .steps import has_gradient, steps_taken

Select = Callable[[str, Tensor], bool]
"""Whether a layer is measured, of its name and its parameter."""
FAILED = object()


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """What the host has to know of a layer, or of a tensor of one, beside its sums."""

    number: int
    name: str
    part: Any  # what is of it: the parameter, or a Slice of it
    parameter: Tensor
    cap: float | None
    rule: Any
    pooled: bool
    has_g: bool
    has_m: bool
    in_step: bool
    decay: float
    batch: Any  # what tells the layers apart whose rule is called at once


class Measured:
    """A layer's sums, of all its parts, on the host."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self._sums: list[Any] = []
        self._extremes: list[Any] = []

    def add(self, part: Part, sums: Any, extremes: Any) -> None:
        self.parts.append(part)
        self._sums.append(sums)
        self._extremes.append(extremes)

    @property
    def in_step(self) -> list[Part]:
        """The parts that have a gradient, and so are in the sums of the step; all where none has one."""
        return [part for part in self.parts if part.has_g] or self.parts

    def sums(self) -> measures.Sums:
        """What the step of the layer summed, and what its stepsizes are."""
        named = [dict(zip(SUMS, x[: len(SUMS)].tolist(), strict=True)) for x in self._sums]
        own = [dict(zip(EXTREMES, x.tolist(), strict=True)) for x in self._extremes]
        in_step = self.in_step
        whole = {key: sum(s[key] for s in named) for key in SUMS}
        for key in ("moved", "u_moved"):
            whole[key] = sum(s[key] for part, s in zip(self.parts, named, strict=True) if part in in_step)
        of_u = {key: whole[key] for key in ("n", "u", "moved", "u_moved")}
        exact = {
            part: measures.products({**s, **of_u, **extremes}, part.pooled, part.decay)
            for part, s, extremes in zip(self.parts, named, own, strict=True)
        }
        of_step = {key: sum(exact[part][key] for part in in_step) for key in (*GRAM, "updates")}
        return whole | {key: max(x[key] for x in own) for key in EXTREMES} | of_step

    def row(self, step: int, s: measures.Sums, coefficients: tuple[float, float] | None) -> Row:
        """Raises ValueError where it cannot be told."""
        first = self.parts[0]
        if any(x[0] != x[0] for x in self._sums):
            raise ValueError("another rank could not measure its piece")
        if len({(part.cap, part.pooled, part.has_m) for part in self.parts}) > 1:
            raise ValueError(
                "its tensors are in groups with other eps, betas or layerwise, or have not been stepped as "
                "often, so that their stepsizes have different caps"
            )
        counts = np.sum([x[len(SUMS) :] for x in self._sums], 0).round().astype("int64")
        numel = int(s["n"]) // (2 if first.parameter.is_complex() else 1)
        about = {"kind": "stepsize", "step": step, "layer": first.number, "parameter": first.name,
                 "numel": numel}  # fmt: skip
        of_u = measures.stepsizes(s, counts, histogram_top(first.cap), first.cap, first.pooled)
        has_g, moved = self.in_step[0].has_g, any(part.in_step for part in self.parts)
        return about | of_u | measures.directions(s, has_g, first.has_m, coefficients, moved)


class Pending:
    """A record under way from the device; rows(step) waits for it, ready() says whether it would have to.

    failed: what could not be measured, by its name; rows() adds to it. stepped: whether any layer was.
    """

    def __init__(
        self, parts: list[Part], sums: list[Tensor], extremes: list[Tensor], failed: dict[str, Exception]
    ) -> None:
        self.parts, self.failed, self.stepped = parts, failed, True
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
        host = torch.empty(table.shape, dtype=table.dtype, device="cpu", pin_memory=pinned)
        host.copy_(table, non_blocking=True)
        event = self.events[table.device] = torch.get_device_module(table.device).Event()
        event.record()
        return host

    def ready(self) -> bool:
        return all(event.query() for event in self.events.values())

    def rows(self, step: int) -> list[Row]:
        for event in self.events.values():
            event.synchronize()
        arrays = {device: [x.double().numpy() for x in table] for device, table in self.tables.items()}
        found = {i: (arrays[device][0][j], arrays[device][1][j]) for i, device, j in self.places}
        rows: list[Row] = []
        layers: dict[int, Measured] = {}
        for i, part in enumerate(self.parts):
            sums, extremes = found[i]
            if extremes[-1] == 0:  # its counter is on the device: the state was made before the first step
                continue
            if part.name not in self.failed:
                layers.setdefault(part.number, Measured()).add(part, sums, extremes)
        self.stepped = bool(layers) or not self.parts
        products = {number: layer.sums() for number, layer in layers.items()}
        coefficients = self._coefficients(layers, products)
        for number, layer in layers.items():
            try:
                if isinstance(pair := coefficients.get(number), Exception):
                    raise pair
                rows.append(layer.row(step, products[number], pair))
            except Exception as error:
                self.failed[layer.parts[0].name] = error
        return rows

    def _coefficients(
        self, layers: dict[int, Measured], products: dict[int, measures.Sums]
    ) -> dict[int, Any]:
        """(alpha, beta) of each layer with a gradient and a rule, which is called as a step calls it."""
        batches: dict[Any, dict[int, Part]] = {}
        for number, layer in layers.items():
            for part in layer.in_step:
                if part.has_g and part.has_m and part.rule is not None:
                    batches.setdefault(part.batch, {})[number] = part
        known: dict[int, Any] = {}
        for of_batch in batches.values():
            table = [[float(products[number][name]) for name in GRAM] for number in of_batch]
            try:
                rule = next(iter(of_batch.values())).rule
                pair = coefficients(rule, torch.tensor(table, dtype=torch.float64, device="cpu"))
                columns = [torch.as_tensor(c, dtype=torch.float64).expand(len(table)).tolist() for c in pair]
                found: dict[int, Any] = dict(zip(of_batch, zip(*columns, strict=True), strict=True))
            except Exception as error:
                found = dict.fromkeys(of_batch, error)
            known = {**found, **known}
        return known


@torch.no_grad()
def collect(optimizer: Optimizer, model: torch.nn.Module | None, select: Select | None) -> Pending:
    """Start the record of the optimizer's layers as its last step left them; gradients where there still are.

    Where layers are sharded, every rank that shares one has to call this: a layer that fails on one rank is
    summed with all the same, as nan, so that no rank waits in vain.
    """
    define = definition_for(optimizer)
    failed: dict[str, Exception] = {}
    broken: list[Any] = []

    def tried(function: Callable[[], Any], name: str, part: Any) -> Any:
        try:
            return function()
        except Exception as error:
            failed[name] = error
            broken.append(part)
            return FAILED

    known = has_gradient(optimizer)  # which layers were in the step
    named: list[Any] = []
    numbers: dict[int, int] = {}  # of the layers that are measured, by their number among all
    for number, name, part, p, group in named_layers(optimizer, model) if define else ():
        if number not in numbers:
            chosen = select is None or tried(partial(select, name, p), name, part)
            numbers[number] = max(numbers.values(), default=0) + 1 if chosen else 0
        if numbers[number]:
            named.append((numbers[number], name, part, p, group))
    parts, all_sums, all_extremes = [], [], []
    for number, name, part, p, group in named:
        state = optimizer.state.get(p)
        if name in failed or not state or not define:
            continue
        in_step = p.grad is not None or not known
        given = optimizer, define, number, name, part, p, group, state, in_step, select is None
        found = tried(partial(_measure, *given), name, part)
        if found is FAILED or found is None:
            continue
        measured, sums, extremes = found
        parts.append(measured)
        all_sums.append(sums)
        all_extremes.append(extremes)
    if sharding.active():
        _reduce([part for _, _, part, _, _ in named], parts, all_sums, all_extremes, broken, optimizer)
    return Pending(parts, all_sums, all_extremes, failed)


def _measure(
    optimizer: Optimizer,
    define: Any,
    number: int,
    name: str,
    part: Any,
    p: Tensor,
    group: Any,
    state: Any,
    in_step: bool,
    every: bool,
) -> tuple[Part, Tensor, Tensor] | None:
    """What is said of a part, and its sums; None where there is nothing yet. every: all are measured."""
    if not p.numel() or not stepped(group, state):
        return None
    d = definition_of(define, optimizer, part, p, group, state)
    g = p.grad if p.grad is not None and p.grad.layout is torch.strided else None
    g = None if isinstance(g, FreedGradient) else g
    # A rule that mixes layers has to see all of them; of some, its coefficients would be others.
    rule = None if getattr(d.rule, "mixes_layers", False) and not every else d.rule
    batch = (id(group), p.device, p.dtype)
    has = g is not None, d.m is not None, in_step
    measured = Part(number, name, part, p, d.cap, rule, d.pooled, *has, d.weight_decay, batch)
    return measured, *layer_sums(*local_layer(part, p, g, d))


def definition_of(define: Any, optimizer: Any, part: Any, p: Tensor, group: Any, state: Any) -> Definition:
    """That of a parameter, or of a Slice of it, which has its own entry of a pooled v."""
    d = define(optimizer, group, state)
    return replace(d, v=d.v[part.number]) if part is not p and group.get("layerwise") == "pre" else d


def local_layer(
    part: Any, p: Tensor, g: Tensor | None, d: Definition
) -> tuple[Tensor, Tensor | None, Definition]:
    """This rank's plain tensors, of a slice its own, complex ones as reals."""
    names = [k for k in ("v", "m", "less", "buffer") if getattr(d, k) is not None]
    tensors: Any = sharding.local(p, p if g is None else g, *(getattr(d, k) for k in names))
    if part is not p:
        here = tensors[0]
        at = part.index(sharding.start(p, here), here.shape)
        tensors = [x[at] if x.shape == here.shape else x for x in tensors]
    p, g_, *moments = map(as_real, tensors)
    return p, None if g is None else g_, replace(d, **dict(zip(names, moments, strict=True)))


def _reduce(
    rows: list[Any],
    parts: list[Part],
    sums: list[Tensor],
    extremes: list[Tensor],
    broken: list[Any],
    optimizer: Any,
) -> None:
    groups = getattr(optimizer, "reduce_groups", None)
    for tables, width, maximum in ((sums, len(SUMS) + BINS, False), (extremes, len(EXTREMES), True)):
        own = [([part.part], row) for part, row in zip(parts, tables, strict=True)]
        own += [([part], _nothing(part, width)) for part in broken]
        sharding.LayerReduction(rows, width, groups, maximum)(own)


def _nothing(part: Any, width: int) -> Tensor:
    p = part if isinstance(part, Tensor) else part.param
    device = torch.device("cpu") if p.is_meta else p.device
    return torch.full((width,), torch.nan, dtype=sums_dtype(device), device=device)


def watchable(optimizer: Any) -> bool:
    """Whether an optimizer, or the one inside a wrapper, has stepsizes that are known."""
    return definition_for(unwrapped(optimizer)) is not None


def layer_stepsizes(
    optimizer: Optimizer, model: torch.nn.Module | None = None, select: Select | None = None
) -> list[Row]:
    """A row of measures for each layer that was stepped, as the last step left it.

    u = 1/(sqrt(v/(1-b2^t) + eps/(1-b2)) + eps_out) for the family; definitions.py has the others. It leaves
    out lr and the first bias correction, as the figure of arXiv 2203.13273 does. Gradients that are still in
    p.grad give the cosine and the norm of g, and the residual.

    Arguments:
        optimizer: as StepsizeMonitor takes it; one whose stepsizes are not known gives no rows and a warning.
        model: for the layers' names. Default: None, the names in param_groups, else numbers from 0.
        select: a function of a layer's name and parameter that says whether it is measured and numbered. The
            residual of a rule that mixes layers is then None. Default: all.

    Returns rows as schema.py lists them. Where layers are sharded, every rank has to call this, and rows are
    of whole layers. Raises RuntimeError, which names the layer, where one cannot be measured.

    Example:
        >>> import aida, torch
        >>> from aida.monitor import layer_stepsizes
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters())
        >>> model(torch.ones(4, 3)).square().mean().backward()
        >>> optimizer.step()
        >>> [(row["parameter"], row["numel"]) for row in layer_stepsizes(optimizer, model)]
        [('weight', 6), ('bias', 2)]
    """
    optimizer = unwrapped(optimizer)
    if not watchable(optimizer):
        warnings.warn(f"no rows: {unknown(optimizer)}", stacklevel=2)
        return []
    pending = collect(optimizer, model, select)
    rows = pending.rows(steps_taken(optimizer) or 0)
    for name, error in pending.failed.items():
        raise RuntimeError(f"layer {name} cannot be measured: {error}") from error
    return rows
