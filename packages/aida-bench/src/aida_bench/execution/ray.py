"""Jobs on a Ray cluster, which starts one anew whose process or machine dies."""

from __future__ import annotations

import socket
from typing import Any

from aida_bench.errors import UserError
from aida_bench.execution.job import RETRIES, Job, Progress, Watch
from aida_bench.execution.outcomes import Failure, Outcomes, attempt
from aida_bench.storage.files import read_json_lines


def run_on_ray(jobs: list[Job], address: str, watch: Watch) -> None:
    """Every job to its end; `address` is a cluster's, or "local" for one on this machine, ended afterwards.

    Every machine must see the results' folder under the same path, and have the same packages. Raises
    UserError where there is no cluster, and in the end for a job that failed or was lost RETRIES times.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UserError('--ray needs a package: pip install "aida-bench[ray]".') from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
    if address != "local":
        options = {"log_to_driver": False, "logging_level": "error"}
    try:
        _check_reachable(address)
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address!r} ({error}): give its address, or local.") from error
    try:
        _run(ray, jobs, watch)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody is there, for which Ray itself waits minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _run(ray: Any, jobs: list[Job], watch: Watch) -> None:
    pending, outcomes = {}, Outcomes(jobs, watch)
    for number, job in enumerate(jobs):
        needs = {"num_gpus": 1} if job.config["device"].startswith("cuda") else {}
        remote = ray.remote(max_retries=RETRIES, num_cpus=job.config["threads"], **needs)(attempt)
        pending[remote.remote(job)] = number
    seen = [0] * len(jobs)
    while pending:
        ended, _ = ray.wait(list(pending), timeout=0.5)
        for reference in ended:
            number = pending.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome = Failure(f"lost by the cluster ({type(error).__name__})", f"{error}\n")
            outcomes.ended(number, outcome)
        for number in pending.values():
            # The folder is what the machines share, so progress is read from there.
            epoch, epochs = (
                len(read_json_lines(jobs[number].folder / "timings.jsonl")),
                jobs[number].config["epochs"],
            )
            if epoch > seen[number]:
                seen[number] = epoch
                watch.progress(number, Progress(epoch, epochs, 1, 1))
    outcomes.tell()
