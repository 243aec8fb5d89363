"""A study's scores and tables beside an independent calculation, with pandas, from the same records."""

from __future__ import annotations

import io
from itertools import combinations
from math import inf

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aida_bench.study.read import read_study
from aida_bench.study.records import Record
from aida_bench.study.report import scores as tables
from aida_bench.study.report import tuning
from aida_bench.study.report.table import Table
from aida_bench.study.scores import TaskScores, over_tasks
from aida_bench.study.spec import Study
from aida_bench.study.status import status
from aida_bench.study.stepsizes import mean_spreads
from helpers.bench.studies import SGD, TUNED, compared, write
from helpers.bench.study_rows import BATCHES, SECONDS, finish, noise

UNTRAINED = 5.0
OPTIMIZERS = ("aida", "adamw", "adabelief", "momentum")
FEW = 'optimizer = "adabelief"\nsettings_from = "adabelief"\nseeds = [1, 2]'


def study_of(folder, tasks: int) -> Study:
    own = {**dict.fromkeys(OPTIMIZERS, TUNED), "momentum": SGD, "few": FEW}
    return read_study(write(folder, compared("abc"[:tasks], own, points=4, epochs=4, target="adamw")))


def fuzzed(case: int, folder) -> tuple[Study, dict[str, Record]]:
    """One to three tasks; some runs diverge, scores of odd cases are tied, some final runs are missing."""
    study = study_of(folder, 1 + case % 3)

    def score(cell):
        if cell.stage == "untrained":
            return UNTRAINED
        chance = noise(case, cell.key)
        if chance < 0.1:
            return None
        if chance > 0.97:
            return UNTRAINED + 1
        value = 1.0 + noise(case, cell.task, cell.optimizer) + 0.5 * noise(case, cell.key, "again")
        return round(value, 1) if case % 2 else value

    found = finish(study, score)
    gone = [k for k in found if "final" in k and case % 4 == 3 and noise(case, k, "gone") < 0.2]
    return study, {key: each for key, each in found.items() if key not in gone}


def frame(found: dict[str, Record]) -> pd.DataFrame:
    """One row a scored run, from its key and its last epoch."""
    rows = []
    for key, each in found.items():
        task, name, seed = key.split("/")
        optimizer, _, stage = name.partition(" ")
        rows.append({
            "task": task, "optimizer": optimizer, "stage": stage.split("-")[0] or "untrained",
            "point": int(stage.split("-")[1]) if "-" in stage else -1,
            "seed": int(seed.removeprefix("seed-")),
            "loss": each.epochs[-1]["test_loss"] if each.epochs else np.nan,
            "tuned": each.epochs[-1]["validation_loss"] if each.epochs else np.inf,
        })  # fmt: skip
    return pd.DataFrame(rows)


def finals(found: dict[str, Record]) -> pd.DataFrame:
    runs = frame(found)
    runs = runs[runs.stage != "tune"]
    worst = runs.groupby("task").loss.transform("max")
    return runs.assign(loss=runs.loss.fillna(worst))


def read(table: Table) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table.csv())) if table.rows else pd.DataFrame({"task": []})


@pytest.fixture(params=range(12))
def case(request, tmp_path):
    study, found = fuzzed(request.param, tmp_path)
    return study, found, {task: TaskScores(study, task, found) for task in study.tasks}


def test_means_deviations_and_what_diverged(case):
    _, found, scores = case
    expected = finals(found).groupby(["task", "optimizer"]).loss.agg(["mean", "std", "count"])
    said = read(tables.by_optimizer(scores)).replace("untrained model", "untrained")
    assert len(said) == len(expected)
    for row in said.itertuples():
        mean, std, count = expected.loc[(row.task, row.optimizer)]
        assert row.mean == pytest.approx(mean, rel=1e-12)
        assert row.n == count
        assert (0 if np.isnan(row.std) else row.std) == pytest.approx(0 if count == 1 else std, abs=1e-12)
    runs = frame(found)
    lost = runs[(runs.stage == "final") & runs.loss.isna()].groupby(["task", "optimizer"]).size()
    assert said.diverged.sum() == lost.sum()


