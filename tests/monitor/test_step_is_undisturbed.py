"""A monitored step compiles, waits and places tensors as one without a monitor does."""

import ast
from pathlib import Path

import pytest
import torch
from torch import nn

import aida
from aida.monitor import StepsizeMonitor
from aida.monitor import monitor as watch
from aida.monitor.layer_sums import BINS, counted
from helpers.members import parameters, set_gradients, train


@pytest.mark.parametrize("make", [aida.Aida, torch.optim.Adam])
def test_a_compiled_step_has_as_many_graphs_as_without_a_monitor(make):
    counts, steps = [], []
    for watched in (False, True):
        torch._dynamo.reset()
        graphs = []
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
        optimizer = make(model.parameters(), foreach=True)
        monitor = StepsizeMonitor(optimizer, model, every=1) if watched else None
        step = torch.compile(
            optimizer.step, backend=lambda graph, _, found=graphs: found.append(1) or graph.forward
        )
        for t in range(3):
            set_gradients(model.parameters(), t)
            step()
        if monitor:
            monitor.close()
            steps = [row["step"] for row in monitor.rows if row["kind"] == "spread"]
        counts.append(len(graphs))
    assert counts[0] == counts[1] > 0
    assert steps == [1, 2, 3]


class Slow:
    """A record that reaches the host only when it is waited for, as on a busy GPU."""

    failed, stepped = {}, True

    def __init__(self, log, record):
        self.log, self.record = log, record

    def ready(self):
        return False

    def rows(self, step):
        self.log.append("waited")
        return self.record.rows(step)


def test_a_step_never_waits_for_a_record(monkeypatch):
    optimizer, log = aida.Aida(parameters()), []
    collect = watch.collect
    monkeypatch.setattr(watch, "collect", lambda *a: Slow(log, collect(*a)))
    monitor = StepsizeMonitor(optimizer, every=1)
    train(optimizer, range(5))
    assert log == []
    monitor.close()
    assert log == ["waited"] * 5
    assert [row["step"] for row in monitor.rows if row["kind"] == "spread"] == [1, 2, 3, 4, 5]


def test_every_tensor_that_is_made_says_on_which_device():
    """With torch.set_default_device("cuda") one that does not would be where it cannot be used."""
    makers = {
        "arange",
        "empty",
        "eye",
        "full",
        "linspace",
        "ones",
        "rand",
        "randn",
        "scalar_tensor",
        "tensor",
        "zeros",
    }
    found = []
    for path in Path(watch.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(called := node.func, ast.Attribute):
                of_torch = isinstance(called.value, ast.Name) and called.value.id == "torch"
                if of_torch and called.attr in makers and "device" not in {k.arg for k in node.keywords}:
                    found.append(f"{path.name}:{node.lineno}")
    assert found == []


def test_counting_where_algorithms_have_to_be_deterministic():
    bins = torch.randint(0, BINS + 1, (5000,), generator=torch.Generator().manual_seed(1)).float()
    assert counted(bins).tolist() == torch.bincount(bins.int(), minlength=BINS + 1)[:BINS].tolist()
