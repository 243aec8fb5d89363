"""Jobs in worker processes of this machine. A worker that dies is replaced and its run goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import active_children, connection, current_process, get_context
from typing import Any

from aida_bench.execution.job import RETRIES, Job, Progress, Throttled, Watch
from aida_bench.execution.outcomes import Failure, Outcomes, attempt

PARTING_S = 10
"""Seconds in which a worker ends the processes that its task has started, before it is killed."""


class Worker:
    """A process that carries out one job after another, the pipe to it, and what it lives by."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        life, self.life = context.Pipe(duplex=False)
        # A daemon, so that it ends with this command even where `end` is not reached.
        self.process = context.Process(target=serve, args=(theirs, life), daemon=True)
        self.process.start()
        theirs.close()
        life.close()
        self.job: int | None = None

    def end(self) -> int | None:
        self.life.close()
        self.process.join(PARTING_S)
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def run_in_workers(jobs: list[Job], workers: int, watch: Watch) -> None:
    """Every job to its end, `workers` at a time. Raises UserError when the others have ended, for a job that
    failed, or whose process died more than RETRIES times between two epochs.
    """
    waiting, crew = deque(range(len(jobs))), []
    deaths, epochs = [0] * len(jobs), [0] * len(jobs)
    outcomes = Outcomes(jobs, watch)
    try:
        while waiting or any(worker.job is not None for worker in crew):
            idle = [worker for worker in crew if worker.job is None]
            while waiting and (idle or len(crew) < workers):
                worker = idle.pop() if idle else Worker()
                if worker not in crew:
                    crew.append(worker)
                worker.job = waiting.popleft()
                _send(worker.pipe, jobs[worker.job])
            busy = {worker.pipe: worker for worker in crew if worker.job is not None}
            for pipe in connection.wait(list(busy)):
                worker = busy[pipe]  # pyright: ignore[reportArgumentType]
                number = worker.job
                assert number is not None
                try:
                    message = worker.pipe.recv()
                except (EOFError, ConnectionResetError):
                    crew.remove(worker)
                    code = worker.end()
                    deaths[number] += 1
                    if deaths[number] <= RETRIES:
                        waiting.appendleft(number)
                    else:
                        outcomes.ended(number, _lost(code))
                    continue
                if isinstance(message, Progress):
                    if message.epoch > epochs[number]:
                        deaths[number], epochs[number] = 0, message.epoch
                    watch.progress(number, message)
                else:
                    worker.job = None
                    outcomes.ended(number, message)
    finally:
        for worker in crew:
            worker.end()
    outcomes.tell()


def _lost(code: int | None) -> Failure:
    return Failure(
        f"its process died {RETRIES + 1} time(s) without an epoch in between (exit code {code}); "
        "if memory is short, use fewer --workers"
    )


def _send(pipe: Any, job: Job) -> None:
    with suppress(BrokenPipeError):  # a death is read from the same pipe
        pipe.send(job)


def serve(pipe: Any, life: Any) -> None:
    """In a worker: jobs come in; progress, and how each ended, go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    current_process().daemon = False  # which may start processes of its own, such as a DataLoader's
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        pipe.send(attempt(job, Throttled(pipe.send)))


def _end_with(life: Any) -> None:
    """End, with all that this worker has started, when the pipe's other end is closed or its process dies."""
    connection.wait([life])
    for child in active_children():
        child.kill()
    os._exit(1)
