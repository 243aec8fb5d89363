"""Runs that fail: the others go on, all that failed are told by name, and no process is left."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock

from aida_bench.errors import UserError
from aida_bench.execution.job import FAILED, Job
from aida_bench.execution.outcomes import run_here
from aida_bench.execution.processes import run_in_workers
from aida_bench.storage.files import read_json_lines
from helpers.bench.faulty import line
from helpers.bench.runs import Recorder

TESTS = str(Path(__file__).parents[2])
pytestmark = pytest.mark.timeout(1800)  # of several processes; only against a hang


def in_workers(asked: list[Job], watch: Recorder) -> None:
    run_in_workers(asked, 2, watch)


def on_ray(asked: list[Job], watch: Recorder) -> None:
    pytest.importorskip("ray")
    from aida_bench.execution.ray import run_on_ray

    run_on_ray(asked, "local", watch)


@pytest.fixture(
    params=[
        run_here,
        pytest.param(in_workers, marks=pytest.mark.distributed),
        pytest.param(on_ray, marks=pytest.mark.distributed),
    ]
)
def run_all(request, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")])))
    yield request.param
    assert not multiprocessing.active_children()


def test_a_run_that_fails_ends_no_other_and_is_told_by_name_with_its_traceback(tmp_path, capfd, run_all):
    names = ["Sick", "Leaving", "Unpicklable", "sgd"]
    watch, asked = Recorder(), [line(tmp_path, name) for name in names]
    with pytest.raises(UserError) as raised:
        run_all(asked, watch)
    assert watch.statuses == {0: FAILED, 1: FAILED, 2: FAILED, 3: "finished"}
    said, traces = str(raised.value), capfd.readouterr().err
    assert re.fullmatch(r"3 of 4 runs failed: .*; the traceback is above, .*: mend it, then go on\.", said)
    for part in (
        "Line Sick seed 0: RuntimeError: sick at its step; ",
        "Line Leaving seed 0: SystemExit: 0; ",
        "Line Unpicklable seed 0: Local: of a class that no other process has; ",
    ):
        assert part in said
    for name in names[:3]:
        assert f"Line {name} seed 0 failed:\nTraceback (most recent call last):\n" in traces
    assert traces.count("helpers/bench/faulty.py") == 3
    assert "RuntimeError: sick at its step\nand more\n" in traces


def test_many_that_fail_alike_are_told_once(tmp_path, capsys):
    with pytest.raises(UserError) as raised:
        run_here([line(tmp_path, "Sick", seed=seed) for seed in range(5)], Recorder())
    assert str(raised.value).startswith(
        "5 of 5 runs failed: Line Sick seed 0, Line Sick seed 1, Line Sick seed 2 and 2 more: RuntimeError: "
    )
    assert capsys.readouterr().err.count("RuntimeError: sick") == 1


def test_what_two_runs_are_told_alike_ends_the_others(tmp_path, capfd, run_all):
    watch, asked = Recorder(), [line(tmp_path, task="Without", seed=seed) for seed in range(6)]
    with pytest.raises(UserError, match=r"^2 of 6 runs failed: .* sgd seed \d: no points: draw some\.$"):
        run_all(asked, watch)
    assert list(watch.statuses.values()) == [FAILED, FAILED]
    assert capfd.readouterr().err == ""


def test_one_that_a_person_can_put_right_ends_no_other(tmp_path, run_all):
    watch, asked = Recorder(), [line(tmp_path, task="Without"), line(tmp_path)]
    with pytest.raises(UserError, match=r"^1 of 2 runs failed: Without sgd seed 0: no points: draw some\.$"):
        run_all(asked, watch)
    assert watch.statuses == {0: FAILED, 1: "finished"}


def test_a_full_disk_ends_all_at_once(tmp_path):
    watch = Recorder()
    with pytest.raises(UserError, match=r"Line Full seed 0: rows\.jsonl: No space left on device\.$"):
        run_here([line(tmp_path, "Full"), line(tmp_path)], watch)
    assert watch.statuses == {0: FAILED}


def test_a_task_may_start_processes(tmp_path, run_all):
    watch, asked = Recorder(), [line(tmp_path, task="Loaded", seed=seed) for seed in range(2)]
    run_all(asked, watch)
    assert watch.statuses == {0: "finished", 1: "finished"}
    epochs = [
        row["epoch"] for row in read_json_lines(asked[0].folder / "rows.jsonl") if row["kind"] == "epoch"
    ]
    assert epochs == [1, 2]


class Interrupted(Recorder):
    def progress(self, job, progress) -> None:
        raise KeyboardInterrupt


@pytest.mark.distributed
def test_what_a_task_has_started_ends_with_its_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("AIDA_TEST_LOCK", str(tmp_path / "lock"))
    with pytest.raises(KeyboardInterrupt):
        run_in_workers([line(tmp_path, task="Holding")], 1, Interrupted())
    assert not multiprocessing.active_children()
    with FileLock(tmp_path / "lock", timeout=600):  # which the process held
        pass


@pytest.mark.distributed
def test_what_a_task_has_started_ends_with_the_command(tmp_path):
    """By kill -9 of the command alone, in its worker's first epoch."""
    (tmp_path / "command.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "from aida_bench.execution.processes import run_in_workers\n"
        "from helpers.bench.faulty import line\nfrom helpers.bench.runs import Recorder\n"
        "class Dying(Recorder):\n"
        "    def progress(self, *_): os.kill(os.getpid(), 9)\n"
        "if __name__ == '__main__':\n"
        "    run_in_workers([line(Path('runs'), task='Holding')], 1, Dying())\n"
    )
    path = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    own = {"AIDA_TEST_LOCK": str(tmp_path / "lock"), "PYTHONPATH": path}
    ended = subprocess.run([sys.executable, "command.py"], cwd=tmp_path, env=os.environ | own, check=False)
    assert ended.returncode == -signal.SIGKILL
    with FileLock(tmp_path / "lock", timeout=600):
        pass


def test_a_run_is_named_with_its_task_where_there_are_several(tmp_path):
    assert line(tmp_path).name == "Line sgd seed 0"
    assert replace(line(tmp_path), of="mnist").name == "mnist Line sgd seed 0"
