"""The figure that sums up the study, docs/results/study/summary.png: Aida minus three rivals, task by task.

    python reproduce/study_summary.py

It takes the tables of differences that `aida study report` has written.
"""

import csv
from math import inf
from pathlib import Path

from aida_bench.report.figures import plain_text, save_figure
from aida_bench.study.report.figures import forest
from aida_bench.study.report.table import Table

STUDY = Path(__file__).parents[1] / "docs" / "results" / "study"
REPORTS = ("tier-1", "gpt-lr", "gpt", "tier-2")
RIVALS = {"adamw": "AdamW", "adabelief": "AdaBelief", "mean": "its layers' mean damping"}


def description(shown: Table) -> str:
    """What the figure shows, in words: it lies in its files, where a test compares it with the tables."""
    said = "Aida minus {name} on {rival}: {difference:.4f} [{low:.4f}, {high:.4f}]"
    return "; ".join(said.format(name=RIVALS[row["task"]], **row) for row in shown.rows)


def differences() -> Table:
    """Of their tasks. A panel of forest() is a `task`: the rival stands there, and the task beside it."""
    rows = []
    for report in REPORTS:
        for row in csv.DictReader((STUDY / report / "differences.csv").read_text().splitlines()):
            if (row["optimizer"], row["measure"]) == ("aida", "test_loss") and row["rival"] in RIVALS:
                numbers = {key: float(row[key]) for key in ("difference", "low", "high", "n")}
                turned = {"task": row["rival"], "rival": row["task"], "primary": row["primary"] == "True"}
                rows.append({**row, **numbers, **turned})
    return Table("differences", "", "", sorted(rows, key=lambda row: list(RIVALS).index(row["task"])), {})


if __name__ == "__main__":
    shown = differences()
    figure = forest(shown, far=inf)
    assert figure
    for axes, name in zip(figure.axes, RIVALS.values(), strict=True):
        axes.set_title(f"Aida minus {name}", fontsize="medium")
    with plain_text():
        for form in ("png", "svg"):
            save_figure(figure, STUDY / f"summary.{form}", description(shown))
