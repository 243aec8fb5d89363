"""The layers of a step, kept for the next one: the one cache, and all that it depends on.

A LayerBatch is made by `layer_batch.gather`, which checks everything, and serves later steps for as long as
nothing of what it depends on has changed:
    the group's parameters, which of them have a gradient, and the group's options that choose the backend or
    the form of the state, and whether inference mode or autograd is on;
    the state of each layer and its three tensors, in 8 bits its five;
    type, layout, device, shape, strides and storage of every parameter, gradient and state tensor, whether
    one is a negated view, and the addresses of all but gradients (backends/tensors.py).
`LayerCache.find` compares all of this at every step. What it cannot compare is gathered at every step:
DTensors and other tensor subclasses, complex parameters, pieces of layers of which only reduce_groups knows,
layers of one group of which some keep moments in 8 bits and some do not, and parameters that are cut into
slices, whose views would keep memory that its owner has given up.
Which layers share a key depends on `layers` and on the parameters, shapes and names of all groups
(`Layering.update` compares them at every step): where one is new, the cache is cleared.
Waves depend on where the tensors of all groups that step together lie: they are found anew where one of these
is gathered, or was last stepped beside others.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from operator import is_, is_not
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import sharding
from ..backends import tensors as memory
from .layer_batch import GroupPart, LayerBatch, Ready, batches_of, gather, order
from .layer_checks import MOMENTS, SCALES
from .layers import Layering
from .validate import Checked, check_group
from .waves import Extent, are_apart, extent

MAX_LAYOUTS = 256  # kept at most, where layers are stepped in many combinations
CHOICES = ("foreach", "fused", "differentiable", "layerwise", "state_dtype", "stochastic_rounding")


@dataclass(slots=True)
class _Found:
    """What a group's batches were gathered from."""

    params: list[Tensor]
    numbers: Sequence[int]
    has_gradient: list[bool]
    with_gradient: list[Tensor]
    states: list[dict[str, Any]]
    choices: tuple[Any, ...]
    written: list[str]  # what a step writes of each layer's state
    described: memory.Described | None  # of p, g and what is written; None: cannot be compared
    batches: list[LayerBatch]
    beside: list[Any] = field(default_factory=list)  # the keys of all parts that its waves were found with
    is_apart: bool = True  # whether it shares no memory with these
    extent: Extent | None = None  # the memory that is worked on, where there are others


