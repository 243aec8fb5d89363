"""The step benchmark: shapes, pairs, memory, tables; not one number of it is a timing claim."""

import json
import random
from math import prod

import pytest
import torch
from typer.testing import CliRunner

from aida_bench.bench import measure
from aida_bench.bench import report as bench_report
from aida_bench.bench import step as bench
from aida_bench.bench.model_shapes import LARGE, MODELS, model_shapes
from aida_bench.cli.app import app

ROW = {
    "optimizer": "Aida",
    "backend": "fused",
    "moments": "bfloat16",
    "ratio": 1.234,
    "quartiles": [1.2, 1.3],
}


@pytest.mark.parametrize("model", [*MODELS, *LARGE])
def test_shapes_have_the_models_parameters(model):
    assert sum(map(prod, model_shapes(model))) == {**MODELS, **LARGE}[model][1]


def test_pairs_know_which_is_which(monkeypatch):
    """By a clock that only the candidates move; whatever the order, the ratio says which is slower."""

    class Clock:
        now = 0

        def perf_counter(self):
            return self.now

    class Candidate:
        def __init__(self, seconds):
            self.seconds = seconds

        def step(self):
            clock.now += self.seconds

    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    effort = measure.Effort(seconds=0, pairs=20, patience=10_000)
    a, b = Candidate(1).step, Candidate(20).step
    pairs = measure.time_pairs(a, b, "cpu", effort, random.Random(0))
    assert pairs == [(1, 20)] * 20
    assert measure.summary([pairs])["ratio"] == 20


def test_extra_memory_is_what_a_step_allocates():
    def step():
        kept = torch.empty(250_000)
        del kept
        torch.empty(500_000)

    assert measure.peak_extra_bytes(step, "cpu") == 2_000_000


def test_a_summary_keeps_the_rounds_apart():
    found = measure.summary([[(1.0, 2.0), (1.0, 2.0)], [(2.0, 2.0)]])
    assert found["rounds"] == [2, 1]
    assert (found["ratio"], found["pairs"]) == (2, 3)


def test_candidates_take_turns_in_rounds():
    """Each round has new tensors, and in it every candidate is timed once; those that are not core in FEW."""
    built = []

    def build(name):
        def make(params):
            built.append((name, params[0].data_ptr()))
            return torch.optim.SGD(params, lr=1e-3)

        return make

    candidates = [
        bench.Candidate("X", "fused", build("X"), core=True),
        bench.Candidate("Y", "loop", build("Y")),
    ]
    rows = list(bench.compare([(3, 2)], candidates, "cpu", measure.Effort(0.0, 1, 1.0, rounds=5)))
    names = [name for name, _ in built]
    assert [len(row["rounds"]) for row in rows] == [5, bench.FEW]
    assert names[-2:] == ["X", "X"]
    assert [sorted(names[i : i + 2]) for i in range(0, 2 * bench.FEW, 2)] == [["X", "Y"]] * bench.FEW


def test_a_form_that_cannot_be_had_is_left_out_with_its_reason():
    def refuse(params):
        raise RuntimeError("no such kernel")

    effort = measure.Effort(0.0, 3, 1.0, rounds=1)
    rows = list(bench.compare([(3, 2)], [bench.Candidate("X", "fused", refuse)], "cpu", effort))
    assert [row["left_out"] for row in rows] == ["no such kernel"]
    assert bench_report.left_out({"results": rows}) == ["X, fused: no such kernel"]


def test_every_member_and_backend_is_planned():
    wanted = {(c.name, c.backend, c.moments) for _, _, cs in bench.plan(["vgg11"], [1, 2]) for c in cs}
    for member in bench.MEMBERS:
        for backend in bench.BACKENDS:
            assert {(member, backend, moments) for moments in ("float32", "bfloat16")} <= wanted
        assert (member, "fused", "int8") in wanted


def test_markdown():
    machine = {"cpu": "Some CPU", "accelerator": None}
    result = {
        "baseline": "torch AdamW, fused, float32", "machine": machine,
        "versions": {"torch": "2", "commit": "0123456789abcdef"},
        "results": [{"model": "vgg11", "threads": 2, **ROW}, {"model": "vgg11", "threads": 1, **ROW}],
    }  # fmt: skip
    table = bench_report.markdown(result)
    assert "| Aida, fused, bfloat16 moments | 1.23 (1.20–1.30) |" in table
    assert "Some CPU, 2 threads, torch 2, commit 0123456789." in table


def test_the_command_writes_json(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "MEMBERS", ("Aida",))
    monkeypatch.setattr(bench, "sweeps", lambda quick: [("layers", 2, [(5,)] * 2)])
    out = tmp_path / "new" / "step.json"
    command = [
        "bench",
        "step",
        "--quick",
        "--threads",
        "1",
        "--models",
        "small-tensors",
        "--out",
        str(out),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["machine"]["cores"]
    timed = [row for row in result["results"] if "ratio" in row]
    assert {row["optimizer"] for row in timed} >= {"Aida", "torch AdamW", "torch SGD", "adabelief-pytorch"}
    assert all(0 < row["quartiles"][0] <= row["ratio"] <= row["quartiles"][1] for row in timed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vgg12"], "did you mean vgg11"),
        (["--threads", "0"], "numbers above 0"),
        (["--threads", "²"], "above 0"),
    ],
)
def test_the_command_refuses_in_one_line(arguments, message):
    done = CliRunner().invoke(app, ["bench", "step", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
