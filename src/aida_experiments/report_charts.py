"""The numbers behind the page's charts, as plain data for its script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from aida_experiments.report_data import Group, Measure, Result, key_label, key_measure
from aida_experiments.report_stats import Interval, Score, Summary, band, layers, seconds_by_epoch

View = dict[str, Any]


def charts(group: Group, summaries: Sequence[Summary], colours: Mapping[str, int]) -> View:
    """Numbers for the script; everything is already multiplied by its measure's scale."""
    measure = group.measure
    return {
        "scored": key_label(group.scored_key),
        "higher": measure.higher,
        "keys": [
            {"key": key, "label": key_label(key), "higher": key_measure(key).higher} for key in group.keys
        ],
        "first": group.choosing_key,
        "histograms": histogram_epochs(group),
        "optimizers": [
            {
                "name": summary.optimizer,
                "colour": colours[summary.optimizer],
                "provisional": summary.provisional,
                "diverged": summary.diverged,
                "scores": {kind: score_chart(getattr(summary, kind), measure) for kind in ("best", "last")},
                "curves": {key: curve_chart(group.of(summary.optimizer), key) for key in group.keys},
                "runs": [run_chart(result, group.keys) for result in group.of(summary.optimizer)],
                "cap": group.of(summary.optimizer)[0].cap,
                "layers": layer_charts(group.of(summary.optimizer)),
            }
            for summary in summaries
        ],
    }


def histogram_epochs(group: Group) -> list[int]:
    rows = (row for result in group.results for row in result.stepsizes)
    return sorted({row["epoch"] for row in rows if row.get("histogram")})


def short(value: float | None, scale: float = 1.0) -> float | None:
    """Six digits are more than a pixel."""
    return None if value is None else float(f"{scale * value:.6g}")


def score_chart(score: Score, measure: Measure) -> View:
    def interval(found: Interval | None) -> View | None:
        if found is None:
            return None
        bounds = {"mean": found.mean, "low": found.low, "high": found.high}
        return {"rival": found.rival, **{key: short(value, measure.scale) for key, value in bounds.items()}}

    spread = score.spread
    return {
        "seeds": list(score.values),
        "values": [short(value * measure.scale) for value in score.values.values()],
        "mean": short(spread.mean * measure.scale) if spread else None,
        "std": short(spread.std * measure.scale) if spread and spread.std is not None else None,
        "best_rival": interval(score.best_rival),
        "adamw": interval(score.adamw),
    }


def curve_chart(results: Sequence[Result], key: str) -> View:
    """Mean and deviation by epoch, and the mean wall seconds at which those epochs ended."""
    scale = key_measure(key).scale
    curve = band(results, key)
    clocks = [seconds_by_epoch(result) for result in results if not result.diverged and result.epochs]
    return {
        "epoch": list(curve),
        "seconds": [short(fmean(c[e] for c in clocks if e in c)) if any(e in c for c in clocks) else None
                    for e in curve],
        "mean": [short(scale * spread.mean) for spread in curve.values()],
        "std": [short(scale * (spread.std or 0.0)) for spread in curve.values()],
    }  # fmt: skip


def run_chart(result: Result, keys: Sequence[str]) -> View:
    clock = seconds_by_epoch(result)
    epochs = [row["epoch"] for row in result.epochs]
    return {
        "seed": result.seed,
        "status": result.status or "unfinished",
        "epoch": epochs,
        "seconds": [short(clock.get(epoch)) for epoch in epochs],
        "values": {
            key: [short(row[key] * key_measure(key).scale) if key in row else None for row in result.epochs]
            for key in keys
        },
    }


def layer_charts(results: Sequence[Result]) -> list[View]:
    return [
        {"layer": one.number, "parameter": one.parameter, "epoch": one.epochs,
         "mean": list(map(short, one.mean)), "std": list(map(short, one.std)),
         **({"histograms": one.histograms} if any(one.histograms) else {})}
        for one in layers(results)
    ]  # fmt: skip