class LayerCache:
    """The batches of an optimizer's groups, gathered anew where something that they depend on has changed."""

    def __init__(
        self, whole: sharding.WholeLayers, who: str, own: Mapping[str, Checked], layering: Layering
    ) -> None:
        """who: the optimizer's name; own: its own hyperparameters."""
        self._whole, self._who, self._own, self._layering = whole, who, own, layering
        self._version = layering.version
        self._checked: dict[int, list[Any]] = {}  # each group's values as they were found right
        self._found: dict[Any, _Found] = {}
        self._used: dict[Any, _Found] = {}  # in the present step

    def find(
        self,
        parts: Sequence[GroupPart],
        groups: Sequence[dict[str, Any]],
        state: Any,
        takes_sums: Sequence[bool],
        reduce_groups: sharding.ReduceGroups | None = None,
    ) -> list[list[LayerBatch]]:
        """The batches of each part, gathered and checked anew where the last step's do not serve.

        groups: of each part. state: the optimizer's; nothing of it is changed. takes_sums: of each part,
        whether its step needs sums of layers. Values of groups have been checked.
        """
        if torch.compiler.is_compiling():
            ready = self._gatherer(parts, groups, state, takes_sums, reduce_groups)
            every = [ready(i) for i in range(len(parts))]
            places = iter(order(chain.from_iterable(every)))
            return [
                batches_of(one, [*islice(places, len(one))], group, self._layering)
                for one, group in zip(every, groups, strict=True)
            ]
        keys = [(part.group, part.key) for part in parts]
        last = [self._found.pop(key, None) for key in keys]  # and stay away if anything raises
        found = []
        for one, part, group in zip(last, parts, groups, strict=True):
            if one is not None and one.beside == keys and _serves(one, part, group, state):
                found.append(one)
        if len(found) < len(parts):
            ready = self._gatherer(parts, groups, state, takes_sums, reduce_groups)
            found = self._find_anew(keys, last, parts, groups, state, ready)
        batches = []
        for key, one in zip(keys, found, strict=True):
            self._used[key] = one
            batches.append(one.batches)
        return batches

    def _gatherer(
        self,
        parts: Sequence[GroupPart],
        groups: Sequence[dict[str, Any]],
        state: Any,
        takes_sums: Sequence[bool],
        reduce_groups: sharding.ReduceGroups | None,
    ) -> Callable[[int], list[Ready]]:
        """What gathers and checks the layers of a part, by its place in `parts`."""
        made: dict[Tensor, dict[str, Any]] = {}

        def ready(i: int) -> list[Ready]:
            group, part = groups[i], parts[i]
            if takes_sums[i] or group.get("layerwise"):  # which needs whole layers
                self._whole.check(part.group, group["params"], reduce_groups)
            numel, who = self._whole.numel, self._who
            return gather(group, part.params, part.numbers, state, numel, who, self._layering, made)

        return ready

    def _find_anew(
        self,
        keys: list[Any],
        last: Sequence[_Found | None],
        parts: Sequence[GroupPart],
        groups: Sequence[dict[str, Any]],
        state: Any,
        ready: Callable[[int], list[Ready]],
    ) -> list[_Found]:
        """find() where a part has to be gathered, by ready(), or steps beside others than before."""
        kept = [
            one if one is not None and _serves(one, part, group, state) else None
            for one, part, group in zip(last, parts, groups, strict=True)
        ]
        new = {i: ready(i) for i, one in enumerate(kept) if one is None}

        def found_anew(i: int, places: Sequence[tuple[int, int]]) -> _Found:
            batches = batches_of(new[i], places, groups[i], self._layering)
            return _found(batches, groups[i], parts[i].params, parts[i].numbers, state, self._whole.numel)

        found = [one or found_anew(i, order(new[i])) for i, one in enumerate(kept)]
        if len(found) > 1:
            for one in found:
                one.extent = one.extent or _extent(one.batches)
        is_apart = len(found) == 1 or are_apart([one.extent or {} for one in found])
        if not (is_apart and all(one.is_apart for one in found)):  # waves go through all parts
            new |= {i: ready(i) for i in range(len(found)) if i not in new}
            places = iter(order(chain.from_iterable(new[i] for i in range(len(found)))))
            found = [found_anew(i, [*islice(places, len(new[i]))]) for i in range(len(found))]
        for one, old in zip(found, last, strict=True):
            one.beside, one.is_apart = keys, is_apart
            if old is not None and old is not one and one.described is None:
                # Addresses are never given then, without which a backend takes only what it compares itself.
                for batch, before in zip(one.batches, old.batches, strict=False):
                    if batch.backend is before.backend:
                        batch.layers.prepared = before.layers.prepared
        return found

    def check_values(self, i: int, group: dict[str, Any]) -> None:
        """Check what schedulers and users have set in group i since its last step."""
        last, now = self._checked.get(i, ()), group.values()
        if len(last) != len(now) or not all(map(is_, now, last)):
            check_group(group, self._own)
            self._checked[i] = list(group.values())

    @contextmanager
    def in_use(self, groups: Sequence[Any]) -> Generator[None]:
        """Around a step: what it used serves the next one, without gradients, which their owner may free.

        After an error nothing does, nor where layers are others, and nothing of a removed group is kept.
        """
        if len(self._checked) > len(groups) or self._version != self._layering.version:
            self.clear()
            self._version = self._layering.version
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
                    batch.layers.m, batch.layers.v, batch.steps, batch.cut = [], [], [], None
                    batch.layers.m_scale, batch.layers.v_scale = [], []
        if len(self._found) > MAX_LAYOUTS:
            self._found.clear()
        self._found |= self._used
        self._used = {}

    def clear(self) -> None:
        """Gather and check everything anew in the next step."""
        self._found, self._used, self._checked = {}, {}, {}


def _extent(batches: Sequence[LayerBatch]) -> Extent:
    layers = [(p, of_p) for batch in batches for p, of_p in zip(batch.params, batch.states, strict=True)]
    state = (of_p[name] for _, of_p in layers for name in (*MOMENTS, *SCALES) if name in of_p)
    params = [p for p, _ in layers]
    return extent(params, chain(params, state))


def _serves(found: _Found, part: GroupPart, group: dict[str, Any], state: Any) -> bool:
    return found.numbers == part.numbers and _refresh(found, group, part.params, state)


