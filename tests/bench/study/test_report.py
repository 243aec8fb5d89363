"""The page, tables and figures: whole or partial, the same rows give the same bytes."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path
from statistics import fmean

import pytest

from aida_bench.study.read import read_study
from aida_bench.study.records import write_rows
from aida_bench.study.report import figures, sweeps
from aida_bench.study.report.table import Table
from aida_bench.study.report.write import _is_report, write_report
from aida_bench.study.scores import TaskScores
from helpers.bench.command import invoke, refused
from helpers.bench.studies import ROOT, SGD, TUNED, compared, write
from helpers.bench.study_rows import finish, noise

ASKED = """
[study]
name = "small"
rows = "rows"
registered = "registered.md"
[published]
seeds = [0]
preset = "small"
[claims.projection]
kind = "mechanism"
says = "it is the projection"
of = "aida"
against = ["momentum"]
limit = "momentum"
"""
OWN = {"aida": 'tune = ["lr", "eps"]', "adamw": TUNED, "momentum": SGD}
TEXT = compared(["one", "two"], OWN, points=2, primary=["adamw", "momentum"], target="adamw") + ASKED


def score(cell):
    shift = {"untrained": 2.0, "momentum": 0.3 if cell.task == "one" else 0.0}.get(cell.optimizer, 0.0)
    return None if cell.key.endswith("momentum tune-00/seed-100") else 1 + shift + 0.1 * noise(cell.key)


def layers(cell):
    capped = 0.98 if cell.task == "two" and cell.optimizer == "aida" else 0.1
    return [{"numel": 8, "mean": 2.0, "std": 0.5, "capped": capped}]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "registered.md").write_text("what would refute it\n")
    return read_study(write(tmp_path, TEXT))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_command_writes_beside_the_rows_and_twice_the_same(study, tmp_path):
    found = finish(study, score, layers)
    write_rows(tmp_path / "rows", found.values())
    result = invoke("study", "report", "study.toml")
    assert result.exit_code == 0, result.output
    first = contents(tmp_path / "rows")
    assert {
        "README.md",
        "tables.md",
        "differences.png",
        "profile.svg",
        "tuning.png",
        "settings.png",
        "runs.csv",
    } <= set(first)
    assert result.stdout.count("wrote") == len(first) - 1  # the rows were there
    assert invoke("study", "report", "study.toml", "--to", "other").exit_code == 0
    assert contents(tmp_path / "other") == {k: v for k, v in first.items() if k != "rows.jsonl.gz"}


def test_what_is_momentum_sgd_stands_in_the_first_paragraph(study, tmp_path):
    write_report(study, finish(study, score, layers), tmp_path / "out")
    lines = (tmp_path / "out/README.md").read_text().split("\n")
    assert lines[2].startswith("**On two, 98% of aida's elements sit at the cap")
    assert "eps = " in lines[2]
    assert "aida − momentum" in lines[2]
    assert lines[4] == "All 48 runs have ended."
    assert "| projection: it is the projection | **differs by task** | supported | refuted |" in lines


def test_a_partial_study_says_what_is_missing_and_gives_no_verdict(study, tmp_path):
    found = {k: v for k, v in finish(study, score, layers).items() if k != "two/momentum tune-01/seed-100"}
    write_report(study, found, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "**Partial**" in text
    assert "1 tune of two" in text
    assert "| projection: it is the projection | **incomplete** | supported | incomplete |" in text
    assert "- projection, two: incomplete. Runs are missing of momentum." in text


def test_from_the_first_run_on_there_is_a_page(study, tmp_path):
    """Whatever is missing: each beginning of the study's rows."""
    found = list(finish(study, score, layers).items())
    for count in (1, 2, 5, 9, 14, 20, 30, len(found)):
        for path in write_report(study, dict(found[:count]), tmp_path / str(count)):
            assert path.stat().st_size > 0
        text = (tmp_path / f"{count}/README.md").read_text()
        assert ("**Partial**" in text) == (count < len(found))
        assert "nan" not in text
        assert "None" not in text


def test_tables_name_a_point_at_an_edge_and_published_settings(study, tmp_path):
    write_report(study, finish(study, score, layers), tmp_path / "out")
    text = (tmp_path / "out/tables.md").read_text()
    assert "Published settings" in text
    tuned = [line for line in text.split("\n") if line.startswith("| one | momentum | 2 of 2 | 1 |")]
    assert len(tuned) == 1  # one of its two points diverged


