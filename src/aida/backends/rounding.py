"""Stochastic rounding to bfloat16 with counter-based random bits, the same in every backend.

All integers are unsigned, of 32 bits, and wrap; `>>` shifts zeros in; constants are below.
    mix(x):  x ^= x >> 16;  x *= M1;  x ^= x >> 15;  x *= M2;  x ^= x >> 15
    key = mix(mix(mix(seed) + layer) + t)   layer: its place in the optimizer, from 0; its own step t, from 1
    w_i = mix(i*WEYL + key)                 i: the element's place in the memory of m (a shard's m), from 0;
        where that has gaps, its place in a contiguous m
    bits of m: the low 16 of w_i; of v: the high 16 of w_i; of p: the high 16 of w_i*M2
    round(x, bits): the float32 x as an integer, + bits, >> 16, as a bfloat16; nan becomes 0x7fc0
So E[round(x)] = x, what bfloat16 can hold stays as it is, and inf comes only from above its largest number.
Only what is stored is rounded: the step's own u and p come from the unrounded m and v.
A slice of m that is a layer by itself counts its elements on from those of m's earlier slices, so that an
element has one word, and no two the same: its key is after(key, their number).
mix with one multiplication fails tests of pairs of elements. In a loop i*WEYL is one addition.
A float64 x is first rounded to the nearest float32. Source of mix: github.com/skeeto/hash-prospector.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from . import blockwise
from .contract import Layers, Scalars

Integer = TypeVar("Integer", int, np.ndarray, Tensor)

WEYL = 0x9E3779B9
M1 = 0x21F0AAAD
M2 = 0xD35A2D97
MASK = 0xFFFFFFFF


def mix(x: Integer) -> Integer:
    """A bijection of 32-bit words, given as Python integers or as int64 arrays or tensors."""
    x = ((x ^ (x >> 16)) * M1) & MASK
    x = ((x ^ (x >> 15)) * M2) & MASK
    return x ^ (x >> 15)


def layer_key(seed: int, layer: Integer) -> Integer:
    """The part of a layer's key that is the same in every step."""
    return mix((mix(seed & MASK) + layer) & MASK)


def step_key(x: Integer) -> Integer:
    """The key of a layer in step t, from x = layer_key(seed, layer) + t."""
    return mix(x & MASK)


def after(key: Integer, i: Integer) -> Integer:
    """The key by which element 0 has the word that `key` gives element i."""
    return (key + i * WEYL) & MASK


def words(m: Tensor, key: int | Tensor) -> Tensor:
    """One random 32-bit word an element, int64 in m's shape, counted in the order of m's memory."""
    w = mix((torch.arange(m.numel(), device=m.device) * WEYL + key) & MASK)
    reach = sum((n - 1) * stride for n, stride in zip(m.shape, m.stride(), strict=True))
    return w.as_strided(m.shape, m.stride()) if reach < m.numel() else w.view(m.shape)


def round_bfloat16(x: Tensor, bits: Tensor) -> Tensor:
    """x rounded to bfloat16, up in magnitude with the odds of its distance; bits: 16 random ones, int64."""
    x = x.float()
    rounded = (x.view(torch.int32) + bits.int()) & -0x10000
    return torch.where(x.isnan(), x, rounded.view(torch.float32)).bfloat16()


def write(layers: Layers, i: int, p: Tensor, m: Tensor, v: Tensor, s: Scalars) -> None:
    """Store p, m and v of layer i, stochastically rounded where they are narrow and the step says so."""
    kept = [(layers.m[i], m, layers.m_scale), (layers.v[i], v, layers.v_scale), (layers.p[i], p, [])]
    bits: list[Any] = [blockwise.NEAREST] * 3
    if s.keys is not None:
        w = words(layers.m[i], s.keys[i])
        bits = [w & 0xFFFF, w >> 16, ((w * M2) & MASK) >> 16]
    for which, (to, x, scales) in enumerate(kept):
        if scales:
            x, of_blocks = blockwise.encode(x, to.dtype, bits[which])
            scales[i].copy_(of_blocks)
        elif s.keys is not None and to.dtype == torch.bfloat16 and (which < 2 or s.round_p):
            x = round_bfloat16(x, bits[which])
        to.copy_(x)
