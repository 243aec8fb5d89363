"""Tensor lists: few kernel launches on an accelerator, and one graph for torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import rounding
from .contract import Coefficients, Column, Layers, Scalars

MANY = 1 << 14  # elements


def prepare(layers: Layers) -> None:
    """Raises for what torch's operations on lists would refuse when half of the step is done."""
    if layers.addresses is None and not torch.compiler.is_compiling():
        for i, tensors in enumerate(zip(layers.p, layers.m, layers.v, strict=True)):
            if any(x.is_neg() for x in tensors):
                raise RuntimeError(
                    f"layer {i} of its group, or its state, is a negated view, which foreach cannot write: "
                    "nothing was stepped; clone() it, or set foreach=False"
                )


def gram(layers: Layers, s: Scalars) -> Tensor:
    g = _gradient(layers, s)
    m = _momentum(_fresh(layers.m, layers), g, s)
    d = torch._foreach_sub(m, g)
    columns = [_inner(g, g), _inner(g, m), _inner(m, m), _inner(d, d)]
    return torch.stack(columns, dim=1)


def stepsize_sum(layers: Layers, coefficients: Coefficients, s: Scalars) -> Tensor:
    g = _gradient(layers, s)
    m = _momentum(_fresh(layers.m, layers), g, s)
    v = _variance(_fresh(layers.v, layers), _residual_square(coefficients, g, m), s)
    return torch.stack([_sum(u) for u in _stepsize(v, s)])


def apply(layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
    g = _gradient(layers, s)
    m = _momentum(_wide(layers.m, layers), g, s)
    pre = s.layerwise == "pre"
    r_square = _mean(total, layers) if pre else _residual_square(coefficients, g, m)
    v = _variance(_wide(layers.v, layers), r_square, s)
    u = _mean(total, layers) if s.layerwise == "post" else _stepsize(v, s)
    torch._foreach_mul_(u, _column(s.step_size))
    p = _wide(layers.p, layers)
    if not (isinstance(s.shrink, float) and s.shrink == 1):
        torch._foreach_mul_(p, s.shrink)
    torch._foreach_addcmul_(p, u, m, value=-1)
    if s.keys is not None:
        for i in range(len(p)):
            rounding.write(layers, i, p[i], m[i], v[i], s)
        return
    _store(layers.p, p)
    _store(layers.m, m)
    _store(layers.v, v)


def _gradient(layers: Layers, s: Scalars) -> list[Tensor]:
    """The layers' gradients with sign and coupled decay; not to be written to, they may be p.grad itself."""
    g = _wide(layers.g, layers)
    if s.sign != 1:
        g = torch._foreach_mul(g, s.sign)
    if s.weight_decay != 0:
        g = torch._foreach_add(g, _wide(layers.p, layers), alpha=s.weight_decay)
    return list(g)


def _momentum(m: list[Tensor], g: list[Tensor], s: Scalars) -> list[Tensor]:
    torch._foreach_mul_(m, s.b1)
    torch._foreach_add_(m, g, alpha=1 - s.b1)
    return m


def _residual_square(coefficients: Coefficients, g: list[Tensor], m: list[Tensor]) -> list[Tensor]:
    alpha, beta = (c if isinstance(c, float) else _column(c) for c in coefficients)
    r = torch._foreach_mul(m, beta)
    torch._foreach_sub_(r, torch._foreach_mul(g, alpha))
    torch._foreach_mul_(r, r)
    return list(r)


def _variance(v: list[Tensor], r_square: list[Tensor], s: Scalars) -> list[Tensor]:
    torch._foreach_mul_(v, s.b2)
    torch._foreach_add_(v, r_square, alpha=1 - s.b2)
    return v


def _stepsize(v: list[Tensor], s: Scalars) -> list[Tensor]:
    u = torch._foreach_mul(v, _column(s.inv_bias2))
    torch._foreach_add_(u, _column(s.floor))
    torch._foreach_sqrt_(u)
    torch._foreach_add_(u, _column(s.eps_out))
    torch._foreach_reciprocal_(u)
    return list(u)


def _mean(total: Any, layers: Layers) -> list[Tensor]:
    return [x / n for x, n in zip(total, layers.numel, strict=True)]


def _column(column: Column) -> list[float] | list[Tensor]:
    return column if isinstance(column, list) else list(column.unbind())


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    return torch.stack([_sum(x * y) for x, y in zip(a, b, strict=True)])


def _sum(x: Tensor) -> Tensor:
    """In float64, but for runs of 64: a CPU takes 12 times as long to widen every element, measured."""
    wide = torch.float32 if x.device.type == "mps" else torch.float64
    if x.numel() < MANY:
        return x.sum(dtype=wide)
    x = x.reshape(-1)
    whole = x.numel() // 64 * 64
    return x[:whole].view(-1, 64).sum(1).sum(dtype=wide) + x[whole:].sum(dtype=wide)


def _fresh(tensors: list[Tensor], layers: Layers) -> list[Tensor]:
    """Copies that may be written to, in float32 or float64."""
    return [w.clone() if w is x else w for w, x in zip(_wide(tensors, layers), tensors, strict=True)]


def _wide(tensors: list[Tensor], layers: Layers) -> list[Tensor]:
    """In the step's type, float32 or the layers' float64; the tensors themselves where they already are."""
    dtype = torch.promote_types(layers.p[0].dtype, torch.float32)
    return [x.to(dtype) for x in tensors]


def _store(to: list[Tensor], tensors: list[Tensor]) -> None:
    changed = [(x, w) for x, w in zip(to, tensors, strict=True) if x is not w]
    if changed:
        torch._foreach_copy_([x for x, _ in changed], [w for _, w in changed])
