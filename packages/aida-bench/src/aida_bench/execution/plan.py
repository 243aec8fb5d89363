"""Train several optimizers on one task with several seeds, each run in its own folder, and report."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch

from aida_bench.execution.check import check_run
from aida_bench.execution.cores import runs_at_once
from aida_bench.execution.job import Job, resolve_device
from aida_bench.settings import write_setting
from aida_bench.storage.run import check_folder
from aida_bench.tasks import higher_of


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer with its settings; `label` names its folder."""

    label: str
    optimizer: str
    settings: Mapping[str, Any]


CHECKPOINT_BYTES = 200e6
"""Bytes that the checkpoints of a comparison's finished runs may take together, unless all are asked for."""


@dataclass(frozen=True)
class ExecutionOptions:
    """Which processes carry the runs out, and what they keep; no row depends on it."""

    workers: int | None = None
    ray: str | None = None
    tensorboard: bool = False
    keep: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that the command asks for; names are already known to be valid."""

    task: str
    preset: str
    model: str
    specs: Sequence[OptimizerSpec]
    seeds: Sequence[int]
    epochs: int
    batch_size: int
    limit_batches: int | None
    device: str
    precision: str
    threads: int | None
    devices: int = 1
    strategy: str | None = None

    def check(self) -> None:
        """Raises UserError for what no run takes, and for a device that is not here."""
        common = {key: getattr(self, key) for key in ("task", "model", "precision", "threads")}
        for spec in self.specs:
            run = {"optimizer": spec.optimizer, "settings": dict(spec.settings), "seed": max(self.seeds)}
            check_run({**common, **run})
        if self.devices == 1:  # several are begun by processes of their own
            resolve_device(self.device, self.precision, self.devices, self.strategy)

    def workers(self, asked: int | None) -> int:
        """As many as are asked for, or as fit; never more than there are runs."""
        default = 1 if self.devices > 1 else runs_at_once(self.device, self.threads)
        return max(1, min(asked or default, len(self.specs) * len(self.seeds)))

    def jobs(self, folder: Path, where: ExecutionOptions) -> list[Job]:
        """One for each seed and spec, seeds outermost, so that a comparison grows evenly.

        Raises UserError where a folder holds another run; nothing is written.
        """
        device = resolve_device(self.device, self.precision, self.devices, self.strategy)
        alone = self.workers(where.workers) == 1 and self.devices == 1
        shared = torch.get_num_threads() if alone else 1
        config = {
            "task": self.task, "preset": self.preset, "model": self.model, "epochs": self.epochs,
            "batch_size": self.batch_size, "limit_batches": self.limit_batches, "device": device,
            "precision": self.precision, "devices": self.devices, "strategy": self.strategy,
            **higher_of(self.task),
        }  # fmt: skip
        keep = inf if where.keep else CHECKPOINT_BYTES / (len(self.seeds) * len(self.specs))
        jobs = []
        for seed in self.seeds:
            for spec in self.specs:
                own = folder / spec.label / f"seed-{seed}"
                run = {"optimizer": spec.optimizer, "settings": dict(spec.settings), "seed": seed}
                threads = self.threads or begun_threads(own, {**config, **run}) or shared
                jobs.append(Job(own, {**config, **run, "threads": threads}, where.tensorboard, keep))
        return jobs


def grid_points(specs: Sequence[OptimizerSpec], grid: Mapping[str, Sequence[Any]]) -> list[OptimizerSpec]:
    """Every spec at every point of the grid, labelled such as "aida lr=0.003 eps=1e-12", equal ones once."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    found = [
        OptimizerSpec(
            " ".join([spec.label, *(f"{key}={write_setting(value)}" for key, value in point.items())]),
            spec.optimizer,
            {**spec.settings, **point},
        )
        for spec in specs
        for point in points
    ]
    return list({each.label: each for each in reversed(found)}.values())[::-1]


def begun_threads(folder: Path, config: Mapping[str, Any]) -> int | None:
    """The threads of a run that has begun, which end it with the very same rows."""
    begun = check_folder(folder, config)
    return None if begun is None else begun.get("threads")
