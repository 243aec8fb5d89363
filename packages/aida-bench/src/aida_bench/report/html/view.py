"""What the page shows of a group of results, as plain data: texts for its tables, numbers for its charts."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from aida.monitor.plots import Layer, layers
from aida.monitor.plots.series import subsample
from aida_bench.report.html.charts import charts
from aida_bench.report.names import PLACE, conditions, show
from aida_bench.report.provenance import command, source
from aida_bench.report.read_rows import LeftOut, inside
from aida_bench.report.results import Group, Result
from aida_bench.report.statistics import (
    Score,
    Spread,
    Summary,
    band,
    mean_rank,
    ranked,
    stepsize_rows,
    summarise,
)
from aida_bench.report.words import COUNTED, INTERVALS, KINDS, better, chosen, lead, line, spread

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
        "scored": group.scored,
        "better": better(group),
        "notes": f"{chosen(group)} {COUNTED} {INTERVALS}",
        "kinds": KINDS,
        "leads": {kind: lead(summaries, group, kind) for kind in KINDS},
        "has_adamw": any(summary.best.adamw for summary in summaries),
        "rows": [row(summary, group, summaries, colours) for summary in summaries],
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


def badges(group: Group) -> list[tuple[str, str]]:
    counts = {"finished": 0, "diverged": 0, "unfinished": 0}
    for result in group.results:
        counts[result.state] += 1
    return [(kind, f"{count} {kind}") for kind, count in counts.items() if count]


def left_out_view(left_out: Sequence[LeftOut], folder: Path) -> list[tuple[str, str]]:
    return [(inside(path, folder), reason) for path, reason in left_out]


def row(summary: Summary, group: Group, others: Sequence[Summary], colours: Mapping[str, int]) -> View:
    """The texts of `report_words.line`, with what sorts them."""

    def cell(text: str, found: Spread | None, name: str = "") -> View:
        longest = max((each.mean for other in others if name and (each := getattr(other, name))), default=0)
        bar = round(100 * found.mean / longest, 1) if found and longest else 0
        return {"text": text, "sort": found.mean if found else None, "bar": bar}

    shown = line(summary, group)
    return {
        "name": shown.name,
        "colour": colours[summary.optimizer],
        "n": summary.best.spread.n if summary.best.spread and not summary.provisional else 0,
        "runs": shown.runs,
        "lost": shown.lost,
        "diverged": summary.diverged,
        "scores": {
            kind: {"shown": each, **score_sorts(getattr(summary, kind))}
            for kind, each in shown.scores.items()
        },
        "best_epoch": cell(shown.best_epoch, summary.best_epoch),
        "train_loss": cell(shown.train_loss, summary.train_loss),
        "seconds": cell(shown.seconds, summary.seconds, "seconds"),
        "step_ms": cell(shown.step_ms, summary.step_ms, "step_ms"),
    }


def score_sorts(score: Score) -> View:
    return {
        "sort": score.spread.mean if score.spread else None,
        "best_rival": score.best_rival.mean if score.best_rival else None,
        "adamw": score.adamw.mean if score.adamw else None,
    }


def overview(groups: Sequence[Group], colours: Mapping[str, int]) -> View:
    """Optimizer × task, and each optimizer's mean rank over the tasks in which it has one."""
    found = [{summary.optimizer: summary for summary in summarise(group)} for group in groups]
    last = [max((each.best.rank or 0 for each in task.values()), default=0) for task in found]
    rows = []
    for name, colour in colours.items():
        mine = [task.get(name) for task in found]
        cells = [
            {
                "shown": line(summary, group).scores["best"],
                "lost": line(summary, group).lost,
                "sort": score_sorts(summary.best)["sort"],
                "shade": shade(summary.best.rank, worst),
            }
            if summary
            else None
            for summary, group, worst in zip(mine, groups, last, strict=True)
        ]
        ranks = [summary.best.rank if summary else None for summary in mine]
        tasks = sum(rank is not None for rank in ranks)
        rows.append(
            {"name": name, "colour": colour, "cells": cells, "rank": mean_rank(ranks), "tasks": tasks}
        )
    rows.sort(key=lambda each: (-each["tasks"], each["rank"] or 0))
    heads = [(f"task-{i}", group.title, group.scored) for i, group in enumerate(groups, 1)]
    return {"heads": heads, "rows": rows}


def shade(rank: int | None, worst: int) -> int:
    """Percent of the accent colour behind a rank: the first darkest."""
    return round(34 * (worst - rank) / (worst - 1)) if rank and worst > 1 else 0


def curve_table(group: Group, summaries: Sequence[Summary]) -> View:
    """The curves of the choosing measure in numbers, for those who cannot see them."""
    curves = {s.optimizer: band(group, s.optimizer, group.choosing_key) for s in summaries}
    epochs = subsample(sorted(set().union(*curves.values())), 8)
    measure = group.measure
    shown = [
        [name, *(spread(curve[e], measure) if e in curve else "–" for e in epochs)]
        for name, curve in curves.items()
    ]
    return {"epochs": epochs, "rows": shown, "label": group.label_of(group.choosing_key)}


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
    place = [key for key in PLACE if any(key in result.config for result in group.results)]
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
    def shown(row: dict[str, Any] | None) -> str:
        return group.measure.show(row[group.scored_key]) if row else "–"

    best = group.best(result)
    return {
        "name": result.optimizer,
        "seed": result.seed,
        "status": result.state,
        "note": result.note,
        "epochs": f"{len(result.epochs)} / {result.wanted or '?'}",
        "best": shown(best),
        "best_epoch": best["epoch"] if best else "–",
        "last": shown(group.last(result)),
        "seconds": "–" if result.seconds is None else f"{result.seconds:.1f}",
        "folder": inside(result.folder, folder),
    }


def pictures(group: Group, folder: Path) -> list[View]:
    """The samples that each run drew last, where there are any."""
    found = []
    for result in group.results:
        path = result.folder / "samples.png"
        if path.is_file() and path.stat().st_size <= LARGEST_PICTURE:
            data = base64.b64encode(path.read_bytes()).decode("ascii")
            where = inside(path, folder)
            found.append({"name": f"{result.optimizer}, seed {result.seed}", "path": where, "data": data})
    return found
