"""The page as text, and the tables for Markdown and LaTeX."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from aida_bench.cli.app import app
from aida_bench.recipes.digits import DIGITS
from aida_bench.report.export import latex, markdown
from aida_bench.report.html import page as report_html
from aida_bench.report.html.charts import aside
from aida_bench.report.html.page import colour_numbers
from aida_bench.report.html.view import overview
from aida_bench.report.read_rows import group, read_found, read_groups
from aida_bench.report.results import Group
from aida_bench.report.terminal import merged_rows
from helpers.bench.report_runs import RESULTS, result, write

VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """Fails on an element that is not closed; keeps addresses, identifiers, texts and the data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.addresses, self.ids, self.text, self.scripts = [], [], [], "", []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.addresses += [attributes[key] for key in ("src", "href") if key in attributes]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts.append(data)
        else:
            self.text += f"{data} "

    @property
    def data(self):
        return json.loads(next(script for script in self.scripts if script.startswith('{"task-1"')))

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    folder = write(tmp_path_factory.mktemp("compared"), [*RESULTS, result("adamw", 0, [0.1], [0.1], None)])
    return Page(report_html.write_html(folder))


def test_the_page_needs_no_other_file(page):
    assert all(re.match(r"#|data:", address) for address in page.addresses)
    assert not [script for script in page.scripts[:1] if "url(" in script or "@import" in script]
    assert len(page.ids) == len(set(page.ids))
    assert sum("plotly.js v" in script for script in page.scripts) == 1


def test_the_page_says_what_was_measured(page):
    assert "87.50 ± 10.61" in page.words
    assert "4 of 5" not in page.words
    for said in (
        "3 finished",
        "1 diverged",
        "1 unfinished",
        "10.00 so far",
        "torch 2.6.0",
        "commit 0123456789ab",
    ):
        assert said in page.words
    # One shared seed: a difference, and no interval that it could exclude zero with.
    assert "One seed" not in page.words
    assert "Against sgd" not in page.words
    assert "One shared seed cannot tell it from sgd." in page.words


def test_the_charts_have_the_numbers_of_the_runs(page):
    aida, sgd, adamw = page.data["task-1"]["optimizers"]
    assert (aida["name"], aida["scores"]["best"]["values"]) == ("aida", [80, 95])
    assert aida["curves"]["validation_accuracy"] == {
        "epoch": [1, 2, 3], "seconds": [2, 4, 6], "mean": [50, 75, 80], "std": [0, 21.2132, 14.1421]
    }  # fmt: skip
    assert [layer["mean"] for layer in aida["layers"]] == [[300] * 3, [150] * 3]
    assert (aida["cap"], adamw["cap"], sgd["layers"]) == (pytest.approx(316.2277, abs=1e-3), None, [])
    assert [run["status"] for run in sgd["runs"]] == ["finished", "diverged"]
    assert page.data["task-1"]["histograms"] == []


def test_names_are_text_and_never_markup(tmp_path):
    name = "</script><b>x</b>&"
    page = Page(report_html.write_html(write(tmp_path / "<i>", [result("sgd", 0, [0.5], [0.5], model=name)])))
    assert name in page.text
    assert "<i> – optimizers compared" in page.text


def test_the_same_runs_give_the_same_page(tmp_path):
    write(tmp_path, RESULTS)
    first = report_html.write_html(tmp_path).read_bytes()
    assert report_html.write_html(tmp_path).read_bytes() == first
    assert not list(tmp_path.glob(".*.part"))


def test_several_tasks_and_samples(tmp_path):
    write(tmp_path / "a", RESULTS)
    write(tmp_path / "b", [result("aida", 0, [9.0], [8.0], measure="perplexity", task="lm", model="lstm")])
    for name, content in {
        "samples-2.png": b"older",
        "samples.png": b"newer",
        "stepsizes.png": b"no sample",
    }.items():
        (tmp_path / "b" / "aida" / "seed-0" / name).write_bytes(content)
    page = Page(report_html.write_html(tmp_path))
    assert "Optimizer × task" in page.text
    assert list(page.data) == ["task-1", "task-2"]
    assert page.words.count("What each run's model drew last") == 1
    embedded = [address for address in page.addresses if address.startswith("data:image/png")]
    assert embedded == [f"data:image/png;base64,{base64.b64encode(b'newer').decode()}"]


