"""One step of a sharded model: aida's one message against DTensor operations and torch's foreach Adam.

    python benchmarks/sharding.py [--ranks 2 4] [--quick] [--output FILE.json]

Each way steps the same 100 layers (half matrices, half vectors), sharded as FSDP2 shards, over gloo on this
machine's CPU, one thread a rank. Ways take turns, so that load from outside falls on all. Times are rank 0's,
between barriers. `apart` is the largest difference from one process's parameters after the timed steps: a way
that is far from it does something else.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

import aida
from aida_bench.bench.step import machine
from aida_bench.storage.environment import versions

LR, B1, B2, EPS, XI, K = 1e-3, 0.9, 0.999, 1e-8, 1e-20, 2
Sum = Callable[[Tensor], Tensor]


class Textbook:
    """Aida as one writes it for a plain tensor, on whatever tensors it is given; `whole` completes a sum."""

    def __init__(self, params: list[Tensor], whole: Sum) -> None:
        self.params, self.whole, self.t = params, whole, 0
        self.m = [torch.zeros_like(p) for p in params]
        self.v = [torch.zeros_like(p) for p in params]

    @torch.no_grad()
    def step(self) -> None:
        self.t += 1
        for p, m, v in zip(self.params, self.m, self.v, strict=True):
            g = p.grad
            assert g is not None
            m.mul_(B1).add_(g, alpha=1 - B1)
            gg, gm, mm = (self.whole(x.sum()) for x in (g * g, g * m, m * m))
            alpha = beta = torch.ones_like(gg)
            for _ in range(K):
                c = alpha * beta * gm
                alpha, beta = alpha * c / (alpha * alpha * gg + XI), beta * c / (beta * beta * mm + XI)
            r = m * beta - g * alpha
            v.mul_(B2).addcmul_(r, r, value=1 - B2)
            root = (v / (1 - B2**self.t) + EPS / (1 - B2)).sqrt_()
            p.sub_(m / root, alpha=LR / (1 - B1**self.t))


def replicated(x: Tensor) -> Tensor:
    assert isinstance(x, DTensor)
    return x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)


WAYS: dict[str, Callable[[list[Tensor]], Any]] = {
    "aida.Aida": lambda params: aida.Aida(params, lr=LR),
    "DTensor operations, partial sums": lambda params: Textbook(params, lambda x: x),
    "DTensor operations, one all_reduce a sum": lambda params: Textbook(params, replicated),
    "torch.optim.Adam, foreach": lambda params: torch.optim.Adam(params, lr=LR, foreach=True),
}


def tensors(layers: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(256, 256) if i % 2 else (256,) for i in range(layers)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def work(rank: int, world: int, layers: int, steps: int, store: str, output: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    mesh = init_device_mesh("cpu", (world,))
    gradients = tensors(layers, 1)
    ways = {}
    for name, build in WAYS.items():
        params = [torch.nn.Parameter(distribute_tensor(x, mesh, [Shard(0)])) for x in tensors(layers, 0)]
        for p, g in zip(params, gradients, strict=True):
            p.grad = distribute_tensor(g, mesh, [Shard(0)])
        ways[name] = params, build(params)
    counts, times = {}, {name: [] for name in ways}
    for name, (_, optimizer) in ways.items():  # the first step also makes the state
        with CommDebugMode() as counter:
            optimizer.step()
        counts[name] = counter.get_total_counts()
    for _ in range(steps):
        for name, (_, optimizer) in ways.items():
            dist.barrier()
            start = time.perf_counter()
            optimizer.step()
            times[name].append(1e3 * (time.perf_counter() - start))
    plain = [torch.nn.Parameter(x) for x in tensors(layers, 0)]
    for p, g in zip(plain, gradients, strict=True):
        p.grad = g
    one = aida.Aida(plain, lr=LR, foreach=False)
    for _ in range(steps + 1):
        one.step()
    rows = []
    for name, (params, _) in ways.items():
        found = [p.full_tensor() for p in params]
        apart = max((a - b).abs().max().item() for a, b in zip(found, plain, strict=True))
        low, middle, high = statistics.quantiles(times[name], n=4)
        row = dict(way=name, ranks=world, ms=middle, quartiles=[low, high], collectives=counts[name])
        rows.append(row if name.startswith("torch") else {**row, "apart": apart})
    if rank == 0:
        Path(output).write_text(json.dumps(rows))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--layers", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="10 layers, 3 steps, 2 ranks")
    parser.add_argument("--output", type=Path, default=Path("sharding.json"))
    options = parser.parse_args()
    if options.quick:
        options.ranks, options.layers, options.steps = [2], 10, 3
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    command = shlex.join(["python", *sys.argv])
    print(f"$ {command}\n")
    rows = []
    for world in options.ranks:
        with tempfile.TemporaryDirectory() as folder:
            output = f"{folder}/rows.json"
            arguments = (world, options.layers, options.steps, f"{folder}/store", output)
            mp.start_processes(work, arguments, nprocs=world, start_method="fork")
            rows += json.loads(Path(output).read_text())
    for row in rows:
        cost = f"{row['ms']:9.2f} ms  {row['collectives']:5d} collectives"
        apart = f"{row['apart']:.1e}" if "apart" in row else "-"
        print(f"{row['ranks']} ranks  {cost}  apart {apart:>8}  {row['way']}")
    result = dict(
        command=command,
        layers=options.layers,
        steps=options.steps,
        rows=rows,
        machine=machine("cpu"),
        versions=versions(),
    )
    part = options.output.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1))
    part.replace(options.output)


if __name__ == "__main__":
    main()
