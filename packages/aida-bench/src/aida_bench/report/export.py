"""The tables of a report as Markdown and as LaTeX, for a README or a paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aida_bench.report.results import Group
from aida_bench.report.statistics import ranked, summarise
from aida_bench.report.words import Line, ScoreText, caption, line

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
    return [_row(line(summary, group), bold) for summary in ranked(summarise(group))]


def _row(shown: Line, bold: Callable[[str], str]) -> list[str]:
    def score(found: ScoreText) -> str:
        return bold(found.text) if found.first else str(found)

    best, last = shown.scores["best"], shown.scores["last"]
    return [
        shown.name,
        score(best),
        score(last),
        ", ".join([shown.runs, *(text for _, text in shown.lost)]),
        str(best.best_rival),
        str(best.adamw),
        shown.seconds,
        shown.step_ms,
    ]


def _markdown(group: Group) -> str:
    def row(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rows = _cells(group, bold=lambda text: f"**{text}**")
    rule = ["---", *["---:"] * (len(HEAD) - 1)]
    return "\n".join([caption(group), "", row(HEAD), row(rule), *map(row, rows)]) + "\n"


SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "·": r"$\cdot$", "×": r"$\times$", "“": "``", "”": "''",
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
