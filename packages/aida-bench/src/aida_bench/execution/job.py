"""A run as data that any process can carry out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import Timeout
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException

from aida_bench.errors import UserError
from aida_bench.storage.files import Row, clear, locked
from aida_bench.storage.run import Run
from aida_bench.tasks import create_task, presets_of
from aida_bench.tasks.base import Task
from aida_bench.training.fabric import make_fabric
from aida_bench.training.loop import train
from aida_bench.training.tensorboard import EpochBoard

LOCK = ".lock"
"""In a run's folder: who holds it trains there."""
LOCK_TIMEOUT_S = 30
"""Seconds to wait for another process to leave a run's folder: a dying one needs a moment."""
BUSY = "busy"
"""The status of a shared job that another command carries out now."""
FAILED = "failed"
"""What is said of a job that has no status."""
RETRIES = 5
"""How often a run may lose its process between two epochs before it is given up."""


@dataclass(frozen=True)
class Job:
    """A run's folder and its configuration, which decides its rows."""

    folder: Path
    config: Row
    tensorboard: bool = False
    keep: float = inf
    """Bytes that the checkpoints may take when it has ended; else they are removed."""
    shared: bool = False
    """Whether other commands may carry it out too: then one that is at it is no error, but status BUSY."""
    of: str = ""
    """Its task, where a command has several."""

    @property
    def name(self) -> str:
        return f"{self.of} {self.folder.parent.name} seed {self.config['seed']}".strip()


@dataclass(frozen=True)
class Progress:
    """1-based, after a batch."""

    epoch: int
    epochs: int
    batch: int
    batches: int


class Watch(Protocol):
    """Who looks on while jobs run; `job` is their number."""

    def progress(self, job: int, progress: Progress) -> None: ...
    def ended(self, job: int, status: str) -> None: ...


def execute(job: Job, on_progress: Callable[[Progress], None] = lambda progress: None) -> str:
    """Carry a run out, from its last checkpoint if there is one; return its status.

    Raises UserError where a person has to change something.
    """
    config = job.config
    torch.set_num_threads(config["threads"])
    fabric = _fabric(config["device"], config["precision"], config["devices"], config["strategy"])
    with ExitStack() as stack:
        if fabric.is_global_zero:
            try:
                stack.enter_context(_alone(job.folder, 0 if job.shared else LOCK_TIMEOUT_S))
            except Busy:
                if job.shared:
                    return BUSY
                raise
            clear(job.folder)
            Run(job.folder, config)
        fabric.barrier()
        run = Run(job.folder, config)
        if run.status:
            return run.status
        task = load_task(*(config[key] for key in ("task", "preset", "model", "batch_size", "limit_batches")))
        epochs, batches = config["epochs"], task.batches_per_epoch()
        return train(
            task, run, fabric=fabric, optimizer=config["optimizer"], settings=config["settings"],
            seed=config["seed"], epochs=epochs,
            on_batch=lambda epoch, batch: on_progress(Progress(epoch, epochs, batch, batches)),
            on_epoch=stack.enter_context(EpochBoard(run.folder)).add if job.tensorboard else lambda _: None,
            keep=job.keep,
        )  # fmt: skip


# A study's runs take turns between a few tasks, whose data are read once.
@lru_cache(maxsize=4)
def load_task(name: str, preset: str, model: str, batch_size: int, limit_batches: int | None) -> Task:
    options: dict[str, Any] = dict(presets_of(name)[preset].options)
    return create_task(name, model=model, batch_size=batch_size, limit_batches=limit_batches, **options)


@lru_cache(maxsize=1)
def _fabric(device: str, precision: str, devices: int, strategy: str | None) -> Fabric:
    try:
        return make_fabric(device, precision, devices, strategy)
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"no device {device!r} here ({error}): choose cpu or auto.") from error


def resolve_device(device: str, precision: str, devices: int, strategy: str | None) -> str:
    """What `auto` means here."""
    found = _fabric(device, precision, devices, strategy).device
    return found.type if devices > 1 else str(found)


class Busy(UserError):
    """Another process trains in a run's folder."""


@contextmanager
def _alone(folder: Path, timeout_s: float | None = None) -> Iterator[None]:
    """Two processes in one folder would write over each other."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / LOCK, LOCK_TIMEOUT_S if timeout_s is None else timeout_s))
        except Timeout as error:
            raise Busy(f"another process trains in {folder}: wait for it, or end it.") from error
        yield


class Throttled:
    """Passes on at most ten calls a second, and each epoch's last."""

    def __init__(self, call: Callable[[Progress], None]) -> None:
        self.call, self.last = call, 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self.last >= 0.1 or progress.batch == progress.batches:
            self.last = now
            self.call(progress)
