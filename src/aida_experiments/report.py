"""Rows to a table and figures. Reads what runs have written; never trains."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from aida_experiments.runs import Row, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CAP = sqrt((1 - 0.999) / 1e-8)
"""Largest adaptive stepsize, sqrt((1 - b2) / eps), at the default b2 and eps: 316.23."""


@dataclass(frozen=True)
class Result:
    """One run as the report sees it; `epochs` are the rows of its whole epochs, in order."""

    optimizer: str
    seed: int
    diverged: bool
    epochs: list[Row]
    stepsizes: list[Row]
    timings: list[Row]

    @property
    def best(self) -> Row:
        """The first epoch of the highest validation accuracy."""
        return max(self.epochs, key=lambda row: row["validation_accuracy"])


def read_result(run: Run) -> Result:
    rows = run.rows()
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("epoch", "stepsize")}
    return Result(
        optimizer=run.config["optimizer"],
        seed=run.config["seed"],
        diverged=run.status == "diverged",
        epochs=kinds["epoch"],
        stepsizes=kinds["stepsize"],
        timings=run.timings(),
    )


def merged_rows(runs: Iterable[Run]) -> Iterator[Row]:
    """The rows of all runs, each with its optimizer and seed."""
    for run in runs:
        origin = {key: run.config[key] for key in ("optimizer", "seed")}
        yield from ({**origin, **row} for row in run.rows())


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for a single value) of `n` values."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None

    def show(self, form: str, scale: float = 1.0) -> str:
        std = "" if self.std is None else f" ± {format(self.std * scale, form)}"
        return format(self.mean * scale, form) + std


@dataclass(frozen=True)
class Summary:
    """One optimizer over its seeds; accuracies are of the test set, or of `validation` if there is no other.
    Diverged runs are counted in `runs` and `diverged` and are left out of every mean."""

    optimizer: str
    runs: int
    diverged: int
    at_best: Spread | None
    at_last: Spread | None
    best_epoch: Spread | None
    train_loss: Spread | None
    seconds: Spread | None
    step_ms: Spread | None


def scored_split(results: Sequence[Result]) -> str:
    rows = [row for result in results for row in result.epochs]
    return "test" if not rows or "test_accuracy" in rows[0] else "validation"


def summarise(results: Sequence[Result]) -> list[Summary]:
    """One summary per optimizer, in the order in which they first occur."""
    key = f"{scored_split(results)}_accuracy"
    summaries = []
    for optimizer in dict.fromkeys(result.optimizer for result in results):
        mine = [result for result in results if result.optimizer == optimizer]
        whole = [result for result in mine if not result.diverged]
        summaries.append(
            Summary(
                optimizer,
                runs=len(mine),
                diverged=len(mine) - len(whole),
                at_best=Spread.of([result.best[key] for result in whole]),
                at_last=Spread.of([result.epochs[-1][key] for result in whole]),
                best_epoch=Spread.of([result.best["epoch"] for result in whole]),
                train_loss=Spread.of([result.epochs[-1]["train_loss"] for result in whole]),
                seconds=Spread.of([sum(row["seconds"] for row in result.timings) for result in whole]),
                step_ms=Spread.of([row["step_ms"] for result in whole for row in result.timings]),
            )
        )
    return summaries


def table(results: Sequence[Result], title: str) -> Table:
    """The comparison as a rich table, 80 columns wide; the best mean of each accuracy column is starred."""
    summaries, split = summarise(results), scored_split(results)
    named = "test accuracy" if split == "test" else "accuracy on the test set, which also validates,"
    view = Table(
        title=title,
        caption=f"{named} in % at the epoch of the best validation accuracy, and at the last; mean ± "
        f"standard deviation over {len({result.seed for result in results})} seed(s); ★ best of its column",
        box=box.SIMPLE_HEAD,
    )
    view.add_column("optimizer", no_wrap=True)
    for column in ("at best epoch", "at last epoch", "best\nepoch", "train\nloss", "run\nsec.", "step\nms"):
        view.add_column(column, justify="right", no_wrap=True)
    best = {
        name: max((spread.mean for s in summaries if (spread := getattr(s, name))), default=None)
        for name in ("at_best", "at_last")
    }

    def accuracy(spread: Spread | None, best: float | None) -> Text:
        if spread is None:
            return Text("diverged", style="red")
        starred = spread.mean == best
        return Text("★ " * starred + spread.show(".2f", 100), style="bold green" if starred else "")

    def mean(spread: Spread | None, form: str) -> str:
        return "–" if spread is None else format(spread.mean, form)

    for summary in summaries:
        lost = f"\n{summary.diverged} diverged" if summary.diverged else ""
        view.add_row(
            summary.optimizer + lost,
            accuracy(summary.at_best, best["at_best"]),
            accuracy(summary.at_last, best["at_last"]),
            mean(summary.best_epoch, ".1f"),
            mean(summary.train_loss, ".4f"),
            mean(summary.seconds, ".1f" if summary.seconds and summary.seconds.mean < 100 else ".0f"),
            mean(summary.step_ms, ".2f"),
        )
    return view


def _figure(columns: int, rows: int, width: float, height: float) -> Figure:
    """A figure that needs no display and touches no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=130)
    figure.subplots(rows, columns, squeeze=False)
    return figure


