"""The machine that figures were taken on, and the kind of machine that they are comparable within."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def machine(device: str) -> dict[str, Any]:
    caches = Path("/sys/devices/system/cpu/cpu0/cache")
    sizes = {
        f"L{(index / 'level').read_text().strip()} {(index / 'type').read_text().strip().lower()}":
        (index / "size").read_text().strip()
        for index in sorted(caches.glob("index*")) if (index / "size").exists()
    }  # fmt: skip
    info = cpu_info()
    return {
        "cpu": info.get("model name", platform.processor()),
        "vendor": info.get("vendor_id"), "family": info.get("cpu family"), "model": info.get("model"),
        "isa": torch.backends.cpu.get_cpu_capability(), "cores": os.cpu_count(), "caches": sizes,
        "accelerator": torch.cuda.get_device_name() if device.startswith("cuda") else None,
    }  # fmt: skip


def cpu_info(path: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """What Linux says of the first core; {} elsewhere."""
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def kind(result: Mapping[str, Any]) -> str | None:
    """Of a benchmark's result: the processor, its instruction set, threads and torch's minor version.

    None where the result does not say it, as those of earlier versions.
    """
    on, torch_version = result["machine"], result["versions"]["torch"]
    processor = [on.get(key) for key in ("vendor", "family", "model", "isa")]
    if None in processor:
        return None
    vendor, family, model, isa = processor
    threads = max(row["threads"] for row in result["results"])
    minor = ".".join(torch_version.split("+")[0].split(".")[:2])
    where = on["accelerator"] or f"{vendor} family {family} model {model}, {isa}"
    return f"{where}, {threads} thread(s), torch {minor}"
