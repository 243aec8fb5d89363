"""A layer's sums, taken on its device: all that depends on its elements, and nothing else.

Sums over pieces of a layer add up, so a sharded layer's are whole after one all_reduce.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, log2
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .definitions import Definition, on_host
from .schema import AT_CAP, PER_OCTAVE

SUMS: tuple[str, ...] = ("n", "u", "within", "means", "capped", "gg", "gm", "mm", "dd", "pp", "updates",
                         "moved", "u_moved")  # fmt: skip
"""Of a piece: elements n, sum of u, sum of (u - mean)^2, n*mean^2, elements at the cap; <g,g>, <g,m>, <m,m>,
<m-g,m-g>, <p,p>, |update|^2; where u is pooled, the number and sum of u of elements with v != 0."""
EXTREMES: tuple[str, ...] = ("-min", "max", "step_size", "step")
"""What is the largest of the pieces' own, or the same for all."""
OCTAVES = 48
BINS = OCTAVES * PER_OCTAVE


def histogram_top(cap: float | None) -> int:
    """log2 of the histogram's upper end; what lies outside its 48 octaves is counted in a bin at its end."""
    return 40 if cap is None else ceil(log2(cap))


def sums_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def layer_sums(p: Tensor, g: Tensor | None, d: Definition) -> tuple[Tensor, Tensor]:
    """(SUMS and the histogram, [len(SUMS) + BINS]; EXTREMES, [4]) of a layer after its step, on its device.

    No temporary is larger than a piece, and nothing waits for the device. Sums that need a g or an m that is
    not there are zero. Stepsizes may be close to each other, so their first is taken off before squaring.
    Where u is pooled, the sums are of the elements' own, and decay in g is p's after the step: the host,
    which knows the whole layer's mean, sets both right. What is not a number is in no bin of the histogram.
    Raises ValueError where p, g and the state no longer fit each other.
    """
    _check_alike(p, {"gradient": g, "m": d.m, "v": d.v if d.v.ndim else None, "buffer": d.buffer})
    dtype, device = sums_dtype(p.device), p.device
    total = torch.zeros(3 + len(SUMS[4:]) + BINS, dtype=dtype, device=device)
    low, high = torch.full((2,), -torch.inf, dtype=dtype, device=device)
    v = None if d.v.ndim == 0 else d.v
    first = zero = torch.zeros((), dtype=dtype, device=device)
    for number, piece in enumerate(_pieces([p, g, d.m, v, d.less, d.buffer])):
        p_, g_, m, v_, less, buffer = piece
        short = _stepsizes(d.v if v_ is None else v_, less, d).expand(p_.shape)
        u = short.to(dtype)
        first = u[0] if number == 0 else first
        off = u - first
        capped = zero if d.cap is None else torch.count_nonzero(short >= AT_CAP * d.cap)
        products = _products(p_.to(dtype), g_, m, u, buffer, d)
        moved = (d.v if v_ is None else v_).expand(u.shape) != 0 if d.pooled else torch.zeros_like(u)
        products += [moved.sum(dtype=dtype), _dot(moved.to(dtype), u)]
        total[:-BINS] += torch.stack([zero + u.numel(), off.sum(), _dot(off, off), capped, *products])
        total[-BINS:] += _histogram(short, d.cap)
        smallest, largest = short.aminmax()
        low, high = torch.maximum(low, -smallest), torch.maximum(high, largest)
    n, off, squares = total[:3]
    n1 = n.clamp(min=1)
    mean = first + off / n1
    sums = torch.stack([n, n * mean, squares - off * off / n1, n * mean * mean])
    # A number on the host is added as it is: copying it would wait for the device.
    constants = [zero + (x if on_host(x) else x.to(device)) for x in (d.step_size, d.step)]
    return torch.cat([sums, total[3:]]), torch.stack([low, high, *constants])


