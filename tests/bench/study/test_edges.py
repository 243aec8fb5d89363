"""What a report says where runs diverge, where nothing can be scaled, and where optimizers sit out a task."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from aida_bench.errors import UserError
from aida_bench.report.metrics import key_label, key_measure, measure_named, told_higher
from aida_bench.study.cells import TaskPlan, next_cells
from aida_bench.study.claims import SUPPORTED, UNDECIDED, answer
from aida_bench.study.read import read_study
from aida_bench.study.records import scoring_of
from aida_bench.study.report.figures import by_setting, forest, tuning
from aida_bench.study.report.scores import differences
from aida_bench.study.report.tuning import curves, points
from aida_bench.study.report.write import write_report
from aida_bench.study.scores import TaskScores
from aida_bench.study.statistics import expected_best
from helpers.bench.studies import TUNED, compared, write
from helpers.bench.study_rows import finish, noise, record

MARGIN = '[claims.near]\nkind = "within-margin"\nsays = "x"\npairs = [["aida", "adamw"]]\n'
COMPETITIVE = '[claims.good]\nkind = "competitive"\nsays = "x"\nof = "aida"\nagainst = ["adamw"]\n'
OWN = {"aida": TUNED, "adamw": TUNED}


def study_of(folder, tasks="ab", own=OWN, claims=MARGIN + COMPETITIVE, **changes):
    text = compared(tasks, own, primary=["adamw"], points=2) + claims
    return read_study(write(folder, text, **changes))


def scored(cell):
    if cell.stage == "untrained":
        return 5.0
    return 1.0 + 0.1 * (cell.optimizer == "adamw") + 0.01 * noise(cell.key)


def told(study, found, folder) -> str:
    write_report(study, found, folder / "out")
    texts = [(folder / "out" / name).read_text() for name in ("README.md", "tables.md")]
    assert not {"nan", "inf", "None"} & set("\n".join(texts).replace("*", " ").split())
    return texts[0]


def verdicts(study, found, claim="near"):
    scores = {task: TaskScores(study, task, found) for task in study.tasks}
    return {task: each.word for task, each in answer(study.claims[claim], scores).tasks.items()}


def test_an_untrained_model_that_diverges_gives_no_margin(tmp_path):
    """Were it infinitely bad, everything would lie within a margin."""
    study = study_of(tmp_path)
    found = finish(study, lambda c: None if (c.task, c.stage) == ("a", "untrained") else scored(c))
    assert verdicts(study, found) == {"a": UNDECIDED, "b": SUPPORTED}
    page = told(study, found, tmp_path)
    assert "There is no margin: the untrained model of a has no finite score." in page
    assert "Left out: the untrained model of a has no finite score." in page
    assert "| aida | 5 | 1.0" in page  # over all tasks that are left


def test_a_task_whose_model_is_best_untrained_is_left_out(tmp_path):
    study = study_of(tmp_path)
    found = finish(study, lambda c: 0.5 if (c.task, c.stage) == ("a", "untrained") else scored(c))
    assert verdicts(study, found) == {"a": UNDECIDED, "b": SUPPORTED}
    page = told(study, found, tmp_path)
    assert "There is no margin: no tuned optimizer beats the untrained model of a." in page
    assert "incomplete" not in page


@pytest.mark.parametrize("untrained", [5.0, None])
def test_where_every_run_diverges_nothing_is_best_and_all_have_ended(tmp_path, untrained):
    study = study_of(tmp_path)
    found = finish(
        study, lambda c: scored(c) if c.task == "b" else untrained if c.stage == "untrained" else None
    )
    assert TaskScores(study, "a", found).best is None
    assert verdicts(study, found, "good") == {"a": UNDECIDED, "b": SUPPORTED}
    page = told(study, found, tmp_path)
    assert (
        "**Final runs that diverged** have the worst score of their task: aida on a (5 of 5) and adamw"
        in page
    )
    assert f"All {len(found)} runs have ended." in page
    assert "incomplete" not in page
    (row, *_) = [line for line in page.split("\n") if line.startswith("| a | ")]
    assert "aida" not in row


@pytest.mark.parametrize("lost", [1, 5])
def test_diverged_final_runs_are_told_on_the_page(tmp_path, lost):
    study = study_of(tmp_path)

    def score(cell):
        gone = (cell.task, cell.optimizer, cell.stage) == ("a", "aida", "final") and cell.config[
            "seed"
        ] < lost
        return None if gone else scored(cell)

    page = told(study, finish(study, score), tmp_path)
    assert f"have the worst score of their task: aida on a ({lost} of 5)." in page
    assert TaskScores(study, "a", finish(study, score)).best == "adamw"


def test_an_optimizer_that_sits_out_a_task_leaves_no_claim_incomplete(tmp_path):
    own = {**OWN, "only-b": 'optimizer = "adabelief"\ntune = ["lr"]\ntasks = ["b"]'}
    claim = COMPETITIVE.replace('["adamw"]', '["adamw", "only-b"]')
    study = study_of(tmp_path, own=own, claims=claim)
    found = finish(study, scored)
    assert verdicts(study, found, "good") == {"b": UNDECIDED}
    assert "incomplete" not in told(study, found, tmp_path)


def test_one_that_is_worse_is_not_told_the_other_way_round(tmp_path):
    """The best by its own many seeds, on which it is lucky; on those that both have it is the worse one."""
    many = "seeds = [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16, 17]\n"
    study = study_of(tmp_path, "a", {"aida": many + TUNED, "adamw": TUNED})

    def score(cell):
        if cell.stage == "final" and cell.optimizer == "aida":
            return 2.0 + 0.01 * noise(cell.key) if cell.config["seed"] < 10 else 0.1
        return scored(cell)

    page = told(study, finish(study, score), tmp_path)
    (row, *_) = [line for line in page.split("\n") if line.startswith("| a | ")]
    assert "| adamw (better on the 5 seeds that both have) |" in row


def test_a_task_without_a_validation_split_is_refused(tmp_path):
    study = study_of(tmp_path, "a")
    (cell, *_) = next_cells(study, study.tasks, {})
    run = record(cell, 1.0)
    bare = {run.key: type(run)(**{**vars(run), "epochs": [{"epoch": 1, "test_loss": 1.0}]})}
    with pytest.raises(
        UserError, match=r"no measure of a validation split, .* let the task's splits begin with"
    ):
        scoring_of(study, "a", bare)


@pytest.mark.parametrize(("name", "declared", "higher"), [
    ("f1", (), True), ("own_gain", ["own_gain"], True), ("own_cost", (), False), ("loss", ["x"], False),
])  # fmt: skip
def test_more_of_a_measure_is_better_where_its_task_says_so(tmp_path, name, declared, higher):
    """The point with the best one is chosen; of an unknown measure its label says what is taken."""
    study = study_of(tmp_path, "a", **{'measure = "loss"': f'measure = "{name}"'})
    found = {}
    for number, cell in enumerate(next_cells(study, study.tasks, {})):
        run = record(cell, 1.0)
        epochs = [{"epoch": 1, f"validation_{name}": float(number), f"test_{name}": float(number)}]
        config = {**run.config, "higher": list(declared)} if declared else run.config
        found[run.key] = type(run)(**{**vars(run), "epochs": epochs, "config": config})
    plan = TaskPlan(study, "a", found)
    plan.all_cells()
    assert plan.scoring is not None
    assert plan.scoring.measure.higher == higher
    assert plan.chosen("aida") == (1 if higher else 0)
    assert ("less counts as better" in plan.scoring.measure.label) == (name == "own_cost")


def test_settings_that_are_no_numbers_and_names_of_columns(tmp_path):
    odd = 'settings = { eps = [1e-30, 1e-3], n = 7, score = "x" }\n'
    study = study_of(tmp_path, "a", {"aida": odd + TUNED, "adamw": TUNED})
    write_report(study, finish(study, scored), tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out/scores.csv").read_text().splitlines()[:2])
    assert (row["n"], row["n_"], row["score"]) == ("5", "7", "x")
    assert "| 1e-30, 0.001 |" in (tmp_path / "out/tables.md").read_text()


def test_runs_that_the_file_names_no_more_do_not_count(tmp_path):
    study = study_of(tmp_path)
    found = finish(study, scored)
    fewer = study_of(tmp_path, "a")
    kept = sum(key.startswith("a/") for key in found)
    page = told(fewer, found, tmp_path)
    assert f"All {kept} runs have ended." in page
    assert f"{len(found) - kept} other runs lie there, which the file does not name." in page


def test_what_an_earlier_report_wrote_does_not_stay(tmp_path):
    published = '[published]\nseeds = [0]\npreset = "small"\n'
    study = study_of(tmp_path, "a", claims=published)
    write_report(study, finish(study, scored), tmp_path / "out")
    assert (tmp_path / "out/published.csv").exists()
    again = study_of(tmp_path, "a")
    write_report(again, finish(again, scored), tmp_path / "out")
    assert not (tmp_path / "out/published.csv").exists()


def test_published_settings_are_run_after_their_phase_and_those_of_later_optimizers_after_theirs(tmp_path):
    own = {"aida": TUNED, "adamw": TUNED, "sgd": f"{TUNED}\nphase = 2"}
    for wanted, first in (("", 2), ("phase = 1\n", 1)):
        study = study_of(tmp_path, "a", own, claims=f'[published]\nseeds = [0]\npreset = "small"\n{wanted}')
        found, order = {}, []
        while cells := next_cells(study, study.tasks, found):
            order += [(cell.stage, cell.optimizer) for cell in cells]
            found |= {cell.key: record(cell, scored(cell)) for cell in cells}
        asked = {label: order.index(("published", label)) for label in own}
        ended = {label: len(order) - 1 - order[::-1].index(("final", label)) for label in own}
        assert ended["adamw"] < min(asked.values())
        assert ended["sgd"] < asked["sgd"]
        assert (asked["aida"] < ended["sgd"]) == (first == 1)
        assert len(order) == len(set(found))


def test_expected_best_of_many_points():
    assert expected_best([1.0] * 1100)[-1] == pytest.approx(1.0)


def test_a_setting_of_an_extension_s_own_leaves_the_base_s_points(tmp_path):
    base = compared("a", {"aida": 'tune = ["lr", "eps"]', "adamw": TUNED}, primary=["adamw"], points=3)
    (tmp_path / "base").mkdir()
    first = read_study(write(tmp_path / "base", base))
    found = finish(first, scored)
    more = (
        '[study]\nextends = "base/study.toml"\nname = "more"\n[space]\nmomentum = [0.5, 0.99]\n'
        '[optimizers.sgd]\ntune = ["lr", "momentum"]\n'
    )
    second = read_study(write(tmp_path, more))
    plan = TaskPlan(second, "a", found)
    plan.all_cells()
    old = TaskPlan(first, "a", found)
    old.all_cells()
    assert plan.points["aida"] == old.points["aida"]
    points = plan.points["sgd"]
    assert [p["lr"] for p in points] == [p["lr"] for p in plan.points["adamw"]]
    assert len({p["momentum"] for p in points}) == 3
    assert all(0.5 <= p["momentum"] <= 0.99 for p in points)


def test_only_names_are_taken_for_measures_and_a_loss_needs_no_remark():
    """A configuration may be anybody's."""
    for found in (None, 5, "gain", [3, None, ["gain"]], {"gain": 1}):
        assert told_higher({"higher": found}) == set()
    assert told_higher({"higher": [3, "gain"]}) == {"gain"}
    assert not any(measure_named(name).higher for name in ("gain", "g", "generator_loss"))
    labels = [key_label(key, key_measure(key)) for key in ("train_generator_loss", "test_gain")]
    assert labels == ["train generator loss", "test gain (less counts as better)"]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_measure_that_two_tasks_have_may_be_turned_around_on_one_of_them(tmp_path, order):
    """More of a's gain is better, of b's less: on each the good optimizer is chosen, best and on its side."""
    claim = COMPETITIVE.replace('"aida"', '"adamw"', 1).replace('["adamw"]', '["aida"]')
    study = study_of(tmp_path, order, claims=claim, **{'measure = "loss"': 'measure = "gain"'})

    def own(cell):
        """Cost as `scored` has it, as this task measures it."""
        run, sign = record(cell, scored(cell)), -1 if cell.task == "a" else 1
        keys = ("validation_gain", "test_gain")
        epochs = [
            {"epoch": row["epoch"], **dict.fromkeys(keys, sign * row["test_loss"])} for row in run.epochs
        ]
        config = {**run.config, "higher": ["gain"]} if cell.task == "a" else run.config
        return replace(run, epochs=epochs, config=config)

    found = {}
    while cells := next_cells(study, study.tasks, found):
        found |= {cell.key: own(cell) for cell in cells}
    scores = {task: TaskScores(study, task, found) for task in study.tasks}
    assert {task: each.measure.higher for task, each in scores.items()} == {"a": True, "b": False}
    assert {task: each.best for task, each in scores.items()} == {"a": "aida", "b": "aida"}
    page = told(study, found, tmp_path)
    assert "| a | test gain | aida, -1.0" in page
    assert "| b | test gain (less counts as better) | aida, 1.0" in page
    tables = differences(scores), points(scores), curves(scores)
    drawn = forest(tables[0]), by_setting(tables[1], {"aida": "lr", "adamw": "lr"}, [])
    sides, settings = ({axes.get_title()[0]: axes for axes in figure.axes} for figure in drawn)
    assert {task: axes.get_xlabel() for task, axes in sides.items()} == {
        "a": "test gain (right is better)", "b": "test gain (less counts as better) (left is better)",
    }  # fmt: skip
    assert settings["a"].get_ylabel() == "validation gain"
    labels = {axes.get_title(): axes.get_ylabel() for axes in tuning(tables[2], []).axes}
    assert labels == {
        "a": "expected best validation gain",
        "b": "expected best validation gain (less counts as better)",
    }
