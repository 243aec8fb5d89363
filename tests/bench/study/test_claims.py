"""Each kind of claim: what supports it, what refutes it, and what decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import pytest

from aida_bench.errors import UserError
from aida_bench.study.claims import INCOMPLETE, REFUTED, SUPPORTED, UNDECIDED, Answer, answer
from aida_bench.study.read import read_study
from aida_bench.study.scores import TaskScores
from helpers.bench.studies import ROOT, SGD, compared, write
from helpers.bench.study_rows import finish, noise

LABELS = ("aida", "adamw", "adabelief", "momentum", "ladam", "ladabelief", "rolled", "mean")
WIDE = 0.5
"""A seed's noise that no difference is seen through."""
CLAIMS = """
[claims.layerwise]
kind = "within-margin"
says = "x"
pairs = [["ladam", "adamw"], ["ladabelief", "adabelief"]]
[claims.compact]
kind = "compact"
says = "x"
of = "aida"
against = ["adabelief"]
[claims.competitive]
kind = "competitive"
says = "x"
of = "aida"
against = ["adamw", "adabelief", "momentum"]
refuting_tasks = 2
[claims.projection]
kind = "mechanism"
says = "x"
of = "aida"
against = ["adabelief", "momentum"]
ablations = ["rolled", "mean"]
limit = "momentum"
[claims.gpt]
kind = "hypothesis"
says = "x"
of = "aida"
against = ["adamw", "rolled"]
[claims.lm]
kind = "at-cap"
says = "x"
of = "aida"
against = ["momentum"]
"""


def pattern(label: str) -> tuple[float, ...]:
    """A seed's noise, 0 in the mean over five, in another order for each optimizer."""
    return [*permutations((-1.0, -0.5, 0.0, 0.5, 1.0))][13 * LABELS.index(label)]


def text(tasks: str = "a", seeds: str = "[0, 1, 2, 3, 4]") -> str:
    return compared(tasks, dict.fromkeys(LABELS, SGD), seeds=seeds) + CLAIMS


def answers(
    folder, shifts: Mapping[str, float] = {}, *, tasks: str = "a", seeds: str = "[0, 1, 2, 3, 4]",
    spread: Mapping[str, float] = {}, capped: Mapping[str, float] = {}, on: str = "abc", scale: float = 0.01,
    gone: str = "",
) -> dict[str, Answer]:  # fmt: skip
    """Losses are 1 and a little noise, but for `shifts` on the tasks `on`; the untrained model has 3."""
    study = read_study(write(folder, text(tasks, seeds)))

    def score(cell):
        if cell.stage == "untrained":
            return 3.0
        shift = shifts.get(cell.optimizer, 0.0) if cell.task in on else 0.0
        return 1.0 + shift + scale * pattern(cell.optimizer)[cell.config["seed"] % 5]

    def layers(cell):
        width = spread.get(cell.optimizer, 0.5) * (1 + 0.01 * noise(cell.key))
        common = {"numel": 8, "capped": capped.get(cell.optimizer, 0.0)}
        return [{**common, "mean": 1.0, "std": width}, {**common, "mean": 1.0 + width, "std": width}]

    found = {k: each for k, each in finish(study, score, layers).items() if not gone or gone not in k}
    scores = {task: TaskScores(study, task, found) for task in study.tasks}
    return {label: answer(claim, scores) for label, claim in study.claims.items()}


def test_layerwise(tmp_path):
    """The margin is 0.2, a tenth of the way from 3 to 1."""
    assert answers(tmp_path, {"ladam": 0.1, "ladabelief": 0.15})["layerwise"].word == SUPPORTED
    assert answers(tmp_path, {"ladam": 0.1, "ladabelief": 0.3})["layerwise"].word == REFUTED
    assert answers(tmp_path, {"ladabelief": 0.2})["layerwise"].word == UNDECIDED
    assert answers(tmp_path, seeds="[0, 1, 2, 3]")["layerwise"].word == UNDECIDED


def test_compact(tmp_path):
    assert answers(tmp_path, spread={"aida": 0.4})["compact"].word == SUPPORTED
    assert answers(tmp_path, spread={"aida": 0.6})["compact"].word == REFUTED
    assert answers(tmp_path, spread={"aida": 0.4}, seeds="[0, 1, 2, 3]")["compact"].word == UNDECIDED
    both = {"aida": 0.96, "adabelief": 0.95}
    assert answers(tmp_path, spread={"aida": 0.4}, capped=both)["compact"].word == UNDECIDED
    one = {"aida": 0.96, "adabelief": 0.94}
    assert answers(tmp_path, spread={"aida": 0.4}, capped=one)["compact"].word == SUPPORTED


def test_competitive(tmp_path):
    won = {"adamw": 0.1, "adabelief": 0.1, "momentum": 0.1}
    assert answers(tmp_path, won)["competitive"].word == SUPPORTED
    assert answers(tmp_path, won, scale=WIDE)["competitive"].word == UNDECIDED
    assert answers(tmp_path, won, seeds="[0, 1, 2, 3]")["competitive"].word == UNDECIDED
    lost = {"momentum": -0.1}
    assert answers(tmp_path, lost)["competitive"].tasks["a"].word == REFUTED
    assert answers(tmp_path, lost, tasks="abc", on="a")["competitive"].word == UNDECIDED
    assert answers(tmp_path, lost, tasks="abc", on="ac")["competitive"].word == REFUTED


