"""The table of parts. Each is a module with cases(device, call), which gives functions by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu.device import Device
    from gpu.results import Call

Cases = dict[str, Callable[[], dict[str, Any]]]


class LeftOut(Exception):
    """This machine cannot show it; the message says what is missing."""


class GoingOn(Exception):
    """The case has kept what it has done, and needs another call."""


@dataclass(frozen=True)
class Part:
    number: int
    name: str
    shows: str
    needs: tuple[str, ...] = ()
    """Packages beside torch, numpy and triton, by the names that they are imported by."""

    def cases(self, device: Device, call: Call) -> Cases:
        return importlib.import_module(f"gpu.{self.name}").cases(device, call)


COMMAND = ("typer", "rich", "scipy", "filelock", "pandas", "matplotlib")
PARTS = (
    Part(1, "correct", "the Triton backend's tests, on the device", ("pytest", "hypothesis")),
    Part(2, "sanitize", "compute-sanitizer's tools on a step of each kernel"),
    Part(3, "behaviour", "CUDA graphs, GradScaler, no host sync, the monitor's copy, gradient release"),
    Part(4, "step", "the step against torch's fused AdamW, and against the measured copy bandwidth"),
    Part(5, "train", "whole training iterations: time, the optimizer's share, peak memory", ("rich",)),
    Part(6, "profiles", "each kernel's time and bandwidth"),
    Part(
        7, "study", "VGG11 on CIFAR-10 with the published settings: 200 epochs, four optimizers",
        (*COMMAND, "lightning_fabric", "PIL"),
    ),
)  # fmt: skip


def find(number: int) -> Part:
    return next(part for part in PARTS if part.number == number)
