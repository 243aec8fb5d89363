"""The training benchmark: what is timed, shares, peak memory; not one number is a timing claim."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from aida_bench.bench import measure, train
from aida_bench.bench.model_shapes import model_shapes
from aida_bench.bench.workloads import TINY, WORKLOADS, Workload
from aida_bench.cli.app import app

BY_NAME = {contender.name: contender for contender in train.CONTENDERS}
QUICK = measure.Effort(0.0, 2, 1.0, rounds=2, warm=1)


def perceptron(batch, device):
    """64 layers of 64 KiB, of a few examples: an iteration holds little but gradients."""
    model = nn.Sequential(*(nn.Linear(128, 128, bias=False) for _ in range(64)))
    inputs = torch.randn(batch, 128)
    return model, lambda model: model(inputs).square().mean()


PERCEPTRON = Workload(perceptron, 1, 1, "rows")


@pytest.mark.parametrize("model", ["vgg11", "resnet34"])
def test_a_workload_is_the_model_whose_step_is_timed(model):
    (built, _), _ = WORKLOADS[model].on("cpu")
    assert sorted(tuple(p.shape) for p in built.parameters()) == sorted(model_shapes(model))


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.parametrize("precision", train.PRECISIONS)
def test_every_contender_trains(name, precision):
    training = train.Training(BY_NAME[name], TINY["tiny-gpt"], precision, "cpu")
    before = [p.detach().clone() for p in training.model.parameters()]
    training.iterate()
    training.iterate()
    assert not any(torch.equal(a, b) for a, b in zip(before, training.model.parameters(), strict=True))
    assert len(training.steps) == (0 if training.released else 2)
    assert {int(state["step"]) for state in training.optimizer.state.values()} == {2}
    training.close()


def test_bfloat16_is_autocast():
    seen = []
    training = train.Training(BY_NAME["Aida"], TINY["tiny-gpt"], "bfloat16", "cpu")
    training.model.blocks[0].up.register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    training.iterate()
    assert seen == [torch.bfloat16]
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}


def test_both_of_a_pair_begin_with_the_same_numbers_and_see_the_same_batch():
    pair = [train.Training(c, TINY["tiny-gpt"], "float32", "cpu") for c in (train.BASELINE, BY_NAME["Aida"])]
    losses = [each._loss(each.model).item() for each in pair]
    assert losses[0] == losses[1]


def test_release_takes_the_gradients_from_the_peak():
    """4 MiB of gradients: plain, all are held at once; released, at most what waits and a layer or two."""
    peaks = {}
    for name in ("Aida", "Aida, gradients released"):
        training = train.Training(BY_NAME[name], PERCEPTRON, "float32", "cpu")
        training.iterate()
        peaks[name] = training.peak_bytes()
        training.close()
    plain, released = peaks.values()
    assert plain >= 4 * 4 * 2**20  # parameters, moments, gradients
    assert plain - released >= 2.5 * 2**20


def test_shares_by_a_clock_that_only_steps_and_forwards_move(monkeypatch):
    """AdamW: 3 of 10 s; a contender whose step takes 10 s has 10 of 17, and released, 10 beyond AdamW's 7."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    class Fake:
        released = False
        batch = 1

        def __init__(self, contender, *rest):
            self.steps, self.cost, self.released = [], contender.cost, contender.released

        def iterate(self):
            clock.now += 7
            clock.now += self.cost
            if not self.released:
                self.steps.append(self.cost)

        def peak_bytes(self):
            return self.cost

        def close(self):
            pass

    class Contender:
        def __init__(self, cost, released=False):
            self.name, self.cost, self.released = "it", cost, released

    clock = Clock()
    monkeypatch.setattr(measure, "time", clock)
    monkeypatch.setattr(train, "Training", Fake)
    monkeypatch.setattr(train, "BASELINE", Contender(3))
    for released in (False, True):
        row = train.compare(PERCEPTRON, Contender(10, released), "float32", "cpu", QUICK)
        assert row["share"] == pytest.approx(10 / 17)
        assert row["baseline_share"] == pytest.approx(0.3)
        assert row["ratio"] == pytest.approx(1.7)
        assert (row["peak_bytes"], row["baseline_peak_bytes"]) == (10, 3)
        assert row["rounds"] == pytest.approx([1.7, 1.7])


def test_the_command_writes_json(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CONTENDERS", train.CONTENDERS[:2])
    out = tmp_path / "train.json"
    command = ["bench", "train", "--quick", "--threads", "1", "--precisions", "float32", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert [row["optimizer"] for row in result["results"]] == ["Aida", "Aida, gradients released"]
    assert all(row["ms"] > 0 and row["peak_bytes"] > 0 for row in result["results"])
    assert {row["threads"] for row in result["results"]} == {1}
    assert result["machine"]["isa"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--models", "vgg12"], "did you mean vgg11"), (["--precisions", "float8"], "Valid: float32, bfloat16")],
)
def test_the_command_refuses_in_one_line(arguments, message):
    done = CliRunner().invoke(app, ["bench", "train", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
