"""A run that is killed at any moment and resumed ends with bitwise the rows of an undisturbed one."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from aida_bench.cli.app import app
from aida_bench.errors import UserError
from aida_bench.storage import run as runs
from aida_bench.storage.states import load_state, save_state
from aida_bench.tasks.digits import Digits
from aida_bench.training import fabric as parallel
from aida_bench.training import loop as train
from helpers.bench.kills import killed

EPOCHS = 3
WRITES = 2 + 4 * EPOCHS - 1 + 1
"""versions and config; of each epoch rows, timings, the checkpoint before if there is one, and its own; the
status."""
CALLS = 20_000
"""Of functions, in Python and in C, fewer than an epoch makes (measured: 25,000)."""


class Killed(BaseException):
    """Not an Exception, so that nothing on the way may catch it."""


@pytest.fixture(scope="module")
def task() -> Digits:
    return Digits(model="cnn", batch_size=32, limit_batches=2)


def run_to_end(
    task, folder: Path, optimizer: str = "aida", on_batch=lambda epoch, batch: None, **settings
) -> str:
    torch.set_num_threads(1)
    config = {"task": "digits", "optimizer": optimizer, "seed": 3, "epochs": EPOCHS}
    return train.train(
        task, runs.Run(folder, config), fabric=parallel.make_fabric("cpu", "32"), optimizer=optimizer,
        settings={"lr": 1e-3, **settings}, seed=3, epochs=EPOCHS, on_batch=on_batch,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(task, tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_to_end(task, folder) == "finished"
    return (folder / "rows.jsonl").read_bytes()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("write", range(1, WRITES + 1))
def test_killed_around_every_write(task, undisturbed, tmp_path, monkeypatch, write, when):
    real, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        count += 1
        if count == write and when == "before":
            raise Killed
        real(source, target)
        if count == write:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(Killed):
        run_to_end(task, tmp_path)
    assert run_to_end(task, tmp_path) == "finished"
    assert (tmp_path / "rows.jsonl").read_bytes() == undisturbed
    assert len(runs.read_json_lines(tmp_path / "timings.jsonl")) == EPOCHS
    assert count == WRITES or count > write


@pytest.mark.parametrize("at", [(1, 1), (2, 2), (3, 1)])
def test_killed_within_an_epoch(task, undisturbed, tmp_path, at):
    def kill(epoch, batch):
        if (epoch, batch) == at:
            raise Killed

    with pytest.raises(Killed):
        run_to_end(task, tmp_path, on_batch=kill)
    assert run_to_end(task, tmp_path) == "finished"
    assert (tmp_path / "rows.jsonl").read_bytes() == undisturbed


@pytest.mark.parametrize("forgotten", ["random", "data_order", "parts", "batches"])
def test_every_part_of_the_checkpoint_counts(task, undisturbed, tmp_path, forgotten):
    """The negative control: a checkpoint with one part from another moment gives other rows."""

    def kill(epoch, batch):
        if epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        run_to_end(task, tmp_path / "run", on_batch=kill)
    with pytest.raises(Killed):
        run_to_end(task, tmp_path / "early", on_batch=lambda epoch, batch: kill(epoch + 1, batch))
    path = tmp_path / "run" / "checkpoint.pt"
    state = load_state(path)
    state[forgotten] = load_state(tmp_path / "early" / "checkpoint.pt")[forgotten]
    save_state(path, state)
    run_to_end(task, tmp_path / "run")
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() != undisturbed


def test_full_disk_is_one_error_and_the_run_goes_on_later(task, undisturbed, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match="is the disk full"):
            run_to_end(task, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run").glob(".*.part"))
    run_to_end(task, tmp_path / "run")
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == undisturbed


def test_seed_decides_everything(task, undisturbed, tmp_path):
    torch.rand(17)
    run_to_end(task, tmp_path / "again")
    assert (tmp_path / "again" / "rows.jsonl").read_bytes() == undisturbed
    run_to_end(task, tmp_path / "other", K=1)
    assert (tmp_path / "other" / "rows.jsonl").read_bytes() != undisturbed


def test_finished_run_is_not_redone(task, tmp_path):
    run_to_end(task, tmp_path)

    def fail(epoch, batch):
        raise AssertionError("trained again")

    assert run_to_end(task, tmp_path, on_batch=fail) == "finished"


def test_diverged_run_is_recorded_and_not_redone(task, tmp_path):
    assert run_to_end(task, tmp_path, "sgd", lr=1e30) == "diverged"
    rows = runs.read_json_lines(tmp_path / "rows.jsonl")
    assert rows[-1] == {"kind": "diverged", "epoch": 1, "lr": 1e30}
    assert run_to_end(task, tmp_path, "sgd", lr=1e30) == "diverged"
    # Killed between the last checkpoint and the status.
    (tmp_path / "done.json").unlink()
    assert run_to_end(task, tmp_path, "sgd", lr=1e30) == "diverged"
    assert runs.read_json_lines(tmp_path / "rows.jsonl") == rows


def test_checkpoint_of_another_run_is_refused(task, tmp_path):
    run_to_end(task, tmp_path / "aida")
    run_to_end(task, tmp_path / "sgd", "sgd")
    for folder in (tmp_path / "aida", tmp_path / "sgd"):
        (folder / "done.json").unlink()
    (tmp_path / "sgd" / "checkpoint.pt").replace(tmp_path / "aida" / "checkpoint.pt")
    with pytest.raises(UserError, match="its optimizer is 'sgd', not 'aida'"):
        run_to_end(task, tmp_path / "aida")
    (tmp_path / "aida" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "aida" / "checkpoint-prior.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged .*: delete .* to start it anew"):
        run_to_end(task, tmp_path / "aida")


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_real_processes_killed_at_random_moments(tmp_path, kills):
    """kill -9, in the middle of whatever is going on, as often as asked, then once more to the end.

    Each process dies within two of its epochs, and there are more than two a kill: none ends before.
    """
    out, calm = tmp_path / "shaken", tmp_path / "calm"
    options = ["compare", "digits", "--optimizers", "adamw,aida", "--seeds", "2", "--epochs",
               str(4 + 4 * kills), "--limit-batches", "2", "--threads", "1", "--workers", "1",
               "--device", "cpu", "--quiet"]  # fmt: skip
    command = [sys.executable, "-m", "aida_bench", *options, "--resume", "--out", str(out)]
    undisturbed = CliRunner().invoke(app, [*options, "--out", str(calm)])
    assert undisturbed.exit_code == 0, undisturbed.output
    draw = random.Random(kills)
    for i in range(kills):
        environment = killed(tmp_path / f"marks-{i}", "rows.jsonl", calls=draw.randint(1, CALLS))
        ended = subprocess.run(command, env={**os.environ, **environment}, check=False)
        assert ended.returncode == -signal.SIGKILL
    assert len(list(out.rglob("done.json"))) < 4
    resumed = CliRunner().invoke(app, [*options, "--resume", "--out", str(out)])
    assert resumed.exit_code == 0, resumed.output
    assert (out / "rows.jsonl").read_bytes() == (calm / "rows.jsonl").read_bytes()
