"""The tables by which the fused kernels find their layers; kernels.py lists the columns."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..contract import Layers
from ..upload import captured, capturing, upload

Four = tuple[Tensor, ...]  # p, g, m and v of a layer
Types = tuple[torch.dtype, ...]  # theirs
Kind = tuple[Types, bool]  # and whether all addresses are multiples of 16 bytes, which wide loads need


class Group(NamedTuple):
    """Layers of the same kind: one launch."""

    types: Types
    aligned: bool
    layers: Tensor  # their places
    chunks: Tensor  # [C, 2], those rows of the layout's that begin at `first`
    first: int
    numels: list[int]


class Layout(NamedTuple):
    """What depends on the layers' sizes and kinds alone."""

    depends_on: Any
    groups: list[Group]
    n_chunks: int
    ranges: Tensor  # [L, 2]: from which to which chunk
    numels: Tensor
    wholes: Tensor  # elements of the whole layers, of which these may be shards
    aligned: list[bool]  # of each layer, whether all its addresses are multiples of 16
    captured: bool  # made for a graph: its tables are there after a replay only


@dataclass(slots=True)
class Found:
    """The tables of one step, and what a later one takes over where it still holds."""

    layout: Layout
    addresses: list[int]
    pointers: Tensor  # [L, 6]
    layers: list[Four]  # as the kernels see them; after the step none, since they hold gradients
    copied: bool  # whether some are copies


def find(layers: Layers, chunk: int) -> Found:
    """The tables; where layers.addresses is given, only these have changed since layers.prepared was made."""
    device, last = layers.p[0].device, layers.prepared
    fours: list[Four] = list(zip(layers.p, layers.g, layers.m, layers.v, strict=True))
    layout = copied = None
    if last is not None and last.layout.captured:
        last = None
    addresses: list[int] = []
    if last is not None and not last.copied and layers.addresses is not None:
        addresses = _row_by_row(layers.addresses)
        if (layers.addresses[:4] % 16 == 0).all(0).tolist() == last.layout.aligned:
            layout, copied = last.layout, False
    if layout is None:
        given, fours = fours, [_flat(four) for four in fours]
        pairs = zip(chain.from_iterable(given), chain.from_iterable(fours), strict=True)
        copied = any(a is not b for a, b in pairs)
        columns = [*map(list, zip(*fours, strict=True)), layers.m_scale, layers.v_scale]
        addresses = _row_by_row(np.array([[x.data_ptr() for x in column] for column in columns if column]))
        kinds = [_kind(four) for four in fours]
        depends_on = device, chunk, layers.numel, [p.numel() for p, *_ in fours], kinds
        layout = last.layout if last is not None and last.layout.depends_on == depends_on else None
        layout = layout or _make(fours, depends_on)
    if last is not None and last.addresses == addresses:
        pointers = last.pointers
    else:
        pointers = upload(addresses, device, torch.int64)
    if capturing(device):
        captured.append((layout, pointers))
        addresses = []  # for what a capture uploads is there after a replay only
    return Found(layout, addresses, pointers, fours, bool(copied))


def cache_blocks(groups: list[Group], chunk: int, read: str, limit: int) -> list[Group]:
    """The groups cut into runs of layers, whose tensors `read` (of "pgmv") have at most `limit` bytes.

    A layer that has more is a block of its own.
    """
    found = []
    for group in groups:
        each = sum(group.types["pgmv".index(x)].itemsize for x in read)
        starts, filled = [0], 0
        for i, n in enumerate(group.numels):
            if filled and filled + n * each > limit:
                starts.append(i)
                filled = 0
            filled += n * each
        first = 0
        for start, end in zip(starts, [*starts[1:], len(group.numels)], strict=True):
            numels = group.numels[start:end]
            after = first + sum(-(-n // chunk) for n in numels)
            part = group.layers[start:end], group.chunks[first:after], group.first + first, numels
            found.append(Group(group.types, group.aligned, *part))
            first = after
    return found


def write_back(layers: Layers) -> None:
    """Into the layers' own p, m and v where the kernels saw copies."""
    found = layers.prepared
    if found.copied:
        p, _, m, v = zip(*found.layers, strict=True)
        for to, x in zip((*layers.p, *layers.m, *layers.v), (*p, *m, *v), strict=True):
            if to is not x:
                to.copy_(x)
    found.layers = []


def _row_by_row(addresses: np.ndarray) -> list[int]:
    """Of the pointers' table, from columns of which those of scales may be missing."""
    table = np.zeros((addresses.shape[1], 6), np.int64)
    table[:, : len(addresses)] = addresses.T
    return table.ravel().tolist()


def _flat(four: Four) -> Four:
    """p, g, m and v, or copies of them, with the same element at the same place of memory."""
    m = four[2]
    like = m if _dense(m) else torch.empty_like(m, memory_format=torch.contiguous_format)
    return tuple(x if x.dim() == 0 or _lies_as(x, like) else _copy(x, like) for x in four)


def _make(layers: list[Four], depends_on: Any) -> Layout:
    device, chunk, wholes, _, kinds = depends_on
    numels = [p.numel() for p, *_ in layers]
    by_kind: dict[Kind, list[int]] = {}
    for i, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(i)
    chunks: list[tuple[int, int]] = []
    ranges = [(0, 0)] * len(layers)
    firsts = []
    for members in by_kind.values():
        firsts.append(len(chunks))
        for i in members:
            first = len(chunks)
            chunks += [(i, k) for k in range(-(-numels[i] // chunk))]
            ranges[i] = (first, len(chunks))
    table = upload(chunks, device, torch.int64).view(-1, 2)
    lasts = [*firsts[1:], len(chunks)]
    groups = [
        Group(
            *kind,
            upload(members, device, torch.int64),
            table[first:last],
            first,
            [numels[i] for i in members],
        )
        for (kind, members), first, last in zip(by_kind.items(), firsts, lasts, strict=True)
    ]
    return Layout(
        depends_on,
        groups,
        len(chunks),
        upload(ranges, device, torch.int64),
        upload(numels, device, torch.int64),
        upload(wholes, device, torch.int64),
        [aligned for _, aligned in kinds],
        capturing(device),
    )


def _kind(four: Four) -> Kind:
    return tuple(x.dtype for x in four), not any(x.data_ptr() % 16 for x in four)


def _dense(x: Tensor) -> bool:
    if x.is_contiguous():
        return True
    expected = 1
    for stride, n in sorted(zip(x.stride(), x.shape, strict=True)):
        if n > 1 and stride != expected:
            return False
        expected *= n
    return True


def _lies_as(x: Tensor, like: Tensor) -> bool:
    if x.stride() == like.stride():
        return True
    return all(n < 2 or a == b for n, a, b in zip(x.shape, x.stride(), like.stride(), strict=True))


def _copy(x: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like, dtype=x.dtype).copy_(x)
