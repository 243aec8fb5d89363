"""Monitors that are open at once and write to one file: each has a run of its own."""

import gc
import json
import warnings

import pytest

import aida
from aida.monitor import JSONL, Memory, StepsizeMonitor
from aida.monitor.plots.series import apart
from helpers.members import parameters, train


def steps_by_run(path):
    found = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == "spread":
            found.setdefault(row["run"], []).append(row["step"])
    return found


@pytest.mark.parametrize("sink", [lambda path: path, JSONL, lambda path: ["memory", str(path)]])
def test_a_cell_of_a_notebook_that_is_run_again_begins_another_run_and_says_so(tmp_path, sink):
    path, optimizer = tmp_path / "rows.jsonl", aida.Aida(parameters())
    first = StepsizeMonitor(optimizer, every=1, sinks=sink(path))
    train(optimizer, range(2))
    with pytest.warns(
        UserWarning, match=r"another open StepsizeMonitor.*rows\.jsonl too, .* close\(\) it"
    ) as caught:
        second = StepsizeMonitor(optimizer, every=1, sinks=sink(path))
    assert len(caught) == 1
    train(optimizer, range(2, 4))
    first.close()
    second.close()
    assert steps_by_run(path) == {first.run: [1, 2, 3, 4], second.run: [3, 4]}
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sum(map(len, apart(rows).values())) == len(rows)


def test_two_optimizers_that_are_resumed_side_by_side_do_not_share_a_run(tmp_path):
    path = tmp_path / "rows.jsonl"
    optimizers = [aida.Aida(parameters()) for _ in range(2)]
    for optimizer in optimizers:
        with StepsizeMonitor(optimizer, every=1, sinks=path):
            train(optimizer, range(2))
    monitors = [StepsizeMonitor(optimizer, every=1, sinks=path) for optimizer in optimizers]
    for optimizer in optimizers:
        train(optimizer, range(2, 3))
    for monitor in monitors:
        monitor.close()
    assert len({monitor.run for monitor in monitors}) == 2


def closed(optimizer, path):
    StepsizeMonitor(optimizer, sinks=path).close(failed=True)


def of_another_file(optimizer, path):
    return StepsizeMonitor(optimizer, sinks=[path.with_name("other.jsonl"), Memory()])


def of_another_optimizer(optimizer, path):
    return StepsizeMonitor(aida.Aida(parameters()), sinks=path)


def gone(optimizer, path):
    other = aida.Aida(parameters())
    StepsizeMonitor(other, sinks=path)
    del other
    gc.collect()


@pytest.mark.parametrize("before", [closed, of_another_file, of_another_optimizer, gone])
def test_others_are_no_matter(tmp_path, before):
    optimizer, path = aida.Aida(parameters()), tmp_path / "rows.jsonl"
    with StepsizeMonitor(optimizer, every=1, sinks=path) as whole:
        train(optimizer, range(2))
    kept = before(optimizer, path)
    with (
        warnings.catch_warnings(action="error"),
        StepsizeMonitor(optimizer, every=1, sinks=path) as monitor,
    ):
        train(optimizer, range(2, 3))
    assert monitor.run == whole.run
    if kept:
        kept.close(failed=True)
