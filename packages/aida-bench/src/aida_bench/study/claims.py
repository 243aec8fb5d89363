"""Verdicts on a study's registered claims: each task's from its own rows, none while a run is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from aida_bench.report.statistics import FEWEST, Interval
from aida_bench.study.scores import TaskScores
from aida_bench.study.spec import Claim
from aida_bench.study.stepsizes import AT_CAP, at_cap, by_seed, mean_spreads

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "not decided at this scale"
INCOMPLETE = "incomplete"
ENOUGH = 0.8
"""The share of paired seeds whose spread must agree: 4 of 5."""


@dataclass(frozen=True)
class Verdict:
    """`why`: the numbers that it rests on; for an incomplete one what is missing. `against`: rivals that
    refute it."""

    word: str
    why: str
    against: Sequence[str] = ()


@dataclass(frozen=True)
class Answer:
    """A claim's verdict on each task, and over all of them."""

    claim: Claim
    word: str
    tasks: Mapping[str, Verdict]


def answer(claim: Claim, scores: Mapping[str, TaskScores]) -> Answer:
    """On the tasks that all of its optimizers take part in."""
    tasks = {
        task: _verdict(claim, each)
        for task, each in scores.items()
        if (claim.tasks is None or task in claim.tasks) and {*claim.optimizers} <= {*each.plan.optimizers}
    }
    return Answer(claim, _overall(claim, list(tasks.values())), tasks)


def _verdict(claim: Claim, scores: TaskScores) -> Verdict:
    if scores.scoring is None:
        return Verdict(INCOMPLETE, "no run has ended")
    margin = claim.kind == "within-margin"  # which every tuned optimizer may still widen
    needed = [*claim.optimizers, *(scores.tuned if margin else ())]
    lacking = [label for label in needed if scores.missing(label)]
    if margin and not scores.distance and not lacking:
        if scores.unscaled:
            return Verdict(UNDECIDED, f"there is no margin: {scores.unscaled}")
        lacking = ["the untrained model"]
    if lacking:
        return Verdict(INCOMPLETE, f"runs are missing of {', '.join(dict.fromkeys(lacking))}")
    return KINDS[claim.kind](claim, scores)


def _overall(claim: Claim, verdicts: Sequence[Verdict]) -> str:
    """One word where all tasks agree, none while one is incomplete. With `refuting_tasks`, refuted where
    one rival refutes it on so many, and supported on all or not at all."""
    words = {each.word for each in verdicts}
    if INCOMPLETE in words:
        return INCOMPLETE
    if claim.refuting_tasks:
        counts = [sum(rival in each.against for each in verdicts) for rival in claim.against]
        if max(counts, default=0) >= claim.refuting_tasks:
            return REFUTED
        return SUPPORTED if words == {SUPPORTED} else UNDECIDED
    return words.pop() if len(words) == 1 else "differs by task"


def told(scores: TaskScores, found: Interval | None, name: str = "") -> str:
    """A difference and its interval, as the measure has it."""
    name = name or (found.rival if found else "")
    if found is None:
        return f"{name}: no shared seed with a score"
    show = scores.measure.signed
    text = f"{name}: {show(scores.shown(found.mean))}"
    if found.low is not None and found.high is not None:
        low, high = sorted((scores.shown(found.low), scores.shown(found.high)))
        text += f" [{show(low)}, {show(high)}]"
    return f"{text}, n = {found.n}"


def better(found: Interval | None) -> bool:
    return found is not None and found.excludes_zero and found.mean < 0


def worse(found: Interval | None) -> bool:
    return found is not None and found.excludes_zero and found.mean > 0


def _within_margin(claim: Claim, scores: TaskScores) -> Verdict:
    """Refuted if an interval lies above the margin, supported if all lie below it."""
    margin = claim.margin * scores.distance
    above, below, why = [], True, [f"margin {scores.measure.show(margin)}"]
    for mine, theirs in claim.pairs:
        found = scores.difference(mine, theirs)
        why.append(told(scores, found, f"{mine} − {theirs}"))
        if found is None or found.n < FEWEST or found.low is None or found.high is None:
            below = False
            continue
        below &= found.high < margin
        above += [theirs] if found.low > margin else []
    word = REFUTED if above else SUPPORTED if below else UNDECIDED
    return Verdict(word, "; ".join(why), above)


