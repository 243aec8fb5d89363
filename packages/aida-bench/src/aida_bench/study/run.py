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
from aida_bench.study.records import Found, read_records
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
    tried: set[str] = set()
    while True:
        found = read_records(study)
        ready = next_cells(study, tasks, found)
        if not ready:
            return True
        cells = affordable(study, ready, found)
        if not cells:
            return False
        check_ahead(study, tasks, found, checked)
        make_folder(study.folder)
        free = [each for each in cells if not held(study.folder / each.key / LOCK)]
        new = {each.task for each in free} - {key.partition("/")[0] for key in found} - tried
        jobs = [
            Job(study.folder / each.key, each.config, keep=0, shared=True, of=each.task * (len(tasks) > 1))
            for each in _one_of_each(free, new) or cells
        ]
        if free:
            try:
                with Bars(jobs, console) as bars:
                    run_all(jobs, min(processes.workers, len(jobs)), processes.ray, bars)
            except UserError:
                if not new:  # else it is told again when the others have ended
                    raise
            tried |= new
        else:
            _wait(jobs, console)


def _one_of_each(cells: Sequence[Cell], new: set[str]) -> list[Cell]:
    """Of each of the new tasks one run alone: it shows whether there is the measure to tune by."""
    first = {cell.task: cell for cell in reversed(cells) if cell.task in new}
    return [cell for cell in cells if first.get(cell.task, cell) is cell]


def _wait(jobs: Sequence[Job], console: Console) -> None:
    """Until another command has ended one of the runs that it is at, and there may be some for this one."""
    say(console, f"waiting for {len(jobs)} run{'s' * (len(jobs) > 1)} of another command")
    while all(held(job.folder / LOCK) for job in jobs):
        time.sleep(POLL)


def check_ahead(study: Study, tasks: Sequence[str], found: Found, checked: set[str]) -> None:
    """Of later stages too, as far as they can be told: none is to fail after hours of the first."""
    foreseen = (each for task in tasks for each in TaskPlan(study, task, found).all_cells())
    check_settings(study, [each for each in foreseen if each.key not in found], checked)


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