def _products(p: Tensor, g: Any, m: Any, u: Tensor, buffer: Any, d: Definition) -> list[Tensor]:
    """gg, gm, mm, dd, pp and |update|^2 of a piece, p as it is after the step."""
    zero = torch.zeros((), dtype=p.dtype, device=p.device)
    gg = gm = mm = dd = updates = zero
    if m is not None:
        m = m.to(p.dtype)
        mm = _dot(m, m)
    update = None if m is None or d.pooled else d.step_size * u * m
    if buffer is not None:
        update = d.step_size * buffer.to(p.dtype)
    if g is not None:
        g = -g.to(p.dtype) if d.maximize else g.to(p.dtype)
        # The step used the p before it: p + update, where an update by g itself has to be solved for.
        if d.weight_decay and update is not None:
            g = g + d.weight_decay * (p + update)
        elif d.weight_decay and d.pooled:
            g = g + d.weight_decay * p
        elif d.weight_decay:
            g = (g + d.weight_decay * p) / (1 - d.weight_decay * d.step_size * u)
        gg = _dot(g, g)
        if m is not None:
            difference = m - g
            gm, dd = _dot(g, m), _dot(difference, difference)
        if m is None and update is None:
            update = d.step_size * u * g
    if update is not None:
        updates = _dot(update, update)
    return [gg, gm, mm, dd, _dot(p, p), updates]


def _stepsizes(v: Tensor, less: Tensor | None, d: Definition) -> Tensor:
    x = v.to(torch.promote_types(v.dtype, torch.float32))
    if less is not None:
        x = x - less * less
    x = x * d.scale + d.floor
    return ((x.sqrt_() if d.root else x) + d.eps_out).reciprocal_()


def _histogram(u: Tensor, cap: float | None) -> Tensor:
    """Counts [BINS] of log2 u, in equal bins; bincount is 5 times as fast, but waits for a GPU."""
    top = histogram_top(cap)
    exponents = u.log2()
    if u.device.type != "cpu" and not torch.are_deterministic_algorithms_enabled():
        return torch.histc(exponents.clamp_(top - OCTAVES, top), BINS, top - OCTAVES, top)
    bins = exponents.sub_(top - OCTAVES).mul_(PER_OCTAVE).clamp_(0, BINS - 1).nan_to_num_(nan=BINS)
    if u.device.type == "cpu":
        return torch.bincount(bins.to(torch.int32), minlength=BINS)[:BINS]
    return counted(bins)


def counted(bins: Tensor) -> Tensor:
    """As bincount, where histc would raise: on a GPU that is asked for deterministic algorithms."""
    counts = torch.zeros(BINS + 1, dtype=torch.float32, device=bins.device)
    ones = torch.ones_like(bins, dtype=counts.dtype)
    return counts.index_put_((bins.long(),), ones, accumulate=True)[:BINS]


def _check_alike(p: Tensor, others: Mapping[str, Tensor | None]) -> None:
    for what, x in {"parameter": p, **others}.items():
        if x is None:
            continue
        if x.shape != p.shape or x.device != p.device:
            raise ValueError(
                f"the parameter has shape {tuple(p.shape)} on {p.device}, its {what} {tuple(x.shape)} on "
                f"{x.device}: one of them was replaced after the step"
            )
        if x.is_meta or (type(x) in (Tensor, Parameter) and x.untyped_storage().nbytes() < _extent(x)):
            raise ValueError(f"the memory of its {what} is gone, or on the meta device")


def _extent(x: Tensor) -> int:
    """The bytes of storage that x reaches into."""
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return int((x.storage_offset() + last + 1) * x.element_size()) if x.numel() else 0


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a, b)


def _pieces(tensors: Sequence[Tensor | None]) -> Iterator[list[Any]]:
    """The same elements of each, a piece at a time, as views wherever the memory's order allows it."""
    known = [x for x in tensors if x is not None]
    first = known[0]
    if not first.numel():
        return
    # On a CPU temporaries of 2^15 stay in a core's cache: 15 ns an element, 2^17 take 30 to 40.
    size = 2**15 if first.device.type == "cpu" else 2**24
    dense = torch.ops.aten.is_non_overlapping_and_dense
    if all(x.stride() == first.stride() and dense(x) for x in known):
        flat = [None if x is None else x.as_strided((x.numel(),), (1,)) for x in tensors]
    else:
        flat = [None if x is None else x.reshape(-1) for x in tensors]
    for start in range(0, first.numel(), size):
        yield [None if x is None else x[start : start + size] for x in flat]


def as_real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x
