"""Pairs of timings and their summary, and the memory that a piece of work takes at its peak."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], Any]
Pairs = list[tuple[float, float]]


@dataclass(frozen=True)
class Effort:
    """How long each candidate is timed: in each of `rounds` for `seconds` and `pairs` at least, but not
    longer than `patience` seconds, after `warm` turns of each. A round has tensors of its own, so that rounds
    differ by where those lie too.
    """

    seconds: float = 0.12
    pairs: int = 3
    patience: float = 1.0
    rounds: int = 10
    warm: int = 2


def timed(work: Work, device: str) -> float:
    """Seconds that a piece of work takes, to the end of what it asks of the device."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def time_pairs(a: Work, b: Work, device: str, effort: Effort, order: random.Random) -> Pairs:
    """[(seconds of a, seconds of b), ...] of a round, in shuffled order, after turns that make states."""
    for work in (a, b) * effort.warm:
        timed(work, device)
    pairs, start = [], time.perf_counter()
    while True:
        first, second = (a, b) if order.random() < 0.5 else (b, a)
        one, two = timed(first, device), timed(second, device)
        pairs.append((one, two) if first is a else (two, one))
        elapsed = time.perf_counter() - start
        enough = len(pairs) >= effort.pairs and elapsed >= effort.seconds
        if enough or (len(pairs) >= min(3, effort.pairs) and elapsed >= effort.patience):
            return pairs


def summary(rounds: Sequence[Pairs]) -> dict[str, Any]:
    """The median and quartiles of b/a, the median milliseconds of either, and each round's median ratio."""
    pairs = [pair for each in rounds for pair in each]
    low, middle, high = quantiles([b / a for a, b in pairs], n=4, method="inclusive")
    return {
        "ratio": middle, "quartiles": [low, high], "pairs": len(pairs),
        "rounds": [median(b / a for a, b in each) for each in rounds],
        "ms": 1e3 * median(b for _, b in pairs), "baseline_ms": 1e3 * median(a for a, _ in pairs),
    }  # fmt: skip


def peak_extra_bytes(work: Work, device: str) -> int:
    """The most bytes that a piece of work holds beyond what it found, by torch's allocators' own records."""
    if device != "cpu":
        module = torch.get_device_module(device)
        module.synchronize()
        module.reset_peak_memory_stats()
        found = module.memory_allocated()
        work()
        module.synchronize()
        return module.max_memory_allocated() - found
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    results: Any = record.profiler
    events = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
