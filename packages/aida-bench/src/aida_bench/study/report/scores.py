"""Tables of final scores: by seed, by optimizer, differences, aggregates over tasks, times, stepsizes."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np

from aida_bench.report.metrics import Metric
from aida_bench.report.statistics import FEWEST, Interval, Spread
from aida_bench.study import statistics
from aida_bench.study.claims import better, worse
from aida_bench.study.report.table import (
    Table,
    beside,
    interval,
    number,
    percent,
    ratio,
    score,
    signed,
    spread,
    text,
)
from aida_bench.study.scores import TaskScores, over_tasks
from aida_bench.study.stepsizes import by_seed, mean_spreads

Scores = Mapping[str, TaskScores]
Row = dict[str, Any]
THRESHOLDS = [round(0.01 * i, 2) for i in range(-20, 121)]
"""Of the performance profile, in normalised scores."""
MEAN = "mean ± standard deviation"


def measures(scores: Scores) -> dict[str, Metric]:
    """Of the tasks of which a run has ended."""
    return {task: each.measure for task, each in scores.items() if each.scoring}


def _means(scores: TaskScores, costs: Mapping[int, float]) -> Row:
    found = Spread.of([scores.shown(cost) for cost in costs.values()])
    return {
        "measure": scores.scored_by,
        "mean": found and found.mean,
        "std": found and found.std,
        "n": len(costs),
    }


def by_optimizer(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        if each.scoring is None:
            continue
        labels = [label for label in each.plan.optimizers if each.finals[label]]
        for label in sorted(labels, key=lambda label: each.mean(label) or 0.0):
            values = each.normalised(label)
            row = {
                "task": task, "optimizer": label, **_means(each, each.costs(label)),
                "diverged": each.diverged(label),
                "normalised": None if values is None else float(np.mean(values)),
                "missing": ", ".join(each.missing(label)),
            }  # fmt: skip
            rows.append(beside(row, each.plan.settings(label)))
        if each.untrained is not None:
            base = _means(each, {0: each.untrained})
            rows.append({"task": task, "optimizer": "untrained model", **base, "normalised": 0.0})
    return Table(
        "scores", "Final scores",
        "The last epoch's score at the tuned settings, the best first. Normalised: 0 is the untrained model, "
        "1 the best tuned optimizer. A run that diverged counts as the worst score of its task.",
        rows, {
            "task": text("task"), "optimizer": text("optimizer"), MEAN: spread, "n": text("n"),
            "diverged": text("diverged"), "normalised": number("normalised", ".3f"), "lr": number("lr"),
            "eps": number("eps"), "decay": number("weight_decay"), "missing": text("missing"),
        },
    )  # fmt: skip


def by_run(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        for stage, kind in (("final", each.finals), ("published", each.published)):
            for label, records in kind.items():
                costs = each.costs(label, published=stage == "published")
                spreads = by_seed(records)
                rows += [{
                    "task": task, "optimizer": label, "stage": stage, "seed": seed,
                    "measure": each.scored_by,
                    "score": each.shown(costs[seed]) if seed in costs else None, "state": record.status,
                    "cpu_seconds": record.cpu_seconds,
                    **(vars(spreads[seed]) if seed in spreads else {}), "key": record.key,
                } for seed, record in sorted(records.items())]  # fmt: skip
    return Table("runs", "Every scored run", "", rows, {})


def _difference(scores: TaskScores, found: Interval, **about: Any) -> Row:
    ends = [None, None] if found.low is None or found.high is None else [found.low, found.high]
    low, high = sorted(scores.shown(end) for end in ends if end is not None) or ends
    told_apart = "better" if better(found) else "worse" if worse(found) else "not told apart"
    verdict = told_apart if found.n >= FEWEST else f"not said: fewer than {FEWEST} seeds"
    return {**about, "difference": scores.shown(found.mean), "low": low, "high": high, "n": found.n,
            "verdict": verdict}  # fmt: skip


def differences(scores: Scores) -> Table:
    """Of the optimizer of [comparisons] to each other one, the primary ones corrected; sweeps are apart."""
    rows = []
    for task, each in scores.items():
        wanted = each.study.comparisons
        if each.scoring is None or wanted is None or wanted.of not in each.plan.optimizers:
            continue
        apart = {wanted.of, *each.study.swept}
        others = [label for label in each.plan.optimizers if label not in apart]
        primary = wanted.primary
        for label in sorted(others, key=lambda label: label not in primary):
            if found := each.corrected(wanted.of, label):
                about = {"task": task, "measure": each.scored_by, "optimizer": wanted.of, "rival": label}
                rows.append(_difference(each, found, **about, primary=label in primary))
    return Table(
        "differences", "Differences, paired by seed",
        "Optimizer minus rival, with an interval by Student's t widened for skewness. Primary comparisons "
        "are Holm-corrected over those of their task; all others are 95 %, uncorrected, and carry no claim. "
        "With fewer than five shared seeds nothing is said.",
        rows, {
            "task": text("task"), "rival": text("rival"), "n": text("n"),
            "difference": interval(signed, "difference"),
            "primary": lambda row: "yes" if row["primary"] else "", "the optimizer is": text("verdict"),
        },
        measures(scores),
    )  # fmt: skip


def aggregates(scores: Scores) -> Table:
    found, wanted = over_tasks(scores), next(iter(scores.values())).study.comparisons
    of = found.get(wanted.of) if wanted else None
    rows = []
    for label, own in found.items():
        low, high = statistics.interquartile_interval(own)
        row: Row = {
            "optimizer": label, "iqm": statistics.interquartile_mean(own), "low": low, "high": high,
            "tasks": len(own), "runs": sum(map(len, own.values())),
        }  # fmt: skip
        if of and wanted and label != wanted.of:
            row["improvement"] = statistics.probability_of_improvement(of, own)
            row["improvement_low"], row["improvement_high"] = statistics.improvement_interval(of, own)
        rows.append(row)
    rows.sort(key=lambda row: -row["iqm"])
    name = wanted.of if wanted else ""

    def improvement(row: Mapping[str, Any]) -> str:
        if row.get("improvement") is None:
            return "–"
        return f"{row['improvement']:.2f} [{row['improvement_low']:.2f}, {row['improvement_high']:.2f}]"

    return Table(
        "aggregates", "Over all tasks",
        "Interquartile mean of the normalised scores of all runs, with a stratified bootstrap's 95 % "
        "interval over seeds, the tasks as they are; only optimizers that are whole on every task. "
        + "".join(f"Left out: {each.unscaled}. " for each in scores.values() if each.unscaled)
        + (f"Last column: the probability that a run of {name} scores higher than one of this optimizer on a "
           "task drawn at random." if name else ""),
        rows, {
            "optimizer": text("optimizer"), "runs": text("runs"),
            "interquartile mean": interval(ratio, "iqm"),
            **({f"{name} is better": improvement} if name else {}),
        },
    )  # fmt: skip


def profiles(scores: Scores) -> Table:
    rows = [
        {"optimizer": label, "score": at, "fraction": float(value)}
        for label, own in over_tasks(scores).items()
        for at, value in zip(THRESHOLDS, statistics.profile(own, THRESHOLDS), strict=True)
    ]
    return Table("profile", "Performance profile", "", rows, {})


def targets(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        found = {label: each.reached(label) for label in each.plan.optimizers}
        rows += [{
            "task": task, "optimizer": label, "measure": each.scored_by,
            "target": each.shown(each.target or 0.0), "reached": own.count,
            "seeds": own.seeds, "steps": own.steps, "cpu_seconds": own.cpu_seconds,
        } for label, own in found.items() if own]  # fmt: skip
    wanted = next(iter(scores.values())).study.comparisons
    whose = wanted.target if wanted else ""
    return Table(
        "targets", "Time to the target",
        f"The target is the score of the worst tuned seed of {whose or 'no optimizer'}. Steps and CPU "
        "seconds, evaluation among them, of the median seed until the end of the first epoch that is as "
        "good; – where half of the seeds or more never are. Machines and their load differ: compare seconds "
        "with care.",
        rows, {
            "task": text("task"), "optimizer": text("optimizer"), "target": score("target"),
            "reached": lambda row: f"{row['reached']} of {row['seeds']}", "steps": number("steps", ".0f"),
            "CPU s": number("cpu_seconds", ".3g"),
        },
    )  # fmt: skip


def stepsizes(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        for stage, kind in (("tuned", each.finals), ("published", each.published)):
            for label, records in kind.items():
                if found := mean_spreads(records):
                    about = {"task": task, "optimizer": label, "settings": stage}
                    rows.append({**about, "n": len(by_seed(records)), **vars(found)})
    return Table(
        "stepsizes", "Spread of stepsizes",
        "At the end of the runs, means over seeds. Within: standard deviation over mean of a layer's "
        "stepsizes, the median over layers. Across: the same of the layers' means. At the cap: the share of "
        "all elements whose stepsize is the largest that eps allows.",
        rows, {
            "task": text("task"), "optimizer": text("optimizer"), "settings": text("settings"),
            "n": text("n"), "within": number("within", ".3g"), "across": number("across", ".3g"),
            "at the cap": percent("capped"),
        },
    )  # fmt: skip


def published(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        for label in each.published:
            costs, tuned = each.costs(label, published=True), each.costs(label)
            shared = [seed for seed in costs if seed in tuned]
            ours, theirs = ([own[seed] for seed in shared] for own in (tuned, costs))
            rows.append({
                "task": task, "optimizer": label, **_means(each, costs),
                "tuned": each.shown(fmean(ours)) if shared else None, "shared": len(shared),
                "better": ("published" if fmean(theirs) < fmean(ours) else "tuned") if shared else None,
            })  # fmt: skip
    return Table(
        "published", "Published settings",
        "The same runs with the settings that the task's published preset has; they decide nothing. Tuned: "
        "the mean on the seeds that both have, and which of the two is better there.",
        rows, {
            "task": text("task"), "optimizer": text("optimizer"), MEAN: spread, "n": text("n"),
            "tuned": score("tuned"), "better": text("better"),
        },
    )  # fmt: skip
