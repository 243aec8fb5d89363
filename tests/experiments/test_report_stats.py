"""Intervals, ranks and groups against what can be said of them by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from statistics import fmean, stdev

import numpy as np
import pytest

from aida_experiments.errors import UserError
from aida_experiments.report_data import Group, read_groups
from aida_experiments.report_stats import Interval, Spread, paired_bootstrap, summarise
from experiments.report_runs import RESULTS, result, write


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


def test_the_bootstrap_of_few_seeds_is_every_resample():
    differences = [0.3, -0.1, 0.5]
    mine = {seed: 10 * seed + d for seed, d in enumerate(differences)}
    found = paired_bootstrap(mine, {seed: 10.0 * seed for seed in range(3)}, "other")
    assert found is not None
    means = sorted(fmean(resample) for resample in product(differences, repeat=3))
    low, high = np.quantile(means, [0.025, 0.975])
    assert (found.rival, found.n) == ("other", 3)
    assert (found.mean, found.low, found.high) == pytest.approx((fmean(differences), low, high), rel=1e-12)
    assert not found.excludes_zero


def test_only_pairing_sees_a_constant_difference_between_seeds_that_differ():
    theirs = {seed: float(100 * seed) for seed in range(5)}
    mine = {seed: value + 0.25 for seed, value in theirs.items()}
    found = paired_bootstrap(mine, theirs)
    assert found == Interval("", 0.25, 0.25, 0.25, 5)
    assert found.excludes_zero
    shuffled = paired_bootstrap(mine, {seed: theirs[4 - seed] for seed in theirs})
    assert shuffled is not None
    assert not shuffled.excludes_zero


def test_many_seeds_agree_with_the_normal_interval():
    differences = np.random.default_rng(1).normal(1.0, 2.0, 60)
    found = paired_bootstrap(dict(enumerate(differences)), dict.fromkeys(range(60), 0.0))
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    half = 1.96 * differences.std(ddof=1) / 60**0.5
    assert found.high - found.low == pytest.approx(2 * half, rel=0.05)
    assert (found.low + found.high) / 2 == pytest.approx(differences.mean(), abs=0.05 * half)
    assert found == paired_bootstrap(dict(enumerate(differences)), dict.fromkeys(range(60), 0.0))


def test_only_shared_seeds_are_compared():
    found = paired_bootstrap({0: 1.0, 1: 5.0, 2: 2.0}, {0: 0.5, 2: 1.0, 3: 100.0})
    assert found is not None
    assert (found.n, found.mean) == (2, 0.75)
    assert paired_bootstrap({0: 1.0}, {1: 1.0}) is None
    assert paired_bootstrap({0: 1.0}, {0: 0.25}) == Interval("", 0.75, None, None, 1)


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
    write(tmp_path / "sweep-1", [result("aida", 5, [0.5], [0.5], settings={"lr": 1e-3})])
    write(tmp_path / "sweep-2", [result("aida", 5, [0.6], [0.6], settings={"lr": 1e-8})])
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
