"""Sweeps: score and share at the cap as one setting of a tuned optimizer changes, and what was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from aida.monitor.plots.style import PALETTE, blank
from aida_bench.report.statistics import Spread
from aida_bench.study.report.scores import MEAN, Row, Scores, measures
from aida_bench.study.report.table import Table, by, number, percent, spread, text
from aida_bench.study.scores import TaskScores
from aida_bench.study.spec import Sweep
from aida_bench.study.stepsizes import mean_spreads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORE, CAPPED, CHOSEN = PALETTE[0], PALETTE[1], "*"


def sweeps(scores: Scores) -> Table:
    rows: list[Row] = []
    for task, each in scores.items():
        for label, sweep in each.study.sweeps.items():
            if task in (sweep.tasks or each.study.tasks) and each.scoring is not None:
                rows += [{"task": task, "sweep": label, **row} for row in _values(each, sweep)]
    return Table(
        "sweeps", "One setting at a time",
        "The tuned optimizer with other values of one setting, everything else as chosen, on the seeds that "
        "all of them have; the value that was chosen among them. Descriptions, no claims.",
        rows, {
            "task": text("task"), "optimizer": text("optimizer"), "setting": text("key"),
            "value": number("value", ".3g"), "chosen": lambda row: "yes" if row["chosen"] else "",
            MEAN: spread, "n": text("n"), "at the cap": percent("capped"),
        },
        measures(scores),
    )  # fmt: skip


def _values(scores: TaskScores, sweep: Sweep) -> Iterator[Row]:
    """In the order of the values, each on the seeds that all have of which a run has ended."""
    tuned = scores.plan.settings(sweep.optimizer).get(sweep.key)
    labels = [(value, sweep.label(value), False) for value in sweep.values]
    ended = [set(scores.finals[label]) for _, label, _ in labels if scores.finals[label]]
    seeds = set.intersection(*ended) if ended else set()
    if tuned is not None and not scores.missing(sweep.optimizer):
        labels.append((tuned, sweep.optimizer, True))
    for value, label, chosen in sorted(labels, key=_order):
        costs = {seed: cost for seed, cost in scores.costs(label).items() if seed in seeds}
        found = Spread.of([scores.shown(cost) for cost in costs.values()])
        if found is None:
            continue
        kept = mean_spreads({seed: scores.finals[label][seed] for seed in costs})
        yield {
            "optimizer": sweep.optimizer, "key": sweep.key, "value": value, "chosen": chosen,
            "measure": scores.scored_by, "mean": found.mean, "std": found.std, "n": found.n,
            "diverged": sum(scores.finals[label][seed].diverged for seed in costs),
            "capped": kept and kept.capped,
        }  # fmt: skip


def _order(row: tuple[Any, str, bool]) -> tuple[bool, Any]:
    """Numbers by size, then what is none, such as a tuned pair, by what it is called."""
    value, label, _ = row
    return (False, value) if isinstance(value, (int, float)) else (True, label)


def sweep(table: Table) -> Figure | None:
    """A row of panels a sweep, a panel a task; None where no value's run has ended."""
    rows = by(table.rows, "sweep")
    if not rows:
        return None
    tasks = list(by(table.rows, "task"))
    figure, grid = blank(len(rows), len(tasks), 4.2, 3.2)
    for line, own in zip(grid, rows.values(), strict=True):
        for axes, task in zip(line, tasks, strict=True):
            axes.set_visible(False)
            if mine := by(own, "task").get(task):
                axes.set_visible(True)
                _panel(axes, task, mine, table)
    return figure


def _panel(axes: Any, task: str, rows: list[Any], table: Table) -> None:
    measure, values = table.measure_of(rows[0]), [row["value"] for row in rows]
    means = [measure.scale * row["mean"] for row in rows]
    axes.plot(values, means, "o-", color=SCORE, markersize=4)
    chosen = [row["chosen"] for row in rows]
    if any(chosen):
        at = chosen.index(True)
        axes.plot(values[at], means[at], CHOSEN, color=SCORE, markersize=13)
    axes.set_xscale("log")
    axes.set_xlabel(f"{rows[0]['key']} of {rows[0]['optimizer']} ({CHOSEN}: chosen)", fontsize="small")
    axes.set_ylabel(table.label_of(rows[0]), color=SCORE, fontsize="small")
    axes.set_title(task, fontsize="medium")
    axes.grid(alpha=0.25)
    if any(row["capped"] is not None for row in rows):
        beside = axes.twinx()
        shares = [float("nan") if row["capped"] is None else 100 * row["capped"] for row in rows]
        beside.plot(values, shares, "s--", color=CAPPED, markersize=3, linewidth=1)
        beside.set_ylim(-3, 103)
        beside.set_ylabel("at the cap, %", color=CAPPED, fontsize="small")
