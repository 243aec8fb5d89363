"""A study that is killed, shared, or gone on with from committed rows has the rows of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from aida_bench.errors import UserError
from aida_bench.execution.job import BUSY, Job, execute
from aida_bench.execution.job import _alone as alone
from aida_bench.study import run as carrying
from aida_bench.study.cells import TaskPlan, next_cells
from aida_bench.study.read import read_study
from aida_bench.study.records import read_records
from aida_bench.study.run import check_settings
from aida_bench.study.status import affordable
from helpers.bench.command import invoke, refused
from helpers.bench.faulty import HERE
from helpers.bench.kills import killed
from helpers.bench.studies import ROOT, TINY, write
from helpers.bench.study_rows import record

DEATHS = 3
"""How often a study dies; each start costs seconds of imports."""
RESOLVE = "aida_bench.study.cells.resolve_device"
pytestmark = pytest.mark.timeout(1800)


def study_run(path: Path, *words: object) -> None:
    result = invoke("study", "run", path, "--nice", 0, "--workers", 1, "--quiet", *words)
    assert result.exit_code == 0, result.output


def rows(folder: Path) -> dict[str, bytes]:
    found = {
        path.parent.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("rows.jsonl")
    }
    assert all((folder / key / "done.json").exists() for key in found)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write(folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        study_run(path)
    finally:
        os.chdir(before)
    return rows(folder / "runs/study-tiny")


def test_every_stage_is_run_and_nothing_twice(undisturbed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    study_run(path)
    assert rows(tmp_path / "runs/study-tiny") == undisturbed
    stages = [key.split("/")[1] for key in undisturbed]
    assert sum(" tune-" in each for each in stages) in (2 * 3, 2 * 5)  # with a widening, 2 more for each
    assert sum(each.startswith("like-aida final-") for each in stages) == 2
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("rows.jsonl")}
    study_run(path)
    assert kept == {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("rows.jsonl")}
    assert not list((tmp_path / "runs").rglob("checkpoint*.pt"))


@pytest.mark.processes
@pytest.mark.parametrize(
    ("name", "nth", "calls"),
    [
        ("checkpoint.pt", 1, 700),
        pytest.param("done.json", 1, 0, marks=pytest.mark.slow),
        pytest.param("config.json", 1, 300, marks=pytest.mark.slow),
    ],
)
def test_killed_in_every_run_it_ends_with_the_same_rows(undisturbed, tmp_path, name, nth, calls):
    """The whole process group dies once in each run, at a moment that is counted."""
    path = write(tmp_path)
    command = [sys.executable, "-m", "aida_bench", "study", "run", str(path), "--workers", "1", "--quiet"]
    dying = {**os.environ, **killed(tmp_path / "marks", name, nth=nth, calls=calls, group=True)}
    deaths = 0
    while True:
        environment = dying if deaths < DEATHS else os.environ
        ended = subprocess.run(
            command, cwd=tmp_path, env=environment, start_new_session=True, capture_output=True, text=True
        )
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        deaths += 1
    assert deaths == DEATHS
    assert rows(tmp_path / "runs/study-tiny") == undisturbed


def test_a_fresh_clone_goes_on_from_committed_rows(undisturbed, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    text = TINY.replace('name = "tiny"', 'name = "tiny"\nrows = "../committed"')
    for folder in (first, second):
        folder.mkdir()
        write(folder, text)
    monkeypatch.chdir(first)
    study = read_study(first / "study.toml")
    # Its first stage and no more.
    for cell in next_cells(study, study.tasks, {}):
        execute(Job(study.folder / cell.key, cell.config, keep=0))
    done = rows(first / "runs/study-tiny")
    exported = invoke("study", "export", "study.toml")
    assert exported.exit_code == 0, exported.output
    assert f"wrote {len(done)} runs" in exported.stdout
    written = (tmp_path / "committed/rows.jsonl.gz").read_bytes()
    assert invoke("study", "export", "study.toml").exit_code == 0
    assert (tmp_path / "committed/rows.jsonl.gz").read_bytes() == written

    monkeypatch.chdir(second)
    study_run(second / "study.toml")
    anew = rows(second / "runs/study-tiny")
    assert anew == {key: undisturbed[key] for key in undisturbed.keys() - done.keys()}
    assert read_records(read_study(second / "study.toml")).keys() == undisturbed.keys()


def test_committed_rows_of_another_study_are_refused_and_damage_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TINY.replace('name = "tiny"', 'name = "tiny"\nrows = "committed"')
    path = write(tmp_path, text)
    study = read_study(path)
    (cell, *_) = next_cells(study, study.tasks, {})
    execute(Job(study.folder / cell.key, cell.config, keep=0))
    assert invoke("study", "export", path).exit_code == 0
    write(tmp_path, text.replace("batch_size = 16", "batch_size = 8"))
    refused(
        invoke("study", "run", path, "--nice", 0),
        "has batch_size 16",
        "the study's file 8",
        "undo the change",
    )
    rows = tmp_path / "committed/rows.jsonl.gz"
    rows.write_bytes(rows.read_bytes()[:-9])
    refused(invoke("study", "status", path), "rows.jsonl.gz is damaged", "from its commit again")


def test_what_another_command_is_at_is_left_to_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path))
    (cell, *_) = next_cells(study, study.tasks, {})
    job = Job(study.folder / cell.key, cell.config, keep=0, shared=True)
    with alone(job.folder):
        assert execute(job) == BUSY
        shown = invoke("study", "status", "study.toml")
        assert "running now: 1" in shown.stdout, shown.output
    assert execute(job) == "finished"
    assert "running now: 0" in invoke("study", "status", "study.toml").stdout


def test_it_waits_once_for_what_another_command_is_at_and_then_goes_on(tmp_path, monkeypatch, capsys):
    """All that can be run is another's: no process is started, and no run is read while nothing ends."""
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path))
    cells, polls, reads = next_cells(study, study.tasks, {}), [], []
    others = ExitStack()
    for cell in cells:
        others.enter_context(alone(study.folder / cell.key))

    def poll(seconds):
        assert seconds == carrying.POLL
        polls.append(len(reads))
        if len(polls) == 3:
            others.close()

    monkeypatch.setattr(carrying, "time", SimpleNamespace(sleep=poll))
    monkeypatch.setattr(carrying, "read_records", lambda s: reads.append(0) or read_records(s))
    result = invoke("study", "run", "study.toml", "--nice", 0, "--workers", 1, "--only", "digits")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"waiting for {len(cells)} runs of another command\n")
    assert result.stdout.count("waiting") == 1
    assert "busy" not in result.stdout
    assert polls == [1, 1, 1]


