"""What the cases share: models, one-process references, and how far two lists of parameters are apart."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

import aida

LIMIT = 5e-7  # of parameters after 20 steps of lr 1e-3; sums over shards alone are 1e-2 off
STEPS = 20
Make = Callable[[Any], aida.Aida]


def whole(x: Tensor) -> Tensor:
    x = x.full_tensor() if isinstance(x, DTensor) else x
    return x.detach()


def worst(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    pairs = list(zip(found, expected, strict=True))
    return max((whole(a) - whole(b)).abs().max().item() for a, b in pairs if a.numel())


def batch(t: int, features: int = 6, size: int = 8) -> Tensor:
    return torch.randn(size, features, generator=torch.Generator().manual_seed(t))


def mine(x: Tensor, rank: int | None = None, parts: int | None = None) -> Tensor:
    """This rank's part of a batch."""
    rank = dist.get_rank() if rank is None else rank
    return x.chunk(parts or dist.get_world_size())[rank]


class Net(nn.Module):
    """Layers that shard unevenly (7 and 5 rows), into nothing on some ranks (2, 1), and one element."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 7)
        self.norm = nn.LayerNorm(7)
        self.down = nn.Linear(7, 2)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.down(self.norm(torch.tanh(self.up(x))))


def net() -> Net:
    torch.manual_seed(3)
    return Net()


def loss(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x) - x[:, :2].sin()).square().mean()


def reference(model: nn.Module, make: Make, steps: Sequence[int] = range(STEPS)) -> list[Tensor]:
    """The parameters of a copy of the model after one process's training on whole batches."""
    model = copy.deepcopy(model)
    optimizer = make(model.parameters())
    train(model, optimizer, batch, steps)
    return [p.detach() for p in model.parameters()]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Callable[[int], Tensor] = lambda t: mine(batch(t)),
    steps: Sequence[int] = range(STEPS),
) -> None:
    for t in steps:
        optimizer.zero_grad()
        loss(model, data(t)).backward()
        optimizer.step()


def raises(kind: type[Exception], words: str, act: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(words)):
        act()


def equal_on_ranks(tensors: Iterable[Tensor], group: Any = None) -> bool:
    """Whether the tensors are bitwise the same on all ranks of the group."""
    flat = torch.cat([x.detach().reshape(-1).double() for x in tensors])
    found = [torch.empty_like(flat) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, flat, group=group)
    return all(torch.equal(found[0], other) for other in found)
