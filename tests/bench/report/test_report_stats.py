"""Intervals, ranks and groups against what can be said of them by hand."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest

from aida_bench.errors import UserError
from aida_bench.report.read_rows import read_groups
from aida_bench.report.results import Group
from aida_bench.report.statistics import Interval, Spread, interval, paired_interval, summarise
from helpers.bench.report_runs import RESULTS, result, write

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "reproduce" / "intervals.py"))


def test_summary():
    aida, sgd = summarise(Group("", RESULTS))
    assert (aida.optimizer, aida.runs, aida.diverged) == ("aida", 2, 0)
    # The best epoch is chosen by validation alone, the first of equals: 0.80 and 0.95 of the test set.
    assert aida.at_best == Spread(pytest.approx(0.875), pytest.approx(stdev([0.8, 0.95])), 2)
    assert aida.at_last == Spread(pytest.approx(0.9), pytest.approx(stdev([0.85, 0.95])), 2)
    assert aida.best_epoch is not None
    assert aida.best_epoch.mean == 2.5
    assert aida.seconds == Spread(6.0, 0.0, 2)
    assert (sgd.runs, sgd.diverged, sgd.at_last) == (2, 1, Spread(0.5, None, 1))
    assert (aida.best.rank, sgd.best.rank) == (1, 2)


def by_hand(values) -> tuple[float, float]:
    """Student's interval alone, from a table of its quantiles."""
    quantile = {2: 12.7062047362, 3: 4.3026527297, 4: 3.1824463053, 5: 2.7764451052}[len(values)]
    half = quantile * stdev(values) / len(values) ** 0.5
    return fmean(values) - half, fmean(values) + half


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 3.0], [-3.0, -1.0, 1.0, 3.0], [0.0, 1, 2, 3, 4]])
def test_the_interval_of_symmetric_differences_is_students(values):
    assert interval(values) == pytest.approx(by_hand(values), rel=1e-9)


def test_the_interval_of_skewed_differences_reaches_further_to_the_long_side():
    # Two equal values of three have c = sqrt(3), and so h(t) = 3 (cbrt(1 + t - 1/6) - 1).
    values = [0.0, 0.0, 3.0]
    t, error = 4.3026527297, 1.0
    low, high = (1 - error * 3 * (np.cbrt(1 + sign * t - 1 / 6) - 1) for sign in (1, -1))
    student = by_hand(values)
    assert interval(values) == pytest.approx((min(low, student[0]), max(high, student[1])), rel=1e-6)
    assert high > student[1]
    mirrored = interval([-value for value in values])
    assert mirrored == pytest.approx([-each for each in reversed(interval(values))], rel=1e-12)


def test_an_interval_moves_and_stretches_with_its_values():
    values = [0.3, -0.1, 0.5, 0.45, 0.2]
    low, high = interval(values)
    assert interval([1e3 * each + 7 for each in values]) == pytest.approx((1e3 * low + 7, 1e3 * high + 7))
    assert interval([0.25] * 3) == (0.25, 0.25)
    assert interval([1e200, 2e200, 4e200])[1] < float("inf")


def compared(differences) -> Interval:
    found = paired_interval(
        dict(enumerate(differences)), dict.fromkeys(range(len(differences)), 0.0), "other"
    )
    assert found is not None
    return found


def test_three_seeds_of_which_one_ties_exclude_nothing():
    # The exact bootstrap's interval is [-1.48, 0.00]; interpolated quantiles gave [-1.40, -0.24].
    found = compared([0.0, -1.48, -1.11])
    assert found.high is not None
    assert found.high > 0
    assert (found.n, found.excludes_zero) == (3, False)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_below_five_seeds_nothing_excludes_zero(n):
    assert compared([5 + 0.01 * i for i in range(n)]).excludes_zero == (n >= 5)
    assert compared([5.0] * n).excludes_zero == (n >= 5)


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("draw", SCRIPT["DRAWS"])
def test_intervals_cover_the_mean_as_often_as_they_say(n, draw):
    found = SCRIPT["coverage"](draw, n, trials=4000, seed=0)
    assert 0.93 <= found["interval"] <= 0.97
    if draw == "exponential":  # a negative control: Student's alone does not
        assert found["student"] < 0.925


def test_only_pairing_sees_a_constant_difference_between_seeds_that_differ():
    theirs = {seed: float(100 * seed) for seed in range(5)}
    mine = {seed: value + 0.25 for seed, value in theirs.items()}
    found = paired_interval(mine, theirs)
    assert found == Interval("", 0.25, 0.25, 0.25, 5)
    assert found.excludes_zero
    shuffled = paired_interval(mine, {seed: theirs[4 - seed] for seed in theirs})
    assert shuffled is not None
    assert not shuffled.excludes_zero