def test_runs_of_another_command_are_left_to_it_while_there_are_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path))
    (cell, other, *_) = next_cells(study, study.tasks, {})
    lock, ran = ExitStack(), []
    lock.enter_context(alone(study.folder / cell.key))

    def run_all(jobs, *_):
        ran.append([job.folder for job in jobs])
        lock.close()
        dispatched(jobs, *_)

    dispatched = carrying.run_all
    monkeypatch.setattr(carrying, "run_all", run_all)
    study_run(study.path)
    assert ran[0] == [study.folder / other.key]  # of a task without a run one alone
    assert study.folder / cell.key in ran[1]  # the other's, which it has left


@pytest.mark.processes
def test_two_commands_share_a_folder(undisturbed, tmp_path):
    path = write(tmp_path)
    command = [sys.executable, "-m", "aida_bench", "study", "run", str(path), "--workers", "1", "--quiet"]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for each in both:
        _, said = each.communicate()
        assert each.returncode == 0, said
    assert rows(tmp_path / "runs/study-tiny") == undisturbed


@pytest.mark.distributed
@pytest.mark.parametrize("where", [["--workers", 2], ["--ray", "local"]], ids=["workers", "ray"])
def test_workers_and_ray_give_the_same_rows(undisturbed, tmp_path, monkeypatch, where):
    if "--ray" in where:
        pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    study_run(write(tmp_path), *where)
    assert rows(tmp_path / "runs/study-tiny") == undisturbed


