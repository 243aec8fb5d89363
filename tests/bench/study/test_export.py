"""`aida study export`: what a folder has is kept, and another study's rows are never touched."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest

from aida_bench.execution.job import Job, execute
from aida_bench.storage.files import from_json_lines
from aida_bench.study.cells import TaskPlan, next_cells
from aida_bench.study.read import read_study
from aida_bench.study.records import read_records, read_rows, write_rows
from aida_bench.study.report.write import write_report
from helpers.bench.command import invoke, refused
from helpers.bench.studies import TINY, TUNED, compared, write
from helpers.bench.study_rows import EVEN, finish, noise, record

OWN = {"aida": TUNED, "adamw": TUNED}
ROWS = '[study]\nname = "first"\nrows = "rows"\n'
FIRST = ROWS + compared("a", OWN, points=2, primary=["adamw"])


def score(cell):
    return 1 + 0.1 * noise(cell.key)


@pytest.fixture
def first(tmp_path, monkeypatch):
    """All of its runs lie in its own rows."""
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path, FIRST))
    write_rows(tmp_path / "rows", finish(study, score).values())
    return study


def other(folder, text):
    """Another study, in a file of its own, with its runs in rows of its own."""
    path = folder / "other.toml"
    path.write_text(text.replace("first", "other").replace('"rows"', '"others"'))
    study = read_study(path)
    write_rows(folder / "others", finish(study, score).values())
    return path


def test_a_study_without_runs_writes_nothing(first, tmp_path):
    (tmp_path / "empty.toml").write_text(FIRST.replace(ROWS, ""))
    before = (tmp_path / "rows/rows.jsonl.gz").read_bytes()
    for folder in ("rows", "fresh"):
        refused(
            invoke("study", "export", "empty.toml", "--to", folder), "no run of empty.toml has ended here"
        )
    assert (tmp_path / "rows/rows.jsonl.gz").read_bytes() == before
    assert not (tmp_path / "fresh").exists()


@pytest.mark.parametrize("change", [
    ("tasks.a", "tasks.b"), ("epochs = 2", "epochs = 4"), ("adamw", "sgd"),
])  # fmt: skip
def test_rows_of_another_study_are_refused(first, tmp_path, change):
    """Of another task, of the same task otherwise, and with another optimizer."""
    path = other(tmp_path, FIRST.replace(*change))
    before = (tmp_path / "rows/rows.jsonl.gz").read_bytes()
    refused(
        invoke("study", "export", path, "--to", "rows"), "rows of another study than other.toml", "with --to"
    )
    assert (tmp_path / "rows/rows.jsonl.gz").read_bytes() == before


def test_an_extension_s_rows_are_not_put_into_those_that_it_extends(first, tmp_path):
    (tmp_path / "more.toml").write_text(
        '[study]\nextends = "study.toml"\nrows = "mine"\n[optimizers.sgd]\ntune = ["lr"]\n'
    )
    study = read_study(tmp_path / "more.toml")
    found = read_records(study)
    while cells := next_cells(study, study.tasks, found):
        found |= {cell.key: record(cell, score(cell)) for cell in cells}
    own = [each for key, each in found.items() if key not in read_rows(tmp_path / "rows")]
    write_rows(tmp_path / "mine", own)
    refused(invoke("study", "export", "more.toml", "--to", "rows"), "rows of another study than more.toml")
    assert invoke("study", "export", "more.toml", "--to", "fresh").exit_code == 0
    assert len(read_rows(tmp_path / "fresh")) == len(own)


def test_what_is_there_of_the_study_is_kept(first, tmp_path):
    """Two machines that ran a half each export into one folder, one after the other."""
    every = read_records(first)
    keys = sorted(every)
    for half in (keys[::2], keys[1::2]):
        write_rows(tmp_path / "rows", (every[key] for key in half))
        shown = invoke("study", "export", "study.toml", "--to", "shared")
        assert shown.exit_code == 0, shown.output
    assert f"wrote {len(every)} runs" in shown.stdout
    assert read_rows(tmp_path / "shared") == every


def test_rows_that_the_file_names_no_more_stay_in_its_own_folder(first, tmp_path):
    count = len(read_records(first))
    write(tmp_path, FIRST.replace(", 4]", "]"))
    assert f"wrote {count} runs" in invoke("study", "export", "study.toml").stdout


def test_layers_of_tuning_runs_are_not_kept(tmp_path, monkeypatch):
    """Whatever an optimizer is called: one may be called as a stage is."""
    monkeypatch.chdir(tmp_path)
    text = TINY.replace("[optimizers.sgd]", '[optimizers."x tune-00"]\noptimizer = "adabelief"')
    study = read_study(write(tmp_path, text))
    cells = TaskPlan(study, "digits", {}).all_cells()
    cells = [cell for cell in cells if cell.point in (0, None) and cell.config["seed"] in (0, 100)]
    for cell in cells:
        execute(Job(study.folder / cell.key, cell.config, keep=0))
    assert invoke("study", "export", "study.toml", "--to", "out").exit_code == 0
    written = from_json_lines(gzip.decompress((tmp_path / "out/rows.jsonl.gz").read_bytes()).decode())
    kept = {row["key"]: bool(row["layers"]) for row in written}
    adaptive = {cell.key: cell.stage == "final" for cell in cells if cell.stage != "untrained"}
    assert {True, False} == set(adaptive.values())
    assert kept == {**dict.fromkeys((cell.key for cell in cells), False), **adaptive}
    assert read_rows(tmp_path / "out") == read_records(study)


def test_rows_of_before_with_layers_of_tuning_runs_are_read_and_reported_alike(first, tmp_path):
    plain = {key: replace(each, layers=[EVEN]) for key, each in read_records(first).items()}
    write_rows(tmp_path / "rows", plain.values())
    found = read_records(first)
    assert all(bool(each.layers) == (" tune-" not in key) for key, each in found.items())
    write_report(first, found, tmp_path / "lean")
    write_report(first, plain, tmp_path / "full")
    lean, full = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("lean", "full"))
    assert lean == full
    assert invoke("study", "export", "study.toml", "--to", "out").exit_code == 0
    assert read_rows(tmp_path / "out") == found