@pytest.mark.parametrize("shift", [-1.0, +1.0])
def test_what_tuning_did_not_find_is_said(shift, study, tmp_path):
    """On the seed that both have: the other tuned seeds, made much worse, change nothing."""

    def given(cell):
        if (cell.task, cell.optimizer, cell.stage) == ("two", "adamw", "final") and cell.config["seed"]:
            return 50.0
        better = cell.stage == "published" and (cell.task, cell.optimizer) == ("one", "aida")
        kept = cell.stage == "published" and not better  # worse than all that is tuned
        return 1 + 0.1 * noise(cell.key) + shift * better + kept

    found = finish(study, given, layers)
    write_report(study, found, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/published.csv").read_text().splitlines()))
    named = {(row["task"], row["optimizer"]) for row in rows if row["better"] == "published"}
    assert named == ({("one", "aida")} if shift < 0 else set())
    assert {row["shared"] for row in rows} == {"1"}
    text = (tmp_path / "out/README.md").read_text()
    (own,) = [row for row in rows if (row["task"], row["optimizer"]) == ("one", "aida")]
    said = f"aida on one ({float(own['mean']):.4f}; tuned {float(own['tuned']):.4f})"
    assert (f"**Tuning did not find what the published settings give** for {said}," in text) == (shift < 0)
    assert ("did not find" in text) == (shift < 0)


def test_a_sweep_is_a_table_and_a_figure_and_no_rival(tmp_path):
    """The chosen value stands among the others, with the seeds that they have."""
    asked = (
        '[sweeps.eps]\noptimizer = "aida"\nkey = "eps"\nvalues = [1e-15, 1e-9]\nseeds = [0, 3]\nphase = 2\n'
    )
    study = read_study(write(tmp_path, TEXT + asked))
    lost = {"optimizer": "aida eps=1e-15", "seed": 3}

    def given(cell):
        own = {"optimizer": cell.optimizer, "seed": cell.config["seed"]}
        return None if own == lost else score(cell)

    found = finish(study, given, layers)
    assert study.swept == {"aida eps=1e-15", "aida eps=1e-09"}
    write_report(study, found, tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out/sweeps.csv").read_text().splitlines()))
    assert {row["task"] for row in rows} == {"one", "two"}
    for task in ("one", "two"):
        own = [row for row in rows if row["task"] == task]
        values = [float(row["value"]) for row in own]
        assert values == sorted(values)
        assert [row["n"] for row in own] == ["2"] * 3
        (chosen,) = [row for row in own if row["chosen"] == "True"]
        at = TaskScores(study, task, found)
        assert float(chosen["value"]) == at.plan.settings("aida")["eps"]
        assert float(chosen["mean"]) == pytest.approx(fmean(at.costs("aida")[seed] for seed in (0, 3)))
    diverged = {row["task"]: row["diverged"] for row in rows if float(row["value"]) == 1e-15}
    assert diverged == {"one": "1", "two": "1"}
    assert (tmp_path / "out/sweeps.png").stat().st_size > 0
    assert "eps=" not in (tmp_path / "out/differences.csv").read_text()
    partial = {k: v for k, v in found.items() if not ("eps=1e-09" in k and k.endswith("seed-3"))}
    both = {task: TaskScores(study, task, partial) for task in study.tasks}
    assert {row["n"] for row in sweeps.sweeps(both).rows} == {1}  # what one of them lacks, none is told by


def test_a_rival_far_off_does_not_hide_the_others():
    """It is an arrow at the edge, with its number; all other intervals are within the panel."""
    ends = {"a": (-0.02, 0.01), "b": (-0.01, 0.03), "c": (0.0, 0.02), "far": (-60.0, -40.0)}
    rows = [
        {"task": "t", "optimizer": "aida", "rival": rival, "measure": "test_loss", "low": low, "high": high,
         "difference": (low + high) / 2, "n": 5, "primary": rival == "a"}
        for rival, (low, high) in ends.items()
    ]  # fmt: skip
    (axes,) = figures.forest(Table("differences", "", "", rows, {})).axes
    low, high = axes.get_xlim()
    assert -0.05 < low < -0.02
    assert 0.03 < high < 0.05
    assert [text.get_text().strip() for text in axes.texts] == ["-50.0000"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["far", "c", "b", "a"]


def test_a_figure_names_the_comparisons_alone():
    labels = [f"o{i}" for i in range(12)]
    curves = Table("x", "", "", [
        {"task": "a", "optimizer": label, "measure": "test_loss", "points": n, "expected": 1 / n}
        for label in labels for n in (1, 2, 3, 4)
    ], {})  # fmt: skip
    (legend,) = figures.tuning(curves, ["o3", "o7"]).legends
    assert [text.get_text() for text in legend.get_texts()] == ["o3", "o7", "others"]
    (legend,) = figures.tuning(curves, []).legends
    assert len(legend.get_texts()) == 12


def test_scores_by_the_one_setting_that_is_tuned():
    """Points that diverged are left out, and one far off hides nothing; a lone optimizer is not drawn."""
    found = {"a": {1e-3: 2.0, 1e-2: 1.0, 1e-1: 90.0}, "b": {1e-3: 1.5, 1e-2: 1.2, 1e-1: None}}
    rows = [
        {"task": "t", "optimizer": label, "measure": "validation_loss", "lr": lr, "score": score}
        for label, own in found.items()
        for lr, score in reversed(own.items())
    ]
    points = Table("tuning", "", "", [*rows, {**rows[0], "optimizer": "both", "score": 0.1}], {})
    assert figures.by_setting(points, {"a": "lr", "b": "momentum"}, []) is None
    drawn = figures.by_setting(points, {"a": "lr", "b": "lr"}, [])
    (axes,) = drawn.axes
    lines = {line.get_label(): {*zip(*line.get_data(), strict=True)} for line in axes.get_lines()}
    assert lines == {"a": {*found["a"].items()}, "b": {*found["b"].items()} - {(1e-1, None)}}
    low, high = axes.get_ylim()
    assert 0.9 < low < 1.0
    assert 2.0 < high < 2.1
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["a", "b"]


def test_a_legend_fits_beside_one_panel():
    labels = ["adamw", "adabelief", "momentum", "whole-model", "rolled", "ladabelief"]
    rows = [
        {"task": "t", "optimizer": label, "measure": "test_loss", "points": n, "expected": 1.0 / n}
        for label in labels
        for n in (1, 2, 3)
    ]
    figure = figures.tuning(Table("x", "", "", rows, {}), [])
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width


def test_an_edge_is_named(tmp_path):
    study = read_study(write(tmp_path, TEXT.replace("points = 2", "points = 16")))
    found = finish(study, lambda cell: cell.config["settings"]["lr"] if cell.stage == "tune" else 1.0, layers)
    write_report(study, found, tmp_path / "out")
    assert "lr, low" in (tmp_path / "out/tables.md").read_text()
    assert "lr, high" not in (tmp_path / "out/tables.md").read_text()


@pytest.mark.processes
def test_the_commit_of_what_was_registered_is_named(study, tmp_path):
    def git(*words: str) -> str:
        own = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        return subprocess.run(
            ["git", *own, *words], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    git("add", "study.toml")
    git("commit", "-qm", "before")
    early = git("rev-parse", "HEAD").strip()
    git("add", "registered.md")
    git("commit", "-qm", "registered")
    registered = git("rev-parse", "HEAD").strip()
    git("commit", "-q", "--allow-empty", "-m", "after")
    late = git("rev-parse", "HEAD").strip()
    found = finish(study, score, layers)
    for number, each in enumerate(found.values()):
        each.versions["commit"] = (early, late, "f" * 40)[number % 3]
    write_report(study, found, tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert f"registered.md at commit {registered[:12]}" in text
    assert f"{early[:12]} had **not** it" in text
    assert f"{late[:12]} had it" in text
    assert "ffffffffffff cannot be told to have had it" in text


def test_a_claim_of_several_lines_is_one_row(study, tmp_path):
    """Of Markdown's tables a line is a row."""
    text = TEXT.replace('"it is the projection"', '"""\nit is | the\nprojection\n"""')
    several = read_study(write(tmp_path, text))
    write_report(several, finish(several, score, layers), tmp_path / "out")
    assert "| projection: it is \\| the projection | **" in (tmp_path / "out/README.md").read_text()


def test_without_a_run_there_is_one_sentence(study):
    refused(invoke("study", "report", "study.toml"), "no run of study.toml has ended yet")


def test_files_of_one_s_own_are_neither_removed_nor_written_over(study, tmp_path):
    """Nothing is written where one of them would be; what the report does not write stays in any case."""
    write_rows(tmp_path / "rows", finish(study, score, layers).values())
    mine = tmp_path / "mine"
    for name in ("README.md", "differences.png", "runs.csv"):
        mine.mkdir(exist_ok=True)
        (mine / name).write_text("# my own: 3 things\n")
        (mine / "sweeps.csv").write_text("mine too")
        before = contents(mine)
        refused(
            invoke("study", "report", "study.toml", "--to", "mine"), f"{name} is not of an earlier", "--to"
        )
        assert contents(mine) == before
        (mine / name).unlink()
    for _ in range(2):
        assert invoke("study", "report", "study.toml", "--to", "mine").exit_code == 0
        assert (mine / "sweeps.csv").read_text() == "mine too"
        (mine / "tables.md").unlink()


def test_the_committed_reports_are_reports():
    folders = [path.parent for path in (ROOT / "docs/results/study").glob("*/README.md")]
    assert len(folders) >= 4
    assert all(_is_report(folder) for folder in folders)
    assert not _is_report(ROOT)
    assert not _is_report(ROOT / "docs/results/study")
