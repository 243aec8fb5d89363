"""How runs ended: one that fails ends no other, and all that failed are told when the others have ended."""

from __future__ import annotations

import errno
import sys
import traceback
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from aida_bench.errors import UserError
from aida_bench.execution import torchrun
from aida_bench.execution.job import FAILED, Job, Progress, Throttled, Watch, execute

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What is so of this run's disk is so of all others."""
NAMED = 3
"""So many runs that failed for one reason are named."""


@dataclass(frozen=True)
class Failure:
    """Why a run failed, as one process tells it another; `trace` is empty where a person can put it right."""

    reason: str
    trace: str = ""
    ends_all: int = 0
    """With so many runs that failed for this reason, all would; 0: others need not."""


def attempt(job: Job, on_progress: Callable[[Progress], None] = lambda progress: None) -> str | Failure:
    """Its status, or why there is none."""
    try:
        return execute(job, on_progress)
    except UserError as error:
        return Failure(str(error), ends_all=2)
    except OSError as error:
        if error.filename is not None:
            return Failure(f"{error.filename}: {error.strerror or error}", ends_all=int(error.errno in FULL))
        return _crash(error)
    except (Exception, SystemExit) as error:  # a plug-in's sys.exit(0) is no success
        return _crash(error)


def _crash(error: BaseException) -> Failure:
    """The trace begins where a job is executed."""
    first = str(error).strip().partition("\n")[0]
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    trace = "".join(traceback.format_exception(type(error), error, frames))
    return Failure(f"{type(error).__name__}{f': {first}' if first else ''}", trace)


class Outcomes:
    """Of jobs that `watch` looks at, each told once."""

    def __init__(self, jobs: Sequence[Job], watch: Watch) -> None:
        self.jobs, self.watch = jobs, watch
        self.failed: dict[int, Failure] = {}
        self.traces: set[str] = set()

    def ended(self, number: int, outcome: str | Failure) -> None:
        """Raises UserError for a failure that all others would share, or that other processes of the same run
        would wait for.
        """
        if isinstance(outcome, str):
            self.watch.ended(number, outcome)
            return
        self.failed[number] = outcome
        alike = list(self.failed.values()).count(outcome)
        self.watch.ended(number, FAILED)
        if outcome.trace and outcome.trace not in self.traces:
            self.traces.add(outcome.trace)
            print(f"{self.jobs[number].name} failed:\n{outcome.trace}", file=sys.stderr, end="", flush=True)
        if torchrun.launched() or 0 < outcome.ends_all <= alike:
            self.tell()

    def tell(self) -> None:
        """Raises UserError if a run has failed."""
        if not self.failed:
            return
        of: dict[str, list[str]] = defaultdict(list)
        for number, failure in self.failed.items():
            of[failure.reason].append(self.jobs[number].name)
        told = "; ".join(f"{_few(names)}: {reason.rstrip('.')}" for reason, names in of.items())
        if any(failure.trace for failure in self.failed.values()):
            told += "; the traceback is above, and finished runs are kept: mend it, then go on"
        some = f"{len(self.failed)} of {len(self.jobs)} runs failed: " if len(self.jobs) > 1 else ""
        raise UserError(f"{some}{told}.")


def _few(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def run_here(jobs: list[Job], watch: Watch) -> None:
    """One after another, in this process. Raises UserError when all have ended, if one failed."""
    outcomes = Outcomes(jobs, watch)
    for number, job in enumerate(jobs):
        outcomes.ended(number, attempt(job, Throttled(partial(watch.progress, number))))
    outcomes.tell()
