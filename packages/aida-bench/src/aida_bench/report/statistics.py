"""Statistics over seeds: spreads, paired intervals, ranks, and a summary for each optimizer.

Every number of a report comes from here, whatever shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import copysign, isclose, sqrt
from statistics import fmean, stdev

from aida_bench.report.results import Group, Result
from aida_bench.storage.files import Row

LEVEL = 0.95
FEWEST = 5
"""With fewer shared seeds nothing is said of a difference but its interval."""
TIE = 1e-12
"""Scores that differ by less, relatively, differ by rounding."""


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value) of `n` values."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        if len(values) < 2:
            return cls(values[0], None, 1) if values else None
        mean, std = fmean(values), stdev(values)
        return cls(mean, std if std > TIE * abs(mean) else 0.0, len(values))


@dataclass(frozen=True)
class Interval:
    """A mean difference to a rival over `n` shared seeds, with its interval (None for one seed)."""

    rival: str
    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Never with fewer than FEWEST seeds."""
        found = self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)
        return found and self.n >= FEWEST


def paired_interval(
    mine: Mapping[int, float],
    theirs: Mapping[int, float],
    rival: str = "",
    level: float = LEVEL,
    skewed: bool = True,
) -> Interval | None:
    """Interval of the mean difference mine - theirs over the seeds that both have; None if there is none."""
    differences = [_difference(mine[seed], theirs[seed]) for seed in sorted(mine.keys() & theirs.keys())]
    if not differences:
        return None
    low, high = interval(differences, level, skewed) if len(differences) > 1 else (None, None)
    return Interval(rival, fmean(differences), low, high, len(differences))


def _difference(mine: float, theirs: float) -> float:
    return 0.0 if isclose(mine, theirs, rel_tol=TIE) else mine - theirs


def interval(values: Sequence[float], level: float = LEVEL, skewed: bool = True) -> tuple[float, float]:
    """A confidence interval of the mean of two or more values: the hull of two intervals.

    With n values of mean x, deviation s and (unbiased) skewness c, and t the quantile of Student's
    distribution with n - 1 degrees of freedom: x ± t·s/√n, and, corrected for skewness (P. Hall, "On the
    removal of skewness by transformation", J. R. Stat. Soc. B 54, 1992), x - h(±t)·s/√n where
    h(t) = 3√n/c · (∛(1 + c·(t/√n - c/(6n))) - 1).
    Of exponential differences Student's alone holds the mean in 88 to 92 % of cases, the hull in 94 to 96 %,
    for n of 5 to 20: docs/results/intervals.md. `skewed` False: Student's alone, for what is known to be
    symmetric; at levels far above 0.95 the correction for so few values is far too wide.
    """
    from scipy.special import stdtrit

    n, mean, std = len(values), fmean(values), stdev(values)
    t = float(stdtrit(n - 1, (1 + level) / 2))
    c = _skewness([value - mean for value in values])

    def hall(t: float) -> float:
        cube = 1 + c * (t / sqrt(n) - c / (6 * n))
        return 3 * sqrt(n) / c * (copysign(abs(cube) ** (1 / 3), cube) - 1)

    steps = [t, -t, *([hall(t), hall(-t)] if skewed and abs(c) > 1e-6 else [])]
    return mean - max(steps) * std / sqrt(n), mean - min(steps) * std / sqrt(n)


def _skewness(deviations: Sequence[float]) -> float:
    """Unbiased under normality; 0 for two values, or for values that are all equal."""
    n = len(deviations)
    scale = max(map(abs, deviations))
    if n < 3 or scale == 0:
        return 0.0
    scaled = [each / scale for each in deviations]
    second, third = (fmean([each**power for each in scaled]) for power in (2, 3))
    return sqrt(n * (n - 1)) / (n - 2) * third / second**1.5


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
    finished: int
    diverged: int
    unfinished: int
    best: Score
    last: Score
    best_epoch: Spread | None
    train_loss: Spread | None
    seconds: Spread | None
    step_ms: Spread | None

    @property
    def provisional(self) -> bool:
        return not self.finished and self.unfinished > 0

    @property
    def at_best(self) -> Spread | None:
        return self.best.spread

    @property
    def at_last(self) -> Spread | None:
        return self.last.spread


