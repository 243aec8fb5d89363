"""Train several optimizers on one task with several seeds, each run in its own folder, and report."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from aida_experiments import launch, report
from aida_experiments.jobs import Job, resolve_device, run_here
from aida_experiments.progress import Bars
from aida_experiments.report_read import read_groups
from aida_experiments.runs import Run, to_json_lines, write_text


@dataclass(frozen=True)
class Contender:
    """An optimizer with its settings; `label` names its folder."""

    label: str
    optimizer: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """Everything that the command asks for; names are already known to be valid."""

    task: str
    preset: str
    model: str
    contenders: Sequence[Contender]
    seeds: Sequence[int]
    epochs: int
    batch_size: int
    limit_batches: int | None
    device: str
    precision: str
    threads: int | None
    devices: int = 1
    strategy: str | None = None

    def workers(self, asked: int | None) -> int:
        """As many as there are cores, or one on an accelerator; never more than there are runs."""
        default = 1 if self.devices > 1 or torch.accelerator.is_available() else os.cpu_count() or 1
        return max(1, min(asked or default, len(self.contenders) * len(self.seeds)))

    def jobs(self, folder: Path, workers: int, tensorboard: bool) -> list[Job]:
        """One for each seed and contender, seeds outermost, so that a comparison grows evenly."""
        device = resolve_device(self.device, self.precision, self.devices, self.strategy)
        shared = 1 if workers > 1 or self.devices > 1 else torch.get_num_threads()
        config = {
            "task": self.task, "preset": self.preset, "model": self.model, "epochs": self.epochs,
            "batch_size": self.batch_size, "limit_batches": self.limit_batches, "device": device,
            "precision": self.precision, "threads": self.threads or shared, "devices": self.devices,
            "strategy": self.strategy,
        }  # fmt: skip
        return [
            Job(
                folder / contender.label / f"seed-{seed}",
                {
                    **config,
                    "optimizer": contender.optimizer,
                    "settings": dict(contender.settings),
                    "seed": seed,
                },
                tensorboard,
            )
            for seed in self.seeds
            for contender in self.contenders
        ]


def grid_points(contenders: Sequence[Contender], grid: Mapping[str, Sequence[Any]]) -> list[Contender]:
    """Every contender at every point of the grid, labelled such as "aida lr=0.003 eps=1e-12"."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [
        Contender(
            " ".join([contender.label, *(f"{key}={value:g}" for key, value in point.items())]),
            contender.optimizer,
            {**contender.settings, **point},
        )
        for contender in contenders
        for point in points
    ]


@dataclass(frozen=True)
class Where:
    """Which processes carry the runs out; no row depends on it."""

    workers: int | None = None
    ray: str | None = None
    tensorboard: bool = False


def compare(plan: Plan, folder: Path, where: Where, console: Console) -> None:
    """Run what is not finished in `folder`, then print the table; write rows.jsonl and the figures there."""
    workers = plan.workers(where.workers)
    jobs = plan.jobs(folder, workers, where.tensorboard)
    first = launch.rank() == 0
    # All folders are opened before anything is trained: a conflict shows in the first second.
    runs = [Run(job.folder, job.config) for job in jobs] if first else []
    unfinished = [job for job, run in zip(jobs, runs, strict=True) if not run.status] if first else jobs
    if launch.launched():
        unfinished = jobs  # every process must go the same way
    if unfinished:
        with Bars(unfinished, console) as bars:
            run_all(unfinished, min(workers, len(unfinished)), where.ray, bars)
    if first:
        conclude(plan, runs, folder, console)


def run_all(jobs: list[Job], workers: int, ray: str | None, bars: Bars) -> None:
    if ray is not None:
        from aida_experiments.cluster import run_on_ray

        run_on_ray(jobs, ray, bars)
    elif workers == 1:
        run_here(jobs, bars)
    else:
        from aida_experiments.workers import run_in_workers

        run_in_workers(jobs, workers, bars)


def conclude(plan: Plan, runs: Sequence[Run], folder: Path, console: Console) -> None:
    order = [contender.optimizer for contender in plan.contenders]
    own = {run.folder for run in runs}
    results = [result for group in read_groups(folder) for result in group.results if result.folder in own]
    results.sort(key=lambda result: (order.index(result.config["optimizer"]), result.label))
    title = f"{plan.task} · {plan.model} · {plan.epochs} epochs"
    console.print(report.table(results, title, console.width))
    rows = folder / "rows.jsonl"
    write_text(rows, to_json_lines(report.merged_rows(results)))
    figures = report.write_figures(results, folder)
    for path in (rows, *figures):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)
