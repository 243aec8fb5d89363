"""Tables of tuning: every point tried, what was chosen and whether at an edge, what more points are worth."""

from __future__ import annotations

from math import inf, isfinite

from aida_bench.study.report.scores import Row, Scores, measures
from aida_bench.study.report.table import Table, beside, number, score, text
from aida_bench.study.scores import TaskScores
from aida_bench.study.statistics import expected_best


def points(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        for label, tried in each.plan.points.items():
            costs = each.plan.costs(label)
            chosen = each.plan.chosen(label) if None not in costs else None
            rows += [beside({
                "task": task, "optimizer": label, "point": i, "added": i >= each.study.tuning.points,
                "state": "missing" if cost is None else "diverged" if cost == inf else "finished",
                "measure": _measure(each),
                "score": each.shown(cost) if cost is not None and isfinite(cost) else None,
                "chosen": i == chosen,
            }, settings) for i, (settings, cost) in enumerate(zip(tried, costs, strict=True))]  # fmt: skip
    return Table("tuning", "Every tuning point", "", rows, {}, measures(scores))


def chosen(scores: Scores) -> Table:
    rows: list[Row] = []
    for task, each in scores.items():
        for label, tried in each.plan.points.items():
            costs = each.plan.costs(label)
            done = [cost for cost in costs if cost is not None]
            best = each.plan.chosen(label)
            row: Row = {
                "task": task, "optimizer": label, "points": len(done), "planned": len(costs),
                "diverged": done.count(inf), "measure": _measure(each),
            }  # fmt: skip
            if None not in costs and min(done) < inf:
                edges = [f"{key}, {end}" for (key, _), end in each.plan.edges(label)]
                row |= {"score": each.shown(min(done)), "edge": "; ".join(edges)}
                row = beside(row, tried[best])
            rows.append(row)
    return Table(
        "chosen", "What was chosen",
        "The best mean validation score over the tuning seeds. Edge: settings whose best value lies in the "
        "outer tenth of its range, after widening.",
        rows, {
            "task": text("task"), "optimizer": text("optimizer"),
            "points": lambda row: f"{row['points']} of {row['planned']}", "diverged": text("diverged"),
            "score": score("score"), "lr": number("lr"), "eps": number("eps"),
            "decay": number("weight_decay"), "edge": text("edge"),
        },
    )  # fmt: skip


def curves(scores: Scores) -> Table:
    rows = []
    for task, each in scores.items():
        for label, costs in _drawn(each).items():
            about = {"task": task, "optimizer": label, "measure": _measure(each)}
            expected = enumerate(expected_best(costs), 1)
            rows += [{**about, "points": n, "expected": each.shown(cost)} for n, cost in expected]
    return Table("tuning-curves", "What more points are worth", "", rows, {}, measures(scores))


def _measure(scores: TaskScores) -> str:
    return scores.scoring.tuned_by if scores.scoring else ""


def _drawn(scores: TaskScores) -> dict[str, list[float]]:
    """Costs of the points drawn at random, where all have ended: those of a widening, which is there for what
    the first found, are not. A point that diverged counts as the worst of all optimizers' points."""
    first = {label: scores.plan.costs(label)[: scores.study.tuning.points] for label in scores.plan.points}
    found = {label: [c for c in mine if c is not None] for label, mine in first.items() if None not in mine}
    worst = max((cost for mine in found.values() for cost in mine if isfinite(cost)), default=inf)
    return {label: [min(cost, worst) for cost in mine] for label, mine in found.items() if isfinite(worst)}
