"""Carry a study out: here, beside other commands on the same folder, or on Ray; stopped and gone on with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from aida_bench.errors import UserError, say
from aida_bench.execution.check import check_run
from aida_bench.execution.dispatch import run_all
from aida_bench.execution.job import LOCK, Job
from aida_bench.execution.progress import Bars
from aida_bench.storage.files import held, make_folder
from aida_bench.study.cells import Cell, TaskPlan, next_cells
from aida_bench.study.records import read_records
from aida_bench.study.spec import Study
from aida_bench.study.status import affordable

POLL = 5.0
"""Seconds until it is seen again whether a run that another command carries out has ended."""


@dataclass(frozen=True)
class Processes:
    """Which processes carry the runs out; no row depends on it."""

    workers: int
    ray: str | None = None


def carry_out(study: Study, tasks: Sequence[str], processes: Processes, console: Console) -> bool:
    """Run all that is left of the tasks; whether it is all, or the core-hours have ended before.

    Raises UserError, when all others that could be run have ended, for runs that failed.
    """
    checked: set[str] = set()
    while True:
        found = read_records(study)
        ready = next_cells(study, tasks, found)
        if not ready:
            return True
        cells = affordable(study, ready, found)
        if not cells:
            return False
        # Of later stages too, as far as they can be told: none is to fail after hours of the first.
        foreseen = (each for task in tasks for each in TaskPlan(study, task, found).all_cells())
        check_settings(study, [each for each in foreseen if each.key not in found], checked)
        make_folder(study.folder)
        jobs = [
            Job(study.folder / each.key, each.config, keep=0, shared=True, of=each.task * (len(tasks) > 1))
            for each in cells
        ]
        free = [job for job in jobs if not held(job.folder / LOCK)]
        if free:
            with Bars(free, console) as bars:
                run_all(free, min(processes.workers, len(free)), processes.ray, bars)
        else:
            _wait(jobs, console)


def _wait(jobs: Sequence[Job], console: Console) -> None:
    """Until another command has ended one of the runs that it is at, and there may be some for this one."""
    say(console, f"waiting for {len(jobs)} run{'s' * (len(jobs) > 1)} of another command")
    while all(held(job.folder / LOCK) for job in jobs):
        time.sleep(POLL)


def check_settings(study: Study, cells: Sequence[Cell], checked: set[str]) -> None:
    """Raises UserError for what no run takes."""
    for cell in cells:
        if cell.key in checked:
            continue
        checked.add(cell.key)
        try:
            check_run(cell.config)
        except UserError as error:
            reason = str(error).rstrip(".")
            raise UserError(
                f"{cell.optimizer} on {cell.task}, {cell.stage}: {reason}: change {study.path.name}."
            ) from error
