"""A block of a transformer as tensor parallelism and sequence parallelism split it."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

from helpers.sharding.common import STEPS


class Block(nn.Module):
    """An embedding, a norm and an MLP, as tensor parallelism splits them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 12)
        self.down = nn.Linear(12, 8)

    def forward(self, x):
        return self.down(torch.tanh(self.up(self.norm(self.embed(x)))))


PLAN = dict(
    embed=RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate()),
    up=ColwiseParallel(),
    down=RowwiseParallel(),
)
SEQUENCE_PLAN = dict(
    embed=RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1)),
    norm=SequenceParallel(),
    up=ColwiseParallel(input_layouts=Shard(1)),
    down=RowwiseParallel(output_layouts=Replicate()),
)


def train_block(model, make, part=lambda x: x, steps=range(STEPS)):
    optimizer = make(model.parameters())
    for t in steps:
        tokens = torch.randint(12, (4, 8), generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        (model(part(tokens)) - 0.1).square().mean().backward()
        optimizer.step()
    return list(model.parameters())


def block():
    torch.manual_seed(5)
    return Block()