def _compact(claim: Claim, scores: TaskScores) -> Verdict:
    """Each spread compared seed by seed: supported if all are smaller in 4 of 5, refuted if one is not."""
    rival = claim.against[0]
    mine, theirs = by_seed(scores.finals[claim.of]), by_seed(scores.finals[rival])
    seeds = sorted(mine.keys() & theirs.keys())
    ours, others = mean_spreads(scores.finals[claim.of]), mean_spreads(scores.finals[rival])
    if ours is None or others is None or len(seeds) < FEWEST:
        return Verdict(UNDECIDED, f"{len(seeds)} paired seeds have stepsizes, {FEWEST} are needed")
    smaller = {
        kind: sum(getattr(mine[seed], kind) < getattr(theirs[seed], kind) for seed in seeds)
        for kind in ("within", "across")
    }
    why = "; ".join(
        f"{kind} layers {getattr(ours, kind):.3g} against {getattr(others, kind):.3g}, smaller in {count} of "
        f"{len(seeds)} seeds"
        for kind, count in smaller.items()
    )
    if at_cap(scores.finals[claim.of]) and at_cap(scores.finals[rival]):
        return Verdict(UNDECIDED, f"{AT_CAP:.0%} or more of the elements of both sit at the cap; {why}")
    enough = ENOUGH * len(seeds)
    if any(len(seeds) - count >= enough for count in smaller.values()):
        return Verdict(REFUTED, why, [rival])
    return Verdict(SUPPORTED if all(count >= enough for count in smaller.values()) else UNDECIDED, why)


def _against_all(claim: Claim, scores: TaskScores) -> Verdict:
    """Supported if better than all rivals, refuted if worse than one."""
    found = {rival: scores.corrected(claim.of, rival) for rival in claim.against}
    lost = [rival for rival, each in found.items() if worse(each)]
    word = REFUTED if lost else SUPPORTED if all(map(better, found.values())) else UNDECIDED
    return Verdict(word, "; ".join(told(scores, each, rival) for rival, each in found.items()), lost)


def _hypothesis(claim: Claim, scores: TaskScores) -> Verdict:
    """As above, and refuted also if every interval includes zero."""
    verdict = _against_all(claim, scores)
    found = [scores.corrected(claim.of, rival) for rival in claim.against]
    silent = not any(better(each) or worse(each) for each in found)
    enough = all(each is not None and each.n >= FEWEST for each in found)
    return Verdict(REFUTED, verdict.why, claim.against) if silent and enough else verdict


def _mechanism(claim: Claim, scores: TaskScores) -> Verdict:
    """Better than the rivals at the corrected level, and in its mean than every ablation; refuted by one that
    is better, or where it is at the cap and `limit` is not told apart from it."""
    labels = dict.fromkeys([*claim.against, *claim.ablations])
    found = {label: scores.corrected(claim.of, label) for label in labels}
    why = [told(scores, each, label) for label, each in found.items()]
    refuting = [each for each in (*claim.ablations, claim.limit) if each]
    lost = [label for label in dict.fromkeys(refuting) if worse(found.get(label))]
    limit = found.get(claim.limit)
    if at_cap(scores.finals[claim.of]) and limit and limit.n >= FEWEST and not better(limit):
        why.insert(0, f"{AT_CAP:.0%} or more of its elements sit at the cap, and {claim.limit} matches it")
        lost.append(claim.limit)
    won = all(better(found[label]) for label in claim.against)
    won &= all(each is not None and each.mean < 0 for each in found.values())
    return Verdict(REFUTED if lost else SUPPORTED if won else UNDECIDED, "; ".join(why), lost)


def _at_cap(claim: Claim, scores: TaskScores) -> Verdict:
    """That it sits at the cap and is not better than its rivals; refuted if it is better than one."""
    found = {rival: scores.corrected(claim.of, rival) for rival in claim.against}
    mean = mean_spreads(scores.finals[claim.of])
    share = "unknown" if mean is None or mean.capped is None else f"{mean.capped:.1%}"
    why = "; ".join([f"at the cap: {share}", *(told(scores, each, rival) for rival, each in found.items())])
    if beaten := [rival for rival, each in found.items() if better(each)]:
        return Verdict(REFUTED, why, beaten)
    enough = all(each is not None and each.n >= FEWEST for each in found.values())
    return Verdict(SUPPORTED if at_cap(scores.finals[claim.of]) and enough else UNDECIDED, why)


KINDS: Mapping[str, Callable[[Claim, TaskScores], Verdict]] = {
    "within-margin": _within_margin,
    "compact": _compact,
    "competitive": _against_all,
    "hypothesis": _hypothesis,
    "mechanism": _mechanism,
    "at-cap": _at_cap,
}
