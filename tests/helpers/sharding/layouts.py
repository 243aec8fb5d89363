"""Tensors and given gradients, whole or sharded by placements, and optimizers that step them."""

from __future__ import annotations

import torch
from torch.distributed.tensor import Shard, distribute_tensor

from helpers.members import set_gradients
from helpers.sharding.common import STEPS

SHAPES = ((7, 3), (5,), (1,), (2, 3), (3, 5, 2), (4, 4), (0, 3), ())


def tensors(t: int | None = None) -> list[torch.Tensor]:
    """The parameters, or their gradients of step t."""
    generator = torch.Generator().manual_seed(7)
    made = [torch.randn(shape, generator=generator) for shape in SHAPES]
    if t is not None:
        set_gradients(made, t)
        return [x.grad for x in made if x.grad is not None]
    return made


def shard(x: torch.Tensor, mesh, placements) -> torch.Tensor:
    """A DTensor; where x has too few dimensions, a plain tensor beside the others."""
    if any(isinstance(place, Shard) and place.dim >= x.ndim for place in placements):
        return x.clone()
    return distribute_tensor(x, mesh, placements)


def parameters(mesh, placements) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(shard(x, mesh, placements)) for x in tensors()]


def run(cls, mesh=None, placements=(), steps=STEPS, **kwargs):
    """Parameters and optimizer after some steps with given gradients."""
    params = parameters(mesh, placements) if mesh else [torch.nn.Parameter(x) for x in tensors()]
    optimizer = cls(params, lr=1e-3, **kwargs)
    for t in range(steps):
        for p, g in zip(params, tensors(t), strict=True):
            p.grad = shard(g, mesh, placements) if mesh else g
        optimizer.step()
    return params, optimizer


def rows(name, p):
    """Blocks that no shard's border respects."""
    return [slice(0, 1), slice(1, -1), -1] if p.dim() and len(p) > 2 else None


def columns(name, p):
    return [(..., 0), (..., slice(1, None))] if p.dim() > 1 and p.shape[-1] > 1 and p.numel() else None


def together(name, p):
    """Sharded tensors, a replicated one and an empty one, beside slices."""
    return rows(name, p) if p.dim() == 3 else "all"
