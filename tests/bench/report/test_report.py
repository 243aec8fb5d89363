"""What the terminal's table and the figures say of given rows."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from aida_bench.report import figures, terminal
from helpers.bench.report_runs import RESULTS, result


def show(results, width: int = 80) -> str:
    text = io.StringIO()
    Console(width=width, file=text).print(terminal.table(results, "title", width))
    return text.getvalue()


@pytest.mark.parametrize("width", [24, 40, 60, 79, 80, 200])
def test_scores_are_whole_however_narrow_the_terminal_is(width):
    long = result("aida", 0, [0.5] * 3, [0.5] * 3)
    shown = show([*RESULTS, replace(long, label="aida lr=0.003 weight_decay=0.0005 eps=1e-12")], width)
    lines = shown.splitlines()
    assert "…" not in shown
    assert max(map(len, lines)) <= max(width, len("weight_decay=0.0005  ★ 87.50 ± 10.61"))
    assert any("★ 87.50 ± 10.61" in line for line in lines)
    caption = " ".join(shown.split())
    named = {"90.00 ± 7.07": "last scores", "0.3333": "training losses", "0.50": "of a step"}
    for column, told in named.items():
        assert (column in caption) != (f"Not shown in {width} columns: " in caption and told in caption)
    assert ("0.50" in caption) == (width == 200)


def test_at_sixty_columns_both_scores_are_there():
    assert "★ 87.50 ± 10.61  ★ 90.00 ± 7.07" in show(RESULTS, 60)


def test_equal_means_are_both_the_best():
    tied = [result(name, seed, [797 / 810], [797 / 810]) for name in ("aida", "sgd") for seed in (0, 1)]
    assert show(tied).count("★ 98.40 ± 0.00") == 4
    rounded = [result("aida", 0, [0.1 + 0.2], [0.1 + 0.2]), result("sgd", 0, [0.3], [0.3])]
    assert show(rounded).count("★ 30.00") == 4


def test_a_run_that_is_not_whole_is_in_no_mean():
    emptied = replace(result("aida", 2, [0.5] * 3, [0.5] * 3), rows=[])
    cut = result("aida", 3, [0.1], [0.1], epochs=3)
    shown = show([*RESULTS, emptied, cut])
    assert "★ 87.50 ± 10.61" in shown
    assert "2 of 4" in shown
    assert "2 unfinished" in shown
    assert emptied.note == "done.json says finished, but rows.jsonl has 0 of 3 epochs"
    assert "★ 50.00" not in show([emptied, cut])
    assert "★ 10.00" not in show([emptied, cut])
    assert "10.00 so far" in show([emptied, cut])


def test_nothing_is_said_of_what_was_not_measured():
    shown = " ".join(show(RESULTS[3:]).split())
    assert "No epoch is whole yet." in shown
    assert "loss," not in shown


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


def test_table_of_a_measure_of_which_less_is_better():
    results = [
        result("aida", 0, [90.0, 80.0, 85.0], [91.0, 81.0, 70.0], measure="perplexity"),
        result("sgd", 0, [90.0, 85.0, 82.0], [91.0, 86.0, 83.0], measure="perplexity"),
    ]
    shown = show(results)
    assert "★ 81.00" in shown
    assert "★ 70.00" in shown
    assert "test perplexity" in shown


def test_table_without_a_test_set():
    measured = [{k: v for k, v in row.items() if "test" not in k} for row in RESULTS[0].rows]
    only = [replace(RESULTS[0], rows=measured)]
    assert "validation accuracy also chooses the epoch" in " ".join(show(only).split())
    assert "90.00" in show(only)


def test_figures():
    curves = figures.learning_curves(RESULTS)
    assert curves is not None
    assert [line.get_label() for line in curves.axes[0].lines] == ["aida", "sgd"]
    assert list(curves.axes[1].lines[0].get_ydata()) == pytest.approx([50, 75, 80])
    figure = figures.stepsizes([*RESULTS, result("adamw", 0, [0.5] * 3, [0.5] * 3, mean=1e6)])
    assert figure is not None
    aida_mean, adamw_mean, aida_std, _ = figure.axes
    assert [list(line.get_ydata()) for line in aida_mean.lines[:2]] == [[300] * 3, [150] * 3]
    assert aida_mean.lines[2].get_ydata()[0] == pytest.approx(316.2277, abs=1e-3)
    assert [list(line.get_ydata()) for line in aida_std.lines] == [[1] * 3, [2] * 3]
    assert adamw_mean.get_yscale() == "log"
    assert len(adamw_mean.lines) == 2
    assert figures.stepsizes(RESULTS[2:]) is None


def test_stepsizes_are_means_over_seeds():
    runs = [result("aida", seed, [0.5], [0.5], mean=mean) for seed, mean in enumerate((100.0, 300.0))]
    figure = figures.stepsizes(runs)
    assert figure is not None
    assert [list(line.get_ydata()) for line in figure.axes[0].lines[:2]] == [[200.0], [100.0]]


def test_the_cap_is_that_of_the_settings():
    settings = {"eps": 1e-16, "betas": [0.9, 0.98]}
    figure = figures.stepsizes([result("aida", 0, [0.5], [0.5], settings=settings)])
    assert figure is not None
    assert figure.axes[0].lines[2].get_ydata()[0] == pytest.approx((0.02 / 1e-16) ** 0.5)


def test_figures_are_the_same_bytes_each_time(tmp_path):
    paths = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        paths.append(figures.write_figures(RESULTS, tmp_path / name, formats=("png", "svg")))
    assert sorted(path.name for path in paths[0]) == [
        "learning-curves.png", "learning-curves.svg", "stepsizes.png", "stepsizes.svg"
    ]  # fmt: skip
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_no_figures_of_nothing_but_divergence(tmp_path):
    assert figures.write_figures(RESULTS[3:], tmp_path) == []
    assert "diverged" in show(RESULTS[3:])


NAMES = ("a$x_{$b", "$\\alpha_{", "lr=$1 for $2")


@pytest.mark.parametrize("form", ["svg", "png"])
def test_a_dollar_in_a_name_is_no_formula(tmp_path, form):
    figure = Figure()
    one, two = figure.subplots(1, 2)
    for name in NAMES:
        one.plot([1, 2], [1, 1000], label=name)
    one.set_yscale("log")
    one.legend()
    one.set_title(NAMES[0])
    two.set_yticks(range(3), NAMES)
    two.set_xlabel(NAMES[1])
    with pytest.raises(ValueError, match=r"ParseFatalException|Expected"):
        figure.savefig(tmp_path / "before.png")
    figures.save_figure(figure, tmp_path / f"figure.{form}")
    # The powers of ten at a logarithmic axis stay what matplotlib makes of them.
    assert one.get_yticklabels()[0].get_parse_math()
    assert not two.get_yticklabels()[0].get_parse_math()
