"""From an optimizer to rows: every layer's sums, over shards too, brought to the host without a wait."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
from .names import named_parameters, unwrapped
from .schema import Row

Select = Callable[[str, Tensor], bool]
"""Whether a layer is measured, of its name and its parameter."""
FAILED = object()


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
    batch: Any  # what tells the layers apart whose rule is called at once

    def products(self, sums: Any, extremes: Any) -> measures.Sums:
        s = dict(zip(SUMS, sums[: len(SUMS)].tolist(), strict=True))
        s |= dict(zip(EXTREMES, extremes.tolist(), strict=True))
        return measures.products(s, self.pooled, self.decay)

    def row(self, s: measures.Sums, counts: Any, coefficients: tuple[float, float] | None) -> Row:
        numel = int(s["n"]) // (2 if self.parameter.is_complex() else 1)
        about = {"kind": "stepsize", "step": int(s["step"]), "layer": self.number,
                 "parameter": self.name, "numel": numel}  # fmt: skip
        of_u = measures.stepsizes(s, counts, histogram_top(self.cap), self.cap, self.pooled)
        return about | of_u | measures.directions(s, self.has_g, self.has_m, coefficients)


class Pending:
    """A record under way from the device; rows() waits for it, ready() says whether it would have to.

    failed: what could not be measured, by its name; rows() adds to it. stepped: whether any layer was.
    """

    def __init__(
        self, layers: list[Layer], sums: list[Tensor], extremes: list[Tensor], failed: dict[str, Exception]
    ) -> None:
        self.layers, self.failed, self.stepped = layers, failed, True
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

    def rows(self) -> list[Row]:
        for event in self.events.values():
            event.synchronize()
        arrays = {device: [x.double().numpy() for x in table] for device, table in self.tables.items()}
        found = {i: (arrays[device][0][j], arrays[device][1][j]) for i, device, j in self.places}
        rows: list[Row] = []
        measured: dict[int, measures.Sums] = {}
        for i, layer in enumerate(self.layers):
            sums, extremes = found[i]
            if extremes[-1] == 0:  # its counter is on the device: the state was made before the first step
                continue
            measured[i] = layer.products(sums, extremes)
        self.stepped = bool(measured) or not self.layers
        coefficients = self._coefficients(measured)
        for i, s in measured.items():
            layer, sums = self.layers[i], found[i][0]
            try:
                if sums[0] != sums[0]:
                    raise ValueError("another rank could not measure its piece")
                if isinstance(of_layer := coefficients.get(i), Exception):
                    raise of_layer
                rows.append(layer.row(s, sums[len(SUMS) :].round().astype("int64"), of_layer))
            except Exception as error:
                self.failed[layer.name] = error
        return rows

    def _coefficients(self, measured: dict[int, measures.Sums]) -> dict[int, Any]:
        """(alpha, beta) of each layer with a gradient and a rule, which is called as a step calls it."""
        batches: dict[Any, list[int]] = {}
        for i in measured:
            layer = self.layers[i]
            if layer.has_g and layer.has_m and layer.rule is not None:
                batches.setdefault(layer.batch, []).append(i)
        known: dict[int, Any] = {}
        for of_batch in batches.values():
            table = [[float(measured[i][name]) for name in GRAM] for i in of_batch]
            try:
                pair = coefficients(
                    self.layers[of_batch[0]].rule, torch.tensor(table, dtype=torch.float64, device="cpu")
                )
                columns = [torch.as_tensor(c, dtype=torch.float64).expand(len(table)).tolist() for c in pair]
                known |= dict(zip(of_batch, zip(*columns, strict=True), strict=True))
            except Exception as error:
                known |= dict.fromkeys(of_batch, error)
        return known


@torch.no_grad()
def collect(optimizer: Optimizer, model: torch.nn.Module | None, select: Select | None) -> Pending:
    """Start the record of the optimizer's layers as its last step left them; gradients where there still are.

    Where layers are sharded, every rank that shares one has to call this: a layer that fails on one rank is
    summed with all the same, as nan, so that no rank waits in vain.
    """
    define = definition_for(optimizer)
    failed: dict[str, Exception] = {}
    broken: list[Tensor] = []

    def tried(function: Callable[[], Any], name: str, p: Tensor) -> Any:
        try:
            return function()
        except Exception as error:
            failed[name] = error
            broken.append(p)
            return FAILED

    named = [
        (name, p, group)
        for name, p, group in (named_parameters(optimizer, model) if define else ())
        if select is None or tried(partial(select, name, p), name, p)
    ]
    layers, all_sums, all_extremes = [], [], []
    for number, (name, p, group) in enumerate(named, 1):
        state = optimizer.state.get(p)
        if name in failed or not state or not define:
            continue
        given = optimizer, define, number, name, p, group, state, select is None
        found = tried(partial(_measure, *given), name, p)
        if found is FAILED or found is None:
            continue
        layer, sums, extremes = found
        layers.append(layer)
        all_sums.append(sums)
        all_extremes.append(extremes)
    if sharding.active():
        _reduce([p for _, p, _ in named], layers, all_sums, all_extremes, broken, optimizer)
    return Pending(layers, all_sums, all_extremes, failed)


def _measure(
    optimizer: Optimizer, define: Any, number: int, name: str, p: Tensor, group: Any, state: Any, every: bool
) -> tuple[Layer, Tensor, Tensor] | None:
    """What is said of a layer, and its sums; None where there is nothing yet. every: all are measured."""
    if not p.numel() or not stepped(group, state):
        return None
    d = define(optimizer, group, state)
    g = p.grad if p.grad is not None and p.grad.layout is torch.strided else None
    g = None if isinstance(g, FreedGradient) else g
    # A rule that mixes layers has to see all of them; of some, its coefficients would be others.
    rule = None if getattr(d.rule, "mixes_layers", False) and not every else d.rule
    batch = (id(group), p.device, p.dtype)
    has = g is not None, d.m is not None
    layer = Layer(number, name, p, d.cap, rule, d.pooled, *has, d.weight_decay, batch)
    return layer, *layer_sums(*local_layer(p, g, d))


def local_layer(p: Tensor, g: Tensor | None, d: Definition) -> tuple[Tensor, Tensor | None, Definition]:
    """This rank's plain tensors, complex ones as reals."""
    names = [k for k in ("v", "m", "less", "buffer") if getattr(d, k) is not None]
    tensors = sharding.local(p, p if g is None else g, *(getattr(d, k) for k in names))
    p, g_, *moments = map(as_real, tensors)
    return p, None if g is None else g_, replace(d, **dict(zip(names, moments, strict=True)))


def _reduce(
    params: list[Tensor],
    layers: list[Layer],
    sums: list[Tensor],
    extremes: list[Tensor],
    broken: list[Tensor],
    optimizer: Any,
) -> None:
    groups = getattr(optimizer, "reduce_groups", None)
    for rows, width, maximum in ((sums, len(SUMS) + BINS, False), (extremes, len(EXTREMES), True)):
        own = [([layer.parameter], row) for layer, row in zip(layers, rows, strict=True)]
        own += [([p], _nothing(p, width)) for p in broken]
        sharding.LayerReduction(params, width, groups, maximum)(own)


def _nothing(p: Tensor, width: int) -> Tensor:
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
    rows = pending.rows()
    for name, error in pending.failed.items():
        raise RuntimeError(f"layer {name} cannot be measured: {error}") from error
    return rows
