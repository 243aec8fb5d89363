"""The step against torch's fused AdamW in interleaved pairs, and against the bandwidth of a copy.

The bound of a step is its passes over memory at the bandwidth of a large copy: 9 tensors for Aida, 7 for
AdamW, in float32. A model whose tensors fit the cache (L2_bytes of the machine) may be faster than its bound,
and so may a step in blocks of layers that fit it, of whose passes some come from the cache.
"""

from __future__ import annotations

import gc
import random
from functools import partial
from math import prod
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

import aida
from aida_bench.bench.measure import summary
from aida_bench.bench.model_shapes import LARGE, MODELS, model_shapes
from gpu.device import Device, parameters
from gpu.parts import Cases
from gpu.results import Call

HALF = torch.bfloat16


class Candidate(NamedTuple):
    member: Any
    options: dict[str, Any]
    bytes: int
    """What a step moves for each float32 parameter, from cache or memory (a pooled v moves none)."""
    of_l2: float = 0
    """The fraction of L2 that a block of layers may fill; 0: all sums, then all updates."""


CANDIDATES = {
    "Aida": Candidate(aida.Aida, {}, 36),
    "Aida, blocks of L2/2": Candidate(aida.Aida, {}, 36, 1 / 2),
    "Aida, blocks of L2/4": Candidate(aida.Aida, {}, 36, 1 / 4),
    "Aida, one block": Candidate(aida.Aida, {}, 36, 1e6),
    "Aida, bfloat16 moments": Candidate(aida.Aida, dict(state_dtype=HALF), 12 + 8 + 6),
    "AdaBelief": Candidate(aida.AdaBelief, {}, 28),
    "AdaBelief, bfloat16 moments": Candidate(aida.AdaBelief, dict(state_dtype=HALF), 12 + 8),
    "AdamPlus": Candidate(aida.AdamPlus, {}, 28),
    "LAdam": Candidate(aida.LAdam, {}, 28),
    "LAdaBelief": Candidate(aida.LAdaBelief, {}, 28),
    "LAida, post": Candidate(aida.LAida, dict(layerwise="post"), 48),
    "LAida, post, blocks of L2/2": Candidate(aida.LAida, dict(layerwise="post"), 48, 1 / 2),
}
PAIRS, WARM = 50, 3
DRY = {"two small tensors": [(7, 3), (5,)]}


def cases(device: Device, call: Call) -> Cases:
    if call.dry:
        return {name: partial(compare, shapes, device, 2, 1) for name, shapes in DRY.items()}
    return {name: partial(compare, model_shapes(name), device) for name in (*MODELS, *LARGE)}


def compare(
    shapes: list[tuple[int, ...]], device: Device, pairs: int = PAIRS, warm: int = WARM
) -> dict[str, Any]:
    """A row for each candidate, with the bandwidth that was there at the time."""
    bandwidth = device.copy_bandwidth()
    gradients: list[Tensor] = [torch.randn(shape, device=device.type) * 1e-3 for shape in shapes]
    theirs = AdamW(parameters(shapes, device, gradients), fused=True)
    count, rows = sum(map(prod, shapes)), []
    for name, (member, options, bytes_each, of_l2) in CANDIDATES.items():
        with device.cache_blocks(of_l2):
            ours = member(parameters(shapes, device, gradients), fused=True, **options)
            row = {"optimizer": name, **_paired(theirs, ours, device, pairs, warm)}
            row["bytes"] = bytes_each * count
            row["of_bandwidth"] = row["bytes"] / bandwidth / row["ms"] * 1e3
            del ours
            row["graph_ms"] = _graph_ms(member, options, shapes, gradients, device, pairs)
        rows.append(row)
        gc.collect()
        print(
            f"  {name}: {row['ms']:.3f} ms, {row['ratio']:.3f} of AdamW, {row['of_bandwidth']:.0%} of a "
            f"copy's bandwidth; {row['graph_ms']:.3f} ms as a graph",
            flush=True,
        )
    return {"parameters": count, "copy_bytes_per_second": bandwidth, "rows": rows}


def _paired(theirs: Optimizer, ours: Optimizer, device: Device, pairs: int, warm: int) -> dict[str, Any]:
    for _ in range(warm):
        theirs.step()
        ours.step()
    order, found = random.Random(0), []
    for _ in range(pairs):
        both = [theirs, ours]
        order.shuffle(both)
        times = {id(each): device.seconds(each.step) for each in both}
        found.append((times[id(theirs)], times[id(ours)]))
    row = summary([found])
    del row["rounds"]  # there is one
    return row


def _graph_ms(
    member: Any, options: Any, shapes: Any, gradients: list[Tensor], device: Device, pairs: int
) -> float:
    """What a step costs without the host."""
    optimizer = member(parameters(shapes, device, gradients), fused=True, capturable=True, **options)
    replay = device.graphed(optimizer)
    return 1e3 * median(device.seconds(replay) for _ in range(pairs))
