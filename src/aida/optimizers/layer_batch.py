"""From a parameter group to the layers of a step, with their states, all of it checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import sharding
from ..backends.contract import Backend, Layers
from ..backends.dispatch import choose
from ..backends.upload import upload
from .layer_checks import MOMENTS, SCALES, check_layer, check_layout, coded, without_codes
from .layers import Layering, Slice
from .state import new_state
from .waves import Worked, waves_of


class GroupPart(NamedTuple):
    """Layers of one group that are stepped together."""

    group: int  # its index
    params: list[Tensor]
    numbers: Sequence[int]  # their places in the optimizer, which also key stochastic rounding
    key: Any = None  # identifies a part of a group; None: the whole group


def whole_groups(groups: Iterable[Mapping[str, Any]]) -> list[GroupPart]:
    """Each group whole."""
    parts: list[GroupPart] = []
    first = 0
    for i, group in enumerate(groups):
        params = group["params"]
        parts.append(GroupPart(i, params, range(first, first + len(params))))
        first += len(params)
    return parts


def some_layers(layers: Iterable[tuple[int, int, Tensor]]) -> list[GroupPart]:
    """Layers alone, given as (index of a group, place in the optimizer, parameter)."""
    by_group: dict[int, tuple[list[Tensor], list[int]]] = {}
    for i, number, p in layers:
        params, numbers = by_group.setdefault(i, ([], []))
        params.append(p)
        numbers.append(number)
    return [GroupPart(i, params, numbers, tuple(numbers)) for i, (params, numbers) in by_group.items()]


@dataclass(slots=True)
class Cut:
    """Of a batch with parameters that are cut into slices, what is known of each layer."""

    param: list[int] = field(default_factory=list)  # the place in the batch of the parameter that it is of
    rows: list[Any] = field(default_factory=list)  # the parameter, or the Slice
    first: list[int] = field(default_factory=list)  # how many of m's elements are in earlier slices


@dataclass(slots=True)
class LayerBatch:
    """Parameters of one group, device and type that are stepped together, with states and step counters.

    Each is a layer, unless `cut` says which slices are.
    """

    backend: Backend
    wave: int  # layers that share memory are stepped one after the other: waves are counted down to 0
    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    earlier: list[int] = field(default_factory=list)  # how often each has been stepped by earlier waves
    numbers: list[int] = field(default_factory=list)  # each layer's place in the whole optimizer
    places: list[int] = field(default_factory=list)  # and among the group's layers that have a gradient
    layers: Layers = field(default_factory=lambda: Layers([], [], [], [], []))
    cut: Cut | None = None
    keys: list[str | None] | None = None  # of each layer, that of the layer of several tensors that it is in
    has_new_states: bool = False  # which are not the optimizer's yet
    has_plain_counters: bool = False  # float32 and on the CPU, and found so again at every step

    @property
    def rows(self) -> list[Any]:
        """What each layer's row of sums is of."""
        return self.params if self.cut is None else self.cut.rows

    def of_layers(self, column: Any) -> Any:
        """A column with one entry per parameter, as a list or tensor, with one per layer."""
        if self.cut is None:
            return column
        if isinstance(column, Tensor):
            return column[upload(self.cut.param, column.device, torch.int64)]
        return [column[i] for i in self.cut.param]


class Ready(NamedTuple):
    """A parameter that has a gradient and was found right, with its state."""

    number: int  # its place in the optimizer
    place: int  # and among the group's parameters that have a gradient
    param: Tensor
    state: dict[str, Any]
    is_new: bool  # whether the state is not the optimizer's yet
    tensors: tuple[Tensor, ...]  # p, g, m and v as they are worked on
    numel: int  # of the whole layer
    codes: tuple[str, ...]  # the moments that are codes of 8 bits
    is_piece: bool  # of a layer that ranks share


def gather(
    group: dict[str, Any],
    params: list[Tensor],
    numbers: Sequence[int],
    state: Any,
    whole_numel: Mapping[Tensor, int],
    who: str,
    layering: Layering,
    made: dict[Tensor, dict[str, Any]],
) -> list[Ready]:
    """The parameters of a group that have a gradient; missing states are made, and not yet stored.

    numbers: the parameters' places in the optimizer. whole_numel: elements of whole layers that only
    the caller knows. made: takes up the states that are made in this step. Raises RuntimeError for what
    `who` cannot step, before anything is changed.
    """
    found: list[Ready] = []
    traced = torch.compiler.is_compiling()
    for i, (number, p) in enumerate(zip(numbers, params, strict=True)):
        g = p.grad
        if g is None:
            continue
        if not traced:
            check_layout(i, p, g, who)
        of_p = state.get(p) or made.get(p)
        slices = layering.slices(p)
        if not of_p:
            of_p = made[p] = new_state(p, group, len(slices))
        codes = coded(of_p)
        if codes and (why := without_codes(i, p, is_cut=bool(slices), is_piece=bool(whole_numel.get(p)))):
            raise RuntimeError(f"{why}, and empty the parameter's state; nothing was stepped")
        if not traced:
            check_layer(i, p, g, of_p, group, who, len(slices))
        if slices and whole_numel.get(p):
            raise RuntimeError(
                f"parameter {i} of its group is a piece of a layer of which only reduce_groups knows, and "
                "`layers` cuts it into slices, whose places in the whole cannot be found: nothing was "
                "stepped; shard with torch.distributed.fsdp.fully_shard, or leave the parameter whole"
            )
        tensors = sharding.local(p, g, *(of_p[name] for name in MOMENTS))
        numel = whole_numel.get(p) or p.numel()
        if p.is_complex():
            tensors, numel = tuple(map(_real, tensors)), 2 * numel
        is_piece = sharding.is_dtensor(p) or bool(whole_numel.get(p))
        # The sums of an empty layer are 0.
        found.append(Ready(number, len(found), p, of_p, p in made, tensors, numel or 1, codes, is_piece))
    return found


