"""Runs in worker processes and on a cluster: the same rows, whatever dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from aida_bench.errors import UserError
from aida_bench.execution import job as jobs
from aida_bench.execution import processes as workers
from aida_bench.execution.job import Job, execute
from aida_bench.execution.outcomes import run_here
from aida_bench.storage.files import read_json_lines
from helpers.bench.kills import killed
from helpers.bench.runs import Recorder

EPOCHS = 12
pytestmark = pytest.mark.timeout(1800)  # of several processes; only against a hang


def job(folder: Path, optimizer: str = "aida", *, seed: int = 0, epochs: int = EPOCHS, **config) -> Job:
    return Job(
        folder / optimizer / f"seed-{seed}",
        {
            "task": "digits", "preset": "small", "model": "mlp", "optimizer": optimizer,
            "settings": {"lr": 1e-3}, "seed": seed, "epochs": epochs, "batch_size": 32, "limit_batches": 2,
            "device": "cpu", "precision": "32", "threads": 1, "devices": 1, "strategy": None, **config,
        },
    )  # fmt: skip


def rows(job: Job) -> bytes:
    return (job.folder / "rows.jsonl").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, bytes]:
    """What one process gets, one run after another."""
    folder = tmp_path_factory.mktemp("alone")
    here = [job(folder, name, epochs=EPOCHS) for name in ("aida", "sgd")]
    run_here(here, Recorder())
    return {each.config["optimizer"]: rows(each) for each in here}


@pytest.fixture
def marks(tmp_path, monkeypatch) -> Path:
    """Each run's process dies once, somewhere in the epoch after its second; then there is a file for it."""
    for name, value in killed(tmp_path / "marks", nth=2, calls=1000).items():
        monkeypatch.setenv(name, value)
    return tmp_path / "marks"


@pytest.mark.distributed
def test_workers_killed_at_work_are_replaced_and_lose_nothing(alone, marks, tmp_path):
    watch = Recorder()
    asked = [job(tmp_path, "aida"), job(tmp_path, "sgd"), job(tmp_path, "sgd", seed=1)]
    workers.run_in_workers(asked, 2, watch)
    assert len(list(marks.iterdir())) == 3
    assert watch.statuses == {0: "finished", 1: "finished", 2: "finished"}
    assert rows(asked[0]) == alone["aida"]
    assert rows(asked[1]) == alone["sgd"] != rows(asked[2])
    assert not multiprocessing.active_children()


@pytest.mark.distributed
def test_a_job_that_always_dies_is_given_up_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "RETRIES", 0)
    monkeypatch.setattr(workers, "serve", die)
    with pytest.raises(UserError, match=r"^aida seed 0: its process died 1 time.* \(exit code 3\)"):
        workers.run_in_workers([job(tmp_path)], 1, Recorder())


def die(pipe, life) -> None:
    pipe.recv()
    os._exit(3)


@pytest.mark.distributed
def test_what_a_person_can_put_right_comes_out_of_a_worker_whole(tmp_path):
    execute(job(tmp_path, epochs=2))
    with pytest.raises(UserError, match="its epochs is 2, not 1"):
        workers.run_in_workers([job(tmp_path, epochs=1)], 1, Recorder())
    assert not multiprocessing.active_children()


def test_two_processes_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "LOCK_TIMEOUT_S", 0.1)
    one = job(tmp_path, epochs=1)
    with jobs._alone(one.folder), pytest.raises(UserError, match="another process trains in"):
        execute_in_thread(one)
    assert execute(one) == "finished"


def execute_in_thread(one: Job) -> None:
    """A lock belongs to its file handle, so a second one is refused within a process too."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            execute(one)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for error in errors:
        raise error


def test_epochs_for_tensorboard(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    one = job(tmp_path, epochs=2)
    execute(Job(one.folder, one.config, tensorboard=True))
    events = accumulator.EventAccumulator(str(one.folder / "tensorboard"))
    events.Reload()
    written = {row["epoch"]: row["validation_accuracy"] for row in read_json_lines(one.folder / "rows.jsonl")
               if row["kind"] == "epoch"}  # fmt: skip
    scalars = events.Scalars("validation/accuracy")
    assert {event.step: event.value for event in scalars} == pytest.approx(written)
    assert "stepsize/01-mean" in events.Tags()["scalars"]


@pytest.mark.distributed
def test_ray_starts_a_killed_worker_anew(alone, marks, tmp_path):
    pytest.importorskip("ray")
    from aida_bench.execution.ray import run_on_ray

    watch = Recorder()
    asked = [job(tmp_path, "aida"), job(tmp_path, "sgd")]
    run_on_ray(asked, "local", watch)
    assert len(list(marks.iterdir())) == 2
    assert watch.statuses == {0: "finished", 1: "finished"}
    assert (rows(asked[0]), rows(asked[1])) == (alone["aida"], alone["sgd"])


@pytest.mark.distributed
def test_no_cluster_is_one_sentence(tmp_path):
    pytest.importorskip("ray")
    from aida_bench.execution.ray import run_on_ray

    with pytest.raises(UserError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        run_on_ray([job(tmp_path)], "127.0.0.1:1", Recorder())
