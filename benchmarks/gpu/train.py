"""Whole training iterations on the device: `aida bench train`, a case for each model and precision."""

from __future__ import annotations

from functools import partial
from typing import Any

from aida_bench.bench.train import EFFORT, PRECISIONS, QUICK, rows
from aida_bench.bench.workloads import TINY, WORKLOADS
from gpu.device import Device
from gpu.parts import Cases
from gpu.results import Call


def cases(device: Device, call: Call) -> Cases:
    return {
        f"{model}, {precision}": partial(_case, model, precision, device)
        for model in (TINY if call.dry else WORKLOADS)
        for precision in PRECISIONS
    }


def _case(model: str, precision: str, device: Device) -> dict[str, Any]:
    found = []
    mib = 2**20
    for row in rows([model], [precision], device.type, QUICK if device.dry else EFFORT):
        found.append(row)
        print(
            f"  {row['optimizer']}: {row['ratio']:.3f} of AdamW fused, {row['ms']:.2f} ms, "
            f"share {row['share']:.1%}, "
            f"peak {row['peak_bytes'] / mib:.0f} MiB to {row['baseline_peak_bytes'] / mib:.0f}",
            flush=True,
        )
    return {"rows": found}
