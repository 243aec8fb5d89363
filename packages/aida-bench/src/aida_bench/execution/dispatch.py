"""Carry out a plan: here, in worker processes, or on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from aida_bench.errors import UserError
from aida_bench.execution import torchrun
from aida_bench.execution.job import Job
from aida_bench.execution.outcomes import run_here
from aida_bench.execution.plan import ExecutionOptions, Plan
from aida_bench.execution.progress import Bars
from aida_bench.storage.files import make_folder
from aida_bench.storage.run import Run


@dataclass(frozen=True)
class Ended:
    """The plan's runs that have ended, none in a process that is not the first; `failure` says why others
    have not."""

    runs: list[Run]
    failure: UserError | None = None


def carry_out(plan: Plan, folder: Path, where: ExecutionOptions, console: Console) -> Ended:
    """Run what is not finished in `folder`."""
    # All folders are looked at before one is made or anything trained: a conflict shows in the first second.
    jobs, workers = plan.jobs(folder, where), plan.workers(where.workers)
    first = torchrun.rank() == 0
    if first:
        make_folder(folder)
    runs = [Run(job.folder, job.config) for job in jobs] if first else []
    unfinished = [job for job, run in zip(jobs, runs, strict=True) if not run.status] if first else jobs
    if torchrun.launched():
        unfinished = jobs  # every process must go the same way
    try:
        if unfinished:
            with Bars(unfinished, console) as bars:
                run_all(unfinished, min(workers, len(unfinished)), where.ray, bars)
    except UserError as failure:
        now = [Run(run.folder, run.config) for run in runs]
        return Ended([run for run in now if run.status], failure)
    return Ended(runs)


def run_all(jobs: list[Job], workers: int, ray: str | None, bars: Bars) -> None:
    """Every job to its end. Raises UserError, when the others have ended, for those that failed."""
    if ray is not None:
        from aida_bench.execution.ray import run_on_ray

        run_on_ray(jobs, ray, bars)
    elif workers == 1:
        run_here(jobs, bars)
    else:
        from aida_bench.execution.processes import run_in_workers

        run_in_workers(jobs, workers, bars)
