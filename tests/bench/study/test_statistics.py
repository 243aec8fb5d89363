"""Every formula beside an independent calculation, on fuzzed numbers: unequal seeds, ties, one task."""

from __future__ import annotations

from itertools import combinations
from math import isclose
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from aida_bench.report.statistics import interval
from aida_bench.study import statistics as of

CASES = range(30)


def drawn(case: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Scores of two optimizers on one to four tasks, by one to nine seeds; of many cases tied."""
    rng = np.random.default_rng(case)
    step = 0.1 if case % 2 else 1e-9

    def some() -> list[float]:
        return (np.round(rng.normal(size=rng.integers(1, 10)) / step) * step).tolist()

    tasks = [f"task {i}" for i in range(rng.integers(1, 5))]
    return {task: some() for task in tasks}, {task: some() for task in tasks}


def textbook(values: dict[str, float], level: float = 0.05) -> set[str]:
    """Holm's rejections from p-values."""
    rejected = set()
    for place, name in enumerate(sorted(values, key=values.__getitem__)):
        if values[name] > level / (len(values) - place):
            break
        rejected.add(name)
    return rejected


@pytest.mark.parametrize("case", CASES)
def test_holm_rejects_what_p_values_of_the_t_test_reject(case):
    """Differences without skewness, of which the interval is Student's alone."""
    rng = np.random.default_rng(case)
    half = rng.exponential(size=(3, 3))
    means = rng.normal(scale=3.0, size=3)
    differences = {f"r{i}": [*(means[i] + half[i]), *(means[i] - half[i])] for i in range(3)}
    mine = dict.fromkeys(range(6), 0.0)
    rivals = {name: {seed: -x for seed, x in enumerate(each)} for name, each in differences.items()}
    found = of.holm(mine, rivals)
    p = {name: stats.ttest_1samp(each, 0.0).pvalue for name, each in differences.items()}
    assert {name for name, each in found.items() if each and each.excludes_zero} == textbook(p)
    for name, each in found.items():
        assert each is not None
        assert each.n == 6
        assert each.mean == pytest.approx(np.mean(differences[name]), abs=1e-12)
        low, high = stats.t.interval(
            1 - 0.05 / left(p, textbook(p), name), 5, loc=each.mean, scale=stats.sem(differences[name])
        )
        assert (each.low, each.high) == pytest.approx((low, high), rel=1e-6)


def left(p: dict[str, float], rejected: set[str], name: str) -> int:
    """How many were left when `name` was decided, or when nothing more was."""
    remaining = dict(p)
    while True:
        gone = {each for each in remaining if p[each] <= 0.05 / len(remaining)}
        if name in gone or not gone:
            return len(remaining)
        remaining = {each: p[each] for each in remaining if each not in gone}


def smallest_level(values: list[float]) -> float:
    """The p-value of an interval, by bisection."""
    low, high = 1e-12, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        ends = interval(values, 1 - middle)
        low, high = (low, middle) if ends[0] > 0 or ends[1] < 0 else (middle, high)
    return high


@pytest.mark.parametrize("case", CASES)
def test_holm_rejects_what_p_values_of_the_interval_reject(case):
    """Skewed differences, and seeds that only some rivals have."""
    rng = np.random.default_rng(case)
    mine = {seed: float(rng.exponential()) for seed in range(9)}
    rivals = {}
    for i in range(3):
        seeds = rng.permutation(12)[: rng.integers(6, 12)]
        rivals[f"r{i}"] = {int(s): float(rng.exponential() + rng.normal()) for s in seeds}
    paired = {name: [mine[s] - each[s] for s in mine if s in each] for name, each in rivals.items()}
    p = {name: smallest_level(each) if len(each) >= 5 else 1.0 for name, each in paired.items()}
    found = of.holm(mine, rivals)
    assert [each.n for each in found.values() if each] == [len(each) for each in paired.values() if each]
    assert {name for name, each in found.items() if each and each.excludes_zero} == textbook(p)


def test_without_shared_seeds_nothing_is_said_and_the_others_are_not_made_easier():
    mine = dict.fromkeys(range(5), 0.0)
    other = {seed: 1.0 + 0.1 * seed for seed in range(5)}
    found = of.holm(mine, {"there": other, "gone": {9: 1.0}, "one": {0: 1.0}})
    assert found["gone"] is None
    assert found["one"]
    assert found["one"].low is None
    alone = interval([-x for x in other.values()], 1 - 0.05 / 3)
    assert found["there"]
    assert (found["there"].low, found["there"].high) == pytest.approx(alone, rel=1e-12)


def test_the_chance_of_any_wrong_rejection_is_held():
    """No rival differs; all share the optimizer's own noise. 2000 studies, so 0.005 is one standard error."""
    rng, studies, wrong, loose = np.random.default_rng(0), 2000, 0, 0
    for _ in range(studies):
        mine, *rivals = rng.normal(size=(4, 5)).tolist()
        mine, *rivals = (dict(enumerate(each)) for each in (mine, *rivals))
        named = {str(i): each for i, each in enumerate(rivals)}
        wrong += any(each and each.excludes_zero for each in of.holm(mine, named).values())
        loose += any(each and each.excludes_zero for r in rivals for each in of.holm(mine, {"": r}).values())
    assert wrong / studies <= 0.05 + 3 * 0.005
    assert loose / studies > 0.05 + 3 * 0.005  # without the correction it is not


@pytest.mark.parametrize("case", CASES)
def test_interquartile_mean(case):
    scores, _ = drawn(case)
    pooled = sorted(x for each in scores.values() for x in each)
    cut = len(pooled) // 4
    assert isclose(of.interquartile_mean(scores), fmean(pooled[cut : len(pooled) - cut]), abs_tol=1e-12)


def test_the_bootstrap_draws_each_task_s_seeds_among_its_own():
    rng = np.random.default_rng(0)
    one = rng.normal(size=12)
    means = [fmean(sorted(rng.choice(one, 12))[3:9]) for _ in range(20000)]
    expected = np.quantile(means, [0.025, 0.975]).tolist()
    assert of.interquartile_interval({"a": one.tolist()}) == pytest.approx(expected, abs=0.05)
    apart = {"a": [0.0] * 6, "b": [1.0] * 6}
    assert of.interquartile_interval(apart) == pytest.approx((0.5, 0.5), abs=1e-12)
    assert of.interquartile_interval(apart) == of.interquartile_interval(apart)


@pytest.mark.parametrize("case", CASES)
def test_profile(case):
    scores, _ = drawn(case)
    thresholds = [-1.0, -0.1, 0.0, 0.3]
    by_hand = [
        fmean([sum(x > at for x in each) / len(each) for each in scores.values()]) for at in thresholds
    ]
    assert of.profile(scores, thresholds).tolist() == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_probability_of_improvement_is_mann_whitney_s_statistic_a_task(case):
    mine, theirs = drawn(case)
    wins = [stats.mannwhitneyu(mine[t], theirs[t]).statistic / len(mine[t]) / len(theirs[t]) for t in mine]
    found = of.probability_of_improvement(mine, theirs)
    assert found == pytest.approx(fmean(wins), abs=1e-12)
    assert of.probability_of_improvement(theirs, mine) == pytest.approx(1 - found, abs=1e-12)
    low, high = of.improvement_interval(mine, theirs)
    assert 0 <= low <= high <= 1


def test_the_interval_of_an_improvement_draws_both_apart():
    """Of two seeds each, a quarter of the samples wins everything and a quarter nothing."""
    assert of.improvement_interval({"a": [0.0, 2.0]}, {"a": [1.0, 1.0]}) == (0.0, 1.0)
    assert of.improvement_interval({"a": [2.0, 2.0], "b": [0.0]}, {"a": [1.0], "b": [1.0]}) == (0.5, 0.5)


@pytest.mark.parametrize("case", CASES)
def test_expected_best_is_the_mean_over_all_subsets(case):
    rng = np.random.default_rng(case)
    costs = np.round(rng.normal(size=rng.integers(1, 9)), 1).tolist()
    by_hand = [fmean(map(min, combinations(costs, n))) for n in range(1, len(costs) + 1)]
    assert of.expected_best(costs) == pytest.approx(by_hand, abs=1e-12)


def test_normalised():
    assert of.normalised([4.0, 1.0, 0.5, 7.0], untrained=4.0, distance=3.0) == pytest.approx(
        [0, 1, 3.5 / 3, -1]
    )
