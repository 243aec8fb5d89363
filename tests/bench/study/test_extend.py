"""A study that extends another: its own runs alone are left, and the other's are what they were."""

from __future__ import annotations

import csv

import pytest

from aida_bench.errors import UserError
from aida_bench.study.cells import TaskPlan, next_cells
from aida_bench.study.read import read_study
from aida_bench.study.records import own_of, read_committed, read_records, read_rows, write_rows
from aida_bench.study.report.write import write_report
from aida_bench.study.status import affordable, cost, status, used
from helpers.bench.command import invoke, refused
from helpers.bench.studies import SGD, TUNED, compared, write
from helpers.bench.study_rows import finish, noise, record

WIDENED = "\nwidenings = 1\nwidening_points = 2\n[final]"
SWEEP = '[sweeps.eps]\noptimizer = "aida"\nkey = "eps"\nvalues = [1e-15]\nphase = 2\n'
HEAD = '[study]\nname = "first"\nrows = "rows"\n'
OWN = {"aida": 'tune = ["lr", "eps"]', "adamw": TUNED, "momentum": SGD}
FIRST = HEAD + compared(["one", "two"], OWN, points=3, primary=["adamw"], target="adamw") + SWEEP
SECOND = """
[study]
extends = "study.toml"
rows = "more"
[comparisons]
of = "mine"
primary = ["aida"]
[optimizers.mine]
optimizer = "adabelief"
tune = ["lr"]
[optimizers.later]
optimizer = "ladam"
settings_from = "aida"
phase = 2
"""


def score(cell):
    return 1 + 0.1 * noise(cell.key)


@pytest.fixture
def first(tmp_path, monkeypatch):
    """The study that is extended, with its committed rows."""
    monkeypatch.chdir(tmp_path)
    study = read_study(write(tmp_path, FIRST.replace("\n[final]", WIDENED, 1)))
    write_rows(tmp_path / "rows", finish(study, score).values())
    return study


def second(folder, text=SECOND):
    path = folder / "second.toml"
    path.write_text(text)
    return read_study(path)


def carried_out(study):
    """All runs of a study, from those that it finds on."""
    found = read_records(study)
    while cells := next_cells(study, study.tasks, found):
        found |= {cell.key: record(cell, score(cell)) for cell in cells}
    return found


def test_its_own_runs_alone_are_left_and_the_others_are_as_they_were(first, tmp_path):
    study = second(tmp_path)
    before = read_records(first)
    assert read_records(study) == before == read_committed(study)
    found = carried_out(study)
    own = own_of(study, found)
    assert {key.split("/")[1].split()[0] for key in own} == {"mine", "later"}
    assert {key: each for key, each in found.items() if key not in own} == before
    for task in study.tasks:
        mine, theirs = TaskPlan(study, task, found), TaskPlan(first, task, before)
        assert not next_cells(study, [task], found)
        list(mine.stages()), list(theirs.stages())
        assert {label: mine.settings(label) for label in OWN} == {n: theirs.settings(n) for n in OWN}
        assert {label: mine.points[label] for label in OWN} == {n: theirs.points[n] for n in OWN}
        assert len(mine.points["mine"]) == len(theirs.points["adamw"])  # widened as the others were
        assert mine.points["mine"] == theirs.points["adamw"]
        wanted = theirs.settings("aida")
        assert {key: mine.settings("later")[key] for key in ("lr", "eps")} == {
            k: wanted[k] for k in ("lr", "eps")
        }


def test_its_phases_follow_the_others_and_its_sweeps_and_claims_are_its_own(first, tmp_path):
    study = second(tmp_path)
    assert {label: each.phase for label, each in study.optimizers.items()} == {
        "aida": 1, "adamw": 1, "momentum": 1, "mine": 3, "later": 4,
    }  # fmt: skip
    assert first.swept
    assert not study.swept
    assert study.comparisons.of == "mine"
    assert study.comparisons.target == "adamw"
    assert (study.about.name, study.about.registered) == ("second", "")


