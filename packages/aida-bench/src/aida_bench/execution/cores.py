"""How many cores this process may use: its affinity and its container's quota, not the machine's number."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def cores(root: Path = Path("/")) -> int:
    """At least 1. `root` is where /proc and /sys lie."""
    affine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # A quota of 1.5 cores keeps one process busy, and a second one half of its time.
    return max(1, min([affine, *(int(quota) for quota in _quotas(root))]))


def runs_at_once(device: str, threads: int | None) -> int:
    """As many as have a core for each of their threads, or 1 on an accelerator."""
    import torch

    if device != "cpu" and (device != "auto" or torch.accelerator.is_available()):
        return 1
    return max(1, cores() // (threads or 1))


def _quotas(root: Path) -> Iterator[float]:
    """Cores' worth of time that cgroups grant (version 2 and 1): to this process's group and all above it."""
    own = root / "proc/self/cgroup"
    lines = own.read_text().splitlines() if own.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        v1 = "cpu" in controllers.split(",")
        if controllers and not v1:
            continue
        mounts = ("sys/fs/cgroup/cpu", "sys/fs/cgroup/cpu,cpuacct") if v1 else ("sys/fs/cgroup",)
        group = Path(path.lstrip("/"))
        for folder in (root / mount / each for mount in mounts for each in (group, *group.parents)):
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if v1 else ("cpu.max",)
            try:
                quota, period = " ".join((folder / name).read_text() for name in names).split()
                if int(quota) > 0 < int(period):
                    yield int(quota) / int(period)
            except (OSError, ValueError):  # there is none; "max" is no limit
                continue
