"""What the table and the figures say of given rows."""

from __future__ import annotations

import io
from dataclasses import replace
from statistics import stdev

import pytest
from rich.console import Console

from aida_experiments import report
from aida_experiments.report import Result, Spread


def result(optimizer: str, seed: int, validation, test, diverged: bool = False, cap: float = 300.0) -> Result:
    epochs = [
        {"epoch": i, "train_loss": 1 / i, "validation_accuracy": v, "test_accuracy": t}
        for i, (v, t) in enumerate(zip(validation, test, strict=True), 1)
    ]
    stepsizes = [
        {"epoch": i, "layer": layer, "mean": cap / layer, "std": 1.0 * layer}
        for i in range(1, len(epochs) + 1)
        for layer in (1, 2)
    ]
    timings = [{"epoch": row["epoch"], "seconds": 2.0, "step_ms": 0.5} for row in epochs]
    return Result(optimizer, seed, diverged, epochs, [] if optimizer == "sgd" else stepsizes, timings)


RESULTS = [
    result("aida", 0, [0.5, 0.9, 0.9], [0.4, 0.8, 0.85]),
    result("aida", 1, [0.5, 0.6, 0.7], [0.4, 0.6, 0.95]),
    result("sgd", 0, [0.7, 0.6, 0.5], [0.7, 0.6, 0.5]),
    result("sgd", 1, [], [], diverged=True),
]


def test_summary():
    aida, sgd = report.summarise(RESULTS)
    assert (aida.optimizer, aida.runs, aida.diverged) == ("aida", 2, 0)
    # The best epoch is chosen by validation alone, the first of equals: 0.80 and 0.95 of the test set.
    assert aida.at_best == Spread(pytest.approx(0.875), pytest.approx(stdev([0.8, 0.95])), 2)
    assert aida.at_last == Spread(pytest.approx(0.9), pytest.approx(stdev([0.85, 0.95])), 2)
    assert aida.best_epoch is not None
    assert aida.best_epoch.mean == 2.5
    assert aida.seconds == Spread(6.0, 0.0, 2)
    assert (sgd.runs, sgd.diverged, sgd.at_last) == (2, 1, Spread(0.5, None, 1))


def show(results) -> str:
    text = io.StringIO()
    Console(width=80, file=text).print(report.table(results, "title"))
    return text.getvalue()


def test_table_marks_the_best_of_each_column():
    lines = show(RESULTS).splitlines()
    (aida,) = (line for line in lines if "aida" in line)
    (sgd,) = (line for line in lines if line.strip().startswith("sgd"))
    assert "★ 87.50 ± 10.61" in aida
    assert "★ 90.00 ± 7.07" in aida
    assert "★" not in sgd
    assert "70.00" in sgd
    assert any("1 diverged" in line for line in lines)
    assert "…" not in show(RESULTS)


def test_table_without_a_test_set():
    measured = [{k: v for k, v in row.items() if "test" not in k} for row in RESULTS[0].epochs]
    only = [replace(RESULTS[0], epochs=measured)]
    assert "also validates" in " ".join(show(only).split())
    assert "90.00" in show(only)


def test_figures():
    curves = report.learning_curves(RESULTS)
    assert curves is not None
    assert [line.get_label() for line in curves.axes[0].lines] == ["aida", "sgd"]
    assert list(curves.axes[1].lines[0].get_ydata()) == pytest.approx([0.5, 0.75, 0.8])
    figure = report.stepsizes([*RESULTS, result("adamw", 0, [0.5] * 3, [0.5] * 3, cap=1e6)])
    assert figure is not None
    aida_mean, adamw_mean, aida_std, _ = figure.axes
    assert [list(line.get_ydata()) for line in aida_mean.lines[:2]] == [[300] * 3, [150] * 3]
    assert aida_mean.lines[2].get_ydata()[0] == pytest.approx(316.2277, abs=1e-3)
    assert [list(line.get_ydata()) for line in aida_std.lines] == [[1] * 3, [2] * 3]
    assert adamw_mean.get_yscale() == "log"
    assert len(adamw_mean.lines) == 2
    assert report.stepsizes(RESULTS[2:]) is None


def test_no_figures_of_nothing_but_divergence(tmp_path):
    assert report.write_figures(RESULTS[3:], tmp_path) == []
    assert "diverged" in show(RESULTS[3:])
