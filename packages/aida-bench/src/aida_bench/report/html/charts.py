"""The numbers behind the page's charts, as plain data for its script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import Any

from aida.monitor.plots import MEASURES, Layer, layers
from aida.monitor.plots.series import choose_bins, rebin, subsample
from aida.monitor.plots.style import IN_LEGEND, caps
from aida.monitor.schema import histogram_edges
from aida_bench.report.metrics import Metric, key_measure
from aida_bench.report.results import Group, Result
from aida_bench.report.statistics import Interval, Score, Summary, band, seconds_by_epoch, stepsize_rows
from aida_bench.report.words import KINDS, Difference, ScoreText, line

View = dict[str, Any]


def charts(group: Group, summaries: Sequence[Summary], colours: Mapping[str, int]) -> View:
    """Numbers for the script; everything is already multiplied by its measure's scale."""
    stepsizes = {name: layers(stepsize_rows(group.of(name))) for name in group.optimizers}
    by_layer = layer_charts(stepsizes, "epoch")
    every = {kind: [each for s in summaries for each in getattr(s, kind).values.values()] for kind in KINDS}
    return {
        **by_layer,
        "scored": group.scored,
        "higher": group.measure.higher,
        "keys": [
            {"key": key, "label": group.label_of(key), "higher": group.measure_of(key).higher}
            for key in group.keys
        ],
        "first": group.choosing_key,
        "optimizers": [
            {
                "name": summary.optimizer,
                "colour": colours[summary.optimizer],
                "provisional": summary.provisional,
                "diverged": summary.diverged,
                "scores": {
                    kind: score_chart(getattr(summary, kind), shown, group.measure, every[kind])
                    for kind, shown in line(summary, group).scores.items()
                },
                "curves": {key: curve_chart(group, summary.optimizer, key) for key in group.keys},
                "runs": [run_chart(result, group.keys) for result in group.of(summary.optimizer)],
                **by_layer["optimizers"][summary.optimizer],
            }
            for summary in summaries
        ],
    }


def short(value: float | None, scale: float = 1.0) -> float | None:
    """Six digits are more than a pixel."""
    return None if value is None or not isfinite(scale * value) else float(f"{scale * value:.6g}")


def score_chart(score: Score, shown: ScoreText, measure: Metric, every: Sequence[float]) -> View:
    """One optimizer's dots, their mean and its differences; `every` has the scores of all that are drawn."""

    def interval(found: Interval | None, told: Difference) -> View | None:
        if found is None:
            return None
        bounds = {"mean": found.mean, "low": found.low, "high": found.high}
        numbers = {key: short(value, measure.scale) for key, value in bounds.items()}
        return {"rival": found.rival, "n": found.n, "sign": told.sign, "text": str(told), **numbers}

    spread = score.spread
    return {
        "text": str(shown),
        "seeds": list(score.values),
        "values": [short(value, measure.scale) for value in score.values.values()],
        "shown": [measure.show(value) for value in score.values.values()],
        "aside": aside(list(score.values.values()), every),
        "mean": short(spread.mean, measure.scale) if spread else None,
        "std": short(spread.std, measure.scale) if spread else None,
        "best_rival": interval(score.best_rival, shown.best_rival),
        "adamw": interval(score.adamw, shown.adamw),
    }


NEAR, APART, ROOM = 0.012, 0.14, 0.7
"""Dots within that share of the axis would hide one another: they are put so far apart, in units of a row's
height, or as far as there is room."""


def aside(values: Sequence[float], every: Sequence[float]) -> list[float]:
    """How far above or below its row's middle each dot is drawn."""
    near = NEAR * (max(every, default=0) - min(every, default=0))
    heaps: list[list[int]] = []
    for i in sorted(range(len(values)), key=lambda i: values[i]):
        if heaps and values[i] - values[heaps[-1][0]] <= near:
            heaps[-1].append(i)
        else:
            heaps.append([i])
    places = [0.0] * len(values)
    for heap in heaps:
        step = min(APART, ROOM / max(1, len(heap) - 1))
        for k, each in enumerate(heap):
            places[each] = round(step * (k - (len(heap) - 1) / 2), 4)
    return places


def curve_chart(group: Group, optimizer: str, key: str) -> View:
    """Mean and deviation by epoch, and the mean wall seconds at which those epochs ended."""
    scale = key_measure(key).scale
    curve = band(group, optimizer, key)
    clocks = [seconds_by_epoch(result) for result in group.counted(optimizer) if result.series(key)]
    timed = all(epoch in clock for epoch in curve for clock in clocks)
    return {
        "epoch": list(curve),
        "seconds": [short(fmean(clock[epoch] for clock in clocks)) if timed else None for epoch in curve],
        "mean": [short(spread.mean, scale) for spread in curve.values()],
        "std": [short(spread.std or 0.0, scale) for spread in curve.values()],
    }


def run_chart(result: Result, keys: Sequence[str]) -> View:
    clock = seconds_by_epoch(result)
    epochs = [row["epoch"] for row in result.epochs]
    return {
        "seed": result.seed,
        "status": result.state,
        "epoch": epochs,
        "seconds": [short(clock.get(epoch)) for epoch in epochs],
        "values": {
            key: [short(row.get(key), key_measure(key).scale) for row in result.epochs] for key in keys
        },
    }


SHOWN = ("cos", "update_ratio", "capped", "residual", "g_norm", "m_norm", "p_norm")
TIMES, SLIDES, BINS = 200, 60, 100
"""A page has at most so many times in its lines and on its slider, and about so many bins in a histogram."""


def layer_charts(stepsizes: Mapping[str, Sequence[Layer]], time: str) -> View:
    """Each optimizer's layers over time, and what there is to choose from; `time` is "epoch" or "step"."""
    every = [layer for many in stepsizes.values() for layer in many]
    kept = set(subsample(sorted({at for layer in every for at in layer.time}), TIMES))
    drawn = {at for one in every for at, h in zip(one.time, one.histograms, strict=True) if h and at in kept}
    slides = subsample(sorted(drawn), SLIDES)
    numbers = set(subsample(sorted({layer.number for layer in every}), IN_LEGEND))
    return {
        "time": time,
        "measures": [
            {"field": field, "label": MEASURES[field].label, "log": MEASURES[field].log,
             "limits": MEASURES[field].limits}
            for field in SHOWN if any(layer.has(field) for layer in every)
        ],
        "histograms": slides,
        "optimizers": {
            name: {
                "cap": max(caps(many), default=None),
                "layers": [_layer_chart(one, kept, slides if one.number in numbers else ()) for one in many],
            }
            for name, many in stepsizes.items()
        },
    }  # fmt: skip


def _layer_chart(layer: Layer, kept: set[int], slides: Sequence[int]) -> View:
    places = [place for place, at in enumerate(layer.time) if at in kept]

    def line(field: str) -> list[float | None]:
        values = layer.values(field)
        return [short(values[place]) for place in places]

    shown = [layer.histograms[place] if layer.time[place] in slides else None for place in places]
    bins = choose_bins([each for each in shown if each], BINS)
    return {
        "layer": layer.number, "parameter": layer.parameter, "time": [layer.time[place] for place in places],
        "mean": line("mean"), "std": line("std"),
        "measures": {field: line(field) for field in SHOWN if layer.has(field)},
        **({"histograms": [each and _bars(each, bins) for each in shown]} if any(shown) else {}),
    }  # fmt: skip


def _bars(histogram: Mapping[str, Any], bins: int) -> View:
    wider = rebin(histogram, bins)
    return {"edges": list(map(short, histogram_edges(wider))), "counts": wider["counts"]}
