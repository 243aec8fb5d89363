"""The comparison as a table in the terminal. Reads what runs have written; never trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from aida_bench.report.results import Group, Result
from aida_bench.report.statistics import summarise
from aida_bench.report.words import Line, at, better, chosen, line, listed
from aida_bench.storage.files import Row


def merged_rows(results: Iterable[Result]) -> Iterator[Row]:
    """The rows of all runs, each with its optimizer, seed, and label, which tells settings apart."""
    for result in results:
        origin = {"optimizer": result.config["optimizer"], "seed": result.seed, "label": result.optimizer}
        yield from ({**origin, **row} for row in result.rows)


COLUMNS = {
    "at best epoch": "", "at last epoch": "last scores", "n": "n", "best\nepoch": "best epochs",
    "train\nloss": "training losses", "run\nsec.": "seconds", "step\nms": "milliseconds of a step",
}  # fmt: skip
"""Each column's head and what it is called; where it is too narrow for all, the last are left out first."""


def table(results: Sequence[Result], title: str, width: int = 80) -> Table:
    """The comparison as a rich table for so many columns of text; the best mean of each score is starred."""
    group = Group(title, results)
    lines = [line(summary, group) for summary in summarise(group)]
    rows = [_cells(each) for each in lines]
    heads = list(COLUMNS)
    while len(heads) > 1 and _width(heads, rows) > width:
        heads.pop()
    left_out = [COLUMNS[head] for head in COLUMNS if head not in heads]
    caption = (
        f"{group.scored}{better(group)}, {at(group, 'best')} and at the last; mean ± standard deviation over "
        f"n runs, each of another seed; ★ best of its column."
    )
    if not group.keys:
        caption = chosen(group)
    elif not group.tested:
        caption += f" {chosen(group)}"
    if left_out:
        caption += f" Not shown in {width} columns: {listed(left_out)}."
    view = Table(
        title=Text(title, "table.title"), caption=Text(caption, "table.caption"), caption_justify="left",
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    view.add_column("optimizer", overflow="fold")
    for head in heads:
        view.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        view.add_row(*row[: 1 + len(heads)])
    return view


def _cells(shown: Line) -> list[Text]:
    def score(kind: str) -> Text:
        found = shown.scores[kind]
        style = "bold green" if found.first else "red" if found.text == "diverged" else ""
        return Text("★ " * found.first + str(found), style=style)

    name = "\n".join([shown.name, *(text for _, text in shown.lost)])
    others = (shown.runs, shown.best_epoch, shown.train_loss, shown.seconds, shown.step_ms)
    return [Text(name), score("best"), score("last"), *map(Text, others)]


def _width(heads: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """Of a table with these columns, two spaces apart; names may be broken at their spaces, scores never."""
    names = [
        part for row in rows for part in (*row[0].plain.split("\n")[0].split(), *row[0].plain.split("\n")[1:])
    ]
    columns = [
        ["optimizer", *names],
        *([head, *(row[i].plain for row in rows)] for i, head in enumerate(heads, 1)),
    ]
    widths = [max(cell_len(part) for text in column for part in text.split("\n")) for column in columns]
    return sum(widths) + 2 * len(heads)
