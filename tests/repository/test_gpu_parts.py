"""The parts of benchmarks/gpu: each runs without a GPU, goes on where it was stopped, outlives a crash."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gpu import parts, results, runner  # noqa: E402


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("part", parts.PARTS, ids=lambda part: part.name)
def test_a_part_runs_dry(part, tmp_path):
    """make gpu-dry: tiny, on the CPU, in Triton's interpreter."""
    folders = [str(ROOT / folder) for folder in ("src", "packages/aida-bench/src", "tests", "benchmarks")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gpu", str(part.number), "--dry", "--hard", "850", "--soft", "800",
         "--out", tmp_path / "out", "--work", tmp_path / "work"],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    result = json.loads((tmp_path / "out" / f"part-{part.number}.json").read_text())
    assert results.finished(result)
    assert "passed" in {case["status"] for case in result["cases"].values()}
    assert (tmp_path / "out" / f"part-{part.number}.log").exists()


def test_every_part_is_a_file_and_every_file_is_short():
    folder = ROOT / "benchmarks" / "gpu"
    assert [part.number for part in parts.PARTS] == [*range(1, len(parts.PARTS) + 1)]
    assert all((folder / f"{part.name}.py").exists() for part in parts.PARTS)
    assert all(len(path.read_text().splitlines()) <= 400 for path in folder.glob("*.py"))


class Part(parts.Part):
    """With cases of the test's own."""

    def cases(self, device, call):
        return self.given


