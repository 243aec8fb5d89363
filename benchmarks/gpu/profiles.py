"""Where a step's time goes: each kernel's own, by torch's profiler; its counters, by Nsight Compute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

import aida
from aida_bench.bench.model_shapes import model_shapes
from gpu.device import Device, parameters
from gpu.parts import Cases, LeftOut
from gpu.results import Call

STEPS = 10
MODELS = ("small-tensors", "gpt2-small")
KERNELS = "regex:gram|apply|total|pool|stepsize|coefficients"
OPTIMIZERS: dict[str, Any] = {
    "Aida": lambda p: aida.Aida(p, fused=True),
    "Aida, bfloat16 moments": lambda p: aida.Aida(p, fused=True, state_dtype=torch.bfloat16),
    "LAdam": lambda p: aida.LAdam(p, fused=True),
    "torch AdamW": lambda p: AdamW(p, fused=True),
}
SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats")
# What one kernel finds in the cache that another has read: ncu empties it before each kernel, unless told.
ACROSS_KERNELS = (
    "--cache-control", "none", "--replay-mode", "application",
    "--metrics", "dram__bytes_read.sum,dram__bytes_write.sum,lts__t_sector_hit_rate.pct",
)  # fmt: skip


def cases(device: Device, call: Call) -> Cases:
    models = {"tiny": [(7, 3), (5,)]} if call.dry else {name: model_shapes(name) for name in MODELS}
    found: Cases = {
        f"{model}: {name}": partial(_kernels, shapes, make, device)
        for model, shapes in models.items()
        for name, make in OPTIMIZERS.items()
        if not call.dry or name == "Aida"
    }
    return {
        **found,
        "counters": partial(_counters, call, "--large", [w for s in SECTIONS for w in ("--section", s)]),
        "counters of cache blocks": partial(_counters, call, "--blocks", ACROSS_KERNELS),
    }


def _kernels(shapes: Any, make: Any, device: Device) -> dict[str, Any]:
    """Microseconds of a step's kernels and of the host, and of the whole step on the device's clock."""
    optimizer = make(parameters(shapes, device))
    for _ in range(3):
        optimizer.step()
    device.synchronize()
    on_device = {"cuda": [ProfilerActivity.CUDA], "xpu": [ProfilerActivity.XPU]}.get(device.type, [])
    with profile(activities=[ProfilerActivity.CPU, *on_device]) as record:
        for _ in range(STEPS):
            optimizer.step()
        device.synchronize()
    table = record.key_averages()
    order = "self_cpu_time_total" if device.dry else "self_device_time_total"
    print(table.table(sort_by=order, row_limit=25), flush=True)
    kernels = [
        {
            "name": event.key, "calls": event.count / STEPS,
            "us": getattr(event, "self_device_time_total", 0) / STEPS,
            "host_us": event.self_cpu_time_total / STEPS,
        }
        for event in sorted(table, key=lambda event: -getattr(event, order))[:25]
    ]  # fmt: skip
    whole = sorted(device.seconds(optimizer.step) for _ in range(STEPS))[STEPS // 2]
    return {"step_us": 1e6 * whole, "kernels": kernels}


def _counters(call: Call, what: str, options: Sequence[str]) -> dict[str, Any]:
    program = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    if call.dry:
        raise LeftOut("the interpreter has no counters")
    if not os.path.exists(program):
        raise LeftOut("Nsight Compute (ncu) is not installed")
    done = subprocess.run(
        [
            program, "--clock-control", "none", "--kernel-name", KERNELS, "--launch-count", "24", "--csv",
            *options, sys.executable, "-m", "gpu.one_step", what,
        ],
        capture_output=True, text=True, timeout=max(call.left - 5, 1), check=False,
    )  # fmt: skip
    if done.returncode:
        raise LeftOut(f"ncu ended with code {done.returncode}: {(done.stdout + done.stderr)[-500:]}")
    print(done.stdout[-20_000:], flush=True)
    return {"csv": done.stdout[-500_000:]}
