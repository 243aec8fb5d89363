"""What is left and what it costs, said on every terminal and of every folder; core-hours that are a limit."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console

from aida_bench.cli import study as command
from aida_bench.execution import cores
from aida_bench.execution.job import LOCK, Job, execute
from aida_bench.storage import files
from aida_bench.study import status as of
from aida_bench.study.cells import next_cells
from aida_bench.study.read import read_study
from aida_bench.study.records import read_records
from aida_bench.study.status import Status, TaskStatus, affordable, used
from helpers.bench.command import invoke, refused
from helpers.bench.studies import TINY, compared, write

STUDY = '[study]\nname = "tiny"\n'


def two_tasks(folder: Path, about: str = "") -> Path:
    text = compared(["one", "two"], {"aida": 'tune = ["lr"]'}, points=3, primary=[])
    return write(folder, STUDY + about + text)


def test_of_a_task_of_unknown_cost_one_run_is_started_until_it_is_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(two_tasks(tmp_path, "core_hours = 1\n"))
    cells = next_cells(study, study.tasks, {})
    fit = affordable(study, cells, {})
    assert [cell.task for cell in fit] == ["one", "two"]
    execute(Job(study.folder / fit[0].key, {**fit[0].config, "limit_batches": 1}))
    found = read_records(study)
    assert 0 < used(found) < 1
    left = [cell for cell in cells if cell.key not in found]
    assert Counter(cell.task for cell in affordable(study, left, found)) == {"one": 3, "two": 1}


@pytest.mark.parametrize("known", ["", "epoch_seconds = 1e-9\n"])
def test_no_core_hours_run_nothing(tmp_path, monkeypatch, known):
    monkeypatch.chdir(tmp_path)
    text = (STUDY + "core_hours = 0\n" + TINY.split('name = "tiny"')[1]).replace(
        'preset = "small"\n', f'preset = "small"\n{known}'
    )
    refused(
        invoke("study", "run", write(tmp_path, text), "--nice", 0), "the 0 core-hours of", "raise core_hours"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("seconds", ["1e12", "1e300"])
def test_an_end_that_no_calendar_has_is_not_said(tmp_path, monkeypatch, seconds):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **{'preset = "small"': f'preset = "small"\nepoch_seconds = {seconds}'})
    shown = invoke("study", "status", path, "--workers", 2)
    assert shown.exit_code == 0, shown.output
    assert "ends about" not in shown.output


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """A study with a run that was killed, in a folder that may only be read."""
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path))
    (cell, *_) = next_cells(study, study.tasks, {})
    lock = study.folder / cell.key / LOCK
    lock.parent.mkdir(parents=True)
    lock.touch()
    real = os.open

    def refusing(path, flags, *mode, **options):
        if os.fspath(path).endswith(LOCK) and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(13, os.strerror(13), path)
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refusing)
    return lock


@pytest.mark.parametrize("words", [["status"], ["run", "--dry-run"]])
def test_a_folder_that_may_only_be_read_has_a_status(read_only, words):
    assert files.held(read_only) is None
    shown = invoke("study", *words, "study.toml")
    assert shown.exit_code == 0, shown.output
    assert "running now: unknown, as the folder may only be read" in shown.output


PLANNED = Counter(tune=190, final=135, published=10, untrained=1)
DONE = Counter(tune=190, final=120, untrained=1)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [200, 80, 60, 40])
def test_no_number_is_cut_on_a_narrow_terminal(tmp_path, monkeypatch, width, encoding):
    tasks = [
        TaskStatus(task, 20, 10, 0.0103, True, DONE, PLANNED, 12.34, 3.21, 5.5)
        for task in ("mnist", "translation", "gpt")
    ]
    monkeypatch.setattr(of, "status", lambda *_: Status(tasks, [], 37.0, 9.6, 1.0))
    study = read_study(write(tmp_path))
    with open(tmp_path / "said", "w", encoding=encoding, errors="replace") as file:
        command._show(study, ["digits"], Console(file=file, width=width, force_terminal=False), 2)
    text = (tmp_path / "said").read_text(encoding=encoding)
    assert "…" not in text
    for part in ("translation", "190/190", "120/135", "0/10", "1/1", "0.0103", "12.34", "3.21", "5.50"):
        assert text.count(part) >= (1 if part == "translation" else 3), text
    table, _, _ = text.partition("epochs of a tuning run")
    assert max(map(len, table.splitlines())) <= width or "task mnist, epochs" in table


@pytest.mark.parametrize("name", ["[red]m", "a[b]", "m[bold red]x"])
def test_names_with_signs_of_markup_are_shown(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, **{'"tiny"': f'"{name}"', "[tasks.digits]": '[tasks."[red]t"]\ntask = "digits"'})
    shown = invoke("study", "status", path)
    assert shown.exit_code == 0, shown.output
    assert f"{name}: runs done of planned" in shown.stdout
    assert "[red]t" in shown.stdout


def test_a_task_that_is_named_twice_counts_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    once, twice = (invoke("study", "status", path, *["--only", "digits"] * n).stdout for n in (1, 2))
    assert once == twice


@pytest.mark.parametrize(
    ("device", "threads", "accelerator", "runs"),
    [
        ("cpu", 1, False, 8), ("cpu", 3, False, 2), ("cpu", 9, False, 1), ("cpu", None, True, 8),
        ("auto", 1, False, 8), ("auto", 1, True, 1), ("cuda", 1, True, 1), ("cuda:1", 4, False, 1),
    ],
)  # fmt: skip
def test_as_many_runs_at_a_time_as_have_cores_for_their_threads(
    monkeypatch, device, threads, accelerator, runs
):
    monkeypatch.setattr(cores, "cores", lambda: 8)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    assert cores.runs_at_once(device, threads) == runs


def test_the_plan_of_a_study_counts_them_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cores, "cores", lambda: 8)
    path = write(tmp_path, **{'name = "tiny"': 'name = "tiny"\nthreads = 4',
                              'preset = "small"': 'preset = "small"\nepoch_seconds = 1'})  # fmt: skip
    assert "with 2 at a time it ends about" in invoke("study", "run", path, "--dry-run").stdout
