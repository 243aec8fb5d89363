"""From a parameter group to the layers of a step: the one cache, and all that it depends on.

A LayerBatch is made by `gather`, which checks everything, and serves later steps for as long as nothing of
what it depends on has changed:
    the group's parameters, which of them have a gradient, and the group's options that choose the backend or
    the form of the state, and whether inference mode is on;
    the three state tensors of each layer;
    type, layout, device, shape, strides and storage of every parameter, gradient and state tensor, the
    addresses of all but gradients and counters (backends/tensors.py), and whether one is a negated view.
`LayerCache.find` compares all of this at every step. What it cannot compare is gathered at every step:
DTensors and other tensor subclasses, complex parameters, pieces of layers of which only reduce_groups knows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from operator import is_, itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import sharding
from ..backends import tensors as memory
from ..backends.contract import Backend, Layers
from ..backends.dispatch import choose
from .layer_checks import MOMENTS, check_layer, check_layout
from .state import new_state
from .validate import Checked, check_group
from .waves import Worked, waves_of

MAX_LAYOUTS = 256  # kept at most, where layers are stepped in many combinations
CHOICES = ("foreach", "fused", "differentiable", "layerwise", "state_dtype", "stochastic_rounding")
_m, _v, _step = map(itemgetter, (*MOMENTS, "step"))


class GroupPart(NamedTuple):
    """Layers of one group that are stepped together."""

    group: int  # its index
    params: list[Tensor]
    numbers: Sequence[int]  # their places in the optimizer, which also key stochastic rounding
    key: Any = None  # identifies a part of a group; None: the whole group


def whole_groups(groups: Iterable[Mapping[str, Any]]) -> Iterator[GroupPart]:
    """Each group whole."""
    first = 0
    for i, group in enumerate(groups):
        params = group["params"]
        yield GroupPart(i, params, range(first, first + len(params)))
        first += len(params)


def some_layers(layers: Iterable[tuple[int, int, Tensor]]) -> list[GroupPart]:
    """Layers alone, given as (index of a group, place in the optimizer, parameter)."""
    by_group: dict[int, tuple[list[Tensor], list[int]]] = {}
    for i, number, p in layers:
        params, numbers = by_group.setdefault(i, ([], []))
        params.append(p)
        numbers.append(number)
    return [GroupPart(i, params, numbers, tuple(numbers)) for i, (params, numbers) in by_group.items()]


@dataclass(slots=True)
class LayerBatch:
    """Layers of one group, device and type that are stepped together, with their states and step counters."""

    backend: Backend
    wave: int  # layers that share memory are stepped one after the other: waves are counted down to 0
    params: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Tensor] = field(default_factory=list)
    earlier: list[int] = field(default_factory=list)  # how often each has been stepped by earlier waves
    numbers: list[int] = field(default_factory=list)  # each layer's place in the whole optimizer
    places: list[int] = field(default_factory=list)  # and among the group's layers that have a gradient
    layers: Layers = field(default_factory=lambda: Layers([], [], [], [], []))
    has_new_states: bool = False  # which are not the optimizer's yet
    counters: np.ndarray | None = None  # the addresses of float32 counters on the CPU, where they are known


class _Found(NamedTuple):
    """What a group's batches were gathered from."""

    params: list[Tensor]
    numbers: Sequence[int]
    has_gradient: list[bool]
    with_gradient: list[Tensor]
    states: list[dict[str, Any]]
    choices: tuple[Any, ...]
    described: memory.Described | None  # of parameters, gradients, m, v, counters; None: cannot be compared
    batches: list[LayerBatch]


