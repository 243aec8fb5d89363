"""Which layers of a step share memory, and are stepped one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..backends import tensors as memory


class Worked(NamedTuple):
    """A layer of the step: the optimizer's parameter, and the tensors that are worked on.

    These are p, g, m and v, then the scales of those that are codes of 8 bits.
    """

    param: Tensor
    tensors: tuple[Tensor, ...]
    is_piece: bool  # of a layer that ranks share


def waves_of(layers: list[Worked]) -> tuple[list[int], list[int]]:
    """Of each layer its wave, and how often its parameter came earlier. Waves are counted down to 0.

    layers: of all groups that are stepped, in order, or of one that shares no memory with the others.
    One parameter may stand twice in a group, which torch warns of, and parameters may be views of one memory:
    each is stepped by itself, in order, as torch's loop does. Nearly all layers are in wave 0, the last one.
    A piece's wave counts its parameter alone, for which every rank finds the same, whatever its memory.
    """
    times: dict[Tensor, int] = {}  # not a Counter, whose missing keys older torch.compile cannot trace
    earlier = []
    for p, *_ in layers:
        earlier.append(times.get(p, 0))
        times[p] = earlier[-1] + 1
    later = [times[p] - 1 - before for (p, *_), before in zip(layers, earlier, strict=True)]
    if torch.compiler.is_compiling():
        return later, earlier
    spans = [[] if is_piece else [_span(x) for x in (p, *state)] for _, (p, _, *state), is_piece in layers]
    waves, places = later, that_overlap(spans)
    for n, i in reversed([*enumerate(places)]):
        after = [waves[j] for j in places[n + 1 :] if _meet(spans[i], spans[j])]
        waves[i] = max([waves[i], *(wave + 1 for wave in after)])
    return waves, earlier


def _meet(one: list[Span], other: list[Span]) -> bool:
    return any(_overlap(a, b) for a in one for b in other)


Span = tuple[str, int, int] | None  # device, first byte, byte after the last of a plain tensor's memory
Extent = dict[str, np.ndarray]
"""Of each device the memory that tensors lie in: [n, 2], first byte and byte after the last, in order."""


def extent(params: Iterable[Tensor], tensors: Iterable[Tensor]) -> Extent:
    """Of tensors, and of the parameters as objects: pieces of layers are compared by these alone."""
    found: dict[str, list[tuple[int, int]]] = {"objects": [(id(p), id(p) + 1) for p in params]}
    for span in map(_span, tensors):
        if span is not None:
            found.setdefault(span[0], []).append(span[1:])
    return {device: _merged(np.array(spans, np.int64)) for device, spans in found.items() if spans}


def are_apart(extents: Iterable[Extent]) -> bool:
    """Whether none has a byte of another's."""
    of_device: dict[str, list[np.ndarray]] = {}
    for one in extents:
        for device, spans in one.items():
            of_device.setdefault(device, []).append(spans)
    together = [np.concatenate(spans) for spans in of_device.values() if len(spans) > 1]
    return all(len(_merged(spans)) == len(spans) for spans in together)


def _merged(spans: np.ndarray) -> np.ndarray:
    """With those that overlap as one; what only touches stays apart."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    ends = np.maximum.accumulate(spans[:, 1])
    first = np.concatenate([[True], spans[1:, 0] >= ends[:-1]])
    return np.stack([spans[first, 0], ends[np.concatenate([first[1:], [True]])]], 1)


def _span(x: Tensor) -> Span:
    if type(x) not in memory.PLAIN or not x.numel() or x.device.type == "meta":
        return None
    size = 1 + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    return str(x.device), x.data_ptr(), x.data_ptr() + size * x.element_size()


def that_overlap(spans: Sequence[Sequence[Span]]) -> list[int]:
    """The places of the layers that share memory with another, in order; each has any number of spans."""
    ordered = sorted((*span, i) for i, of_layer in enumerate(spans) for span in of_layer if span is not None)
    furthest: dict[str, tuple[int, int]] = {}
    found: set[int] = set()
    for device, start, end, i in ordered:
        last, by = furthest.get(device, (0, i))
        if start < last and by != i:
            found |= {i, by}
        if end > last:
            furthest[device] = end, i
    return sorted(found)


def _overlap(a: Span, b: Span) -> bool:
    return a is not None and b is not None and a[0] == b[0] and a[1] < b[2] and b[1] < a[2]
