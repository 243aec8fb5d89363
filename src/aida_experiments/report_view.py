"""What the page shows of a group of results, as plain data: texts for its tables, numbers for its charts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from aida.monitor.plots import Layer, layers
from aida.monitor.plots.series import spaced
from aida_experiments.report_charts import charts
from aida_experiments.report_command import command, source
from aida_experiments.report_data import Group, Measure, Result, conditions, key_label, show
from aida_experiments.report_stats import Interval, Score, Spread, Summary, band, stepsize_rows, summarise

View = dict[str, Any]
LARGEST_PICTURE = 2_000_000
COMMIT = 12
STEPSIZES = (
    "u = 1 / √(v / (1 − β₂ᵗ) + ε / (1 − β₂)) of every weight tensor at the end of each epoch, without "
    "learning rate and first bias correction; means over seeds."
)


def group_view(group: Group, id: str, folder: Path, colours: Mapping[str, int]) -> View:
    summaries = ranked(summarise(group))
    hidden = ("task", "model", "limit_batches", "published")
    facts = {key: value for key, value in conditions(group.results[0]).items() if key not in hidden}
    return {
        "id": id,
        "title": group.title,
        "facts": [(key.replace("_", " "), show(value)) for key, value in facts.items() if value is not None],
        "badges": badges(group),
        "measure": group.measure.label,
        "scored": key_label(group.scored_key),
        "chosen_by": key_label(group.choosing_key),
        "higher": group.measure.higher,
        "tested": group.scored_key != group.choosing_key,
        "leads": {kind: lead(summaries, group, kind) for kind in ("best", "last")},
        "has_adamw": any(summary.best.adamw for summary in summaries),
        "seeds": len({result.seed for result in group.results}),
        "rows": [row(summary, group.measure, summaries, colours) for summary in summaries],
        "curve_table": curve_table(group, summaries),
        "stepsize_table": stepsize_table(
            {name: layers(stepsize_rows(group.of(name))) for name in group.optimizers}
        ),
        "stepsize_note": STEPSIZES,
        "settings": settings(group),
        "versions": versions(group),
        "runs": [run_row(result, group, folder) for result in group.results],
        "pictures": pictures(group, folder),
        "command": command(group),
        "charts": charts(group, summaries, colours),
    }


def ranked(summaries: Sequence[Summary]) -> list[Summary]:
    return sorted(summaries, key=lambda summary: (summary.best.rank is None, summary.best.rank or 0))


def badges(group: Group) -> list[tuple[str, str]]:
    counts = {"finished": 0, "diverged": 0, "unfinished": 0}
    for result in group.results:
        counts[result.status or "unfinished"] += 1
    return [(kind, f"{count} {kind}") for kind, count in counts.items() if count]


def lead(summaries: Sequence[Summary], group: Group, kind: str) -> str:
    """The result in a sentence that claims no more than the interval does."""
    order = sorted((s for s in summaries if getattr(s, kind).rank), key=lambda s: getattr(s, kind).rank)
    if not order:
        return "No run has finished yet."
    score: Score = getattr(order[0], kind)
    assert score.spread is not None
    extreme = "Highest" if group.measure.higher else "Lowest"
    at = "at the last epoch" if kind == "last" else "at the epoch chosen by validation"
    first = f"{extreme} {key_label(group.scored_key).removesuffix(', %')} {at}: {order[0].optimizer}, "
    unit = " %" if group.measure.label.endswith("%") else ""
    first += score.spread.show(group.measure.form, group.measure.scale) + unit
    n = score.spread.n
    first += f" (mean ± standard deviation of {n} seeds)." if n > 1 else " (one seed)."
    interval = score.best_rival
    if interval is None:
        return first
    if interval.low is None:
        return f"{first} One shared seed cannot tell it from {interval.rival}."
    verdict = "excludes" if interval.excludes_zero else "includes"
    return f"{first} Against {interval.rival} the interval {verdict} zero: {interval.show(group.measure)}."


def row(summary: Summary, measure: Measure, others: Sequence[Summary], colours: Mapping[str, int]) -> View:
    def cell(spread: Spread | None, form: str) -> View:
        if spread is None:
            return {"text": "–", "sort": None}
        # The loss of a run that went astray would fill the table.
        return {"text": format(spread.mean, form if abs(spread.mean) < 1e5 else ".2e"), "sort": spread.mean}

    def bar(name: str, form: str) -> View:
        spread = getattr(summary, name)
        longest = max((each.mean for other in others if (each := getattr(other, name))), default=0)
        share = spread.mean / longest if spread and longest else 0
        return {**cell(spread, form), "bar": round(100 * share, 1)}

    return {
        "name": summary.optimizer,
        "colour": colours[summary.optimizer],
        "n": summary.best.spread.n if summary.best.spread else 0,
        "runs": summary.runs,
        "diverged": summary.diverged,
        "unfinished": summary.unfinished,
        "provisional": summary.provisional,
        "scores": {kind: score_view(getattr(summary, kind), measure) for kind in ("best", "last")},
        "best_epoch": cell(summary.best_epoch, ".1f"),
        "train_loss": cell(summary.train_loss, ".4f"),
        "seconds": bar("seconds", ".1f"),
        "step_ms": bar("step_ms", ".2f"),
    }


def score_view(score: Score, measure: Measure) -> View:
    def interval(found: Interval | None) -> View:
        if found is None:
            return {"text": "–", "sort": None, "sign": "", "rival": ""}
        good = measure.better(found.mean)
        sign = "" if not found.excludes_zero else "better" if good else "worse"
        return {"text": found.show(measure), "sort": found.mean, "sign": sign, "rival": found.rival}

    return {
        "text": score.spread.show(measure.form, measure.scale) if score.spread else "–",
        "sort": score.spread.mean if score.spread else None,
        "rank": score.rank,
        "best_rival": interval(score.best_rival),
        "adamw": interval(score.adamw),
    }


def overview(groups: Sequence[Group], colours: Mapping[str, int]) -> View:
    """Optimizer × task, and each optimizer's mean rank over the tasks in which it has one."""
    found = [{summary.optimizer: summary for summary in summarise(group)} for group in groups]
    rows = []
    for name, colour in colours.items():
        mine = [each.get(name) for each in found]
        cells = [
            score_view(summary.best, group.measure) if summary else None
            for summary, group in zip(mine, groups, strict=True)
        ]
        ranks = [cell["rank"] for cell in cells if cell and cell["rank"]]
        last = [max((s.best.rank or 0 for s in each.values()), default=0) for each in found]
        rows.append(
            {
                "name": name,
                "colour": colour,
                "cells": [
                    cell and {**cell, "diverged": s.diverged if s else 0, "shade": shade(cell["rank"], worst)}
                    for cell, s, worst in zip(cells, mine, last, strict=True)
                ],
                "rank": fmean(ranks) if ranks else None,
                "tasks": len(ranks),
            }
        )
    rows.sort(key=lambda each: (-each["tasks"], each["rank"] or 0))
    heads = [(f"task-{i}", group.title, key_label(group.scored_key)) for i, group in enumerate(groups, 1)]
    return {"heads": heads, "rows": rows}