def test_competitive_is_corrected(tmp_path):
    """Of three differences, one is seen at 95 % alone and not at the corrected level."""
    study = read_study(write(tmp_path, text()))
    pattern = {"momentum": (2.6, 0.4, 2.4, 0.6, 1.5)}

    def score(cell):
        if cell.stage == "untrained":
            return 30.0
        return 1.0 + pattern.get(cell.optimizer, (0.0, 0.1, -0.1, 0.1, -0.1))[cell.config["seed"] % 100 % 5]

    scores = TaskScores(study, "a", finish(study, score))
    one, corrected = scores.difference("aida", "momentum"), scores.corrected("aida", "momentum")
    assert one is not None
    assert corrected is not None
    assert one.excludes_zero
    assert one.mean == corrected.mean
    assert corrected.low < one.low  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    assert corrected.high > one.high  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]


def test_projection(tmp_path):
    won = {"adabelief": 0.1, "momentum": 0.1, "rolled": 0.1, "mean": 0.1}
    assert answers(tmp_path, won)["projection"].word == SUPPORTED
    assert answers(tmp_path, {**won, "rolled": -0.1})["projection"].word == REFUTED
    assert answers(tmp_path, {**won, "momentum": -0.1})["projection"].word == REFUTED
    # An ablation as good: its mean is not worse by an interval, so nothing refutes and nothing supports.
    assert answers(tmp_path, {**won, "mean": -0.004})["projection"].word == UNDECIDED
    assert answers(tmp_path, {**won, "adamw": -0.5})["projection"].word == SUPPORTED
    at_cap = {"aida": 0.97}
    assert answers(tmp_path, {**won, "momentum": 0.0}, capped=at_cap)["projection"].word == REFUTED
    assert answers(tmp_path, won, capped=at_cap)["projection"].word == SUPPORTED
    assert answers(tmp_path, {**won, "momentum": 0.0})["projection"].word == UNDECIDED


def test_the_pilot_s_hypotheses(tmp_path):
    assert answers(tmp_path, {"adamw": 0.1, "rolled": 0.1})["gpt"].word == SUPPORTED
    assert answers(tmp_path, {"adamw": 0.1, "rolled": -0.1})["gpt"].word == REFUTED
    assert answers(tmp_path, {"adamw": 0.1})["gpt"].word == UNDECIDED
    assert answers(tmp_path, scale=WIDE)["gpt"].word == REFUTED  # all intervals include zero
    assert answers(tmp_path, scale=WIDE, seeds="[0, 1, 2, 3]")["gpt"].word == UNDECIDED

    assert answers(tmp_path, capped={"aida": 0.96})["lm"].word == SUPPORTED
    assert answers(tmp_path, capped={"aida": 0.94})["lm"].word == UNDECIDED
    assert answers(tmp_path, {"momentum": 0.1}, capped={"aida": 0.96})["lm"].word == REFUTED


@pytest.mark.parametrize("gone", ["a/aida final-00/seed-3", "a/aida tune-00"])
def test_no_verdict_while_a_run_is_missing(tmp_path, gone):
    won = {"adamw": 0.1, "adabelief": 0.1, "momentum": 0.1}
    found = answers(tmp_path, won, tasks="ab", gone=gone)
    assert found["competitive"].word == INCOMPLETE
    assert found["competitive"].tasks["b"].word == SUPPORTED
    assert found["competitive"].tasks["a"].why == "runs are missing of aida"
    assert found["layerwise"].word == INCOMPLETE  # the margin depends on every tuned optimizer


def test_without_the_untrained_model_there_is_no_margin(tmp_path):
    verdict = answers(tmp_path, gone="untrained")["layerwise"]
    assert verdict.word == INCOMPLETE
    assert "untrained" in verdict.tasks["a"].why


def test_the_registered_claims_are_those_of_the_study():
    claims = read_study(ROOT / "studies/claims.toml").claims
    assert list(claims) == [
        "1-layerwise", "2-compact", "3-competitive", "4-projection", "pilot-gpt", "pilot-lm",
    ]  # fmt: skip
    assert claims["3-competitive"].refuting_tasks == 2
    assert set(claims["4-projection"].ablations) == {"aida-k0", "mean", "whole-model", "rolled"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "compact"', 'kind = "small"', "within-margin"),
        ('against = ["adabelief"]', 'against = ["adabeleif"]', "adabelief"),
        ('pairs = [["ladam", "adamw"], ["ladabelief", "adabelief"]]', "", "pairs"),
        ('against = ["adabelief"]', "", "against"),
    ],
)
def test_a_claim_that_says_nothing_is_refused(tmp_path, old, new, said):
    with pytest.raises(UserError, match=said):
        read_study(write(tmp_path, text().replace(old, new, 1)))
