"""Carry a study out: here, beside other commands on the same folder, or on Ray; stopped and gone on with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from torch import nn

from aida_bench.baselines import build_optimizer
from aida_bench.errors import UserError
from aida_bench.execution.dispatch import run_all
from aida_bench.execution.job import BUSY, Job
from aida_bench.execution.progress import Bars
from aida_bench.storage.files import make_folder
from aida_bench.study.cells import Cell, next_cells
from aida_bench.study.records import read_records
from aida_bench.study.spec import Study
from aida_bench.study.status import affordable

POLL = 5.0
"""Seconds until it is seen again whether the last runs of a stage, which others carry out, have ended."""


@dataclass(frozen=True)
class Processes:
    """Which processes carry the runs out; no row depends on it."""

    workers: int
    ray: str | None = None


def carry_out(study: Study, tasks: Sequence[str], processes: Processes, console: Console) -> bool:
    """Run all that is left of the tasks; whether it is all, or the core-hours have ended before."""
    checked: set[str] = set()
    while True:
        found = read_records(study)
        ready = next_cells(study, tasks, found)
        if not ready:
            return True
        cells = affordable(study, ready, found)
        if not cells:
            return False
        check_settings(cells, checked)
        make_folder(study.folder)
        jobs = [Job(study.folder / cell.key, cell.config, keep=0, shared=True) for cell in cells]
        with _Watch(jobs, console) as watch:
            run_all(jobs, min(processes.workers, len(jobs)), processes.ray, watch)
        if watch.all_busy:
            time.sleep(POLL)


def check_settings(cells: Sequence[Cell], checked: set[str]) -> None:
    """Raises UserError for settings that an optimizer refuses, before anything is trained."""
    for cell in cells:
        config = cell.config
        if cell.key.rpartition("/")[0] in checked:
            continue
        checked.add(cell.key.rpartition("/")[0])
        try:
            build_optimizer(config["optimizer"], nn.Linear(1, 1), **config["settings"])
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{cell.optimizer} on {cell.task} does not take {config['settings']}: {error}: change "
                "its settings, recipe or tune in the study's file."
            ) from error


class _Watch(Bars):
    """Bars that remember whether other commands had all the runs."""

    def __init__(self, jobs: list[Job], console: Console) -> None:
        super().__init__(jobs, console)
        self.all_busy = True

    def __enter__(self) -> _Watch:
        super().__enter__()
        return self

    def ended(self, job: int, status: str) -> None:
        self.all_busy &= status == BUSY
        super().ended(job, status)