def order(ready: Iterable[Ready]) -> list[tuple[int, int]]:
    """Of each its wave, and how often its parameter came earlier, as `waves_of`."""
    layers = [
        Worked(
            one.param,
            (*one.tensors, *(one.state[name] for name in SCALES if name in one.state)),
            one.is_piece,
        )
        for one in ready
    ]
    return [*zip(*waves_of(layers), strict=True)]


def batches_of(
    ready: Sequence[Ready], places: Sequence[tuple[int, int]], group: dict[str, Any], layering: Layering
) -> list[LayerBatch]:
    """A group's layers by device, type and wave; places: what `order` has found of each."""
    found: dict[Any, LayerBatch] = {}
    for one, (wave, before) in zip(ready, places, strict=True):
        key = one.tensors[0].device, one.param.dtype, one.codes, wave
        if key not in found:
            found[key] = LayerBatch(None, wave)  # type: ignore[arg-type]  # chosen below, of all its layers
        batch = found[key]
        batch.params.append(one.param)
        batch.states.append(one.state)
        batch.steps.append(step if not (step := one.state["step"]).dim() else step.reshape(()))
        batch.earlier.append(before)
        batch.numbers.append(one.number)
        batch.places.append(one.place)
        batch.has_new_states = batch.has_new_states or one.is_new
        layers, slices = batch.layers, layering.slices(one.param)
        if slices or batch.cut is not None:
            _append_cut(batch, one.tensors, one.numel, slices, group.get("layerwise") == "pre")
            continue
        for to, x in zip((layers.p, layers.g, layers.m, layers.v), one.tensors, strict=True):
            to.append(x)
        for to, name, scale in zip((layers.m_scale, layers.v_scale), MOMENTS, SCALES, strict=True):
            if name in one.codes:
                to.append(one.state[scale])
        layers.numel.append(one.numel)
    choices = {f"use_{name}": group[name] for name in ("foreach", "fused")}
    for batch in found.values():
        if layering.shares:
            _share(batch, layering)
        batch.backend = choose(batch.layers.p, **choices, differentiable=group["differentiable"])
    return list(found.values())


def _append_cut(
    batch: LayerBatch, tensors: tuple[Tensor, ...], numel: int, slices: tuple[Slice, ...], pooled: bool
) -> None:
    """Append the batch's last parameter, cut into its slices; its tensors p, g, m and v are this rank's."""
    of, layers, last = batch.cut, batch.layers, len(batch.params) - 1
    if of is None:
        of = batch.cut = Cut([*range(last)], batch.params[:last], [0] * last)
    p, *_, v = tensors
    whole = batch.params[-1]
    start = sharding.start(whole, p) if slices else ()
    first = 0
    for layer in slices or (None,):
        views, n = tensors, numel
        if layer is not None:
            at = layer.index(start, p.shape[: len(start)])
            views = (*(x[at] for x in tensors[:3]), v[layer.number] if pooled else v[at])
            n = layer.numel * (2 if whole.is_complex() else 1)
        for to, x in zip((layers.p, layers.g, layers.m, layers.v), views, strict=True):
            to.append(x)
        layers.numel.append(n)
        of.param.append(last)
        of.rows.append(whole if layer is None else layer)
        of.first.append(first)
        first += views[2].numel()


def _share(batch: LayerBatch, layering: Layering) -> None:
    """Note which layers of a batch share a key; what is summed for them is divided by the caller."""
    keys = batch.of_layers([layering.key(p) for p in batch.params])
    if any(key is not None for key in keys):
        batch.keys, batch.layers.numel = keys, [1] * len(keys)


def store_new_states(batches: Iterable[LayerBatch], state: Any) -> None:
    """Make the states that `gather` made the optimizer's."""
    for batch in batches:
        if batch.has_new_states:
            batch.has_new_states = False
            for p, of_p in zip(batch.params, batch.states, strict=True):
                if state.get(p) is not of_p:
                    state[p] = of_p


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
