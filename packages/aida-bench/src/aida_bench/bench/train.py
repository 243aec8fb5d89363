"""Whole iterations of training (forward, backward, step), as ratios to torch's fused AdamW in one run.

A pair is one iteration of each, in random order, on models of their own that began with the same numbers and
see the same batch. A released optimizer steps inside backward: its share is what its iterations take beyond
the forward and backward of AdamW's.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

import aida
from aida_bench.bench.machine import machine
from aida_bench.bench.measure import Effort, Pairs, peak_extra_bytes, summary, time_pairs
from aida_bench.bench.workloads import TINY, WORKLOADS, Workload
from aida_bench.storage.environment import versions

PRECISIONS = ("float32", "bfloat16")
EFFORT = Effort(seconds=1.5, pairs=4, patience=20.0, rounds=3, warm=1)
QUICK = Effort(seconds=0.0, pairs=2, patience=1.0, rounds=1, warm=1)


@dataclass(frozen=True)
class Contender:
    name: str
    build: Callable[[Any], Optimizer] = field(repr=False)
    released: bool = False
    """Stepped inside backward."""


BASELINE = Contender("torch AdamW, fused", lambda params: AdamW(params, fused=True))
CONTENDERS = (
    Contender("Aida", aida.Aida),
    Contender("Aida, gradients released", aida.Aida, released=True),
    Contender("AdaBelief", aida.AdaBelief),
    Contender("AdaBelief, gradients released", aida.AdaBelief, released=True),
    Contender("torch AdamW, default", AdamW),
)


class Training:
    """A model with its batch and optimizer; iterate() is one iteration, `steps` the seconds of each step."""

    def __init__(self, contender: Contender, workload: Workload, precision: str, device: str) -> None:
        torch.manual_seed(0)
        (self.model, self._loss), self.batch = workload.on(device)
        self.device, self.precision = device, precision
        self._marks: list[tuple[Any, Any]] = []
        self.optimizer = contender.build(self.model.parameters())
        self._stack = ExitStack()
        self.released = contender.released
        if contender.released:
            self._stack.enter_context(aida.release_gradients(self.optimizer, self.model))  # pyright: ignore[reportArgumentType]

    def iterate(self) -> None:
        self.optimizer.zero_grad()
        bfloat16 = self.precision == "bfloat16"
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=bfloat16):
            loss = self._loss(self.model)
        loss.backward()
        if not self.released:
            start = self._mark()
            self.optimizer.step()
            self._marks.append((start, self._mark()))

    def _mark(self) -> Any:
        """A moment; on an accelerator one of its own, for which nothing waits."""
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.get_device_module(self.device).Event(enable_timing=True)
        event.record()
        return event

    @property
    def steps(self) -> list[float]:
        """Seconds of each step so far; on an accelerator, after it has been waited for."""
        if self.device == "cpu":
            return [end - start for start, end in self._marks]
        return [start.elapsed_time(end) / 1e3 for start, end in self._marks]

    def peak_bytes(self) -> int:
        """Parameters and moments, and the most that an iteration holds beyond them."""
        self.optimizer.zero_grad()
        kept: list[Tensor] = [*self.model.parameters(), *self.model.buffers()]
        states = self.optimizer.state.values()
        kept += [x for state in states for x in state.values() if isinstance(x, Tensor)]
        return sum(x.nbytes for x in kept) + peak_extra_bytes(self.iterate, self.device)

    def close(self) -> None:
        self._stack.close()


def compare(
    workload: Workload, contender: Contender, precision: str, device: str, effort: Effort
) -> dict[str, Any]:
    """The summary of pairs, the optimizer's share of an iteration, and the peak memory of either."""
    order, rounds, shares, of_baseline = random.Random(0), list[Pairs](), list[float](), list[float]()
    memory: dict[str, int] = {}
    batch = 0
    for _ in range(effort.rounds):
        theirs, ours = (Training(each, workload, precision, device) for each in (BASELINE, contender))
        pairs = time_pairs(theirs.iterate, ours.iterate, device, effort, order)
        rounds.append(pairs)
        steps = theirs.steps[-len(pairs) :]
        of_baseline += [step / whole for step, (whole, _) in zip(steps, pairs, strict=True)]
        if ours.released:
            rest = median(whole - step for step, (whole, _) in zip(steps, pairs, strict=True))
            shares += [(whole - rest) / whole for _, whole in pairs]
        else:
            own = ours.steps[-len(pairs) :]
            shares += [step / whole for step, (_, whole) in zip(own, pairs, strict=True)]
        memory = memory or {
            "peak_bytes": ours.peak_bytes(),
            "baseline_peak_bytes": theirs.peak_bytes(),
        }
        batch = ours.batch
        ours.close()
        del theirs, ours
        gc.collect()
    return {
        "optimizer": contender.name, "precision": precision, "batch": batch, "of": workload.of,
        **summary(rounds), "share": median(shares), "baseline_share": median(of_baseline), **memory,
    }  # fmt: skip


def rows(
    models: Sequence[str], precisions: Sequence[str], device: str, effort: Effort
) -> Iterator[dict[str, Any]]:
    for model in models:
        for precision in precisions:
            for contender in CONTENDERS:
                row = compare({**WORKLOADS, **TINY}[model], contender, precision, device, effort)
                yield {"model": model, "threads": torch.get_num_threads(), **row}


def train_benchmark(
    *,
    models: Sequence[str] = tuple(WORKLOADS),
    precisions: Sequence[str] = PRECISIONS,
    threads: int | None = None,
    device: str = "cpu",
    quick: bool = False,
    rounds: int = EFFORT.rounds,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> dict[str, Any]:
    """Time whole iterations; what is returned is ready for JSON. on_row sees each result as it comes."""
    effort = QUICK if quick else replace(EFFORT, rounds=rounds)
    at_start, results = torch.get_num_threads(), []
    try:
        torch.set_num_threads(threads or at_start)
        for row in rows(models, precisions, device, effort):
            results.append(row)
            on_row(row)
    finally:
        torch.set_num_threads(at_start)
    return {
        "versions": versions(), "machine": machine(device), "effort": asdict(effort),
        "baseline": BASELINE.name, "results": results,
    }  # fmt: skip