def test_no_run_is_started_that_would_take_more_than_the_core_hours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = TINY.replace('name = "tiny"', 'name = "tiny"\ncore_hours = 0.1')
    path = write(tmp_path, text.replace('preset = "small"', 'preset = "small"\nepoch_seconds = 100'))
    study = read_study(path)
    # A tuning run of one epoch is 0.0278 hours.
    cells = next_cells(study, study.tasks, {})
    assert affordable(study, cells, {}) == cells[:3]
    write(tmp_path, text.replace('preset = "small"', 'preset = "small"\nepoch_seconds = 400'))
    refused(invoke("study", "run", path, "--nice", 0), "the 0.1 core-hours of", "raise core_hours")
    assert not (tmp_path / "runs").exists()


def test_settings_that_an_optimizer_refuses_are_said_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(
        tmp_path, TINY.replace("[optimizers.sgd]", "[optimizers.sgd]\nsettings = { momentun = 0.9 }")
    )
    refused(invoke("study", "run", path, "--nice", 0), "sgd on digits, tune: sgd does not take", "momentun")
    assert not (tmp_path / "runs").exists()


WRONG = [
    ({'name = "tiny"': 'name = "tiny"\nprecision = "64"'}, "unknown precision '64'"),
    ({'name = "tiny"': 'name = "tiny"\nthreads = 0'}, "threads in [study] of study.toml is 0: write"),
    ({"seeds = [0, 1]": "seeds = [0, 99999999999]"}, "seed 99999999999 is above"),
    ({'"mlp"': '"nope"'}, "unknown model for digits 'nope'"),
    ({"[tasks.digits]": '[tasks.digits]\ntask = ":X"'}, ":X is no import path: write it as package.module:"),
    ({"[tasks.digits]": '[tasks.digits]\ntask = ".x:Y"'}, ".x:Y is no import path"),
    ({'"adabelief"': '"a:b:c"'}, "a:b:c is no import path"),
    ({'"adabelief"': '"synt:X"'}, "synt:X cannot be imported (SyntaxError: "),
    ({'"adabelief"': f'"{HERE}:Refusing"'}, "it raises KeyError: 'lr'"),
    ({'"adabelief"': f'"{HERE}:Going"'}, "it raises SystemExit: 0"),
    ({'"adabelief"': f'"{HERE}:nothing"'}, "gives None, no torch.optim.Optimizer"),
    ({'"adabelief"': f'"{HERE}:Rateless"'}, "has groups without lr, which the schedule sets"),
    ({'"adabelief"': f'"{HERE}:Relative"'}, "has groups without lr, which the schedule sets"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_what_no_run_takes_is_said_before_anything_runs(tmp_path, monkeypatch, changes, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "")
    (tmp_path / "synt.py").write_text("def x(:\n")
    tuned = {"settings_from": "tune", '"aida"\nphase = 2': '["lr"]'} if '"adabelief"' in changes else {}
    refused(invoke("study", "run", write(tmp_path, **tuned, **changes), "--nice", 0), said)
    assert not (tmp_path / "runs").exists()


def test_a_device_that_is_not_here_is_one_sentence_without_another_command_s_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **{'name = "tiny"': 'name = "tiny"\ndevice = "tpuu"'})
    result = invoke("study", "run", path, "--nice", 0, "--workers", 1, "--quiet")
    refused(
        result, "2 of ", " runs failed: aida tune-00 seed 100", "no device 'tpuu' here", "choose cpu or auto"
    )
    assert "--device" not in result.stderr


def test_what_auto_is_here_is_a_run_s_identity(tmp_path, monkeypatch):
    """As a comparison's; for a device that is named nothing is resolved."""
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **{'name = "tiny"': 'name = "tiny"\ndevice = "auto"'})
    monkeypatch.setattr(RESOLVE, lambda device, *_: {"auto": "tpu:0"}[device])
    study = read_study(path)
    (cell, *_) = next_cells(study, study.tasks, {})
    assert cell.config["device"] == "tpu:0"
    found = {cell.key: record(cell, 1.0)}
    assert next_cells(study, study.tasks, found)[0].key != cell.key
    monkeypatch.setattr(RESOLVE, lambda *_: "cpu")
    with pytest.raises(UserError, match=r'device .tpu:0., the study.s file .cpu.: .* write device = "tpu:0"'):
        next_cells(study, study.tasks, found)
    named = read_study(write(tmp_path, **{'name = "tiny"': 'name = "tiny"\ndevice = "cuda"'}))
    assert next_cells(named, named.tasks, {})[0].config["device"] == "cuda"


