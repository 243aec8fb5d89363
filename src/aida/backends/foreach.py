"""Tensor lists: few kernel launches on an accelerator, and one graph for torch.compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import blockwise, rounding
from .contract import Coefficients, Column, Layers, Scalars

BLOCKED_SUM_NUMEL = 1 << 14  # elements from which on sums are taken in blocks, see _sum


def prepare(layers: Layers) -> None:
    """Raises for what torch's operations on lists would refuse when half of the step is done.

    layers.prepared says that this was looked for, and serves while addresses are known to be the same.
    """
    if torch.compiler.is_compiling():
        return
    if layers.prepared is None or layers.addresses is None:
        for i, tensors in enumerate(zip(layers.p, layers.m, layers.v, strict=True)):
            if any(x.is_neg() for x in tensors):
                raise RuntimeError(
                    f"layer {i} of its group, or its state, is a negated view, which foreach cannot write: "
                    "nothing was stepped; clone() it, or set foreach=False"
                )
        layers.prepared = True


def gram(layers: Layers, s: Scalars) -> Tensor:
    """As contract.Backend.gram."""
    g = _gradient(layers, s)
    m = _momentum(_fresh(layers, layers.m, blockwise.momentum), g, s)
    if g[0].device.type != "cpu" or torch.compiler.is_compiling():
        return torch.stack([_products(*pair) for pair in zip(g, m, strict=True)])
    d = torch._foreach_sub(m, g)
    sums = [
        torch.stack([_sum(x * y) for x, y in zip(a, b, strict=True)])
        for a, b in ((g, g), (g, m), (m, m), (d, d))
    ]
    found = torch.stack(sums, dim=1)
    if not found.isfinite().all():  # squares that overflow float32
        for i in (~found.isfinite().all(1)).nonzero().flatten().tolist():
            found[i] = _products(g[i], m[i])
    return found


def stepsize_sum(layers: Layers, coefficients: Coefficients, s: Scalars) -> Tensor:
    """As contract.Backend.stepsize_sum."""
    g = _gradient(layers, s)
    m = _momentum(_fresh(layers, layers.m, blockwise.momentum), g, s)
    v = _variance(_fresh(layers, layers.v, blockwise.variance), _residual_square(coefficients, g, m), s)
    counts = [x != 0 for x in v]
    u = [torch.where(c, x, 0) for c, x in zip(counts, _stepsize(v, s), strict=True)]
    return torch.stack(
        [torch.stack([_sum(x), c.sum(dtype=_wider(x))]) for x, c in zip(u, counts, strict=True)]
    )


def apply(layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
    """As contract.Backend.apply."""
    g = _gradient(layers, s)
    m = _momentum(_moments(layers, blockwise.momentum), g, s)
    if s.layerwise == "pre":  # one number per layer: in the type of the sums, which squares do not overflow
        r_square = [x / n for x, n in zip(total, layers.numel, strict=True)]
        v = _variance([x.to(total.dtype) for x in layers.v], r_square, s)
    else:
        v = _variance(_moments(layers, blockwise.variance), _residual_square(coefficients, g, m), s)
    u = _mean_stepsize(total, s) if s.layerwise == "post" else _stepsize(v, s)
    torch._foreach_mul_(u, _column(s.step_size))
    p = _wide(layers.p, layers)
    if not (isinstance(s.decay_factor, float) and s.decay_factor == 1):
        torch._foreach_mul_(p, s.decay_factor)
    torch._foreach_addcmul_(p, u, m, value=-1)
    if s.keys is not None or layers.m_scale:
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
    alpha, beta = (c.to(g[0].dtype) if isinstance(c, Tensor) else c for c in coefficients)
    alpha, beta = (_column(c) if getattr(c, "ndim", 0) else c for c in (alpha, beta))
    r = torch._foreach_mul(m, beta)
    torch._foreach_sub_(r, torch._foreach_mul(g, alpha))
    torch._foreach_mul_(r, r)
    return list(r)


def _variance(v: list[Tensor], r_square: list[Tensor], s: Scalars) -> list[Tensor]:
    torch._foreach_mul_(v, s.b2)
    torch._foreach_add_(v, r_square, alpha=1 - s.b2)
    return v


def _stepsize(v: list[Tensor], s: Scalars) -> list[Tensor]:
    u = _corrected(v, s.inv_bias2)
    torch._foreach_add_(u, _column(s.eps_in_root))
    torch._foreach_sqrt_(u)
    torch._foreach_add_(u, _column(s.eps_out))
    torch._foreach_reciprocal_(u)
    return list(u)


def _corrected(v: list[Tensor], inv_bias2: Column) -> list[Tensor]:
    """v*inv_bias2, and 0 where inv_bias2 is 0, of an infinite v too."""
    if isinstance(inv_bias2, list):
        known = list(torch._foreach_mul(v, inv_bias2))
        for i in (i for i, c in enumerate(inv_bias2) if c == 0):
            known[i] = torch.where(v[i].isinf(), 0, known[i])
        return known
    columns = zip(v, inv_bias2.unbind(), strict=True)
    return [torch.where((c == 0) & x.isinf(), 0, x * c) for x, c in columns]


def _mean_stepsize(total: Tensor, s: Scalars) -> list[Tensor]:
    """Each layer's mean of u over its v != 0, from stepsize_sum's [L, 2]."""
    u, count = total.unbind(1)
    unmoved = _stepsize([*torch.zeros_like(u)], s)
    return [*torch.where(count == 0, torch.stack(unmoved), u / count.clamp(min=1))]


def _column(column: Column) -> list[float] | list[Tensor]:
    return column if isinstance(column, list) else list(column.unbind())


def _products(g: Tensor, m: Tensor) -> Tensor:
    """gg, gm, mm, dd of a layer, every term in float64."""
    g, m = g.to(_wider(g)), m.to(_wider(m))
    d = m - g
    return torch.stack([(x * y).sum() for x, y in ((g, g), (g, m), (m, m), (d, d))])


def _sum(x: Tensor) -> Tensor:
    """In float64, but for runs of 64: a CPU takes 12 times as long to widen every element, measured."""
    wide = _wider(x)
    if x.numel() < BLOCKED_SUM_NUMEL:
        return x.sum(dtype=wide)
    x = x.reshape(-1)
    whole = x.numel() // 64 * 64
    return x[:whole].view(-1, 64).sum(1).sum(dtype=wide) + x[whole:].sum(dtype=wide)


def _wider(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64


Read = Callable[[Layers, int, torch.dtype], Tensor]  # blockwise.momentum or blockwise.variance


def _fresh(layers: Layers, stored: list[Tensor], read: Read) -> list[Tensor]:
    """m or v in copies that may be written to, in float32 or float64."""
    return [w.clone() if w is x else w for w, x in zip(_moments(layers, read), stored, strict=True)]


def _moments(layers: Layers, read: Read) -> list[Tensor]:
    """m or v in the step's type; the tensors themselves where they already are."""
    dtype = torch.promote_types(layers.p[0].dtype, torch.float32)
    return [read(layers, i, dtype) for i in range(len(layers.p))]


def _wide(tensors: list[Tensor], layers: Layers) -> list[Tensor]:
    """In the step's type, float32 or the layers' float64; the tensors themselves where they already are."""
    dtype = torch.promote_types(layers.p[0].dtype, torch.float32)
    return [x.to(dtype) for x in tensors]


def _store(to: list[Tensor], tensors: list[Tensor]) -> None:
    changed = [(x, w) for x, w in zip(to, tensors, strict=True) if x is not w]
    if changed:
        torch._foreach_copy_([x for x, _ in changed], [w for _, w in changed])
