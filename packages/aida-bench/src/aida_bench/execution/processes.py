"""Jobs in worker processes of this machine. A worker that dies is replaced and its run goes on."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import deque
from contextlib import suppress
from multiprocessing import connection, get_context, parent_process
from typing import Any

from aida_bench.errors import UserError
from aida_bench.execution.job import RETRIES, Job, Progress, Throttled, Watch, execute


class Worker:
    """A process that carries out one job after another, and the pipe to it."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.job: int | None = None

    def end(self) -> int | None:
        self.process.kill()
        self.process.join()
        self.pipe.close()
        return self.process.exitcode


def run_in_workers(jobs: list[Job], workers: int, watch: Watch) -> None:
    """Every job to its end, `workers` at a time. Raises what a job raises; UserError for one whose process
    died more than RETRIES times between two epochs, when the others have ended.
    """
    waiting, crew = deque(range(len(jobs))), []
    deaths, epochs = [0] * len(jobs), [0] * len(jobs)
    lost: list[str] = []
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
                        lost.append(f"{jobs[number].name} (exit code {code})")
                    continue
                if isinstance(message, BaseException):
                    raise message
                if isinstance(message, Progress):
                    if message.epoch > epochs[number]:
                        deaths[number], epochs[number] = 0, message.epoch
                    watch.progress(number, message)
                else:
                    worker.job = None
                    watch.ended(number, message)
    finally:
        for worker in crew:
            worker.end()
    if lost:
        raise UserError(
            f"{', '.join(lost)}: the process died {RETRIES + 1} time(s) without an epoch in between; "
            f"if memory is short, use fewer --workers, then --resume."
        )


def _send(pipe: Any, job: Job) -> None:
    with suppress(BrokenPipeError):  # a death is read from the same pipe
        pipe.send(job)


def serve(pipe: Any) -> None:
    """In a worker: jobs come in; progress, and a status or an exception, go out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: Any = execute(job, Throttled(pipe.send))
        except Exception as error:
            answer = _portable(error)
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
