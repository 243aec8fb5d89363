"""Optimizer steps timed against torch's fused AdamW, as ratios of interleaved pairs in one run.

A pair is one step of each, in random order, on parameters of their own and the same gradients. Load from
outside falls on both, so the median of the pairs' ratios holds where milliseconds do not. Candidates take
turns in rounds, each with new tensors: by how much rounds differ says what another run would differ by.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

import aida
from aida_bench.bench.machine import machine
from aida_bench.bench.measure import Effort, Pairs, peak_extra_bytes, summary, time_pairs
from aida_bench.bench.model_shapes import MODELS, Shape, model_shapes
from aida_bench.storage.environment import versions

Build = Callable[[list[Tensor]], Optimizer]
MEMBERS = ("AdamPlus", "AdaBelief", "LAdam", "LAdaBelief", "Aida", "LAida")
BACKENDS: dict[str, dict[str, bool]] = {
    "fused": dict(fused=True),
    "foreach": dict(foreach=True),
    "eager": dict(foreach=False, fused=False),
}
FEW = 3


@dataclass(frozen=True)
class Candidate:
    """One optimizer in one form; `build` raises where that form is unavailable."""

    name: str
    backend: str
    build: Build = field(repr=False)
    moments: str = "float32"
    core: bool = False  # timed at every number of threads and in every round, not at the largest and in FEW
    slow: bool = False  # left out of the models of over 10 million parameters


def baseline(params: list[Tensor]) -> Optimizer:
    return torch.optim.AdamW(params, fused=True)


def ours() -> Iterator[Candidate]:
    for backend, arguments in BACKENDS.items():
        kept = [("float32", None), ("bfloat16", torch.bfloat16), ("int8", torch.int8)]
        for moments, dtype in kept if backend == "fused" else kept[:2]:
            for name in MEMBERS:
                member, options = getattr(aida, name), {**arguments, "state_dtype": dtype}

                def build(params: list[Tensor], member: Any = member, options: Any = options) -> Optimizer:
                    return member(params, **options)

                slow = backend != "fused" and (name != "Aida" or dtype is not None)
                yield Candidate(name, backend, build, moments, core=backend == "fused", slow=slow)


def others() -> Iterator[Candidate]:
    adamw, sgd = torch.optim.AdamW, torch.optim.SGD
    yield Candidate("torch AdamW", "foreach", lambda params: adamw(params, foreach=True))
    yield Candidate("torch AdamW", "loop", lambda params: adamw(params, foreach=False))
    yield Candidate("torch SGD", "fused", lambda params: sgd(params, momentum=0.9, fused=True))
    yield Candidate("pytorch_optimizer Aida", "loop", lambda params: _peer("Aida")(params))
    yield Candidate("pytorch_optimizer AdaBelief", "loop", lambda params: _peer("AdaBelief")(params))
    yield Candidate("adabelief-pytorch", "loop", _adabelief_pytorch)


def _peer(name: str) -> Any:
    import pytorch_optimizer

    return getattr(pytorch_optimizer, name)


def _adabelief_pytorch(params: list[Tensor]) -> Optimizer:
    from adabelief_pytorch import AdaBelief

    return AdaBelief(params, rectify=False, print_change_log=False)


def make_parameters(shapes: Sequence[Shape], device: str) -> list[Tensor]:
    return [torch.nn.Parameter(torch.randn(shape, device=device) * 0.02) for shape in shapes]


def with_gradients(params: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
    for p, g in zip(params, gradients, strict=True):
        p.grad = g
    return params


def compare(
    shapes: Sequence[Shape],
    candidates: Sequence[Candidate],
    device: str,
    effort: Effort,
    *,
    memory: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row a candidate: its summary, or why it was left out."""
    order = random.Random(0)
    rows: list[dict[str, Any]] = [
        {"optimizer": c.name, "backend": c.backend, "moments": c.moments} for c in candidates
    ]
    rounds: list[list[Pairs]] = [[] for _ in candidates]
    for number in range(effort.rounds):
        gradients = [torch.randn(shape, device=device) * 1e-3 for shape in shapes]
        reference = baseline(with_gradients(make_parameters(shapes, device), gradients))
        places = [
            i for i, candidate in enumerate(candidates)
            if "left_out" not in rows[i] and (candidate.core or number < FEW)
        ]  # fmt: skip
        for i in order.sample(places, len(places)):
            params = with_gradients(make_parameters(shapes, device), gradients)
            try:
                optimizer = candidates[i].build(params)
                optimizer.step()
            except (RuntimeError, ImportError) as error:
                rows[i]["left_out"] = str(error)
                continue
            rounds[i].append(time_pairs(reference.step, optimizer.step, device, effort, order))
            if memory and device == "cpu" and "extra_bytes" not in rows[i]:
                rows[i]["extra_bytes"] = peak_extra_bytes(optimizer.step, device)
            del optimizer, params
            gc.collect()
    for row, found in zip(rows, rounds, strict=True):
        yield row if "left_out" in row else {**row, **summary(found)}


def plan(models: Sequence[str], threads: Sequence[int]) -> Iterator[tuple[str, int, list[Candidate]]]:
    everyone = [*ours(), *others()]
    for model in models:
        big = MODELS[model][1] > 10_000_000
        for count in threads:
            wanted = [c for c in everyone if (c.core or count == max(threads)) and not (c.slow and big)]
            yield model, count, wanted


def sweeps(quick: bool) -> Iterator[tuple[str, int, list[Shape]]]:
    """A million parameters in more and more layers, and one layer of more and more parameters."""
    total = 100_000 if quick else 1_000_000
    for layers in (1, 10, 100, 1000):
        yield "layers", layers, [(total // layers,)] * layers
    for exponent in (3, 4, 5) if quick else (3, 4, 5, 6, 7):
        yield "parameters", 10**exponent, [(10**exponent,)]


def step_benchmark(
    *,
    models: Sequence[str] = tuple(MODELS),
    threads: Sequence[int] = (1, 2),
    device: str = "cpu",
    quick: bool = False,
    core: bool = False,
    rounds: int = Effort.rounds,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Time whole steps; what is returned is ready for JSON. on_row sees each result as it comes.

    `core`: the library's fused steps alone, without sweeps.
    """
    effort = Effort(0.05, 3, 0.5, rounds=1) if quick else Effort(rounds=rounds)
    at_start, results, swept = torch.get_num_threads(), [], []
    try:
        for model, count, wanted in plan(models, threads):
            candidates = [c for c in wanted if c.core] if core else wanted
            torch.set_num_threads(count)
            memory = count == max(threads)
            for row in compare(model_shapes(model), candidates, device, effort, memory=memory):
                results.append({"model": model, "threads": count, **row})
                on_row(results[-1])
        best = [c for c in ours() if c.backend in ("fused", "foreach") and c.name in ("Aida", "AdaBelief")]
        for what, size, shapes in () if core else sweeps(quick):
            for row in compare(shapes, [c for c in best if c.moments == "float32"], device, effort):
                swept.append({"sweep": what, "size": size, "threads": torch.get_num_threads(), **row})
                on_row(swept[-1])
    finally:
        torch.set_num_threads(at_start)
    return {
        "versions": versions(), "machine": machine(device), "effort": asdict(effort),
        "baseline": "torch AdamW, fused, float32", "results": results, "sweeps": swept,
    }  # fmt: skip