def test_differences_are_paired_by_seed(case):
    _, found, scores = case
    wide = (
        finals(found)
        .query("stage == 'final'")
        .pivot(index=["task", "seed"], columns="optimizer", values="loss")
    )
    said = read(tables.differences(scores)).set_index(["task", "rival"])
    for (task, rival), row in said.iterrows():
        paired = (wide.loc[task].aida - wide.loc[task][rival]).dropna()
        assert row.n == len(paired)
        assert row.difference == pytest.approx(paired.mean(), abs=1e-12)
        assert row.verdict.startswith("not said") == (row.n < 5)
        if row.verdict in ("better", "worse"):
            assert row.verdict == ("better" if paired.mean() < 0 else "worse")
            assert stats.ttest_1samp(paired, 0.0).pvalue < 0.05
        assert row.primary == (rival != "few")
    shared = {(t, o) for t in scores for o in wide if (wide.loc[t].aida - wide.loc[t][o]).notna().any()}
    assert set(said.index) == {(task, rival) for task, rival in shared if rival != "aida"}


def whole(found: dict[str, Record]) -> pd.DataFrame:
    """Normalised scores of what has all five seeds on every task."""
    runs = finals(found)
    counts = runs.groupby(["optimizer", "task"]).size().unstack()
    full = [name for name in OPTIMIZERS if (counts.loc[name] == 5).all()]
    complete = runs[[counts.loc[o, t] == 5 for o, t in zip(runs.optimizer, runs.task, strict=True)]]
    best = (
        complete[complete.optimizer.isin(OPTIMIZERS)]
        .groupby(["task", "optimizer"])
        .loss.mean()
        .groupby("task")
        .min()
    )
    lowest = runs.task.map(best)
    return runs.assign(score=(UNTRAINED - runs.loss) / (UNTRAINED - lowest))[runs.optimizer.isin(full)]


def test_scores_over_tasks(case):
    _, found, scores = case
    said = read(tables.aggregates(scores)).set_index("optimizer") if over_tasks(scores) else pd.DataFrame()
    runs = whole(found)
    assert set(said.index) == set(runs.optimizer)
    for name, each in runs.groupby("optimizer"):
        ordered, cut = sorted(each.score), len(each) // 4
        assert said.loc[name].iqm == pytest.approx(np.mean(ordered[cut : len(ordered) - cut]), abs=1e-12)
        assert said.loc[name].runs == len(each)
        assert said.loc[name].low <= said.loc[name].iqm <= said.loc[name].high
        if "aida" in said.index and name != "aida":
            mine = runs[runs.optimizer == "aida"]
            pairs = each.merge(mine, on="task", suffixes=("", "_aida"))
            wins = (pairs.score_aida > pairs.score) + 0.5 * (pairs.score_aida == pairs.score)
            by_task = wins.groupby(pairs.task).mean()
            assert said.loc[name].improvement == pytest.approx(by_task.mean(), abs=1e-12)
    for row in read(tables.profiles(scores)).itertuples() if len(said) else ():
        own = runs[runs.optimizer == row.optimizer]
        assert row.fraction == pytest.approx(
            (own.score > row.score).groupby(own.task).mean().mean(), abs=1e-12
        )


def test_time_to_the_worst_seed_of_the_target(case):
    _, found, scores = case
    runs = finals(found).query("stage == 'final'")
    said = read(tables.targets(scores))
    for task in scores:
        adamw = runs[(runs.task == task) & (runs.optimizer == "adamw")]
        rows = said[said.task == task]
        assert (len(rows) > 0) == (len(adamw) == 5)
        for row in rows.itertuples():
            assert row.target == pytest.approx(adamw.loss.max(), abs=1e-12)
            steps = []
            for key, record in found.items():
                if key.startswith(f"{task}/{row.optimizer} final"):
                    good = [e["epoch"] for e in record.epochs if e["test_loss"] <= row.target]
                    steps.append(min(good) if good else inf)
            assert row.reached == sum(step < inf for step in steps)
            assert row.steps == BATCHES * np.median(steps)
            assert row.cpu_seconds == SECONDS * np.median(steps)


