"""A study's report in a folder: README.md, tables.md, the tables as CSV, the figures as PNG and SVG."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from aida_bench.errors import UserError
from aida_bench.report.figures import plain_text, save_figure
from aida_bench.storage.files import make_folder, write_text
from aida_bench.study.claims import answer
from aida_bench.study.records import Found, own_of
from aida_bench.study.report import figures, scores, sweeps, tuning
from aida_bench.study.report.page import Origin, page
from aida_bench.study.scores import TaskScores
from aida_bench.study.spec import Study

FORMS = ("png", "svg")
HEADING = re.compile(r"# .+: \d+ optimizers on ")
"""How the page of every report begins."""


def write_report(study: Study, found: Found, folder: Path) -> list[Path]:
    """The paths written; the same rows, and history of the registered page, give the same bytes. What an
    earlier report wrote and this one has not is removed.

    Raises UserError where files there are not a report's: nothing is written.
    """
    each = {task: TaskScores(study, task, found) for task in study.tasks}
    planned = {cell.key for scored in each.values() for cell in scored.cells}
    others = len(own_of(study, found).keys() - planned)
    found = {key: record for key, record in found.items() if key in planned}
    made = [
        scores.by_optimizer(each), scores.differences(each), scores.aggregates(each), tuning.chosen(each),
        scores.targets(each), scores.stepsizes(each), sweeps.sweeps(each), scores.published(each),
        scores.by_run(each),
        tuning.points(each), tuning.curves(each), scores.profiles(each),
    ]  # fmt: skip
    tables = {table.name: table for table in made}
    answers = {label: answer(claim, each) for label, claim in study.claims.items()}
    named = [study.comparisons.of, *study.comparisons.primary] if study.comparisons else []
    alone = {label: own.tune[0] for label, own in study.optimizers.items() if len(own.tune) == 1}
    drawn = {
        "differences": figures.forest(tables["differences"]),
        "profile": figures.profile(tables["profile"], tables["aggregates"], named),
        "sweeps": sweeps.sweep(tables["sweeps"]),
        "tuning": figures.tuning(tables["tuning-curves"], named),
        "settings": figures.by_setting(tables["tuning"], alone, named),
    }
    whole = {name: figure for name, figure in drawn.items() if figure is not None}
    texts = {
        "README.md": page(
            study, each, found, answers, tables, [f"{name}.png" for name in whole],
            _origin(study, found, others),
        ),
        "tables.md": _tables(study, [table for table in made if table.columns]),
        **{f"{name}.csv": table.csv() for name, table in tables.items() if table.rows},
    }  # fmt: skip
    pictures = {f"{name}.{form}": figure for name, figure in whole.items() for form in FORMS}
    _refuse_others(folder, [*texts, *pictures])
    earlier = _is_report(folder) and (folder / "tables.md").exists()
    make_folder(folder)
    for name, text in texts.items():  # the page first: it says whose the others are
        write_text(folder / name, text)
    with plain_text():
        for name, figure in pictures.items():
            save_figure(figure, folder / name)
    known = [f"{name}.csv" for name in tables] + [f"{name}.{form}" for name in drawn for form in FORMS]
    for name in known if earlier else ():
        if name not in texts and name not in pictures:
            (folder / name).unlink(missing_ok=True)
    return [folder / name for name in (*texts, *pictures)]


def _is_report(folder: Path) -> bool:
    page = folder / "README.md"
    return page.exists() and bool(HEADING.match(page.read_text(encoding="utf-8", errors="replace")))


def _refuse_others(folder: Path, names: Iterable[str]) -> None:
    """Raises UserError where something else than a report has one of these names."""
    if not _is_report(folder) and (there := [name for name in names if (folder / name).exists()]):
        raise UserError(
            f"{folder / there[0]} is not of an earlier report and would be written over: name another folder "
            "with --to, or move it away."
        )


def _tables(study: Study, tables: list[scores.Table]) -> str:
    parts = [f"## {table.title}\n\n{table.note}\n\n{table.markdown()}" for table in tables]
    return "\n".join([f"# {study.about.name}: all tables\n", *parts])


def _origin(study: Study, found: Found, others: int) -> Origin:
    if not study.about.registered:
        return Origin(None, {}, others)
    path = study.beside(study.about.registered)
    registered = _git(path.parent, "log", "-1", "--format=%H", "--", path.name)
    finals = (record for record in found.values() if record.stage == "final")
    commits = sorted({str(r.versions["commit"]) for r in finals if r.versions.get("commit")})
    known = {commit: _git(path.parent, "cat-file", "-t", commit) for commit in commits}
    before = {
        commit: _git(path.parent, "merge-base", "--is-ancestor", str(registered), commit) is not None
        if registered and known[commit]
        else None
        for commit in commits
    }
    return Origin(registered or None, before, others)


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where it says no, or is not there."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, env=own
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