def part(**cases):
    made = Part(9, "made", "what a test wants")
    object.__setattr__(made, "given", cases)
    return made


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Workers run in this process; the device is none."""
    device = SimpleNamespace(about=lambda: {"device": "none"})
    monkeypatch.setattr("gpu.device.Device.find", lambda dry: device)
    return results.Call(9, tmp_path / "out", tmp_path / "work", dry=True)


@pytest.fixture
def here(monkeypatch):
    """Carry a part out with workers in this process."""

    def carry_out(part, call, worker=None, **options):
        monkeypatch.setattr(runner, "run_worker", lambda command, call: (worker or runner.work)(part, call))
        return runner.carry_out(part, call, **options)

    return carry_out


def statuses(call):
    result = json.loads((call.out / "part-9.json").read_text())
    return {name: case["status"] for name, case in result["cases"].items()}


def fail():
    raise ValueError("wrong")


def leave_out():
    raise parts.LeftOut("no such tool")


def test_a_failure_and_what_is_left_out_cost_the_others_nothing(call, here, capsys):
    assert here(part(a=fail, b=leave_out, c=lambda: {"x": 1}), call) == 1
    assert statuses(call) == {"a": "failed", "b": "left out", "c": "passed"}
    case = json.loads((call.out / "part-9.json").read_text())["cases"]
    assert "ValueError: wrong" in case["a"]["error"]
    assert case["c"]["x"] == 1
    said = capsys.readouterr().out
    assert "left out: b: no such tool" in said
    assert "failed: a: ValueError: wrong" in said


def test_what_has_ended_is_not_done_again_unless_it_failed_and_is_asked_for(call, here):
    counts = {"good": 0, "bad": 0}

    def good():
        counts["good"] += 1
        return {}

    def bad():
        counts["bad"] += 1
        raise ValueError

    one = part(good=good, bad=bad)
    for retry, code in ((False, 1), (False, 1), (True, 1)):
        assert here(one, call, retry=retry) == code
    assert counts == {"good": 1, "bad": 2}


def test_a_part_whose_time_is_over_goes_on_in_the_next_call(call, here, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(results, "time", SimpleNamespace(time=lambda: clock[0]))

    def slow():
        clock[0] += 2 * call.soft
        return {}

    one = part(a=slow, b=dict)
    assert here(one, replace(call, start=clock[0])) == runner.AGAIN
    assert statuses(call) == {"a": "passed", "b": "waiting"}
    assert here(one, replace(call, start=clock[0])) == 0
    assert statuses(call) == {"a": "passed", "b": "passed"}


def test_a_case_that_goes_on_keeps_its_place_and_its_seconds(call, here):
    left = [2]

    def long():
        left[0] -= 1
        time.sleep(0.02)
        if left[0]:
            raise parts.GoingOn("half")
        return {}

    assert here(part(a=long), call) == runner.AGAIN
    assert statuses(call) == {"a": "going on"}
    assert here(part(a=long), call) == 0
    assert json.loads((call.out / "part-9.json").read_text())["cases"]["a"]["seconds"] >= 0.04


def test_a_crash_fails_its_case_alone(call, here):
    one = part(a=dict, b=dict, c=dict)

    def worker(part, call):
        """Ends as a signal would end it, at the first case that has begun after a."""
        result = call.read()
        if result.get("cases", {}).get("b", {}).get("status") == "failed":
            return runner.work(part, call)
        cases = {
            "a": {"status": "passed", "seconds": 0},
            "b": {"status": "begun"},
            "c": {"status": "waiting"},
        }
        about = {"source": results.source(), "dry": True, "machine": {"device": "none"}}
        call.write({"cases": cases, **about})
        return -11

    assert here(one, call, worker=worker) == 1
    assert statuses(call) == {"a": "passed", "b": "failed", "c": "passed"}
    case = json.loads((call.out / "part-9.json").read_text())["cases"]["b"]
    assert "ended with code -11" in case["error"]


def test_a_call_that_was_killed_with_its_worker_is_repeated(call, here):
    about = {"source": results.source(), "dry": True, "machine": {"device": "none"}}
    call.write({"cases": {"a": {"status": "begun"}}, **about})
    assert here(part(a=dict), call) == 0


def test_results_of_other_code_are_kept_apart(call, here):
    about = {"source": "other", "dry": True, "machine": {"device": "none"}}
    call.write({"cases": {"a": {"status": "failed", "error": "old"}}, **about})
    assert here(part(a=dict), call) == 0
    assert statuses(call) == {"a": "passed"}
    assert json.loads((call.work / "part-9-before.json").read_text())["source"] == "other"


def test_a_package_that_is_missing_is_named(call, here, capsys):
    one = Part(9, "made", "", needs=("surely_not_there",))
    assert here(one, call) == 2
    assert "part 9 needs surely_not_there" in capsys.readouterr().out


@pytest.mark.processes
def test_a_worker_is_stopped_when_the_call_is_over_and_its_output_is_kept(call):

    class Over(results.Call):
        """Whose time is over as soon as the worker has spoken."""

        @property
        def left(self):
            while not (self.path(".log").exists() and self.path(".log").read_text()):
                time.sleep(0.05)
            return 0

    over = Over(9, call.out, call.work, dry=True)
    code = runner.run_worker([sys.executable, "-uc", "print('said'); import time; time.sleep(100)"], over)
    assert code < 0
    assert (call.out / "part-9.log").read_text() == "said\n"


@pytest.mark.processes
def test_a_log_is_cut_at_its_limit(call, monkeypatch):
    monkeypatch.setattr(runner, "LOG_BYTES", 100)
    assert runner.run_worker([sys.executable, "-c", "print('0123456789\\n' * 100)"], call) == 0
    assert 100 <= (call.out / "part-9.log").stat().st_size < 120


def test_the_published_run_is_stopped_and_resumed(call, monkeypatch, tmp_path):
    """A run of its own process, that ends at an interruption as the command does."""
    from gpu import study

    script = tmp_path / "train.py"
    script.write_text(
        "import json, sys, time, pathlib\n"
        "run = pathlib.Path(sys.argv[1]) / 'aida' / 'seed-0'\n"
        "run.mkdir(parents=True, exist_ok=True)\n"
        "rows = run / 'rows.jsonl'\n"
        "before = rows.read_text() if rows.exists() else ''\n"
        "rows.write_text(before + json.dumps({'kind': 'epoch', 'loss': 1 / 3}) + '\\n')\n"
        "if not before: time.sleep(100)\n"
        "for name in ('config', 'versions'): (run / f'{name}.json').write_text('{}')\n"
    )

    def popen(command, env=None):
        folder = command[command.index("--out") + 1]
        return subprocess.Popen([sys.executable, str(script), folder], stderr=subprocess.DEVNULL)

    monkeypatch.setattr(
        study, "subprocess", SimpleNamespace(Popen=popen, TimeoutExpired=subprocess.TimeoutExpired)
    )
    short = results.Call(9, call.out, call.work, dry=True, hard=study.LEAVE + 10)
    device = SimpleNamespace(type="cpu")
    with pytest.raises(parts.GoingOn, match="1 epochs so far"):
        study._train("aida", device, short)
    row = study._train("aida", device, call)
    assert row["epochs"] == 2
    assert row["rows"][0]["loss"] == 0.33333333
