"""How long optimizer steps take."""

from __future__ import annotations

import time
from statistics import median

import torch


class StepClock:
    """Times optimizer steps; on an accelerator only every 16th, because timing waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps, self.times = device, 0, []
        self.every = 1 if device.type == "cpu" else 16

    def __enter__(self) -> None:
        self.timed = self.steps % self.every == 0
        self.steps += 1
        if self.timed:
            self.start = self._now()

    def __exit__(self, *_: object) -> None:
        if self.timed:
            self.times.append(self._now() - self.start)

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    @property
    def median_ms(self) -> float:
        """0 where no step was taken."""
        return 1e3 * median(self.times or [0.0])