def test_only_its_own_rows_are_exported_and_counted(first, tmp_path):
    study = second(tmp_path)
    found = carried_out(study)
    own = own_of(study, found)
    assert not own.keys() & read_rows(tmp_path / "rows").keys()
    write_rows(tmp_path / "more", own.values())
    assert read_records(study) == found
    assert invoke("study", "export", "second.toml", "--to", "again").exit_code == 0
    assert read_rows(tmp_path / "again") == own
    assert status(study, study.tasks, found).used == pytest.approx(used(own), rel=1e-12)
    assert sum(each.used for each in status(study, study.tasks, found).tasks) == pytest.approx(used(own))
    write_report(study, found, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    swept = sum(" eps=" in key for key in found.keys() - own.keys())  # the other file's own
    others = len(found) - len(own) - swept
    assert swept
    assert f"- Rows: {len(own) + others} runs, {others} of them of study.toml, " in text
    assert "other runs lie there" not in text
    rows = csv.DictReader((tmp_path / "out/differences.csv").read_text().splitlines())
    assert {row["rival"] for row in rows if row["optimizer"] == "mine"} == {*OWN, "later"}


def test_its_core_hours_are_for_its_own_runs(first, tmp_path):
    """The other's have cost far more than the limit."""
    study = second(tmp_path, SECOND.replace("[comparisons]", "core_hours = 0.002\n[comparisons]"))
    found = read_records(study)
    ready = next_cells(study, study.tasks, found)
    fit = affordable(study, ready, found)
    assert used(found) > study.about.core_hours
    assert 0 < len(fit) < len(ready)
    assert sum(cost(study, cell, found) for cell in fit) <= study.about.core_hours


WRONG = [
    ('"study.toml"', '"nowhere.toml"', "nowhere.toml is not a file"),
    ('"study.toml"', '"second.toml"', "second.toml extends second.toml, which extends it"),
    ('"study.toml"', "3", r"extends in \[study\] of second.toml is 3: write a word"),
    ("[optimizers.mine]", "[optimizers.aida]", r"\[optimizers.aida\] in second.toml is in study.toml too"),
    ('rows = "more"', 'rows = "rows"', "has the runs or rows of study.toml, which it extends"),
    ('rows = "more"', 'name = "first"', "has the runs or rows of study.toml"),
    ("phase = 2", 'phase = "two"', "phase in .* 'two': write a whole number"),
    ("[comparisons]", "[tuning]\npionts = 3\n[comparisons]", "unknown key .* 'pionts': did you mean points"),
    ("[comparisons]", "tasks = 3\n[comparisons]", "unknown key of .study. in second.toml 'tasks'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "said"), WRONG)
def test_a_wrong_extension_is_one_sentence_with_the_fix(first, tmp_path, old, new, said):
    with pytest.raises(UserError, match=said):
        second(tmp_path, SECOND.replace(old, new, 1))


def test_a_circle_over_others_is_named(first, tmp_path):
    write(tmp_path, FIRST.replace("[study]", '[study]\nextends = "second.toml"'))
    with pytest.raises(UserError, match=r"study.toml extends second.toml, which extends it"):
        second(tmp_path)


def test_what_makes_the_others_runs_other_ones_is_refused(first, tmp_path):
    second(tmp_path, SECOND + "[tasks.one]\nepochs = 4\n")
    result = invoke("study", "run", "second.toml", "--dry-run")
    refused(result, "has epochs 1, the study's file 2", "undo the change, or make it in a task or a study of")


@pytest.mark.parametrize(("text", "said"), [
    (SECOND + "[space]\nlr = [1e-4, 1.0]\n", "or make it in an optimizer of another name"),
    (SECOND.replace("[comparisons]", 'precision = "bf16"\n[comparisons]'), "or make it in a task or a study"),
])  # fmt: skip
def test_an_extension_that_changes_the_others_runs_is_told_what_fits_it(first, tmp_path, text, said):
    """Not to make it in an extension, which it is."""
    second(tmp_path, text)
    result = invoke("study", "status", "second.toml")
    refused(result, "undo the change", said)
    assert "extends this one" not in result.stderr


def test_a_change_of_settings_may_be_made_in_an_extension(first, tmp_path):
    write(tmp_path, first.path.read_text().replace("[1e-3, 1e-1]", "[1e-4, 1.0]"))
    refused(invoke("study", "status", "study.toml"), "undo the change (", "a study that extends this one")


def test_an_extension_can_be_extended(first, tmp_path):
    study = second(tmp_path)
    write_rows(tmp_path / "more", own_of(study, carried_out(study)).values())
    (tmp_path / "third.toml").write_text(
        '[study]\nextends = "second.toml"\n[optimizers.third]\noptimizer = "sgd"\ntune = ["lr"]\n'
    )
    third = read_study(tmp_path / "third.toml")
    assert third.optimizers["third"].phase == 5
    assert len(read_records(third)) == len(read_records(study))
    labels = {key.split("/")[1].split()[0] for key in own_of(third, carried_out(third))}
    assert labels == {"third"}