def test_every_point_and_what_more_are_worth(case):
    _, found, scores = case
    runs = frame(found).query("stage == 'tune'")
    said = read(tuning.points(scores))
    assert len(said) == len(runs)
    for (task, name), own in runs.groupby(["task", "optimizer"]):
        mine = said[(said.task == task) & (said.optimizer == name)].set_index("point")
        assert mine.index[mine.chosen].tolist() == [
            own.sort_values("point").set_index("point").tuned.idxmin()
        ]
        assert (mine.state == "diverged").sum() == np.isinf(own.tuned).sum()
    curves = read(tuning.curves(scores)).set_index(["task", "optimizer", "points"]).expected
    for (task, name), own in runs.groupby(["task", "optimizer"]):
        worst = runs[(runs.task == task) & np.isfinite(runs.tuned)].tuned.max()
        costs = own.tuned.clip(upper=worst)
        for n in range(1, 5):
            by_hand = np.mean([min(each) for each in combinations(costs, n)])
            assert curves[(task, name, n)] == pytest.approx(by_hand, abs=1e-12)


def test_spreads_and_the_share_at_the_cap(tmp_path):
    rng = np.random.default_rng(0)
    made: dict[str, pd.DataFrame] = {}

    def layers(cell):
        own = pd.DataFrame({
            "numel": rng.integers(1, 100, 5), "mean": rng.uniform(1, 9, 5), "std": rng.uniform(0, 3, 5),
            "capped": rng.uniform(size=5),
        })  # fmt: skip
        made[cell.key] = own
        unmeasured = {"numel": 7, "mean": None, "std": None, "capped": None}
        return [*own.to_dict("records"), unmeasured]

    study = study_of(tmp_path, 1)
    found = finish(study, lambda cell: None if cell.key.endswith("seed-3") else 1.0, layers)
    scores = TaskScores(study, "a", found)
    mine = [made[record.key] for record in scores.finals["aida"].values() if not record.diverged]
    said = mean_spreads(scores.finals["aida"])
    assert len(mine) == 4
    assert said is not None
    assert said.within == pytest.approx(np.mean([np.median(x["std"] / x["mean"]) for x in mine]), rel=1e-12)
    assert said.across == pytest.approx(np.mean([x["mean"].std(ddof=0) / x["mean"].mean() for x in mine]))
    assert said.capped == pytest.approx(np.mean([(x.numel * x.capped).sum() / x.numel.sum() for x in mine]))


def test_more_is_better_where_the_measure_says_so(tmp_path):
    """The same numbers as an accuracy: the winner is the other, and differences keep their sign."""
    found = finish(study_of(tmp_path, 1), lambda cell: 0.5 if cell.optimizer == "aida" else 0.25)
    named = {
        key: Record(key, each.config, each.status, [
            {k.replace("loss", "accuracy"): v for k, v in row.items()} for row in each.epochs
        ], each.timings)
        for key, each in found.items()
    }  # fmt: skip
    path = tmp_path / "study.toml"
    path.write_text(path.read_text().replace('measure = "loss"', 'measure = "accuracy"'))
    study = read_study(path)
    # The settings chosen are others: what is final is named by the first point.
    scores = TaskScores(study, "a", named)
    row = next(each for each in tables.differences({"a": scores}).rows if each["rival"] == "adamw")
    assert row["difference"] == pytest.approx(0.25)
    assert row["verdict"] == "better"
    assert scores.best == "aida"


def test_a_run_that_stood_still_does_not_set_the_pace(tmp_path):
    """Runs are stopped and go on: their wall time says nothing of the next run's."""
    study = study_of(tmp_path, 1)
    found = finish(study, lambda cell: 1.0)
    usual = status(study, study.tasks, found).pace
    next(iter(found.values())).timings[0]["seconds"] = 1e6
    assert usual == 1.5
    assert status(study, study.tasks, found).pace == usual
