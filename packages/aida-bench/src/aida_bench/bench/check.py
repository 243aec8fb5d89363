"""Has a step become slower? A run against the committed result of the same kind of machine, by ratios alone.

What is compared is the logarithm of a ratio to torch's fused AdamW, by rounds: each model of each candidate,
and each candidate over all models. The differences are paired by round and have confidence intervals that
hold together (Bonferroni), so that a run without a change raises an alarm at most once in twenty times. As
two runs differ by more than their rounds do, what has moved by less than MARGIN is no alarm either.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log, log1p
from pathlib import Path
from statistics import fmean, median
from typing import Any

from aida_bench.bench.machine import kind
from aida_bench.bench.report import label
from aida_bench.errors import UserError
from aida_bench.report.statistics import FEWEST, LEVEL, paired_interval

MARGIN = 0.03
"""Above what a model's ratio differs by from one run to the next: with a deviation of 1 % between runs, 6 of
1000 simulated runs raise an alarm; with 2 %, 210.
"""
UNSTEADY = ("int8",)
"""Moments whose step waits for arithmetic, and AdamW for memory: on one machine and code their ratio has been
0.87 and 1.45, by rounds (docs/results/step). They are left out.
"""
EVERY = "all models"
Result = Mapping[str, Any]
ByRound = dict[int, float]


@dataclass(frozen=True)
class Change:
    """A candidate's ratio now, divided by what it was, with its interval."""

    name: str
    model: str
    then: float
    now: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        return self.now / self.then

    @property
    def slower(self) -> bool:
        return self.low > 1 + MARGIN

    @property
    def faster(self) -> bool:
        return self.high < 1 / (1 + MARGIN)

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.model}: {self.then:.3f} of AdamW before, {self.now:.3f} now, "
            f"{self.factor:.3f} times ({self.low:.3f} to {self.high:.3f})"
        )


def changes(then: Result, now: Result) -> list[Change]:
    """Every model of every candidate that both results have, then each candidate over its models."""
    before, after = _cells(then), _cells(now)
    shared = [place for place in before if place in after]
    pairs = {place: (before[place], after[place]) for place in shared}
    for name in dict.fromkeys(name for name, _ in shared):
        of_name = [pairs[place] for place in shared if place[0] == name]
        if len(of_name) > 1:
            pairs[name, EVERY] = (_mean([a for a, _ in of_name]), _mean([b for _, b in of_name]))
    level, found = 1 - (1 - LEVEL) / max(len(pairs), 1), []
    for (name, model), (a, b) in pairs.items():
        interval = paired_interval(b, a, level=level, skewed=False)
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        was, is_now = (exp(fmean(each[i] for i in a.keys() & b.keys())) for each in (a, b))
        found.append(Change(name, model, was, is_now, exp(interval.low), exp(interval.high)))
    return found


def _cells(result: Result) -> dict[tuple[str, str], ByRound]:
    """The log ratios of each candidate and model by round, at the largest number of threads."""
    threads = max(row["threads"] for row in result["results"])
    return {
        (label(row), row["model"]): dict(enumerate(map(log, row["rounds"])))
        for row in result["results"]
        if row["threads"] == threads
        and len(row.get("rounds", ())) >= FEWEST
        and row["moments"] not in UNSTEADY
    }


def _mean(of: Sequence[ByRound]) -> ByRound:
    shared = set.intersection(*(set(each) for each in of))
    return {i: fmean(each[i] for each in of) for i in sorted(shared)}


def missing(then: Result, now: Result) -> list[str]:
    """What the committed result has of the library's fused steps, and this run has not."""
    reasons = {(label(row), row["model"]): row.get("left_out") for row in now["results"]}
    gone = [place for place in _cells(then) if place not in _cells(now) and place[1] in _models(now)]
    return [
        f"{name}, {model}: {reasons[name, model] or 'too few rounds'}"
        for name, model in gone
        if (name, model) in reasons
    ]


def _models(result: Result) -> set[str]:
    return {row["model"] for row in result["results"]}


def resolution(found: Sequence[Change]) -> float:
    """About how large a change of one model must be to be seen, as a fraction."""
    widths = [log(change.high / change.low) / 2 for change in found if change.model != EVERY]
    return exp(median(widths) + log1p(MARGIN)) - 1


def committed(folder: Path, wanted: str | None) -> tuple[str, Result]:
    """The name and content of the last committed result of the kind of machine that is wanted.

    Raises UserError, which names that kind, where there is none.
    """
    kinds: dict[str, str | None] = {}
    for name in _by_age(folder):
        result = json.loads(_git(folder, "show", f"HEAD:./{name}"))
        kinds[name] = kind(result)
        if wanted is not None and kinds[name] == wanted and _cells(result):
            return name, result
    there = "; ".join(f"{name}: {of or 'a kind that it does not name'}" for name, of in kinds.items())
    raise UserError(
        f"{folder} has no committed result with rounds for this kind of machine, {wanted}: "
        f"make one with `aida bench step --out {folder / 'NAME.json'}` on a quiet machine and commit it. "
        f"It has {there or 'none at all'}."
    )


def _by_age(folder: Path) -> list[str]:
    """The results that are committed, the latest first."""
    names = [name for name in _git(folder, "ls-files", ".").split("\n") if name.endswith(".json")]
    return sorted(names, key=lambda name: -int(_git(folder, "log", "-1", "--format=%ct", "--", name) or 0))


def _git(folder: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read with git ({error}): give --results a folder of it."
        ) from error
    if done.returncode:
        raise UserError(
            f"{folder}: git {words[0]} failed ({done.stderr.strip()}): commit a result there first."
        )
    return done.stdout
