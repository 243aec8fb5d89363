"""A run of a few batches, killed in this process or damaged on the disk."""

from __future__ import annotations

import random
from pathlib import Path

from aida_bench.execution import job as jobs
from aida_bench.execution.job import Job, Progress

EPOCHS = 3


CONFIG = {
    "task": "digits", "preset": "small", "model": "mlp", "optimizer": "aida", "settings": {"lr": 1e-3},
    "seed": 3, "epochs": EPOCHS, "batch_size": 32, "limit_batches": 2, "device": "cpu", "precision": "32",
    "threads": 1, "devices": 1, "strategy": None,
}  # fmt: skip


class Killed(BaseException):
    """Not an Exception, so that nothing on the way may catch it."""


def go(folder: Path, on_progress=lambda progress: None, **changes) -> str:
    keep = changes.pop("keep", 1e9)
    return jobs.execute(Job(folder, {**CONFIG, **changes}, keep=keep), on_progress)


class Recorder:
    """A Watch that remembers how jobs ended."""

    def __init__(self) -> None:
        self.statuses: dict[int, str] = {}

    def progress(self, job: int, progress: Progress) -> None:
        pass

    def ended(self, job: int, status: str) -> None:
        self.statuses[job] = status


def flipped(content: bytes, rng: random.Random, bits: int = 1) -> bytes:
    damage = bytearray(content)
    for place in rng.sample(range(8 * len(content)), bits):
        damage[place // 8] ^= 1 << place % 8
    return bytes(damage)
