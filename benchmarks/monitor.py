"""What a StepsizeMonitor costs while real models train, in percent of the training time.

    python benchmarks/monitor.py [--seconds 30] [--threads 2] [--output FILE.json]

A model trains with Aida. Each step is followed by a call of a monitor that records and of one that does not,
in random order. cost = (record + 99 * hook)/(100 * step), medians over the run: that of every=100.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

import aida
from aida.monitor import StepsizeMonitor
from aida_bench.bench.step import machine
from aida_bench.models.lstm import Dropouts, LanguageModel
from aida_bench.models.vgg import vgg11
from aida_bench.storage.environment import versions

EVERY = 100
Step = Callable[[], None]


def vgg11_step(precision: torch.dtype | None) -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    model = vgg11(10)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))

    def loss() -> torch.Tensor:
        with torch.autocast("cpu", dtype=precision or torch.bfloat16, enabled=precision is not None):
            return nn.functional.cross_entropy(model(images), labels)

    return model, loss


def lstm_step() -> tuple[nn.Module, Callable[[], torch.Tensor]]:
    model = LanguageModel(10_000, layers=2, embedding=200, hidden=200, dropouts=Dropouts())
    words = torch.randint(10_000, (35, 20))

    def loss() -> torch.Tensor:
        logits = model(words, None).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), words.flatten())

    return model, loss


MODELS: dict[str, Callable[[], tuple[nn.Module, Callable[[], torch.Tensor]]]] = {
    "VGG11, CIFAR-10, batch 128, bfloat16": lambda: vgg11_step(torch.bfloat16),
    "VGG11, CIFAR-10, batch 128, float32": lambda: vgg11_step(None),
    "LSTM, 2 x 200, Penn Treebank, 20 x 35 words": lstm_step,
}


def measure(
    build: Callable[[], tuple[nn.Module, Callable[[], torch.Tensor]]], seconds: float
) -> dict[str, Any]:
    model, loss = build()
    optimizer = aida.Aida(model.parameters())

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        return time.perf_counter() - start

    for _ in range(3):
        step()
    recorder = StepsizeMonitor(optimizer, model, every=1, sinks="memory")
    idle = StepsizeMonitor(optimizer, model, every=10**9, sinks="memory")
    for monitor in (recorder, idle):  # their hooks are called here, so as to be timed apart from the step
        for hook in monitor._hooks:
            hook.remove()
    times: dict[str, list[float]] = {"step": [], "record": [], "hook": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["record"]) < 5:
        times["step"].append(step())
        kinds = [("record", recorder), ("hook", idle)]
        for kind, monitor in random.sample(kinds, 2):
            start = time.perf_counter()
            monitor._after_step(optimizer, (), {})
            times[kind].append(time.perf_counter() - start)
    ms = {kind: 1000 * median(found) for kind, found in times.items()}
    cost = (ms["record"] + (EVERY - 1) * ms["hook"]) / (EVERY * ms["step"])
    layers = list(model.parameters())
    return {"layers": len(layers), "parameters": sum(p.numel() for p in layers), "pairs": len(times["step"]),
            **{f"{kind}_ms": value for kind, value in ms.items()}, "cost_percent": 100 * cost}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random.seed(0)
    torch.manual_seed(0)
    found: dict[str, Any] = {}
    command = shlex.join(["python", *sys.argv])
    print(f"$ {command}\n")
    print("| model | layers | parameters | step, ms | record, ms | cost at every=100 |\n" + "|---" * 6 + "|")
    for name, build in MODELS.items():
        row = found[name] = measure(build, options.seconds)
        print(f"| {name} | {row['layers']} | {row['parameters']:,} | {row['step_ms']:.1f} | "
              f"{row['record_ms']:.1f} | {row['cost_percent']:.2f} % |", flush=True)  # fmt: skip
    if options.output:
        about = {
            "command": command,
            "machine": machine("cpu"),
            "versions": versions(),
            "threads": options.threads,
        }
        options.output.write_text(json.dumps({**about, "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
