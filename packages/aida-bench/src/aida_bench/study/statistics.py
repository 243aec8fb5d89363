"""What a study's numbers are turned into: corrected differences, scores over tasks, the worth of tuning.

Costs are scores of which less is better; inf has been replaced before. The aggregates are those of Agarwal et
al. (arXiv 2108.13264), a few lines each: rliable itself brings arch, seaborn and absl-py, and takes only
matrices, no task with a seed missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aida_bench.report.statistics import LEVEL, Interval, paired_interval

BY_SEED = Mapping[int, float]
BY_TASK = Mapping[str, Sequence[float]]
Floats = NDArray[np.float64]
RESAMPLES = 2000
"""Samples of a bootstrap."""


def holm(mine: BY_SEED, rivals: Mapping[str, BY_SEED], level: float = LEVEL) -> dict[str, Interval | None]:
    """Paired differences mine - rival, each with an interval at the level that Holm's procedure gives it.

    With k differences left, intervals have level 1 - (1-level)/k; those that exclude zero are decided and
    leave, and what is left is tried again; when none leaves, all that are left keep that interval. So an
    interval excludes zero exactly where Holm's test (Scand. J. Statist. 6, 1979) rejects, and the chance of
    any wrong rejection is at most 1 - level. A rival without shared seeds is None and counts among the k.
    """
    found: dict[str, Interval | None] = {}
    left = list(rivals)
    while left:
        own = 1 - (1 - level) / len(left)
        tried = {name: paired_interval(mine, rivals[name], name, own) for name in left}
        decided = {name: each for name, each in tried.items() if each and each.excludes_zero}
        found |= decided or tried
        left = [name for name in left if name not in found]
    return {name: found[name] for name in rivals}


def normalised(costs: Sequence[float], untrained: float, distance: float) -> list[float]:
    """0 for the untrained model and 1 at `distance` below it, the best tuned optimizer's mean cost."""
    return [(untrained - cost) / distance for cost in costs]


def interquartile_mean(scores: BY_TASK) -> float:
    """The mean of all tasks' scores without the lowest and the highest quarter."""
    from scipy.stats import trim_mean

    return float(trim_mean(np.concatenate(list(map(np.asarray, scores.values()))), 0.25))


def interquartile_interval(scores: BY_TASK, seed: int = 0) -> tuple[float, float]:
    """A percentile bootstrap, stratified: each task's seeds are drawn among its own."""
    from scipy.stats import trim_mean

    drawn = np.concatenate(list(_resampled(scores, np.random.default_rng(seed)).values()), axis=1)
    return _percentiles(trim_mean(drawn, 0.25, axis=1))


def profile(scores: BY_TASK, thresholds: ArrayLike) -> Floats:
    """For each threshold, the mean over tasks of the fraction of seeds whose score is above it."""
    at = np.asarray(thresholds, float)
    return np.mean([(np.asarray(each)[:, None] > at).mean(0) for each in scores.values()], axis=0)


def probability_of_improvement(mine: BY_TASK, theirs: BY_TASK) -> float:
    """That a run of mine scores higher than one of theirs on a task drawn at random; ties count half."""
    return float(np.mean([_wins(np.asarray(mine[task]), np.asarray(theirs[task])) for task in mine]))


def improvement_interval(mine: BY_TASK, theirs: BY_TASK, seed: int = 0) -> tuple[float, float]:
    """Its percentile bootstrap, stratified by task; the two optimizers are drawn apart."""
    rng = np.random.default_rng(seed)
    ours, others = _resampled(mine, rng), _resampled(theirs, rng)
    return _percentiles(np.mean([_wins(ours[task], others[task]) for task in mine], axis=0))


def _wins(mine: Floats, theirs: Floats) -> Floats:
    """Over the last axis of both, the fraction of pairs that mine win."""
    a, b = mine[..., :, None], theirs[..., None, :]
    return ((a > b) + 0.5 * (a == b)).mean((-2, -1))


def _resampled(scores: BY_TASK, rng: np.random.Generator) -> dict[str, Floats]:
    return {
        task: np.asarray(each, float)[rng.integers(len(each), size=(RESAMPLES, len(each)))]
        for task, each in scores.items()
    }


def _percentiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def expected_best(costs: Sequence[float]) -> list[float]:
    """The expected lowest of n points drawn at random from those tried, for n = 1, 2, … all of them.

    That of Dodge et al. (arXiv 1909.03004), exact, for draws without replacement: with the costs in order,
    the lowest of n is the i-th (from 0) in C(N-1-i, n-1) of the C(N, n) subsets.
    """
    ordered, count = sorted(costs), len(costs)
    return [
        sum(cost * (comb(count - 1 - i, n - 1) / comb(count, n)) for i, cost in enumerate(ordered))
        for n in range(1, count + 1)
    ]