def test_the_report_command(tmp_path):
    write(tmp_path / "a", RESULTS)
    write(tmp_path / "b", [result("aida", 0, [9.0], [8.0], measure="perplexity", task="lm", model="lstm")])
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    names = [path.name for path in sorted(tmp_path.glob("*.*"))]
    figures = [
        "digits-cnn-learning-curves",
        "digits-cnn-stepsizes",
        "lm-lstm-learning-curves",
        "lm-lstm-stepsizes",
    ]
    assert names == sorted(
        ["report.html", *(f"{name}.{form}" for name in figures for form in ("png", "svg"))]
    )
    assert done.output.count("wrote ") == 9
    done = CliRunner().invoke(app, ["report", str(tmp_path / "nothing")])
    assert (done.exit_code, done.stdout) == (2, "")
    assert re.fullmatch(r"error: \S+ is not a folder: .*\n", done.stderr)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--markdown"])
    assert "| aida | **87.50 ± 10.61** |" in done.stdout


def test_markdown():
    lines = markdown([Group("digits", RESULTS)]).splitlines()
    assert lines[0].startswith("digits: test accuracy, % (more is better)")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert {len(row) for row in cells} == {8}
    assert cells[2][:4] == ["aida", "**87.50 ± 10.61**", "**90.00 ± 7.07**", "2"]
    assert cells[3][:5] == ["sgd", "70.00", "50.00", "1 of 2, 1 diverged", "-10.00 (aida, n = 1)"]


def test_latex_is_escaped_once():
    text = latex([Group("a_b & 5 %", RESULTS)])
    assert r"a\_b \& 5 \%" in text
    assert r"aida & \textbf{87.50 $\pm$ 10.61} &" in text
    assert "\0" not in text
    assert text.count(r" \\") == 3
    assert text.count("{") == text.count("}")


def test_equal_scores_share_rank_colour_and_the_sentence(tmp_path):
    finals = {"aida": 0.9, "adamw": 797 / 810, "sgd": 797 / 810, "adabelief": 0.8}
    for task in ("digits", "mnist"):
        runs = [result(n, s, [v] * 3, [v] * 3, task=task) for n, v in finals.items() for s in range(3)]
        write(tmp_path / task, runs)
    view = overview(groups := read_groups(tmp_path), colour_numbers(groups))
    shown = {
        row["name"]: (row["rank"], row["cells"][0]["shade"], row["cells"][0]["shown"].first)
        for row in view["rows"]
    }
    assert shown["adamw"] == shown["sgd"] == (1, 34, True)
    assert (shown["aida"][0], shown["adabelief"][0]) == (3, 4)
    page = Page(report_html.write_html(tmp_path))
    assert page.words.count("adamw and sgd, tied at 98.40 % (means of 3 and 3 seeds).") == 4


def test_a_setting_of_ones_own_is_in_the_name(tmp_path):
    plain = dict(DIGITS["aida"].settings)
    write(tmp_path, [result("aida", 0, [0.5], [0.5], settings={**plain, "lr": 1e30})])
    write(tmp_path / "sgd", [result("sgd", 0, [0.5], [0.5], settings=dict(DIGITS["sgd"].settings))])
    (group,) = read_groups(tmp_path)
    assert sorted(group.optimizers) == ["aida lr=1e30", "sgd"]
    page = Page(report_html.write_html(tmp_path))
    assert {each["name"] for each in page.data["task-1"]["optimizers"]} == {"aida lr=1e30", "sgd"}
    assert {row["label"] for row in merged_rows(group.results)} == {"aida lr=1e30", "sgd"}
    write(tmp_path / "plain", [result("aida", 0, [0.5], [0.5], settings=plain)])
    (group,) = read_groups(tmp_path)
    assert sorted(group.optimizers) == ["aida lr=0.003", "aida lr=1e30", "sgd"]


def test_names_of_settings_that_differ_differ(tmp_path):
    rates = [1e-3, 1e-3 + 1e-9, None, 1, 1.0]
    for number, lr in enumerate(rates):
        write(tmp_path / f"{number}", [result("aida", 0, [0.5], [0.5], settings={"lr": lr})])
    (group,) = read_groups(tmp_path)
    assert group.optimizers == ["aida lr=0.001", "aida lr=0.001000001", "aida lr=–", "aida lr=1"]


def test_coinciding_dots_lie_side_by_side():
    assert aside([], []) == []
    assert aside([5.0], [5.0]) == [0]
    assert aside([1.0, 2.0, 1.0], [0.0, 10.0]) == [-0.07, 0, 0.07]
    many = aside([1.0] * 101, [1.0] * 101)
    assert len(set(many)) == 101
    assert (min(many), max(many)) == (-0.35, 0.35)
    assert aside([1.0, 1.001], [0.0, 1.0]) == [-0.07, 0.07]