@pytest.mark.parametrize(("name", "measure", "said"), [
    ("Line", 'measure = "los"', "measure of [tasks.line] in study.toml 'los': did you mean loss"),
    ("Untold", "", "no measure of a validation split"),
])  # fmt: skip
def test_a_measure_that_a_task_has_not_is_told_after_one_run_of_it(
    tmp_path, monkeypatch, name, measure, said
):
    """A task that measures nothing on a validation split is alike, where its class does not say so."""
    monkeypatch.chdir(tmp_path)
    task = f'[tasks.line]\ntask = "{HERE}:{name}"\nepochs = 2\n{measure}\n'
    path = write(tmp_path, **{"[tasks.digits]": f"{task}[tasks.digits]"})
    result = invoke("study", "run", path, "--nice", 0, "--workers", 1, "--quiet")
    refused(result, said)
    assert len(list((tmp_path / "runs").rglob("done.json"))) == 2  # one of each task


def test_a_task_whose_class_has_no_validation_split_is_told_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **{"[tasks.digits]": f'[tasks.digits]\ntask = "{HERE}:Tested"'})
    for words in (["run", path], ["run", path, "--dry-run"], ["status", path]):
        refused(invoke("study", *words), "no validation split, which tuning goes by: let its splits begin")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("old", "new", "said"), [
    ('"adabelief"\nsettings_from = "aida"\nphase = 2', '"adabelieff"\ntune = ["lr"]', "unknown optimizer"),
    ("[optimizers.sgd]", "[optimizers.sgd]\nsettings = { momentun = 0.9 }", "sgd on digits, tune: sgd"),
])  # fmt: skip
def test_a_dry_run_says_what_a_run_would_refuse(tmp_path, monkeypatch, old, new, said):
    monkeypatch.chdir(tmp_path)
    refused(invoke("study", "run", write(tmp_path, **{old: new}), "--dry-run"), said)


def test_one_run_that_fails_ends_no_other_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sick = {'"adabelief"\nsettings_from = "aida"\nphase = 2': f'"{HERE}:Sick"\nsettings = {{ lr = 0.1 }}'}
    path = write(tmp_path, **sick)
    result = invoke("study", "run", path, "--nice", 0, "--workers", 1)
    assert result.exit_code == 2
    *trace, last = result.stderr.splitlines()
    assert "like-aida final seed 0 failed:" in trace
    assert last.startswith(
        "error: 2 of 6 runs failed: like-aida final seed 0, like-aida final seed 1: Runtime"
    )
    assert "like-aida final seed 0: failed" in result.stdout
    assert len(list((tmp_path / "runs").rglob("done.json"))) >= 2 * 3 + 1 + 4


def test_where_a_task_s_first_run_fails_the_others_are_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sick = f'[optimizers.sick]\noptimizer = "{HERE}:Sick"\ntune = ["lr"]\n[optimizers.aida]'
    result = invoke(
        "study", "run", write(tmp_path, **{"[optimizers.aida]": sick}), "--nice", 0, "--workers", 1
    )
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith(
        "error: 3 of 10 runs failed: sick tune-00 seed 100, sick"
    )
    assert len(list((tmp_path / "runs").rglob("done.json"))) == 2 * 3 + 1


@pytest.mark.parametrize("path", sorted((ROOT / "studies").glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_here_can_be_read_and_its_settings_are_taken(path):
    study = read_study(path)
    for task in study.tasks:
        cells = [cell for cell in TaskPlan(study, task, {}).all_cells() if cell.stage == "tune"]
        assert {cell.optimizer for cell in cells} >= set(study.comparisons.primary)
        check_settings(study, cells, set())


def test_the_claims_study_can_be_read():
    study = read_study(ROOT / "studies/claims.toml")
    assert {"mnist", "lm", "gpt"} == study.tasks.keys()
    assert study.comparisons is not None
    assert study.comparisons.primary == ("adamw", "adabelief", "momentum")
