"""What is done, what is left, what it costs, and when it will be done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from aida_bench.execution.job import LOCK
from aida_bench.storage.files import held
from aida_bench.study.cells import UNTRAINED, Cell, TaskPlan
from aida_bench.study.records import Found, of_task, own_of
from aida_bench.study.spec import Study

HOUR = 3600.0
STAGES = ("tune", "final", "published", UNTRAINED)


@dataclass(frozen=True)
class TaskStatus:
    """Of one task, hours of CPU time; `widening` is what widenings could still add, None where an epoch's
    cost is not known."""

    task: str
    epochs: int
    tuning_epochs: int
    epoch_seconds: float | None
    measured: bool
    done: Counter[str]
    planned: Counter[str]
    used: float
    left: float | None
    widening: float | None


@dataclass(frozen=True)
class Status:
    tasks: list[TaskStatus]
    running: list[str] | None
    """None where that cannot be told: the folder may only be read."""
    used: float
    left: float | None
    pace: float | None
    """Wall seconds of a run for one of CPU time, the median: some runs stood still in between."""

    @property
    def most(self) -> float | None:
        """What is left if every widening comes to pass."""
        wider = [each.widening for each in self.tasks]
        return None if self.left is None or None in wider else self.left + sum(filter(None, wider))

    def ends(self, workers: int) -> datetime | None:
        """When this many runs at a time will have ended all that is left, if a calendar has such a time."""
        if self.left is None:
            return None
        try:
            return datetime.now() + timedelta(hours=self.left * (self.pace or 1.0) / max(workers, 1))
        except OverflowError:
            return None


def epoch_seconds(study: Study, task: str, found: Found) -> tuple[float | None, bool]:
    """CPU seconds of an epoch, and whether they were measured: the median of the task's finished runs."""
    measured = [r.cpu_seconds / len(r.timings) for r in of_task(found, task) if r.timings]
    return (median(measured), True) if measured else (study.tasks[task].epoch_seconds, False)


def cost(study: Study, cell: Cell, found: Found) -> float | None:
    """CPU hours of a cell, as expected."""
    seconds, _ = epoch_seconds(study, cell.task, found)
    return None if seconds is None else cell.config["epochs"] * seconds / HOUR


def affordable(study: Study, cells: Sequence[Cell], found: Found) -> list[Cell]:
    """The first of the cells that fit in what is left of the study's core-hours; of a task whose cost is not
    known one, which measures it."""
    limit = study.about.core_hours
    if limit is None:
        return list(cells)
    spent, fit, tried = used(own_of(study, found)), [], set()
    for cell in cells:
        expected = cost(study, cell, found)
        if expected is None and cell.task in tried:
            continue
        spent, before = spent + (expected or 0.0), spent
        if before >= limit or not spent <= limit:
            break
        fit.append(cell)
        tried.add(cell.task)
    return fit


def used(found: Found) -> float:
    return sum(record.cpu_seconds for record in found.values()) / HOUR


def status(study: Study, tasks: Iterable[str], found: Found) -> Status:
    own = own_of(study, found)
    each = [_task_status(study, task, found, own) for task in tasks]
    left = [t.left for t in each]
    paces = [r.seconds / r.cpu_seconds for r in found.values() if r.cpu_seconds and r.seconds]
    return Status(
        each, _running(study), used(own), None if None in left else sum(filter(None, left)),
        median(paces) if paces else None,
    )  # fmt: skip


def _task_status(study: Study, task: str, found: Found, own: Found) -> TaskStatus:
    plan = TaskPlan(study, task, found)
    cells = plan.all_cells()
    seconds, measured = epoch_seconds(study, task, found)
    epochs = sum(cell.config["epochs"] for cell in cells if cell.key not in found)
    tuned = sum(bool(spec.tune) for spec in plan.optimizers.values())
    times = study.tuning.widenings - len(plan.added)
    wider = tuned * times * study.tuning.widening_points * len(study.tuning.seeds)
    return TaskStatus(
        task, plan.epochs, plan.tuning_epochs, seconds, measured,
        done=Counter(cell.stage for cell in cells if cell.key in found),
        planned=Counter(cell.stage for cell in cells),
        used=sum(record.cpu_seconds for record in of_task(own, task)) / HOUR,
        left=None if seconds is None else epochs * seconds / HOUR,
        widening=None if seconds is None else wider * plan.tuning_epochs * seconds / HOUR,
    )  # fmt: skip


def _running(study: Study) -> list[str] | None:
    """Cells that some command is at: their folders are locked."""
    locks = sorted(study.folder.glob(f"*/*/seed-*/{LOCK}"))
    states = {path: held(path) for path in locks if not (path.parent / "done.json").exists()}
    if None in states.values():
        return None
    return [path.parent.relative_to(study.folder).as_posix() for path, state in states.items() if state]
