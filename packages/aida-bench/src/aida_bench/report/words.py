"""Every text of a comparison: the terminal, the page, Markdown and LaTeX only lay it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aida_bench.report.metrics import Metric, written
from aida_bench.report.results import Group
from aida_bench.report.statistics import FEWEST, Interval, Score, Spread, Summary

KINDS = {"best": "best epoch", "last": "last epoch"}


@dataclass(frozen=True)
class Difference:
    """`sign` is "better" or "worse" where the interval excludes zero, else empty."""

    text: str
    against: str = ""
    sign: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.against})" if self.against else self.text


@dataclass(frozen=True)
class ScoreText:
    """A score as it is shown; `first` if no other is better, `so_far` if no run is finished yet."""

    text: str
    first: bool
    so_far: bool
    best_rival: Difference
    adamw: Difference

    def __str__(self) -> str:
        return f"{self.text} so far" if self.so_far else self.text


@dataclass(frozen=True)
class Line:
    """One optimizer's row of a table. `runs` says how many runs are in its means, `lost` which are not."""

    name: str
    scores: Mapping[str, ScoreText]
    runs: str
    lost: Sequence[tuple[str, str]]
    best_epoch: str
    train_loss: str
    seconds: str
    step_ms: str


def line(summary: Summary, group: Group) -> Line:
    spread = summary.best.spread
    n = spread.n if spread and not summary.provisional else 0
    counts = {"diverged": summary.diverged, "unfinished": summary.unfinished}
    return Line(
        summary.optimizer,
        {kind: score(summary, group.measure, kind) for kind in KINDS},
        f"{n}" if n == summary.runs else f"{n} of {summary.runs}",
        [(kind, f"{count} {kind}") for kind, count in counts.items() if count],
        mean(summary.best_epoch, ".1f"),
        mean(summary.train_loss, ".4f"),
        mean(summary.seconds, ".1f"),
        mean(summary.step_ms, ".2f"),
    )


def mean(spread: Spread | None, form: str) -> str:
    return written(spread.mean, form) if spread else "–"


def spread(found: Spread, measure: Metric) -> str:
    std = "" if found.std is None else f" ± {measure.show(found.std)}"
    return measure.show(found.mean) + std


def score(summary: Summary, measure: Metric, kind: str) -> ScoreText:
    found: Score = getattr(summary, kind)
    if found.spread is None:
        text = "diverged" if summary.diverged == summary.runs else "–" if summary.finished else "no epoch yet"
    else:
        text = spread(found.spread, measure)
        if summary.best.spread and found.spread.n != summary.best.spread.n:
            text += f" (n = {found.spread.n})"
    return ScoreText(
        text,
        first=found.rank == 1,
        so_far=summary.provisional and found.spread is not None,
        best_rival=difference(found.best_rival, measure),
        adamw=difference(found.adamw, measure, usual="adamw"),
    )


def difference(found: Interval | None, measure: Metric, usual: str = "") -> Difference:
    """To a rival, who is named unless it is the usual one; the number of shared seeds always is."""
    if found is None:
        return Difference("–")
    text = measure.signed(found.mean)
    if found.low is not None and found.high is not None:
        text += f" [{measure.signed(found.low)}, {measure.signed(found.high)}]"
    rival = "" if found.rival == usual else f"{found.rival}, "
    sign = ("better" if measure.better(found.mean) else "worse") if found.excludes_zero else ""
    return Difference(text, f"{rival}n = {found.n}", sign)


def listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def lead(summaries: Sequence[Summary], group: Group, kind: str) -> str:
    """The result in a sentence that claims no more than the interval does."""
    scores: dict[str, Score] = {summary.optimizer: getattr(summary, kind) for summary in summaries}
    first = [name for name, score in scores.items() if score.rank == 1]
    if not first:
        if all(summary.diverged == summary.runs for summary in summaries):
            return "Every run diverged."
        finished = any(summary.finished for summary in summaries)
        return "No finished run has a score." if finished else "No run has finished yet."
    measure, (one, *_) = group.measure, [scores[name] for name in first]
    assert one.spread is not None
    extreme = "Highest" if measure.higher else "Lowest"
    unit = " %" if measure.label.endswith("%") else ""
    said = f"{extreme} {group.scored.removesuffix(', %')} {at(group, kind)}: {listed(first)}, "
    if len(first) > 1:
        counts = listed([str(found.n) for name in first if (found := scores[name].spread)])
        return f"{said}tied at {measure.show(one.spread.mean)}{unit} (means of {counts} seeds)."
    n = one.spread.n
    said += f"{spread(one.spread, measure)}{unit} "
    said += f"(mean ± standard deviation of {n} seeds)." if n > 1 else "(one seed)."
    found = one.best_rival
    if found is None:
        return said
    if found.n == 1:
        return f"{said} One shared seed cannot tell it from {found.rival}."
    shown = difference(found, measure).text
    if found.n < FEWEST:
        return f"{said} {found.n} shared seeds are too few to tell it from {found.rival}: {shown}."
    verdict = "excludes" if found.excludes_zero else "includes"
    return f"{said} Against {found.rival} the interval over {found.n} seeds {verdict} zero: {shown}."


def at(group: Group, kind: str) -> str:
    return "at the last epoch" if kind == "last" else f"at the epoch of the best {group.chosen_by}"


def better(group: Group) -> str:
    """ " (more is better)", or nothing where nothing is measured."""
    return f" ({'more' if group.measure.higher else 'less'} is better)" if group.keys else ""


def chosen(group: Group) -> str:
    """How the epoch is chosen of which the score is."""
    if not group.keys:
        return "No epoch is whole yet."
    if group.tested:
        return f"The epoch is chosen by {group.chosen_by}, the score is {group.scored.removesuffix(', %')}."
    return f"The {group.chosen_by} also chooses the epoch, so “best epoch” flatters every optimizer."


INTERVALS = (
    "Intervals: 95 %, of the mean difference of runs with the same seed (so the same initial model and order "
    "of data), n of them, by Student's t widened for skewness; not corrected for the number of comparisons. "
    f"With fewer than {FEWEST} seeds nothing is concluded from one."
)
COUNTED = "Diverged and unfinished runs are counted but are in no mean. Equal means share a rank."


def caption(group: Group) -> str:
    """Over a table for a README or a paper."""
    if not group.keys:
        return f"{group.title}: {chosen(group)}"
    return (
        f"{group.title}: {group.scored}{better(group)}, mean ± standard deviation over n seeds, "
        f"{at(group, 'best')} and at the last; differences at the former to the best rival and to AdamW. "
        f"{COUNTED} {INTERVALS}"
    )
