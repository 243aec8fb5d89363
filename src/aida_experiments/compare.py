"""Train several optimizers on one task with several seeds, each run in its own folder, and report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from aida_experiments import launch, report
from aida_experiments.cores import cores
from aida_experiments.errors import UserError, say, warn
from aida_experiments.files import make_folder, to_json_lines, write_text
from aida_experiments.jobs import Job, resolve_device, run_here
from aida_experiments.progress import Bars
from aida_experiments.report_data import Result
from aida_experiments.report_read import group, read_folder, stranger
from aida_experiments.runs import Run, check_folder
from aida_experiments.settings import write_setting


@dataclass(frozen=True)
class Contender:
    """An optimizer with its settings; `label` names its folder."""

    label: str
    optimizer: str
    settings: Mapping[str, Any]


KEPT = 200e6
"""Bytes that the checkpoints of a comparison's finished runs may take together, unless all are asked for."""


@dataclass(frozen=True)
class Where:
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
        """As many as this process has cores, or one on an accelerator; never more than there are runs."""
        default = 1 if self.devices > 1 or torch.accelerator.is_available() else cores()
        return max(1, min(asked or default, len(self.contenders) * len(self.seeds)))

    def jobs(self, folder: Path, where: Where) -> list[Job]:
        """One for each seed and contender, seeds outermost, so that a comparison grows evenly.

        Raises UserError where a folder holds another run; nothing is written.
        """
        device = resolve_device(self.device, self.precision, self.devices, self.strategy)
        alone = self.workers(where.workers) == 1 and self.devices == 1
        shared = torch.get_num_threads() if alone else 1
        config = {
            "task": self.task, "preset": self.preset, "model": self.model, "epochs": self.epochs,
            "batch_size": self.batch_size, "limit_batches": self.limit_batches, "device": device,
            "precision": self.precision, "devices": self.devices, "strategy": self.strategy,
        }  # fmt: skip
        keep = inf if where.keep else KEPT / (len(self.seeds) * len(self.contenders))
        jobs = []
        for seed in self.seeds:
            for contender in self.contenders:
                own = folder / contender.label / f"seed-{seed}"
                run = {"optimizer": contender.optimizer, "settings": dict(contender.settings), "seed": seed}
                threads = self.threads or begun_threads(own, {**config, **run}) or shared
                jobs.append(Job(own, {**config, **run, "threads": threads}, where.tensorboard, keep))
        return jobs


def grid_points(contenders: Sequence[Contender], grid: Mapping[str, Sequence[Any]]) -> list[Contender]:
    """Every contender at every point of the grid, labelled such as "aida lr=0.003 eps=1e-12"."""
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [
        Contender(
            " ".join([contender.label, *(f"{key}={write_setting(value)}" for key, value in point.items())]),
            contender.optimizer,
            {**contender.settings, **point},
        )
        for contender in contenders
        for point in points
    ]


def begun_threads(folder: Path, config: Mapping[str, Any]) -> int | None:
    """The threads of a run that has begun, which end it with the very same rows."""
    begun = check_folder(folder, config)
    return None if begun is None else begun.get("threads")


def compare(plan: Plan, folder: Path, where: Where, console: Console) -> None:
    """Run what is not finished in `folder`, then print the table; write rows.jsonl and the figures there."""
    # All folders are looked at before one is made or anything trained: a conflict shows in the first second.
    jobs, workers = plan.jobs(folder, where), plan.workers(where.workers)
    first = launch.rank() == 0
    if first:
        make_folder(folder)
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
    """Of these runs and of others there that can be compared with them: the table first, so that whatever
    cannot be written or drawn after it loses nothing. Raises UserError for that.
    """
    own = {run.folder: read_folder(run.folder) for run in runs}
    found = [*own.values(), *_others(folder, own)]
    order = [contender.optimizer for contender in plan.contenders]
    order = list(dict.fromkeys((*order, *(result.config["optimizer"] for result in found))))
    groups = [each for each in group(found) if own.keys() & {r.folder for r in each.results}]
    results = [result for each in groups for result in each.results]
    shown = {result.folder for result in results}
    results.sort(key=lambda result: (order.index(result.config["optimizer"]), result.label))
    table = report.table(results, f"{plan.task} · {plan.model} · {plan.epochs} epochs", console.width)
    rows, failed = folder / "rows.jsonl", []

    def write_rows() -> list[Path]:
        write_text(rows, to_json_lines(report.merged_rows(r for r in found if r.folder in shown)))
        return [rows]

    try:
        with told(failed, "standard output"):
            console.print(table)
    finally:  # a pipe whose reader has gone ends the command, by SystemExit
        for write in (write_rows, lambda: report.write_figures(results, folder)):
            with told(failed, str(folder)):
                for path in write():
                    say(console, f"wrote {path}")
    if failed:
        raise UserError(
            f"every run ended, but not all was written ({'; '.join(dict.fromkeys(failed))}): "
            f"`aida report {folder}` writes the figures when that is put right."
        )


@contextmanager
def told(failed: list[str], what: str) -> Iterator[None]:
    """Whatever is raised within becomes one more reason in `failed`, about `what` if it names no file."""
    try:
        yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = f"{error.filename or what}: {error.strerror}"
        failed.append(reason)


def _others(folder: Path, own: Mapping[Path, Any]) -> Iterator[Result]:
    """What earlier commands left in the same folder."""
    for path in sorted(folder.glob("*/seed-*/config.json")):
        if path.parent not in own:
            try:
                result = read_folder(path.parent)
                if foreign := stranger(result.config):
                    raise UserError(f"{path} is not of a run of aida: {foreign}")
                yield result
            except UserError as error:
                warn(f"left out: {error}")
