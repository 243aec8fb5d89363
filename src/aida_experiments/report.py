"""The comparison as a table in the terminal, and as pictures. Reads what runs have written; never trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table
from rich.text import Text

from aida.monitor import plots
from aida.monitor.plots.style import blank, run_styles, time_axis
from aida_experiments.files import Row, replaced
from aida_experiments.report_data import Group, Result, key_label, key_measure, read_result
from aida_experiments.report_stats import Spread, band, stepsize_rows, summarise

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["learning_curves", "merged_rows", "read_result", "stepsizes", "table", "write_figures"]


def merged_rows(results: Iterable[Result]) -> Iterator[Row]:
    """The rows of all runs, each with its optimizer and seed."""
    for result in results:
        origin = {key: result.config[key] for key in ("optimizer", "seed")}
        yield from ({**origin, **row} for row in result.rows)


def table(results: Sequence[Result], title: str) -> Table:
    """The comparison as a rich table, 80 columns wide; the best mean of each scored column is starred."""
    group = Group(title, results)
    summaries, measure = summarise(group), group.measure
    tested = group.scored_key != group.choosing_key
    named = f"test {measure.label}" if tested else f"{measure.label} on the set that also validates"
    view = Table(
        title=title,
        caption=f"{named}, at the epoch of the best validation {measure.name.replace('_', ' ')}, and at the "
        f"last; mean ± standard deviation over {len({result.seed for result in results})} seed(s); "
        "★ best of its column",
        box=box.SIMPLE_HEAD,
    )
    view.add_column("optimizer", no_wrap=True)
    for column in ("at best epoch", "at last epoch", "best\nepoch", "train\nloss", "run\nsec.", "step\nms"):
        view.add_column(column, justify="right", no_wrap=True)
    pick = max if measure.higher else min
    best = {
        name: pick((spread.mean for s in summaries if (spread := getattr(s, name))), default=None)
        for name in ("at_best", "at_last")
    }

    def score(spread: Spread | None, best: float | None, lost: str) -> Text:
        if spread is None:
            return Text(lost, style="red")
        starred = spread.mean == best
        shown = spread.show(measure.form, measure.scale)
        return Text("★ " * starred + shown, style="bold green" if starred else "")

    def mean(spread: Spread | None, form: str) -> str:
        return "–" if spread is None else format(spread.mean, form)

    for summary in summaries:
        lost = f"\n{summary.diverged} diverged" if summary.diverged else ""
        nothing = "diverged" if summary.diverged else "no epoch yet"
        view.add_row(
            summary.optimizer + lost,
            score(summary.at_best, best["at_best"], nothing),
            score(summary.at_last, best["at_last"], nothing),
            mean(summary.best_epoch, ".1f"),
            mean(summary.train_loss, ".4f"),
            mean(summary.seconds, ".1f" if summary.seconds and summary.seconds.mean < 100 else ".0f"),
            mean(summary.step_ms, ".2f"),
        )
    return view


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
            curve = band(group.of(optimizer), key)
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
