"""The tables by which the fused kernels find their layers; triton_kernels.py tells the columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .contract import Layers

KEPT = 1024  # layouts whose tables stay on the device

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


@dataclass(slots=True)
class Layout:
    """What depends on the layers' sizes and kinds alone, and the addresses that were uploaded last."""

    groups: list[Group]
    n_chunks: int
    ranges: Tensor  # [L, 2]: from which to which chunk
    numels: Tensor
    wholes: Tensor  # elements of the whole layers, of which these may be shards
    addresses: list[int]
    pointers: Tensor


class Found(NamedTuple):
    """The tables of one step."""

    layers: list[Four]  # as the kernels see them
    layout: Layout
    pointers: Tensor  # [L, 4]


_layouts: dict[Any, Layout] = {}
_captured: list[Any] = []  # a graph reads its tables at every replay, and nobody tells when it is gone


def find(layers: Layers, chunk: int) -> Found:
    """Raises RuntimeError where a layer's tensors differ in shape or device."""
    device = layers.p[0].device
    fours = [_flat(four) for four in zip(layers.p, layers.g, layers.m, layers.v, strict=True)]
    addresses = [x.data_ptr() for four in fours for x in four]
    kinds = [_kind(four) for four in fours]
    # With the first address each group of a model of equal blocks has a layout of its own.
    key = (device, chunk, addresses[0], *layers.numel, *[p.numel() for p, *_ in fours], *kinds)
    capturing = _capturing(device)
    layout = _layouts.get(key)
    if layout is None:
        layout = _make(fours, kinds, layers.numel, chunk, device)
        if not capturing:  # what a capture uploads is there after a replay only
            if len(_layouts) == KEPT:
                del _layouts[next(iter(_layouts))]
            _layouts[key] = layout
    pointers = layout.pointers
    if addresses != layout.addresses:
        _check_devices(fours, device)
        pointers = upload(addresses, device, torch.int64)
        if not capturing:
            layout.addresses, layout.pointers = addresses, pointers
    if capturing:
        _captured.append((layout, pointers))
    return Found(fours, layout, pointers)


def upload(numbers: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor on the device, without waiting for it."""
    host = torch.tensor(numbers, dtype=dtype, pin_memory=device.type != "cpu")
    if _capturing(device):
        _captured.append(host)
    return host.to(device, non_blocking=True)


def write_back(layers: Layers) -> None:
    """Into the layers' own p, m and v where the kernels saw copies."""
    p, _, m, v = zip(*layers.prepared.layers, strict=True)
    for to, x in zip((*layers.p, *layers.m, *layers.v), (*p, *m, *v), strict=True):
        if to is not x:
            to.copy_(x)


def _flat(four: Four) -> Four:
    """p, g, m and v, or copies of them, with the same element at the same place of memory."""
    p, g, m, v = four
    if not (p.shape == g.shape == m.shape and (v.shape == p.shape or v.dim() == 0)):
        shapes = ", ".join(str(tuple(x.shape)) for x in four)
        raise RuntimeError(
            "a parameter, its gradient, exp_avg and exp_avg_var do not belong together: their shapes are "
            f"{shapes}; give the optimizer the gradients and the state of its own parameters"
        )
    like = m if _dense(m) else torch.empty_like(m, memory_format=torch.contiguous_format)
    return tuple(x if x.dim() == 0 or _lies_as(x, like) else _copy(x, like) for x in four)


def _make(
    layers: list[Four], kinds: list[Kind], wholes: list[int], chunk: int, device: torch.device
) -> Layout:
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
        Group(*kind, upload(members, device, torch.int64), table[first:last], first)
        for (kind, members), first, last in zip(by_kind.items(), firsts, lasts, strict=True)
    ]
    # No list of addresses equals the empty one, so the first step uploads its own.
    return Layout(
        groups,
        len(chunks),
        upload(ranges, device, torch.int64),
        upload(numels, device, torch.int64),
        upload(wholes, device, torch.int64),
        [],
        table,
    )


def _check_devices(layers: list[Four], device: torch.device) -> None:
    for four in layers:
        for name, x in zip(("a parameter", "a gradient", "an exp_avg", "an exp_avg_var"), four, strict=True):
            if x.device != device:
                raise RuntimeError(
                    f"{name} is on {x.device} and the step runs on {device}; move the model before making "
                    "the optimizer, or load the state again"
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


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