def _refresh(found: _Found, group: dict[str, Any], params: list[Tensor], state: Any) -> bool:
    """Whether all but the gradients is as it was, and they are alike; then they are taken over."""
    if not all(map(is_, _choices(group), found.choices)) or not _same_states(found, state):
        return False
    grads: list[Any] = [p.grad for p in params]
    if len(found.with_gradient) != len(grads):  # else they are compared below
        has_gradient = list(map(is_not, grads, repeat(None)))
        if has_gradient != found.has_gradient or not all(map(is_, params, found.params)):
            return False
        grads = [g for g in grads if g is not None]
        params = found.with_gradient
    described = _describe(params, grads, found.states, found.written)
    assert found.described is not None  # where nothing can be compared, numbers have told them apart
    if described is None or not described.same(found.described):
        return False
    addresses = described.addresses[len(grads) : 2 * len(grads)]
    for batch in found.batches:
        _renew(batch, grads, addresses)
    return True


def _describe(
    params: list[Tensor], grads: list[Tensor], states: list[dict[str, Any]], written: list[str]
) -> memory.Described | None:
    """What a kernel relies on of these layers' parameters, gradients, and what is written of each state."""
    return memory.describe([*params, *grads], states, written, slice(len(params), 2 * len(params)))


def _written(of_p: Mapping[str, Any]) -> list[str]:
    return [*MOMENTS, *(name for name in SCALES if name in of_p), "step"]


def _renew(batch: LayerBatch, grads: list[Tensor], addresses: np.ndarray) -> None:
    """Take over the gradients of a group and their addresses."""
    layers = batch.layers
    assert layers.addresses is not None
    whole = len(batch.places) == len(grads)
    layers.g = grads if whole else [grads[i] for i in batch.places]
    layers.addresses[1] = addresses if whole else addresses[batch.places]


def _same_states(found: _Found, state: Any) -> bool:
    """Whether each layer's state is the dictionary that it was. Hashing parameters takes the most time."""
    if len(state) == len(found.states) and all(map(is_, state, found.with_gradient)):
        return all(map(is_, state.values(), found.states))
    return all(map(is_, map(state.get, found.with_gradient), found.states))


def _found(
    batches: list[LayerBatch],
    group: dict[str, Any],
    params: list[Tensor],
    numbers: Sequence[int],
    state: Any,
    whole_numel: Mapping[Tensor, int],
) -> _Found:
    """The batches with what they depend on; without it where a later step could not compare it."""
    lost = _Found([], (), [], [], [], (), [], None, batches)  # whose numbers are no part's
    with_gradient = [p for p in params if p.grad is not None]
    if torch.is_grad_enabled():  # which parameters are leaves is not compared
        return lost
    if not batches or any(batch.cut for batch in batches) or any(map(whole_numel.get, with_gradient)):
        return lost
    if not all(x is y for batch in batches for x, y in zip(batch.params, batch.layers.p, strict=True)):
        return lost
    of_place = {i: of_p for b in batches for i, of_p in zip(b.places, b.states, strict=True)}
    states = [of_place[i] for i in range(len(with_gradient))]
    if not all(isinstance(of_p, dict) for of_p in states):
        return lost
    written = _written(states[0])
    if any(_written(of_p) != written for of_p in states[1:]):
        return lost
    described = _describe(with_gradient, [p.grad for p in with_gradient], states, written)  # type: ignore[misc]
    if described is None:
        return lost
    n = len(with_gradient)
    kept = described.addresses[2 * n :].reshape(n, -1).T[:-1]  # all but the counters
    addresses = np.concatenate([described.addresses[: 2 * n].reshape(2, n), kept])
    for batch in batches:
        batch.layers.addresses = addresses[:, batch.places]
        batch.has_plain_counters = all(
            step.dtype is torch.float32 and step.device.type == "cpu" for step in batch.steps
        )
    has_gradient = [p.grad is not None for p in params]
    return _Found(
        list(params),
        numbers,
        has_gradient,
        with_gradient,
        states,
        _choices(group),
        written,
        described,
        batches,
    )


def _choices(group: dict[str, Any]) -> tuple[Any, ...]:
    """What chooses the backend and the form of the state, and what may be written."""
    return (*map(group.get, CHOICES), torch.is_inference_mode_enabled(), torch.is_grad_enabled())
