"""The comparison as a table in the terminal, and as pictures. Reads what runs have written; never trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from aida.monitor import plots
from aida.monitor.plots.style import blank, run_styles, time_axis
from aida_experiments.files import Row, replaced
from aida_experiments.report_data import Group, Result
from aida_experiments.report_measures import key_label, key_measure
from aida_experiments.report_read import read_result
from aida_experiments.report_stats import band, stepsize_rows, summarise
from aida_experiments.report_words import Line, at, better, chosen, line, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_curves", "merged_rows", "read_result", "stepsizes", "table", "write_figures"]


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


def save_figure(figure: Figure, path: Path) -> None:
    """Write in the format of the path's suffix; the same figure gives the same bytes."""
    from matplotlib import rc_context

    dated: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": path.name}), replaced(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], metadata=dated)


def learning_curves(results: Sequence[Result]) -> Figure | None:
    """Training loss and the measure that chooses, by epoch; the band is one standard deviation over seeds.

    None if no run has a whole epoch.
    """
    group = Group("", results)
    keys = list(dict.fromkeys(key for key in (*group.keys[:1], group.choosing_key) if key in group.keys))
    if not keys:
        return None
    figure, (row,) = blank(1, len(keys), 5.6, 4.2)
    for axes, key in zip(row, keys, strict=True):
        measure = key_measure(key)
        settled = []
        for optimizer, style in zip(group.optimizers, run_styles(len(group.optimizers)), strict=True):
            curve = band(group, optimizer, key)
            mean = [measure.scale * spread.mean for spread in curve.values()]
            std = [measure.scale * (spread.std or 0.0) for spread in curve.values()]
            axes.plot(list(curve), mean, label=optimizer, linewidth=1.6, **style)
            low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
            axes.fill_between(list(curve), low, high, color=style["color"], alpha=0.15, linewidth=0)
            settled += mean[len(mean) // 4 :]
        axes.set_ylabel(key_label(key))
        time_axis(axes, "epoch")
        # The first epochs, where all are bad, would hide the differences at the end.
        if measure.higher and settled and max(settled) > min(settled):
            margin = 0.2 * (max(settled) - min(settled))
            axes.set_ylim(min(settled) - margin, max(settled) + margin)
        elif settled and min(settled) > 0:
            axes.set_yscale("log")
    figure.axes[-1].legend(frameon=False, fontsize="small", loc="best")
    return figure


def stepsizes(results: Sequence[Result]) -> Figure | None:
    """Mean and standard deviation of each layer's stepsizes, a column an optimizer; None if none has any."""
    group = Group("", results)
    found = {name: stepsize_rows(group.of(name)) for name in group.optimizers}
    return plots.stepsizes(found) if any(found.values()) else None


def plain_text() -> Any:
    """Within it matplotlib draws all text: LaTeX, which a matplotlibrc may ask for, may be absent."""
    from matplotlib import rc_context

    return rc_context({"text.usetex": False})


def write_figures(
    results: Sequence[Result], folder: Path, formats: Sequence[str] = ("png",), prefix: str = ""
) -> list[Path]:
    """Write learning-curves and stepsizes, where there is something to show; return the paths."""
    paths = []
    with plain_text():
        figures = {"learning-curves": learning_curves(results), "stepsizes": stepsizes(results)}
        for name, figure in figures.items():
            for form in formats if figure is not None else ():
                path = folder / f"{prefix}{name}.{form}"
                save_figure(figure, path)  # pyright: ignore[reportArgumentType]
                paths.append(path)
    return paths