def summarise(group: Group) -> list[Summary]:
    """One summary per optimizer, in the order in which they first occur."""
    counted = {name: group.counted(name) for name in group.optimizers}
    scores = {
        kind: _compared(
            {name: _values(group, runs, kind) for name, runs in counted.items()},
            higher=group.measure.higher,
            ranked=[name for name, runs in counted.items() if any(run.finished for run in runs)],
        )
        for kind in ("best", "last")
    }
    loss = [key for key in group.keys if key.startswith("train_") and key.endswith("loss")][:1]
    return [
        Summary(
            name,
            runs=len(mine := group.of(name)),
            finished=sum(run.finished for run in mine),
            diverged=sum(run.diverged for run in mine),
            unfinished=sum(run.state == "unfinished" for run in mine),
            best=scores["best"][name],
            last=scores["last"][name],
            best_epoch=Spread.of([row["epoch"] for run in runs if (row := group.best(run))]),
            train_loss=Spread.of(
                [run.epochs[-1][key] for run in runs for key in loss if run.epochs and key in run.epochs[-1]]
            ),
            seconds=Spread.of([run.seconds for run in runs if run.seconds is not None]),
            step_ms=Spread.of([row["step_ms"] for run in runs for row in run.times]),
        )
        for name, runs in counted.items()
    ]


def ranked(summaries: Sequence[Summary]) -> list[Summary]:
    """The best first; those without a rank last."""
    return sorted(summaries, key=lambda summary: (summary.best.rank is None, summary.best.rank or 0))


def _values(group: Group, runs: Sequence[Result], kind: str) -> dict[int, float]:
    found = {run.seed: group.best(run) if kind == "best" else group.last(run) for run in runs}
    return {seed: row[group.scored_key] for seed, row in found.items() if row}


def _compared(
    values: Mapping[str, Mapping[int, float]], *, higher: bool, ranked: Sequence[str]
) -> dict[str, Score]:
    """Each optimizer's score; those ranked are also compared with the best of the others and with AdamW."""
    means = {name: fmean(values[name].values()) for name in ranked if values[name]}
    order = sorted(means, key=lambda name: -means[name] if higher else means[name])
    ranks: dict[str, int] = {}
    for place, name in enumerate(order, 1):
        before = order[place - 2] if place > 1 else name
        tied = before != name and isclose(means[name], means[before], rel_tol=TIE)
        ranks[name] = ranks[before] if tied else place
    scores = {name: Score(values[name]) for name in values}
    for name in order:
        rival = next((other for other in order if other != name), None)
        adamw = next((other for other in order if other.split()[0] == "adamw" != name.split()[0]), None)
        against = {"best_rival": rival, "adamw": adamw}
        scores[name] = Score(
            values[name],
            ranks[name],
            **{
                key: paired_interval(values[name], values[other], other) if other else None
                for key, other in against.items()
            },
        )
    return scores


def mean_rank(ranks: Sequence[int | None]) -> float | None:
    """Over the tasks in which there is one."""
    found = [rank for rank in ranks if rank]
    return fmean(found) if found else None


def seconds_by_epoch(result: Result) -> dict[int, float]:
    """Wall seconds from the start of a run to the end of each epoch."""
    total, clock = 0.0, {}
    for row in result.times:
        total += row["seconds"]
        clock[row["epoch"]] = total
    return clock


def band(group: Group, optimizer: str, key: str) -> dict[int, Spread]:
    """Mean and deviation over the counted runs of one measure, as far as every run that has it goes."""
    runs = [series for result in group.counted(optimizer) if (series := result.series(key))]
    shared = sorted(set.intersection(*map(set, runs))) if runs else []
    return {epoch: spread for epoch in shared if (spread := Spread.of([run[epoch] for run in runs]))}


def stepsize_rows(results: Sequence[Result]) -> list[Row]:
    """The layers' rows of one optimizer's runs, with the cap of their settings where a row has none.

    Those of the finished runs; where there are none, of those that have not diverged; where all have, of all.
    """
    measured = [result for result in results if result.stepsizes]
    whole = [result for result in measured if not result.diverged]
    runs = [result for result in whole if result.finished] or whole or measured
    return [
        {**row, "seed": run.seed, "cap": row.get("cap", run.cap)} for run in runs for row in run.stepsizes
    ]
