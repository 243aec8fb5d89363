"""What a record's step is: optimizer steps taken, one number, whichever layers had a gradient in them."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import aida
from aida.monitor import JSONL, Memory, StepsizeMonitor, TensorBoard, WandB, layer_stepsizes
from aida.monitor.measures import record
from aida.monitor.plots.series import apart
from helpers.members import set_gradients

SHAPES = ((4, 3), (5,), (2,))
OPTIMIZERS = {
    "Aida": aida.Aida,
    "LAida": aida.LAida,
    "post": lambda params: aida.LAida(params, layerwise="post"),
    "shared": lambda params: aida.Aida(params, layers=lambda name, p: "both" if name in "ab" else None),
    "Adam": torch.optim.Adam,
    "RMSprop": lambda params: torch.optim.RMSprop(params, momentum=0.9),
}


def made(make: Callable[..., Any] = aida.Aida) -> Any:
    generator = torch.Generator().manual_seed(7)
    params = [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]
    return make([*zip("abc", params, strict=True)])


def step(optimizer, t, trained):
    """One step in which the parameters of these numbers have a gradient."""
    optimizer.zero_grad()
    set_gradients([optimizer.param_groups[0]["params"][i] for i in trained], t)
    optimizer.step()


def records(rows):
    """The rows of each record, which ends in a spread row."""
    found = [[]]
    for row in rows:
        found[-1].append(row)
        if row["kind"] == "spread":
            found.append([])
    assert found.pop() == []
    return found


@given(
    plan=st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=12),
    every=st.integers(1, 4),
    make=st.sampled_from(list(OPTIMIZERS.values())),
)
@settings(max_examples=120)
def test_any_layers_in_any_steps(plan, every, make):
    """Layers that are frozen, unfrozen and in turn without a gradient; steps in which none has any."""
    optimizer, memory = made(make), Memory()
    params = optimizer.param_groups[0]["params"]
    monitor = StepsizeMonitor(optimizer, every=every, sinks=memory)
    taken, expected = 0, []
    for t, trained in enumerate(plan):
        before = [p.detach().clone() for p in params]
        step(optimizer, t, trained)
        taken += bool(trained)
        if trained and (taken == 1 or taken % every == 0):
            moved = {
                name: (p.detach() - x).norm().item() if p.grad is not None else None
                for name, p, x in zip("abc", params, before, strict=True)
            }
            expected.append((taken, moved))
    monitor.close()
    whole = records(memory.rows)
    assert [{row["step"] for row in rows} for rows in whole] == [{taken} for taken, _ in expected]
    for (_, moved), rows in zip(expected, whole, strict=True):
        for row in rows[:-1]:
            of_layer = [moved[name] for name in ("ab" if row["parameter"] == "both" else row["parameter"])]
            lengths = [x for x in of_layer if x is not None]
            if not lengths:
                assert row["update_ratio"] is row["g_norm"] is None
                assert row["mean"] > 0
            else:
                ratio = math.hypot(*lengths) / row["p_norm"]
                assert row["update_ratio"] == pytest.approx(ratio, rel=1e-9)
    assert [row for rows in apart(memory.rows).values() for row in rows] == memory.rows


class Logger:
    """Stands for TensorBoard's writer and for a run of Weights & Biases."""

    def __init__(self):
        self.steps = []

    def add_scalar(self, tag, x, step):
        self.steps.append(step)

    def add_histogram_raw(self, tag, global_step, **numbers):
        self.steps.append(global_step)

    def log(self, values):
        self.steps.append(values["stepsizes/step"])

    def flush(self):
        pass

    def define_metric(self, *names, **options):
        pass


