"""The command on a report's page: it makes the runs that there are, and the command line takes it."""

from __future__ import annotations

import shlex
from dataclasses import fields

import pytest
from typer.testing import CliRunner

from aida_bench.cli.app import app
from aida_bench.cli.run_options import RunOptions
from aida_bench.recipes.digits import DIGITS
from aida_bench.report.names import same
from aida_bench.report.provenance import OPTIONS, command
from aida_bench.report.read_rows import group, read_groups
from helpers.bench.report_runs import result
from helpers.bench.studies import ROOT


def test_the_commands_make_the_runs_that_there_are_and_no_others():
    recipe = dict(DIGITS["aida"].settings)
    runs = [result("aida", seed, [0.5], [0.5], settings=recipe) for seed in (0, 1, 3)]
    runs.append(result("aida", 7, [0.5], [0.5], settings={**recipe, "lr": 1e30}))
    runs.append(result("sgd", 0, [0.5], [0.5], settings=dict(DIGITS["sgd"].settings)))
    lines = command(group(runs)[0]).splitlines()
    asked = [
        {
            key: line.partition(f"{key} ")[2].partition(" ")[0]
            for key in ("--optimizers", "--seeds", "--first-seed", "--lr")
        }
        for line in lines
    ]
    assert [tuple(each.values()) for each in asked] == [
        ("aida", "2", "0", ""), ("aida", "1", "3", ""), ("aida", "1", "7", "1e30"), ("sgd", "1", "0", "")
    ]  # fmt: skip


RUNS = "digits --optimizers aida,sgd --seeds 2 --first-seed 3 --epochs 1 --limit-batches 1 --batch-size 8"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (f"compare {RUNS}", "aida compare digits"),
        (f"compare {RUNS} --lr 0.5", "--lr 0.5"),
        (f"sweep {RUNS} --grid lr=1e-3,0.5 weight_decay=0", "--grid lr=0.001,0.5 weight_decay=0"),
    ],
)
def test_the_command_is_that_of_the_runs(tmp_path, asked, said):
    out = ["--out", str(tmp_path), "--workers", "1", "--quiet"]
    done = CliRunner().invoke(app, [*asked.split(), *out])
    assert done.exit_code == 0, done.output
    (made,) = read_groups(tmp_path)
    assert said in command(made)
    words = shlex.split(command(made))
    assert words[0] == "aida"
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("config.json")}
    # Under --resume another configuration would be refused and another run would leave a folder of its own.
    done = CliRunner().invoke(app, [*words[1:], *out, "--resume"])
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("config.json")} == before


def parsed(text: str, monkeypatch) -> tuple[dict, set]:
    """What the command line makes of a group's command: its options, and each run."""
    asked, runs = [], set()

    def carry_out(task, specs, seeds, options, console):
        asked.append({"task": task, **vars(options)})
        runs.update((each.optimizer, same(dict(each.settings)), seed) for each in specs for seed in seeds)

    monkeypatch.setattr("aida_bench.cli.app.carry_out", carry_out)
    for line in text.splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.output)
    return asked[0], runs


SETTINGS = [
    {"betas": [0.8, 0.99]}, {"maximize": True}, {"maximize": False}, {"layerwise": "post"},
    {"layerwise": None}, {"lr": 1e-9}, {"lr": 1e30}, {"lr": 0.1 + 0.2}, {"K": 3}, {"K": 10**7},
    {"lr": 0.5, "eps": 1e-12, "betas": [0.5, 0.75], "layerwise": "post"},
]  # fmt: skip


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("task", ["digits", "examples.own_task:Spirals"])
def test_the_command_can_be_given_for_every_kind_of_setting(monkeypatch, settings, task):
    """And for what a configuration holds besides, such as what is told of a task's measures."""
    monkeypatch.chdir(ROOT)
    own = dict(DIGITS["aida"].settings) if task == "digits" else {}
    about = {"task": task, "higher": ["gain"], "published": True, "limit_batches": 2, "device": "cpu"}
    about |= {"model": "mlp" if task == "digits" else "default", "threads": 2, "precision": "bf16"}
    made = [
        result("aida", seed, [0.5], [0.5], settings=given, **about)
        for given in (own, {**own, **settings})
        for seed in (0, 1)
    ]
    for runs in (made[:2], made[2:], made):
        (one,) = group(runs)
        options, found = parsed(command(one), monkeypatch)
        assert found == {("aida", same(each.settings), each.seed) for each in runs}
        told = ("task", "model", "threads", "precision", "limit_batches", "device", "preset", "epochs")
        assert {key: options[key] for key in told} == {key: runs[0].config[key] for key in told}


def test_every_option_of_the_command_is_one(monkeypatch):
    assert {each.name for each in fields(RunOptions)} >= set(OPTIONS)
