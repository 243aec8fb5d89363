"""The tables of a report as Markdown and as LaTeX, for a README or a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aida_experiments.report_data import Group, key_label
from aida_experiments.report_stats import Interval, Summary, summarise

Rows = list[list[str]]
HEAD = ["optimizer", "best epoch", "last epoch", "n", "best rival", "AdamW", "run, s", "step, ms"]


def markdown(groups: Sequence[Group]) -> str:
    """One table a group; the best of each score column is bold."""
    return "\n".join(_markdown(group) for group in groups)


def latex(groups: Sequence[Group]) -> str:
    """One `table` a group, in the form of the booktabs package."""
    return "\n".join(_latex(group) for group in groups)


def _cells(group: Group, bold: Callable[[str], str]) -> Rows:
    """The text of each row below HEAD, the best first."""
    summaries = summarise(group)
    summaries.sort(key=lambda summary: (summary.best.rank is None, summary.best.rank or 0))
    return [_row(summary, group, bold) for summary in summaries]


def _row(summary: Summary, group: Group, bold: Callable[[str], str]) -> list[str]:
    measure = group.measure

    def score(kind: str) -> str:
        found = getattr(summary, kind)
        if found.spread is None:
            return "diverged" if summary.diverged else "–"
        text = found.spread.show(measure.form, measure.scale)
        return bold(text) if found.rank == 1 else f"{text} so far" if summary.provisional else text

    def interval(found: Interval | None, name: bool) -> str:
        return (found.show(measure) + f" ({found.rival})" * name) if found else "–"

    finished = summary.runs - summary.diverged - summary.unfinished
    lost = {"diverged": summary.diverged, "unfinished": summary.unfinished}
    counts = [f"{finished} of {summary.runs}" if finished < summary.runs else f"{finished}"]
    counts += [f"{count} {kind}" for kind, count in lost.items() if count]
    return [
        summary.optimizer,
        score("best"),
        score("last"),
        ", ".join(counts),
        interval(summary.best.best_rival, name=True),
        interval(summary.best.adamw, name=False),
        f"{summary.seconds.mean:.1f}" if summary.seconds else "–",
        f"{summary.step_ms.mean:.2f}" if summary.step_ms else "–",
    ]


def caption(group: Group) -> str:
    better = "more" if group.measure.higher else "less"
    return (
        f"{group.title}: {key_label(group.scored_key)} ({better} is better), mean ± standard deviation over "
        "n seeds, at the epoch chosen by validation and at the last; differences at the former to the best "
        "rival and to AdamW with 95 % paired bootstrap intervals over seeds."
    )


def _markdown(group: Group) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rows = _cells(group, bold=lambda text: f"**{text}**")
    rule = ["---", *["---:"] * (len(HEAD) - 1)]
    return "\n".join([caption(group), "", line(HEAD), line(rule), *map(line, rows)]) + "\n"


SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "×": r"$\times$",
}  # fmt: skip


def escape(text: str) -> str:
    return "".join(SPECIAL.get(character, character) for character in text)


def _latex(group: Group) -> str:
    # Bold is marked by a character that no text holds, so that escaping comes last and once.
    rows = _cells(group, bold=lambda text: f"\0{text}")

    def cell(text: str) -> str:
        return rf"\textbf{{{escape(text[1:])}}}" if text.startswith("\0") else escape(text)

    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption(group))}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(HEAD) - 1)}}}",
        r"\toprule",
        " & ".join(map(escape, HEAD)) + r" \\",
        r"\midrule",
        *(" & ".join(map(cell, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