def test_only_shared_seeds_are_compared():
    found = paired_interval({0: 1.0, 1: 5.0, 2: 2.0}, {0: 0.5, 2: 1.0, 3: 100.0})
    assert found is not None
    assert (found.n, found.mean) == (2, 0.75)
    assert paired_interval({0: 1.0}, {1: 1.0}) is None
    assert paired_interval({0: 1.0}, {0: 0.25}) == Interval("", 0.75, None, None, 1)


def test_the_rival_is_the_best_of_the_others_and_adamw_is_not_its_own():
    final = {"sgd": 0.7, "adamw": 0.9, "aida": 0.8}
    group = Group("", [result(name, seed, [v], [v]) for name, v in final.items() for seed in (0, 1)])
    rivals = {
        s.optimizer: (
            s.best.rank,
            s.best.best_rival and s.best.best_rival.rival,
            s.best.adamw and s.best.adamw.mean,
        )
        for s in summarise(group)
    }
    assert rivals["adamw"] == (1, "aida", None)
    assert rivals["aida"] == (2, "adamw", pytest.approx(-0.1))
    assert rivals["sgd"] == (3, "adamw", pytest.approx(-0.2))


def test_less_perplexity_ranks_first_and_is_better():
    runs = [result("aida", 0, [80.0], [79.0], measure="perplexity")]
    runs += [result("sgd", 0, [90.0], [88.0], measure="perplexity")]
    group = Group("", runs)
    assert [s.best.rank for s in summarise(group)] == [1, 2]
    assert group.measure.better(-9.0)
    assert not group.measure.better(9.0)
    assert (group.choosing_key, group.scored_key) == ("validation_perplexity", "test_perplexity")


def test_unfinished_runs_count_only_where_nothing_is_finished():
    runs = [
        result("aida", 0, [0.9] * 3, [0.9] * 3),
        result("aida", 1, [0.1], [0.1], status=None),
        result("sgd", 0, [0.5], [0.5], status=None),
        result("sgd", 1, [], [], status=None),
    ]
    aida, sgd = summarise(Group("", runs))
    assert (aida.provisional, aida.unfinished, aida.at_best) == (False, 1, Spread(0.9, None, 1))
    assert (sgd.provisional, sgd.unfinished, sgd.at_best) == (True, 2, Spread(0.5, None, 1))
    assert (sgd.best.rank, sgd.best.best_rival, aida.best.best_rival) == (None, None, None)


def test_measures_with_names_of_their_own():
    rows = [{"kind": "epoch", "epoch": 1, "lr": 1.0, "train_critic_loss": 3.0, "fid": 20.0, "odd_thing": 1.0}]
    group = Group("", [replace(RESULTS[0], rows=rows)])
    assert group.keys == ["train_critic_loss", "fid", "odd_thing"]
    assert (group.measure.name, group.scored_key) == ("fid", "fid")
    assert summarise(group)[0].at_best == Spread(20.0, None, 1)


def test_folders_are_grouped_by_conditions_and_settings_name_variants(tmp_path):
    write(tmp_path / "one", RESULTS[:2])
    write(tmp_path / "two", [result("sgd", 0, [0.5], [0.5], epochs=9)])
    write(tmp_path / "sweep-1", [result("aida", 5, [0.5] * 3, [0.5] * 3, settings={"lr": 1e-3})])
    write(tmp_path / "sweep-2", [result("aida", 5, [0.6] * 3, [0.6] * 3, settings={"lr": 1e-8})])
    groups = {group.title: group for group in read_groups(tmp_path)}
    assert list(groups) == ["digits · cnn · epochs 3", "digits · cnn · epochs 9"]
    assert groups["digits · cnn · epochs 3"].optimizers == ["aida lr=–", "aida lr=0.001", "aida lr=1e-8"]


def test_of_two_copies_of_a_run_the_finished_one_is_read(tmp_path):
    write(tmp_path / "a", [result("aida", 0, [0.5], [0.5], status=None)])
    write(tmp_path / "b", [result("aida", 0, [0.5] * 3, [0.5] * 3)])
    (group,) = read_groups(tmp_path)
    assert [(run.status, len(run.epochs)) for run in group.results] == [("finished", 3)]


def test_what_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match="not a folder"):
        read_groups(tmp_path / "nothing")
    with pytest.raises(UserError, match="no runs below"):
        read_groups(tmp_path)
    write(tmp_path, RESULTS[:1])
    (tmp_path / "aida" / "seed-0" / "done.json").write_text("{")
    with pytest.raises(UserError, match=r"done\.json is damaged"):
        read_groups(tmp_path)