def _epoch_axis(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(alpha=0.25)


def save_figure(figure: Figure, path: Path) -> None:
    beside = path.with_name(f".{path.name}.part")
    figure.savefig(beside, format="png")
    os.replace(beside, path)


def _band(results: Sequence[Result], key: str) -> tuple[list[int], list[float], list[float]]:
    """Epochs, and mean and deviation over seeds of one measure, as far as every run goes."""
    runs = [[row[key] for row in result.epochs] for result in results]
    spreads = [Spread.of(values) for values in zip(*runs, strict=False)]
    kept = [spread for spread in spreads if spread]
    return list(range(1, len(kept) + 1)), [s.mean for s in kept], [s.std or 0.0 for s in kept]


def learning_curves(results: Sequence[Result]) -> Figure | None:
    """Training loss and validation accuracy by epoch; the band is one standard deviation over seeds.

    None if no run has a whole epoch.
    """
    results = [result for result in results if result.epochs]
    if not results:
        return None
    figure = _figure(2, 1, 5.6, 4.2)
    panels = (("train_loss", "training loss"), ("validation_accuracy", "validation accuracy"))
    for axes, (key, label) in zip(figure.axes, panels, strict=True):
        settled = []
        for optimizer in dict.fromkeys(result.optimizer for result in results):
            epochs, mean, std = _band([result for result in results if result.optimizer == optimizer], key)
            (line,) = axes.plot(epochs, mean, label=optimizer, linewidth=1.6)
            low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
            axes.fill_between(epochs, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
            settled += mean[len(mean) // 4 :]
        axes.set(xlabel="epoch", ylabel=label)
        _epoch_axis(axes)
        # The first epochs, where all are bad, would hide the differences at the end.
        if key == "validation_accuracy" and settled and max(settled) > min(settled):
            margin = 0.2 * (max(settled) - min(settled))
            axes.set_ylim(min(settled) - margin, min(max(settled) + margin, 1))
    figure.axes[0].set_yscale("log")
    figure.axes[1].legend(frameon=False, fontsize="small", loc="lower right")
    return figure


def stepsizes(results: Sequence[Result]) -> Figure | None:
    """Mean (above) and standard deviation (below) of each weight tensor's adaptive stepsize by epoch.

    One column per optimizer that has adaptive stepsizes, its first seed; None if no optimizer has any.
    """
    first = {result.optimizer: result for result in reversed(results) if result.stepsizes}
    shown = [first[name] for name in dict.fromkeys(result.optimizer for result in results) if name in first]
    if not shown:
        return None
    figure = _figure(len(shown), 2, 3.2, 2.6)
    above, below = figure.axes[: len(shown)], figure.axes[len(shown) :]
    colours = _colours(max(row["layer"] for result in shown for row in result.stepsizes))
    # Adam's eps lies outside the root, so its stepsizes go far beyond the cap: it gets scales of its own.
    capped = [max(row["mean"] for row in result.stepsizes) <= 1.01 * CAP for result in shown]
    deviations = [
        row["std"] for result, cap in zip(shown, capped, strict=True) if cap for row in result.stepsizes
    ]
    for result, cap, *pair in zip(shown, capped, above, below, strict=True):
        for axes, key in zip(pair, ("mean", "std"), strict=True):
            for layer, colour in enumerate(colours, 1):
                rows = [row for row in result.stepsizes if row["layer"] == layer]
                line = ([row["epoch"] for row in rows], [row[key] for row in rows])
                axes.plot(*line, color=colour, label=f"{layer}", linewidth=1.3)
            if not cap:
                axes.set_yscale("log")
            _epoch_axis(axes)
        if cap:
            pair[0].axhline(CAP, color="0.4", linestyle="--", linewidth=1)
            pair[0].set_ylim(0, 1.05 * CAP)
            pair[1].set_ylim(0, 1.05 * max(*deviations, 1.0))
        pair[0].set_title(f"{result.optimizer} (seed {result.seed})", fontsize="medium")
        pair[1].set_xlabel("epoch")
    above[0].set_ylabel(f"mean stepsize (cap {CAP:.2f})")
    below[0].set_ylabel("standard deviation")
    handles, labels = above[0].get_legend_handles_labels()
    figure.legend(handles, labels, title="layer", loc="outside right center", frameon=False, fontsize="small")
    return figure


def _colours(layers: int) -> list:
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * layer / max(layers - 1, 1)) for layer in range(layers)]


def write_figures(results: Sequence[Result], folder: Path) -> list[Path]:
    """Write learning-curves.png and stepsizes.png, where there is something to show; return the paths."""
    figures = {"learning-curves.png": learning_curves(results), "stepsizes.png": stepsizes(results)}
    written = []
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, folder / name)
            written.append(folder / name)
    return written
