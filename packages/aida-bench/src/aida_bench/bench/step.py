"""Optimizer steps timed against torch's fused AdamW, as ratios of interleaved pairs in one run.

A pair is one step of each, in random order, on parameters of their own and the same gradients. Load from
outside falls on both, so the median of the pairs' ratios holds where milliseconds do not.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

import aida
from aida_bench.bench.model_shapes import MODELS, Shape, model_shapes
from aida_bench.storage.environment import versions

Build = Callable[[list[Tensor]], Optimizer]
MEMBERS = ("AdamPlus", "AdaBelief", "LAdam", "LAdaBelief", "Aida", "LAida")
BACKENDS: dict[str, dict[str, bool]] = {
    "fused": dict(fused=True),
    "foreach": dict(foreach=True),
    "eager": dict(foreach=False, fused=False),
}


@dataclass(frozen=True)
class Candidate:
    """One optimizer in one form; `build` raises where that form is unavailable."""

    name: str
    backend: str
    build: Build = field(repr=False)
    moments: str = "float32"
    core: bool = False  # timed at every number of threads, not at the largest alone
    slow: bool = False  # left out of the models of over 10 million parameters


@dataclass(frozen=True)
class Effort:
    """How long each candidate is timed: for `seconds` and `pairs` at least, but not beyond `patience`."""

    seconds: float = 0.6
    pairs: int = 7
    patience: float = 4.0


def baseline(params: list[Tensor]) -> Optimizer:
    return torch.optim.AdamW(params, fused=True)


def ours() -> Iterator[Candidate]:
    for backend, arguments in BACKENDS.items():
        for moments, dtype in (("float32", None), ("bfloat16", torch.bfloat16)):
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


def timed(optimizer: Optimizer, device: str) -> float:
    """Seconds of one whole step."""
    start = time.perf_counter()
    optimizer.step()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def time_pairs(a: Optimizer, b: Optimizer, device: str, effort: Effort, order: random.Random) -> Any:
    """[(seconds of a, seconds of b), ...] in shuffled order, after a step of each that makes the state."""
    for optimizer in (a, b, a, b):
        timed(optimizer, device)
    pairs, start = [], time.perf_counter()
    while True:
        first, second = (a, b) if order.random() < 0.5 else (b, a)
        one, two = timed(first, device), timed(second, device)
        pairs.append((one, two) if first is a else (two, one))
        elapsed = time.perf_counter() - start
        enough = len(pairs) >= effort.pairs and elapsed >= effort.seconds
        if enough or (len(pairs) >= 3 and elapsed >= effort.patience):
            return pairs


def extra_memory(optimizer: Optimizer) -> int:
    """The most bytes that one step holds beyond what it found, from torch's allocators' own records."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        optimizer.step()
    results: Any = record.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def summary(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """The median and quartiles of b/a, and the median milliseconds of either."""
    low, middle, high = quantiles([b / a for a, b in pairs], n=4, method="inclusive")
    return {
        "ratio": middle, "quartiles": [low, high], "pairs": len(pairs),
        "ms": 1e3 * median(b for _, b in pairs), "baseline_ms": 1e3 * median(a for a, _ in pairs),
    }  # fmt: skip


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
    gradients = [torch.randn(shape, device=device) * 1e-3 for shape in shapes]
    reference = baseline(with_gradients(make_parameters(shapes, device), gradients))
    for candidate in candidates:
        row: dict[str, Any] = {
            "optimizer": candidate.name, "backend": candidate.backend, "moments": candidate.moments
        }  # fmt: skip
        try:
            optimizer = candidate.build(with_gradients(make_parameters(shapes, device), gradients))
            optimizer.step()
        except (RuntimeError, ImportError) as error:
            yield {**row, "left_out": str(error)}
            continue
        row |= summary(time_pairs(reference, optimizer, device, effort, order))
        if memory and device == "cpu":
            row["extra_bytes"] = extra_memory(optimizer)
        yield row
        del optimizer
        gc.collect()


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
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Time whole steps; what is returned is ready for JSON. on_row sees each result as it comes."""
    effort = Effort(0.05, 3, 0.5) if quick else Effort()
    at_start, results, swept = torch.get_num_threads(), [], []
    try:
        for model, count, candidates in plan(models, threads):
            torch.set_num_threads(count)
            memory = count == max(threads)
            for row in compare(model_shapes(model), candidates, device, effort, memory=memory):
                results.append({"model": model, "threads": count, **row})
                on_row(results[-1])
        best = [c for c in ours() if c.backend in ("fused", "foreach") and c.name in ("Aida", "AdaBelief")]
        for what, size, shapes in sweeps(quick):
            for row in compare(shapes, [c for c in best if c.moments == "float32"], device, effort):
                swept.append({"sweep": what, "size": size, "threads": torch.get_num_threads(), **row})
                on_row(swept[-1])
    finally:
        torch.set_num_threads(at_start)
    return {
        "versions": versions(), "machine": machine(device), "effort": asdict(effort),
        "baseline": "torch AdamW, fused, float32", "results": results, "sweeps": swept,
    }  # fmt: skip


def machine(device: str) -> dict[str, Any]:
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = {
        f"L{(index / 'level').read_text().strip()} {(index / 'type').read_text().strip().lower()}":
        (index / "size").read_text().strip()
        for index in sorted(caches.glob("index*")) if (index / "size").exists()
    }  # fmt: skip
    accelerator = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {"cpu": _cpu_model(), "cores": os.cpu_count(), "caches": sizes, "accelerator": accelerator}


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