class LayerCache:
    """The batches of an optimizer's groups, gathered anew where something that they depend on has changed."""

    def __init__(self, whole: sharding.WholeLayers, who: str, own: Mapping[str, Checked]) -> None:
        """who: the optimizer's name; own: its own hyperparameters."""
        self._whole, self._who, self._own = whole, who, own
        self._checked: dict[int, list[Any]] = {}  # each group's values as they were found right
        self._found: dict[Any, _Found] = {}
        self._used: dict[Any, _Found] = {}  # in the present step

    def find(
        self,
        part: GroupPart,
        group: dict[str, Any],
        state: Any,
        function_rule: bool,
        reduce_groups: sharding.ReduceGroups | None = None,
    ) -> list[LayerBatch]:
        """The batches of a group's part, gathered and checked anew where the last step's do not serve.

        state: the optimizer's; nothing of it is changed. function_rule: whether (alpha, beta) depend on sums.
        """
        if torch.compiler.is_compiling():
            return self._gather(part, group, state, function_rule, reduce_groups)
        self._check_values(part.group, group)
        key = part.group, part.key
        found = self._found.pop(key, None)  # and stays away if anything raises
        if found is None or found.numbers != part.numbers or not _refresh(found, group, part.params, state):
            batches, last = self._gather(part, group, state, function_rule, reduce_groups), found
            found = _found(batches, group, part.params, part.numbers, state)
            if last is not None and found.described is None:
                # Addresses are never given then, without which a backend takes only what it compares itself.
                for batch, old in zip(batches, last.batches, strict=False):
                    if batch.backend is old.backend:
                        batch.layers.prepared = old.layers.prepared
        self._used[key] = found
        return found.batches

    def _gather(
        self,
        part: GroupPart,
        group: dict[str, Any],
        state: Any,
        function_rule: bool,
        reduce_groups: sharding.ReduceGroups | None,
    ) -> list[LayerBatch]:
        if function_rule or group.get("layerwise"):  # which needs whole layers
            self._whole.check(part.group, group["params"], reduce_groups)
        return gather(group, part.params, part.numbers, state, self._whole.numel, self._who)

    def _check_values(self, i: int, group: dict[str, Any]) -> None:
        """Check what schedulers and users have set in a group since its last step."""
        last, now = self._checked.get(i, ()), group.values()
        if len(last) != len(now) or not all(map(is_, now, last)):
            check_group(group, self._own)
            self._checked[i] = list(group.values())

    @contextmanager
    def in_use(self, groups: Sequence[Any]) -> Generator[None]:
        """Around a step: what it used serves the next one, without gradients, which their owner may free.

        After an error nothing does, and nothing of a removed group is kept.
        """
        if len(self._checked) > len(groups):
            self.clear()
        self._used = {}
        try:
            yield
        except BaseException:
            self.clear()
            raise
        for found in self._used.values():
            for batch in found.batches:
                batch.layers.g = []
                if found.described is None:
                    batch.params, batch.states, batch.layers.p = [], [], []
                    batch.layers.m, batch.layers.v, batch.steps = [], [], []
        if len(self._found) > MAX_LAYOUTS:
            self._found.clear()
        self._found |= self._used
        self._used = {}

    def clear(self) -> None:
        """Gather and check everything anew in the next step."""
        self._found, self._used, self._checked = {}, {}, {}


def _refresh(found: _Found, group: dict[str, Any], params: list[Tensor], state: Any) -> bool:
    """Whether all is as it was but gradients' and counters' addresses, which are taken over."""
    if found.described is None or len(params) != len(found.params) or not all(map(is_, params, found.params)):
        return False
    if not all(map(is_, _choices(group), found.choices)):
        return False
    grads: list[Any] = [p.grad for p in params]
    if [g is not None for g in grads] != found.has_gradient:
        return False
    grads = [g for g in grads if g is not None]
    if not _same_states(found, state):
        return False
    try:
        m, v, steps = (list(map(get, found.states)) for get in (_m, _v, _step))
    except KeyError:
        return False
    described = memory.describe([*found.with_gradient, *grads, *m, *v, *steps])
    if described is None or not described.same(found.described):
        return False
    if any(map(Tensor.is_neg, chain(found.with_gradient, grads, m, v, steps))):  # which C++ cannot see
        return False
    now, before = (x.addresses.reshape(5, -1) for x in (described, found.described))
    if not np.array_equal(now[[0, 2, 3]], before[[0, 2, 3]]) or not np.array_equal(
        now[1] == 0, before[1] == 0
    ):
        return False
    for batch in found.batches:
        whole = len(batch.places) == len(grads)
        _take(batch, *((x if whole else [x[i] for i in batch.places]) for x in (grads, m, v, steps)))
        batch.layers.addresses = now[:4] if whole else np.ascontiguousarray(now[:4, batch.places])
        if batch.counters is not None:
            batch.counters = now[4] if whole else now[4, batch.places]
    return True


def _same_states(found: _Found, state: Any) -> bool:
    """Whether each layer's state is the dictionary that it was. Hashing parameters takes the most time."""
    if len(state) == len(found.states) and all(map(is_, state, found.with_gradient)):
        return all(map(is_, state.values(), found.states))
    return all(map(is_, map(state.get, found.with_gradient), found.states))


