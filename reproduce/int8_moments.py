"""Does Aida train from moments in 8 bits as from float32? Whole runs of the study's tasks, paired by seed.

    python reproduce/int8_moments.py [--seeds 5] [--tasks mnist,lm,gpt] [--forms float32,int8]

bfloat16 moments are the control: what another rounding of the same numbers changes. A killed command goes on
where it was, seed after seed; rows of other runs that --rows holds are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import product
from math import nan
from pathlib import Path
from statistics import fmean

from rich.console import Console

from aida_bench.execution.dispatch import carry_out
from aida_bench.execution.plan import ExecutionOptions, OptimizerSpec, Plan
from aida_bench.recipes import PRESETS
from aida_bench.report.read_rows import read_folder
from aida_bench.report.statistics import paired_interval
from aida_bench.storage.files import Row, read_json_lines, to_json_lines, write_text
from aida_bench.study.records import of_result
from aida_bench.study.stepsizes import spreads

RUNS = Path("runs/int8")
POINTS = {
    "mnist": {"lr": 2.175e-3, "eps": 1.283e-10, "weight_decay": 1.037e-4},
    "lm": {"lr": 5.096e-3, "eps": 1.43e-14, "weight_decay": 6.952e-3},
    "gpt": {"lr": 4.093e-4, "eps": 3.544e-16, "weight_decay": 8.882e-4},
}
"""Aida's best of the first 11 points of the study's tuning: docs/results/study/tier-1."""
FIXED = {"K": 2, "decoupled_weight_decay": True}
FORMS = ("float32", "bfloat16", "int8")


def train(task: str, form: str, seed: int) -> Row:
    """The row of one whole run, carried out where it is not finished."""
    preset = PRESETS[task]["study"]
    settings = {**preset.recipes["aida"].settings, **FIXED, **POINTS[task], "state_dtype": form}
    plan = Plan(
        task, "study", preset.models[0], [OptimizerSpec(form, "aida", settings)], [seed],
        preset.epochs, preset.batch_size, limit_batches=None, device="cpu", precision="32", threads=1,
    )  # fmt: skip
    (run,) = carry_out(plan, RUNS / task, ExecutionOptions(workers=1, keep=True), Console())
    record = of_result(f"{task}/{form}", read_folder(run.folder))
    losses = {} if record.diverged else {k: v for k, v in record.epochs[-1].items() if k.endswith("_loss")}
    return {
        "task": task, "form": form, "seed": run.config["seed"], "status": record.status,
        **losses, "capped": getattr(spreads(record), "capped", None),
        "settings": run.config["settings"], "cpu_seconds": round(record.cpu_seconds, 1), **record.versions,
    }  # fmt: skip


def difference(key: str, runs: dict[int, Row], base: dict[int, Row]) -> str:
    """The mean over seeds of a loss, or of its difference to float32's with an interval of 95 %."""
    mine, theirs = ({seed: row.get(key, nan) for seed, row in each.items()} for each in (runs, base))
    if runs is base:
        return f"{fmean(mine.values()):.4f}"
    found = paired_interval(mine, theirs)
    if found is None or found.low is None:
        return f"{found.mean:+.4f}" if found else ""
    return f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def tables(rows: Iterable[Row]) -> list[str]:
    """Losses of float32 and the others' differences to it."""
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        found.setdefault((row["task"], row["form"]), {})[row["seed"]] = row
    lines = ["task | moments | seeds | training loss | validation loss | at the cap", "--- | " * 5 + "---"]
    for task, form in product(POINTS, FORMS):
        if runs := found.get((task, form)):
            losses = [
                difference(key, runs, found[task, "float32"]) for key in ("train_loss", "validation_loss")
            ]
            capped = fmean(run["capped"] or 0.0 for run in runs.values())
            lines.append(" | ".join([task, form, str(len(runs)), *losses, f"{100 * capped:.0f} %"]))
    return [f"| {line} |" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tasks", default=",".join(POINTS))
    parser.add_argument("--forms", default=",".join(FORMS))
    parser.add_argument("--rows", type=Path, default=Path("docs/results/int8/rows.jsonl"))
    asked = parser.parse_args()
    rows = {(row["task"], row["form"], row["seed"]): row for row in read_json_lines(asked.rows)}
    for seed in range(asked.seeds):
        for task, form in product(asked.tasks.split(","), asked.forms.split(",")):
            if (task, form, seed) not in rows:
                rows[task, form, seed] = train(task, form, seed)
                write_text(asked.rows, to_json_lines(rows.values()))
    print("\n".join(tables(rows.values())))


if __name__ == "__main__":
    main()