@pytest.mark.parametrize("late", [True, False], ids=["unfrozen", "frozen"])
def test_files_loggers_and_resumed_runs_of_a_layer_that_is_trained_in_a_part(tmp_path, late):
    board, run, path = Logger(), Logger(), tmp_path / "rows.jsonl"
    optimizer = made()
    with StepsizeMonitor(optimizer, every=10, sinks=[path, TensorBoard(board), WandB(run)]) as monitor:
        for t in range(80):
            step(optimizer, t, {0, 1, 2} if (t >= 40) == late else {1, 2})
    wanted = [1, *range(10, 81, 10)]
    assert list(dict.fromkeys(board.steps)) == run.steps == wanted
    assert board.steps == sorted(board.steps)
    again = made()
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with StepsizeMonitor(again, every=10, sinks=path) as resumed:
        for t in range(80, 90):
            step(again, t, {0, 1, 2})
    assert resumed.run == monitor.run
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert apart(rows) == {"": rows}
    assert [row["step"] for row in rows if row["kind"] == "spread"] == [*wanted, 90]


def test_half_a_record_with_a_frozen_layer_is_cut_off_whole(tmp_path):
    path = tmp_path / "rows.jsonl"
    optimizer = made()
    with StepsizeMonitor(optimizer, every=1, sinks=path):
        for t in range(4):
            step(optimizer, t, {0, 1, 2} if t < 2 else {1, 2})
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.warns(UserWarning, match="ended in half a record"):
        JSONL(path).write(record([{"kind": "stepsize", "step": 1, "mean": 1.0}], run="new"))
    assert path.read_text().splitlines(keepends=True)[:-2] == lines[:12]


def test_steps_without_any_gradient_are_none():
    optimizer = made()
    with StepsizeMonitor(optimizer, every=5) as monitor:
        for t in range(16):
            step(optimizer, t, set() if 4 <= t < 10 else {0, 1, 2})
    assert [row["step"] for row in monitor.rows if row["kind"] == "spread"] == [1, 5, 10]


@pytest.mark.parametrize("fused", [None, True])
def test_a_step_that_a_gradient_scaler_skips_is_none(fused):
    make = aida.Aida if fused is None else lambda params: torch.optim.Adam(params, fused=True)
    optimizer, scaler = made(make), torch.amp.GradScaler("cpu", init_scale=2.0)
    p = optimizer.param_groups[0]["params"][0]
    with StepsizeMonitor(optimizer, every=2) as monitor:
        for t in range(7):
            optimizer.zero_grad()
            loss = p.square().sum() * (torch.inf if t in (1, 2) else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [row["step"] for row in monitor.rows if row["kind"] == "spread"] == [1, 2, 4]
    assert float(optimizer.state[p]["step"]) == 5


def test_gradients_that_another_hook_takes_away_leave_the_steps():
    optimizer = made()
    optimizer.register_step_post_hook(lambda o, a, k: o.zero_grad())
    with StepsizeMonitor(optimizer, every=2) as monitor:
        for t in range(4):
            step(optimizer, t, {0, 1, 2})
    assert [row["step"] for row in monitor.rows if row["kind"] == "spread"] == [1, 2, 4]
    assert all(row["update_ratio"] > 0 for row in monitor.rows if row["kind"] == "stepsize")


def test_steps_go_on_where_another_layer_takes_the_next_one():
    optimizer = made()
    for t in range(20):
        step(optimizer, t, {0})
    with StepsizeMonitor(optimizer, every=1) as monitor:
        step(optimizer, 20, {1})
    assert {row["step"] for row in monitor.rows} == {21}


@pytest.mark.parametrize("chosen", ["abc", "a"])
def test_without_a_monitor_it_is_the_largest_count_of_a_layer(chosen):
    optimizer = made()
    for t in range(5):
        step(optimizer, t, {0, 1, 2} if t < 2 else {1, 2})
    rows = layer_stepsizes(optimizer, select=lambda name, p: name in chosen)
    assert [(row["parameter"], row["step"]) for row in rows] == [(name, 5) for name in chosen]
    assert rows[0]["update_ratio"] is None
    optimizer.zero_grad()  # then nothing tells which layers had one
    assert layer_stepsizes(optimizer)[0]["update_ratio"] > 0


def test_a_record_of_rows_with_different_counts_has_one_step():
    rows = [{"kind": "stepsize", "step": t, "mean": 1.0} for t in (3, 5)]
    assert [row["step"] for row in record(rows)] == [5, 5, 5]


def test_a_record_of_no_rows_has_none():
    assert record([], run="mine") == []
