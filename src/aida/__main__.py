"""`python -m aida`: what is installed here, and whether its backends agree with the eager one.

It prints versions and, for each device, the backends with the reason where one is missing; every member is
stepped by each of them. The exit status is 1 where one differs from the eager backend in float64.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

import aida
from aida.backends import cpu, dispatch
from aida.check.subject import drawn, train

SHAPES = ((181, 182), (5,), (), (4, 3, 2, 2))  # in all just enough for the kernel to use several threads
STEPS = range(3)
LIMITS = {torch.float64: 1e-12, torch.float32: 1e-5}  # of the largest element
MEMBERS = (aida.AdamPlus, aida.AdaBelief, aida.Aida, aida.LAdam, aida.LAdaBelief, aida.LAida)
BACKENDS = {"eager": {"foreach": False}, "foreach": {"foreach": True}, "fused": {"fused": True}}


def main(arguments: list[str] | None = None) -> int:
    """Print what is here; 1 where a backend does not agree with the eager one."""
    parser = argparse.ArgumentParser("python -m aida", description="Show what is installed, and check it.")
    parser.add_argument("--version", action="version", version=f"aida {aida.__version__}")
    parser.parse_args(arguments)
    print(f"aida {aida.__version__}, {aida.__file__}")
    print(
        f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads"
    )
    differs = False
    for device in devices():
        for name, given in BACKENDS.items():
            missing = _reason(device, given)
            told = missing and f"unavailable: {missing}"
            if told is None:
                worst = max(disagreements(given, device))
                differs |= not worst <= 1
                told = (
                    "agrees with eager in float64" if worst <= 1 else f"DIFFERS from eager, {worst:.0g} times"
                )
                told += " what rounding explains" * (worst > 1)
            print(f"{device:6}{_called(device, name):24}{told}")
    print(
        "a backend is wrong on this machine: please report it with these lines" if differs else "all is well"
    )
    return int(differs)


def devices() -> Iterator[str]:
    """The kinds of devices of this machine."""
    yield "cpu"
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        yield accelerator.type


def disagreements(given: dict[str, Any], device: str) -> Iterator[float]:
    """By how much each member is off with this backend, against what rounding explains."""
    for member in MEMBERS:
        wanted = _reference(member)
        for dtype, limit in LIMITS.items():
            if device == "mps" and dtype == torch.float64:
                continue
            for ours, theirs in zip(_stepped(member, dtype, device, given), wanted, strict=True):
                off = (ours - theirs).abs().max().item() / theirs.abs().max().clamp(min=1e-30).item()
                yield off / limit if off == off else float("inf")


@cache
def _reference(member: type[aida.Layerwise]) -> list[Tensor]:
    return _stepped(member, torch.float64, "cpu", {"foreach": False})


def _stepped(
    member: type[aida.Layerwise], dtype: torch.dtype, device: str, given: dict[str, Any]
) -> list[Tensor]:
    params = [Parameter(drawn(-1, i, shape).to(device, dtype)) for i, shape in enumerate(SHAPES)]
    tensors = train(member(params, lr=1e-2, weight_decay=0.1, **given), STEPS)
    return [x.to("cpu", torch.float64) for x in tensors]


def _reason(device: str, given: dict[str, Any]) -> str | None:
    """Why this backend is unavailable on the device."""
    if "fused" not in given:
        return None
    if device not in dispatch.FUSED:
        return f"there is none for {device}"
    return dispatch.FUSED[device][1](torch.zeros(1, device=device))


def _called(device: str, name: str) -> str:
    if name != "fused":
        return name
    if device != "cpu":
        return "fused (Triton)"
    set_ = "" if isinstance(cpu.library(), str) else f", {cpu.instruction_set()}"
    return f"fused (C++{set_})"


if __name__ == "__main__":
    sys.exit(main())