def shade(rank: int | None, worst: int) -> int:
    """Percent of the accent colour behind a rank: the first darkest."""
    return round(34 * (worst - rank) / (worst - 1)) if rank and worst > 1 else 0


def curve_table(group: Group, summaries: Sequence[Summary]) -> View:
    """The curves of the choosing measure in numbers, for those who cannot see them."""
    curves = {s.optimizer: band(group.of(s.optimizer), group.choosing_key) for s in summaries}
    epochs = spaced(sorted(set().union(*curves.values())), 8)
    measure = group.measure
    shown = [
        [name, *(curve[e].show(measure.form, measure.scale) if e in curve else "–" for e in epochs)]
        for name, curve in curves.items()
    ]
    return {"epochs": epochs, "rows": shown, "label": key_label(group.choosing_key)}


def stepsize_table(stepsizes: Mapping[str, Sequence[Layer]]) -> list[View]:
    """Mean and deviation of each layer's stepsizes at the last time, one table row a layer."""
    return [
        {"name": name, "layer": one.number, "parameter": one.parameter, "numel": f"{one.numel:,}",
         "time": one.time[-1], "mean": _number(one.values("mean")[-1], ".5g"),
         "std": _number(one.values("std")[-1], ".4g")}
        for name, many in stepsizes.items()
        for one in many
    ]  # fmt: skip


def _number(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else "–"


def settings(group: Group) -> View:
    names = list(dict.fromkeys(key for result in group.results for key in result.settings))
    first = {label: group.of(label)[0] for label in group.optimizers}
    sources: dict[str, list[str]] = {}
    for label, run in first.items():
        sources.setdefault(source(run), []).append(label)
    rows = [[label, *(show(run.settings.get(name)) for name in names)] for label, run in first.items()]
    return {
        "names": names,
        "rows": rows,
        "sources": [(", ".join(labels), text) for text, labels in sources.items()],
    }


def versions(group: Group) -> View:
    """What the runs ran with and on; several values where they differ."""
    keys = dict.fromkeys(key for result in group.results for key in result.versions)
    place = [key for key in ("device", "devices", "strategy", "threads") if key in group.results[0].config]
    found = {key: [result.versions.get(key) for result in group.results] for key in keys}
    found |= {key: [result.config.get(key) for result in group.results] for key in place}
    return {
        key: ", ".join(
            dict.fromkeys(show(value)[:12] if key == "commit" else show(value) for value in values)
        )
        for key, values in found.items()
        if any(value is not None for value in values)
    }


def run_row(result: Result, group: Group, folder: Path) -> View:
    measure = group.measure

    def shown(row: dict[str, Any] | None) -> str:
        return measure.show(row[group.scored_key]) if row else "–"

    best = group.best(result)
    return {
        "name": result.optimizer,
        "seed": result.seed,
        "status": result.status or "unfinished",
        "epochs": f"{len(result.epochs)} / {result.config.get('epochs', '?')}",
        "best": shown(best),
        "best_epoch": best["epoch"] if best else "–",
        "last": shown(group.last(result)),
        "seconds": f"{sum(row['seconds'] for row in result.timings):.1f}",
        "folder": result.folder.relative_to(folder).as_posix() or ".",
    }


def pictures(group: Group, folder: Path) -> list[View]:
    """The samples that each run drew last, where there are any."""
    found = []
    for result in group.results:
        path = result.folder / "samples.png"
        if path.is_file() and path.stat().st_size <= LARGEST_PICTURE:
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            where = path.relative_to(folder).as_posix()
            found.append({"name": f"{result.optimizer}, seed {result.seed}", "path": where, "data": data})
    return found
