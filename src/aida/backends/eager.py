"""The oracle: the contract's six lines, transcribed, tensor by tensor, in float32 or float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import blockwise, rounding
from .contract import Coefficients, Layers, Scalars


def gram(layers: Layers, s: Scalars) -> Tensor:
    """As contract.Backend.gram."""
    rows = []
    for i in range(len(layers.p)):
        g, m = _gradient_and_momentum(layers, s, i)
        g, m = g.to(_sum_dtype(g)), m.to(_sum_dtype(m))
        d = m - g
        rows.append(torch.stack([(g * g).sum(), (g * m).sum(), (m * m).sum(), (d * d).sum()]))
    return torch.stack(rows)


def stepsize_sum(layers: Layers, coefficients: Coefficients, s: Scalars) -> Tensor:
    """As contract.Backend.stepsize_sum."""
    sums = []
    for i in range(len(layers.p)):
        g, m = _gradient_and_momentum(layers, s, i)
        v = _variance(layers, s, i, _residual(coefficients, i, g, m) ** 2)
        counts = v != 0
        u = torch.where(counts, _stepsize(v, s, i), 0)
        sums.append(torch.stack([u.sum(dtype=_sum_dtype(v)), counts.sum(dtype=_sum_dtype(v))]))
    return torch.stack(sums)


def apply(layers: Layers, coefficients: Coefficients, total: Any, s: Scalars) -> None:
    """As contract.Backend.apply."""
    for i, p in enumerate(layers.p):
        g, m = _gradient_and_momentum(layers, s, i)
        pre = s.layerwise == "pre"
        r_square = total[i] / layers.numel[i] if pre else _residual(coefficients, i, g, m) ** 2
        v = _variance(layers, s, i, r_square)
        u = _mean_stepsize(total[i], s, i) if s.layerwise == "post" else _stepsize(v, s, i)
        # Whole new tensors, then a copy: what autograd saved of a step (p too) stays valid in the next one.
        rounding.write(layers, i, s.decay_factor * p.clone().to(m.dtype) - s.step_size[i] * u * m, m, v, s)


def _gradient_and_momentum(layers: Layers, s: Scalars, i: int) -> tuple[Tensor, Tensor]:
    wide = _wide(layers, i)
    g = s.sign * layers.g[i].to(wide)
    if s.weight_decay:
        g = g + s.weight_decay * layers.p[i].to(wide)
    return g, s.b1 * blockwise.momentum(layers, i, g.dtype) + (1 - s.b1) * g


def _residual(coefficients: Coefficients, i: int, g: Tensor, m: Tensor) -> Tensor:
    alpha, beta = (c[i] if getattr(c, "ndim", 0) else c for c in coefficients)
    alpha, beta = (c.to(g.dtype) if isinstance(c, Tensor) else c for c in (alpha, beta))
    return beta * m - alpha * g


def _variance(layers: Layers, s: Scalars, i: int, r_square: Tensor) -> Tensor:
    return s.b2 * blockwise.variance(layers, i, r_square.dtype) + (1 - s.b2) * r_square


def _stepsize(v: Tensor, s: Scalars, i: int) -> Tensor:
    corrected = torch.where(torch.isinf(v) & (s.inv_bias2[i] == 0), 0, v * s.inv_bias2[i])
    return 1 / (torch.sqrt(corrected + s.eps_in_root[i]) + s.eps_out[i])


def _mean_stepsize(total_and_count: Tensor, s: Scalars, i: int) -> Tensor:
    total, count = total_and_count
    return torch.where(count == 0, _stepsize(torch.zeros_like(total), s, i), total / count.clamp(min=1))


def _wide(layers: Layers, i: int) -> torch.dtype:
    """The type of layer i's step: float64 where its parameter, gradient or momentum is, else float32."""
    is_wide = any(x[i].dtype == torch.float64 for x in (layers.p, layers.g, layers.m))
    return torch.float64 if is_wide else torch.float32


def _sum_dtype(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
