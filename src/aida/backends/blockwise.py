"""Moments of 8 bits: a code for each element, and for each block of BLOCK elements a float32 scale.

Blocks are counted in the order of the layer's elements, in which codes lie in memory; the last may be short.
    m = c * (scale/127), c an int8 from -127 to 127        v = c^2 * (scale/255^2), c a uint8
    scale <- the block's largest |x|, but for nans, at most LARGEST, so that what is decoded is finite
    z = x * (1/max(scale, TINY)), in float32, held in [-1, 1]; nan is 0
    m:  y = 127*z;    k = floor(y);        c <- k + (bits/2^16 < y - k)                so that E[m] = x
    v:  y = 255^2*z;  k = floor(sqrt(y));  c <- k + (bits/2^16 * (2k+1) < y - k^2)     so that E[v] = x,
        but 1 where x > 0 and c would be 0: v = 0 says that an element never had a residual
bits: 16 random ones of the element's word (rounding.py), for m the low ones, for v the high ones; where none
are drawn NEAREST, by which m goes to the nearest level, and v to the nearest of its two.
An x that is not finite is in p by then, for good. Block-wise scales, and finer levels for small v, are those
of 8-bit optimizers (arXiv 2110.02861), which round to the nearest of unequal levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .contract import Layers

BLOCK = 256
CODES = (torch.int8, torch.uint8)  # of m and v
LEVELS = {torch.int8: 127.0, torch.uint8: 255.0**2}  # what the largest code stands for
NEAREST = 1 << 15
TINY = torch.finfo(torch.float32).tiny
LARGEST = 3e38


def blocks(numel: int) -> int:
    """How many scales so many elements have."""
    return -(-numel // BLOCK)


def decode(codes: Tensor, scales: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What codes of any shape stand for, computed in float32 or float64."""
    units = (scales.to(dtype) / LEVELS[codes.dtype]).unsqueeze(1).expand(-1, BLOCK).reshape(-1)
    x = codes.to(dtype)
    return (x if codes.dtype == torch.int8 else x * x) * units[: codes.numel()].view(codes.shape)


def encode(x: Tensor, dtype: torch.dtype, bits: Tensor | int = NEAREST) -> tuple[Tensor, Tensor]:
    """(codes in x's shape, contiguous; scales) of m (int8) or v (uint8); bits: as above, of each element."""
    flat = x.float().reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    # nan stays a nan in abs() and is no number to compare with, so it is taken out first.
    scales = padded.nan_to_num(nan=0.0).abs().amax(1).clamp(max=LARGEST)
    z = (padded * scales.clamp(min=TINY).reciprocal().unsqueeze(1)).view(-1)[: len(flat)]
    z = z.nan_to_num(nan=0.0).clamp(-1, 1)
    share = bits.reshape(-1).float() / (1 << 16) if isinstance(bits, Tensor) else bits / (1 << 16)
    y = LEVELS[dtype] * z
    if dtype == torch.int8:
        low = y.floor()
        codes = low + (share < y - low)
    else:
        low = y.sqrt().floor()
        codes = low + (share * (2 * low + 1) < y - low * low)
        codes = torch.where((codes == 0) & (flat > 0), 1.0, codes)
    return codes.to(dtype).view(x.shape), scales


def momentum(layers: Layers, i: int, dtype: torch.dtype) -> Tensor:
    """m of layer i in a type that is computed in; the stored one itself where it has that type."""
    return _read(layers.m[i], layers.m_scale[i] if layers.m_scale else None, dtype)


def variance(layers: Layers, i: int, dtype: torch.dtype) -> Tensor:
    """v of layer i, as momentum()."""
    return _read(layers.v[i], layers.v_scale[i] if layers.v_scale else None, dtype)


def _read(x: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    return x.to(dtype) if scales is None else decode(x, scales, dtype)
