"""The page that is read in three minutes: what to use where, the claims' verdicts, and what they rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aida_bench.report.statistics import FEWEST
from aida_bench.report.words import listed
from aida_bench.study.claims import Answer, better, told
from aida_bench.study.records import Found, own_of
from aida_bench.study.report.scores import Scores
from aida_bench.study.report.table import Table, number, percent, score, text
from aida_bench.study.scores import TaskScores, missing_cells
from aida_bench.study.spec import Study
from aida_bench.study.status import used
from aida_bench.study.stepsizes import at_cap, mean_spreads

NOT_LISTED = "unknown"


@dataclass(frozen=True)
class Origin:
    """`registered`: the commit of the page that says what refutes each claim, None without one; `before`:
    for each commit of the final runs whether that one is in its history, None where git cannot tell;
    `others`: finished runs that the file does not name."""

    registered: str | None
    before: Mapping[str, bool | None]
    others: int = 0


def page(
    study: Study, scores: Scores, found: Found, answers: Mapping[str, Answer],
    tables: Mapping[str, Table], figures: Sequence[str], origin: Origin,
) -> str:  # fmt: skip
    parts = [
        f"# {study.about.name}: {len(study.optimizers)} optimizers on {listed(list(scores))}",
        *_capped(study, scores),
        _state(scores, found),
        "## Which optimizer",
        _which(study, scores),
        _diverged(scores),
        _undertuned(tables["published"]),
        "## Claims" if answers else "",
        _claims(answers),
        "## Primary comparisons" if study.comparisons else "",
        _table(_only_primary(tables["differences"])) if study.comparisons else "",
        *(f"![{name.removesuffix('.png').replace('-', ' ')}]({name})" for name in figures),
        "## Over all tasks",
        _table(tables["aggregates"]),
        "## What this rests on",
        _origin(study, found, origin),
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _table(table: Table) -> str:
    return f"{table.note}\n\n{table.markdown()}"


def _only_primary(table: Table) -> Table:
    columns = {heading: show for heading, show in table.columns.items() if heading != "primary"}
    rows = [row for row in table.rows if row["primary"]]
    return Table(table.name, table.title, "Holm-corrected over those of each task.", rows, columns)


def _capped(study: Study, scores: Scores) -> Iterable[str]:
    """Where the compared optimizer is momentum SGD, that is said first."""
    if study.comparisons is None:
        return
    of, limits = study.comparisons.of, dict.fromkeys(c.limit for c in study.claims.values() if c.limit)
    for task, each in scores.items():
        if each.scoring is None or not at_cap(each.finals.get(of, {})):
            continue
        spread, eps = mean_spreads(each.finals[of]), each.plan.settings(of).get("eps")
        share = spread.capped if spread and spread.capped else 0.0
        beside = [told(each, each.corrected(of, m), f"{of} − {m}") for m in limits if each.costs(m)]
        yield (
            f"**On {task}, {share:.0%} of {of}'s elements sit at the cap that eps sets"
            + (f" (eps = {number('eps', '.2g')({'eps': eps})})" if eps is not None else "")
            + ", at its tuned settings: there it is momentum SGD, whatever its residual.**"
            + "".join(f" {words}." for words in beside)
        )


def _state(scores: Scores, found: Found) -> str:
    missing = missing_cells(scores)
    if not missing:
        return f"All {len(found)} runs have ended."
    counts = Counter((cell.task, cell.stage) for cell in missing)
    words = listed([f"{n} {stage} of {task}" for (task, stage), n in counts.items()])
    return (
        f"**Partial**: {len(found)} runs have ended, at least {len(missing)} are missing: {words}. "
        "A claim whose runs are missing has no verdict."
    )


def _which(study: Study, scores: Scores) -> str:
    rows = [_line(study, each) for each in scores.values() if each.scoring is not None]
    of = study.comparisons.of if study.comparisons else ""
    columns = {
        "task": text("task"), "score": text("score"), "best tuned": text("best"),
        "not told apart from it": text("equal"), "told apart: worse": text("worse"),
        **({f"{of}: eps": number("eps", ".2g"), "at the cap": percent("capped")} if of else {}),
    }  # fmt: skip
    note = (
        "The best mean over the final seeds, of the tuned optimizers that are whole, and who is told apart "
        f"from it by an uncorrected 95 % interval over {FEWEST} seeds or more: a description, not a claim."
    )
    return f"{note}\n\n{Table('which', '', '', rows, columns).markdown()}"


def _line(study: Study, scores: TaskScores) -> dict[str, object]:
    assert scores.scoring is not None
    row: dict[str, object] = {"task": scores.task, "score": scores.label}
    if (best := scores.best) is not None:
        mean = scores.mean(best)
        assert mean is not None
        others = [each for each in scores.tuned if each != best and not scores.missing(each)]
        found = {other: scores.difference(best, other) for other in others}
        apart = {
            other: other if better(each) else f"{other} (better on the {each.n} seeds that both have)"
            for other, each in found.items()
            if each and each.excludes_zero
        }
        row |= {
            "best": f"{best}, {scores.measure.show(scores.shown(mean))}",
            "equal": ", ".join(other for other in others if other not in apart),
            "worse": ", ".join(apart.values()),
        }  # fmt: skip
    of = study.comparisons.of if study.comparisons else ""
    if of in scores.plan.optimizers and not scores.missing(of):
        spread = mean_spreads(scores.finals[of])
        row |= {"eps": scores.plan.settings(of).get("eps"), "capped": spread and spread.capped}
    return row


def _diverged(scores: Scores) -> str:
    """Whose final runs are no scores of their own."""
    found = [
        f"{label} on {task} ({count} of {len(each.finals[label])})"
        for task, each in scores.items()
        for label in each.plan.optimizers
        if (count := each.diverged(label))
    ]
    if not found:
        return ""
    return f"**Final runs that diverged** have the worst score of their task: {listed(found)}."


def _undertuned(published: Table) -> str:
    """Where published settings are better, the points were too few, or their runs too short."""
    show = score("mean"), score("tuned")
    found = [
        f"{row['optimizer']} on {row['task']} ({show[0](row)}; tuned {show[1](row)})"
        for row in published.rows
        if row["better"] == "published"
    ]
    if not found:
        return ""
    return (
        f"**Tuning did not find what the published settings give** for {listed(found)}, on the seeds that "
        "both have. A comparison with one of these, tuned, says less than its interval."
    )


def _claims(answers: Mapping[str, Answer]) -> str:
    rows = [
        {"claim": f"{label}: {each.claim.says}", "verdict": f"**{each.word}**",
         **{task: verdict.word for task, verdict in each.tasks.items()}}
        for label, each in answers.items()
    ]  # fmt: skip
    if not rows:
        return ""
    tasks = dict.fromkeys(task for each in answers.values() for task in each.tasks)
    shown = Table("claims", "", "", rows, {k: text(k) for k in ("claim", "verdict", *tasks)}).markdown()
    why = [f"- {label}, {reason}" for label, each in answers.items() for reason in _reasons(each)]
    return "\n".join([shown, *why])


def _reasons(answer: Answer) -> list[str]:
    """Tasks of which the same is said together."""
    alike: dict[tuple[str, str], list[str]] = {}
    for task, verdict in answer.tasks.items():
        alike.setdefault((verdict.word, verdict.why), []).append(task)
    return [f"{listed(tasks)}: {word}. {why[:1].upper()}{why[1:]}." for (word, why), tasks in alike.items()]


def _origin(study: Study, found: Found, origin: Origin) -> str:
    commits = Counter(str(record.versions.get("commit") or NOT_LISTED)[:12] for record in found.values())
    kinds = Counter(
        ", ".join(str(record.versions.get(k) or NOT_LISTED) for k in ("machine", "torch", "aida"))
        for record in found.values()
    )
    name, others = study.path.name, len(found) - len(own_of(study, found))
    theirs = f", {others} of them of {study.base.path.name}" if study.base else ""
    gone = f" {origin.others} other runs lie there, which the file does not name." if origin.others else ""
    lines = [
        f"- Rows: {len(found)} runs{theirs}, {used(found):.2f} core-hours; `aida study run {name}` makes "
        f"them, `aida study report {name}` this page.{gone} All tables: [tables.md](tables.md), and as "
        "CSV beside it.",
        f"- Commits of the runs: {_counted(commits)}.",
        f"- Machine, torch and aida: {_counted(kinds)}.",
    ]
    if study.about.registered:
        lines.append(f"- {_registered(study, origin)}")
    return "\n".join(lines)


def _counted(counts: Counter[str]) -> str:
    return "; ".join(f"{name} ({n})" for name, n in sorted(counts.items(), key=lambda x: (-x[1], x[0])))


def _registered(study: Study, origin: Origin) -> str:
    page = Path(study.about.registered).name
    if origin.registered is None:
        return f"What would refute each claim: {page}, whose commit is unknown here."
    told = {True: "had", False: "had **not**", None: "cannot be told to have had"}
    words = [f"{commit[:12]} {told[was]} it" for commit, was in origin.before.items()]
    seen = f"; of the commits of final runs, {listed(words)}" if words else ""
    return f"What would refute each claim: {page} at commit {origin.registered[:12]}{seen}."