STRANGE = [
    '{"model_type": "bert"}',
    "[1]",
    "{",
    "",
    '{"task": 1, "optimizer": {}, "seed": "x"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("text", STRANGE)
def test_a_strangers_configuration_stops_nothing_and_is_named(tmp_path, text, capsys):
    write(tmp_path, RESULTS)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(text)
    page = Page(report_html.write_html(tmp_path))
    assert "87.50 ± 10.61" in page.words
    assert "Left out 1 bert" in page.words
    assert capsys.readouterr().err.startswith(f"warning: left out: {tmp_path / 'bert'}")


def test_a_damaged_run_is_left_out_and_the_others_are_shown(tmp_path):
    write(tmp_path, RESULTS)
    (tmp_path / "aida" / "seed-1" / "done.json").write_text("{")
    page = Page(report_html.write_html(tmp_path))
    assert "Left out 1 aida/seed-1 cannot be read" in page.words
    assert "80.00" in page.words


def test_linked_runs_are_read_once(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", RESULTS[:2])
    folder = write(tmp_path / "runs", RESULTS[2:])
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (folder / "gone").symlink_to(tmp_path / "nothing")
    found = read_found(folder)
    (group,) = found.groups
    assert len(group.results) == 4
    told = {path.name: reason for path, reason in found.left_out}
    assert told == {"gone": "is a link to nothing", "round": "is ., which is read there"}
    assert "linked/aida/seed-0" in Page(report_html.write_html(folder)).words


def test_copies_and_hidden_runs_are_named(tmp_path):
    write(tmp_path / "a", RESULTS[:1])
    write(tmp_path / "b", RESULTS[:1])
    write(tmp_path / ".trash", RESULTS[2:3])
    found = read_found(tmp_path)
    reasons = sorted(reason for _, reason in found.left_out)
    assert reasons == ["is a copy of a/aida/seed-0", "is in a hidden folder"]


def test_what_is_told_later_of_a_measure_splits_no_group(tmp_path):
    """Runs of before and after, in one table the right way round; a copy of one is one of both."""
    told = {"task": "own:Task", "higher": ["gain"]}
    runs = [
        result("aida", 0, [0.1], [0.1], measure="gain", task="own:Task"),
        result("sgd", 0, [0.9], [0.9], measure="gain", **told),
    ]
    (one,) = group(runs)
    assert one.measure.higher
    assert (one.title, one.scored) == ("own:Task · cnn", "test gain")
    write(tmp_path / "a", runs)
    write(tmp_path / "b", [result("aida", 0, [0.1], [0.1], measure="gain", **told)])
    found = read_found(tmp_path)
    assert [each.config.get("higher") for each in found.groups[0].results] == [["gain"]] * 2
    assert [reason for _, reason in found.left_out] == ["is a copy of b/aida/seed-0"]


@pytest.mark.parametrize("order", [1, -1])
def test_a_measure_is_turned_around_on_the_task_that_says_so_alone(tmp_path, order):
    runs = [
        result(name, 0, [value], [value], measure="gain", task=task, **about)
        for task, about in [("own:Up", {"higher": ["gain"]}), ("own:Down", {})][::order]
        for name, value in (("aida", 0.9), ("sgd", 0.1))
    ]
    groups = {each.results[0].config["task"]: each for each in group(runs)}
    assert {task: each.measure.higher for task, each in groups.items()} == {"own:Up": True, "own:Down": False}
    text = latex(list(groups.values()))
    assert text.count(r"\textbf{0.9}") == text.count(r"\textbf{0.1}") == 2
    page = Page(report_html.write_html(write_all(tmp_path, runs)))
    keys = {each["scored"]: {k["key"]: k["higher"] for k in each["keys"]} for each in page.data.values()}
    assert keys["test gain"]["validation_gain"]
    assert not keys["test gain (less counts as better)"]["validation_gain"]


def write_all(folder: Path, results) -> Path:
    for each in results:
        write(folder / each.config["task"].replace(":", "-"), [each])
    return folder


def test_settings_that_are_not_the_recipes_are_named_with_their_source(tmp_path):
    runs = [result("aida", 0, [0.5], [0.5], settings={"lr": 0.25, "weight_decay": 5e-4})]
    page = Page(report_html.write_html(write(tmp_path, runs)))
    assert f"lr: given; else {DIGITS['aida'].source}" in page.words
    assert "--lr 0.25" in page.words
