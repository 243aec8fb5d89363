"""Bars for runs, epochs and batches on a terminal; one line a run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as Remaining
from rich.text import Text

from aida_bench.errors import say
from aida_bench.execution.job import Job
from aida_bench.execution.job import Progress as Now


class Rate(ProgressColumn):
    """Batches a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed and task.fields["of_batches"] else "")


class Bars:
    """A Watch: a bar for all runs, and one for each run that goes on, with its epoch and batch."""

    def __init__(self, jobs: Sequence[Job], console: Console) -> None:
        self.jobs, self.console = jobs, console
        self.bars = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[at]}"),
            Rate(), TimeElapsedColumn(), Remaining(), console=console, transient=True, refresh_per_second=4,
            disable=console.quiet or not console.is_terminal,
        )  # fmt: skip
        self.runs = self.bars.add_task("runs", total=len(jobs), at=f"0/{len(jobs)}", of_batches=False)
        self.bar_of: dict[int, TaskID] = {}
        self.done: dict[int, float] = {}

    def __enter__(self) -> Bars:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.bars.disable:  # rich before 14.3 would print an empty line
            self.bars.stop()

    def progress(self, job: int, progress: Now) -> None:
        completed = (progress.epoch - 1) * progress.batches + progress.batch
        total = progress.epochs * progress.batches
        at = f"epoch {progress.epoch}/{progress.epochs} batch {progress.batch}/{progress.batches}"
        if job not in self.bar_of:
            # A run that goes on starts at its last checkpoint, which is no speed of this run.
            self.bar_of[job] = self.bars.add_task(
                f"  {self.jobs[job].name}", total=total, completed=completed, at=at, of_batches=True
            )
        self.bars.update(self.bar_of[job], completed=completed, at=at)
        self._advance(job, completed / total)

    def ended(self, job: int, status: str) -> None:
        if job in self.bar_of:
            self.bars.remove_task(self.bar_of.pop(job))
        self._advance(job, 1.0)
        if not self.console.is_terminal:
            say(self.console, f"{self.jobs[job].name}: {status}")

    def _advance(self, job: int, fraction: float) -> None:
        self.done[job] = fraction
        whole = sum(fraction == 1.0 for fraction in self.done.values())
        self.bars.update(self.runs, completed=sum(self.done.values()), at=f"{whole}/{len(self.jobs)}")