def _take(batch: LayerBatch, g: list[Tensor], m: list[Tensor], v: list[Tensor], steps: list[Tensor]) -> None:
    batch.layers.g, batch.layers.m, batch.layers.v, batch.steps = g, m, v, steps


def _found(
    batches: list[LayerBatch], group: dict[str, Any], params: list[Tensor], numbers: Sequence[int], state: Any
) -> _Found:
    """The batches with what they depend on; without it where a later step could not compare it."""
    lost = _Found([], (), [], [], [], (), None, batches)
    with_gradient = [p for p in params if p.grad is not None]
    own = all(x is y for batch in batches for x, y in zip(batch.params, batch.layers.p, strict=True))
    wholes = all(
        n == (p.numel() or 1) for b in batches for p, n in zip(b.params, b.layers.numel, strict=True)
    )
    if not (batches and own and wholes):
        return lost
    of_place = {i: of_p for b in batches for i, of_p in zip(b.places, b.states, strict=True)}
    states = [of_place[i] for i in range(len(with_gradient))]
    columns: list[Any] = [
        *with_gradient,
        *(p.grad for p in with_gradient),
        *(get(s) for get in (_m, _v, _step) for s in states),
    ]
    described = memory.describe(columns)
    if described is None:
        return lost
    for batch in batches:
        if all(step.dtype is torch.float32 and step.device.type == "cpu" for step in batch.steps):
            batch.counters = described.addresses.reshape(5, -1)[4, batch.places]
    has_gradient = [p.grad is not None for p in params]
    return _Found(
        list(params), numbers, has_gradient, with_gradient, states, _choices(group), described, batches
    )


def _choices(group: dict[str, Any]) -> tuple[Any, ...]:
    """What chooses the backend and the form of the state, and what may be written."""
    return (*map(group.get, CHOICES), torch.is_inference_mode_enabled())


def gather(
    group: dict[str, Any],
    params: list[Tensor],
    numbers: Sequence[int],
    state: Any,
    whole_numel: dict[Tensor, int],
    who: str,
) -> list[LayerBatch]:
    """The layers that have a gradient, by device, type and wave; missing states are made, and not yet stored.

    numbers: the parameters' places in the optimizer. whole_numel: elements of whole layers that only
    the caller knows. Raises RuntimeError for what `who` cannot step, before anything is changed.
    """
    found: dict[Any, LayerBatch] = {}
    made: dict[Tensor, dict[str, Any]] = {}
    entries = []
    place = 0
    traced = torch.compiler.is_compiling()
    for i, (number, p) in enumerate(zip(numbers, params, strict=True)):
        g = p.grad
        if g is None:
            continue
        if not traced:
            check_layout(i, p, g, who)
        of_p = state.get(p) or made.get(p)
        if not of_p:
            of_p = made[p] = new_state(p, group)
        if not traced:
            check_layer(i, p, g, of_p, group, who)
        tensors = sharding.local(p, g, *(of_p[name] for name in MOMENTS))
        numel = whole_numel.get(p) or p.numel()
        if p.is_complex():
            tensors, numel = tuple(map(_real, tensors)), 2 * numel
        entries.append((number, place, p, of_p, tensors, numel or 1))  # an empty layer's sums are 0
        place += 1
    waves, earlier = waves_of(
        [
            Worked(p, tensors, sharding.is_dtensor(p) or bool(whole_numel.get(p)))
            for _, _, p, _, tensors, _ in entries
        ]
    )
    choices = {f"use_{name}": group[name] for name in ("foreach", "fused")}
    for (number, place, p, of_p, tensors, numel), wave, before in zip(entries, waves, earlier, strict=True):
        key = tensors[0].device, p.dtype, wave
        if key not in found:
            found[key] = LayerBatch(None, wave)  # type: ignore[arg-type]  # chosen below, of all its layers
        batch = found[key]
        batch.params.append(p)
        batch.states.append(of_p)
        batch.steps.append(of_p["step"])
        batch.earlier.append(before)
        batch.numbers.append(number)
        batch.places.append(place)
        batch.has_new_states = batch.has_new_states or p in made
        layers = batch.layers
        for to, x in zip((layers.p, layers.g, layers.m, layers.v), tensors, strict=True):
            to.append(x)
        layers.numel.append(numel)
    for batch in found.values():
        batch.backend = choose(batch.layers.p, **choices, differentiable=group["differentiable"])
    return list(found.values())


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
