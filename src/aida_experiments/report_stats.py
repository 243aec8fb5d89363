"""Statistics over seeds: spreads, paired bootstrap intervals, and a summary for each optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from statistics import fmean, stdev

import numpy as np

from aida_experiments.report_data import Group, Measure, Result
from aida_experiments.runs import Row

LEVEL = 0.95
DRAWS = 10_000


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value) of `n` values."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None

    def show(self, form: str, scale: float = 1.0) -> str:
        std = "" if self.std is None else f" ± {format(self.std * scale, form)}"
        return format(self.mean * scale, form) + std


@dataclass(frozen=True)
class Interval:
    """A mean difference to a rival over `n` shared seeds, with its bootstrap interval (None for one seed)."""

    rival: str
    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def show(self, measure: Measure) -> str:
        if self.low is None or self.high is None:
            return measure.signed(self.mean)
        return f"{measure.signed(self.mean)} [{measure.signed(self.low)}, {measure.signed(self.high)}]"


def paired_bootstrap(
    mine: Mapping[int, float], theirs: Mapping[int, float], rival: str = ""
) -> Interval | None:
    """Percentile interval of the mean difference mine - theirs, resampled over the seeds that both have.

    Exact, over all n^n resamples, for up to 5 seeds; DRAWS fixed pseudo-random ones beyond. None if no seed
    is shared. With few seeds the interval cannot leave the range of the differences, and so is optimistic.
    """
    seeds = sorted(mine.keys() & theirs.keys())
    differences = np.array([mine[seed] - theirs[seed] for seed in seeds])
    n = len(seeds)
    if n == 0:
        return None
    mean = float(differences.mean())
    if n == 1:
        return Interval(rival, mean, None, None, 1)
    exact = n**n <= DRAWS
    index = np.array(list(product(range(n), repeat=n))) if exact else _draws(n)
    low, high = np.quantile(differences[index].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(rival, mean, float(low), float(high), n)


def _draws(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(n, size=(DRAWS, n))


@dataclass(frozen=True)
class Score:
    """An optimizer's measure by seed, at one kind of epoch, and how it differs from others."""

    values: Mapping[int, float]
    rank: int | None = None
    best_rival: Interval | None = None
    adamw: Interval | None = None

    @cached_property
    def spread(self) -> Spread | None:
        return Spread.of(list(self.values.values()))


@dataclass(frozen=True)
class Summary:
    """One optimizer over its seeds. Only finished runs are in its means; where there are none it is
    `provisional`: its scores are those of the runs so far, and are neither ranked nor compared."""

    optimizer: str
    runs: int
    diverged: int
    unfinished: int
    provisional: bool
    best: Score
    last: Score
    best_epoch: Spread | None
    train_loss: Spread | None
    seconds: Spread | None
    step_ms: Spread | None

    @property
    def at_best(self) -> Spread | None:
        return self.best.spread

    @property
    def at_last(self) -> Spread | None:
        return self.last.spread


def summarise(group: Group) -> list[Summary]:
    """One summary per optimizer, in the order in which they first occur."""
    counted = {name: _counted(group.of(name)) for name in group.optimizers}
    scores = {
        kind: _compared(
            {name: _values(group, runs, kind) for name, runs in counted.items()},
            group.measure,
            ranked=[name for name, runs in counted.items() if any(run.status for run in runs)],
        )
        for kind in ("best", "last")
    }
    loss = [key for key in group.keys if key.startswith("train_") and key.endswith("loss")][:1]
    return [
        Summary(
            name,
            runs=len(mine := group.of(name)),
            diverged=sum(run.diverged for run in mine),
            unfinished=sum(run.status is None for run in mine),
            provisional=bool(runs) and runs[0].status is None,
            best=scores["best"][name],
            last=scores["last"][name],
            best_epoch=Spread.of([row["epoch"] for run in runs if (row := group.best(run))]),
            train_loss=Spread.of([run.epochs[-1][key] for run in runs for key in loss if run.epochs]),
            seconds=Spread.of([sum(row["seconds"] for row in run.timings) for run in runs if run.timings]),
            step_ms=Spread.of([row["step_ms"] for run in runs for row in run.timings]),
        )
        for name, runs in counted.items()
    ]


def _counted(results: Sequence[Result]) -> list[Result]:
    """The finished runs, or all that have not diverged where none is finished."""
    whole = [result for result in results if not result.diverged]
    return [result for result in whole if result.status] or whole


def _values(group: Group, runs: Sequence[Result], kind: str) -> dict[int, float]:
    found = {run.seed: group.best(run) if kind == "best" else group.last(run) for run in runs}
    return {seed: row[group.scored_key] for seed, row in found.items() if row}


def _compared(
    values: Mapping[str, Mapping[int, float]], measure: Measure, ranked: Sequence[str]
) -> dict[str, Score]:
    """Each optimizer's score; those ranked are also compared with the best of the others and with AdamW."""
    sign = -1 if measure.higher else 1
    means = {name: fmean(values[name].values()) for name in ranked if values[name]}
    order = sorted(means, key=lambda name: sign * means[name])
    scores = {name: Score(values[name]) for name in values}
    for rank, name in enumerate(order, 1):
        rival = next((other for other in order if other != name), None)
        adamw = next((other for other in order if other.split()[0] == "adamw" != name.split()[0]), None)
        against = {"best_rival": rival, "adamw": adamw}
        scores[name] = Score(
            values[name],
            rank,
            **{
                key: paired_bootstrap(values[name], values[other], other) if other else None
                for key, other in against.items()
            },
        )
    return scores


def seconds_by_epoch(result: Result) -> dict[int, float]:
    """Wall seconds from the start of a run to the end of each epoch."""
    total, clock = 0.0, {}
    for row in result.timings:
        total += row["seconds"]
        clock[row["epoch"]] = total
    return clock


def band(results: Sequence[Result], key: str) -> dict[int, Spread]:
    """Mean and deviation over seeds of one measure by epoch, as far as every run that has it goes."""
    runs = [series for result in results if not result.diverged and (series := result.series(key))]
    shared = sorted(set.intersection(*map(set, runs))) if runs else []
    return {epoch: spread for epoch in shared if (spread := Spread.of([run[epoch] for run in runs]))}


def stepsize_rows(results: Sequence[Result]) -> list[Row]:
    """The layers' rows of one optimizer's runs, with the cap of their settings where a row has none.

    Diverged runs are left out if there are others.
    """
    measured = [result for result in results if result.stepsizes]
    runs = [result for result in measured if not result.diverged] or measured
    return [
        {**row, "seed": run.seed, "cap": row.get("cap", run.cap)} for run in runs for row in run.stepsizes
    ]
