"""Forest plot, performance profile, tuning curves, scores by one setting: drawn from the report's tables."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from aida.monitor.plots.style import blank, run_styles, time_axis
from aida_bench.report.metrics import Metric
from aida_bench.report.statistics import FEWEST
from aida_bench.study.report.table import Table, by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRIMARY, OTHER, ZERO = "#0072B2", "#777777", "#000000"
FAR = 10
"""Times the median rival's difference."""
TUNED_FROM = 3
"""Fewer points say how wide a space is: drawn, they would hide what tuning is worth."""


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _styles(labels: Collection[str], named: Collection[str]) -> dict[str, dict[str, Any]]:
    """A style for each that is `named`, the same in all figures, and one pale style for all others; of none
    named, one for each."""
    listed = named or labels
    own = dict(zip(listed, run_styles(len(listed)), strict=True))
    pale = {"color": OTHER, "linestyle": "-", "alpha": 0.35, "zorder": 1}
    return {label: own.get(label, pale) for label in labels}


def _legend_name(label: str, named: Collection[str]) -> str:
    return label if label in named or not named else "others"


def forest(differences: Table, far: float = FAR) -> Figure | None:
    """A panel a task, without room for what is `far` off; None without a difference."""
    tasks = by(differences.rows, "task")
    if not tasks:
        return None
    longest = max(map(len, tasks.values()))
    figure, (panels,) = blank(1, len(tasks), 4.2, 0.9 + 0.26 * longest)
    for axes, (task, rows) in zip(panels, tasks.items(), strict=True):
        measure = differences.measure_of(rows[0])
        axes.axvline(0, color=ZERO, linewidth=0.8)
        limits = _limits(rows, far, measure)
        axes.set_xlim(limits)
        for place, row in enumerate(reversed(rows)):
            _difference(axes, place, row, limits, measure)
        axes.set_yticks(range(len(rows)), [row["rival"] for row in reversed(rows)], fontsize="small")
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_title(f"{task}: {rows[0]['optimizer']} minus rival", fontsize="medium")
        side = "right" if measure.higher else "left"
        axes.set_xlabel(f"{differences.label_of(rows[0])} ({side} is better)", fontsize="small")
        _plain(axes)
    return figure


def _ends(row: Any, measure: Metric) -> list[float]:
    """Where its interval ends; with fewer than FEWEST seeds it is its difference alone."""
    shown = row["low"] is not None and row["n"] >= FEWEST
    ends = [row["low"], row["high"]] if shown else [row["difference"]] * 2
    return [measure.scale * end for end in ends]


def _limits(rows: Sequence[Any], far: float, measure: Metric) -> tuple[float, float]:
    """Room for all intervals but those of rivals far off, beside which the others could not be seen."""
    usual = far * median(abs(row["difference"]) for row in rows)
    near = [0.0, *(end for row in rows if abs(row["difference"]) <= usual for end in _ends(row, measure))]
    room = 0.06 * (max(near) - min(near)) or 1.0
    return min(near) - room, max(near) + room


def _difference(axes: Any, place: int, row: Any, limits: tuple[float, float], measure: Metric) -> None:
    """A point and its interval; beyond the limits an arrow at the edge with the number."""
    colour, width = (PRIMARY, 2.2) if row["primary"] else (OTHER, 1.2)
    low, high = limits
    middle = measure.scale * row["difference"]
    if low <= middle <= high:
        axes.plot(_ends(row, measure), [place, place], color=colour, linewidth=width)
        axes.plot(middle, place, "o", color=colour, markersize=4.5)
        return
    edge, marker, side = (low, "<", "left") if middle < low else (high, ">", "right")
    axes.plot(edge, place, marker, color=colour, markersize=6, clip_on=False)
    text = f"  {measure.signed(row['difference'])}  "
    axes.text(edge, place, text, ha=side, va="center", fontsize="small", color=colour)


def profile(profiles: Table, aggregates: Table, named: Collection[str]) -> Figure | None:
    """Lines in the order of the interquartile means, those `named` in colour; None while none is whole."""
    lines = by(profiles.rows, "optimizer")
    if not lines:
        return None
    figure, ((axes,),) = blank(1, 1, 6.4, 4.2)
    for label, style in _styles([row["optimizer"] for row in aggregates.rows], named).items():
        at, fraction = ([row[key] for row in lines[label]] for key in ("score", "fraction"))
        axes.step(at, fraction, where="post", label=_legend_name(label, named), linewidth=1.6, **style)
    axes.set_xlabel("normalised score (0: untrained, 1: best tuned optimizer)")
    axes.set_ylabel("fraction of runs above it")
    low = min(row["score"] for row in profiles.rows if row["fraction"] < 1)
    high = max((row["score"] for row in profiles.rows if row["fraction"] > 0), default=low)
    axes.set_xlim(max(low - 0.05, profiles.rows[0]["score"]), high + 0.03)
    axes.legend(**_legend([axes]), frameon=False, fontsize="small", loc="lower left")
    _plain(axes)
    return figure


def _legend(panels: Iterable[Any]) -> dict[str, Any]:
    """Each name once, whatever panel it is in, "others" last."""
    lines = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    lines |= {"others": lines.pop("others")} if "others" in lines else {}
    return {"handles": [*lines.values()], "labels": [*lines]}


def _legend_below(figure: Figure, grid: Sequence[Sequence[Any]]) -> None:
    """As many names in a line as the panels are wide."""
    where: dict[str, Any] = {"loc": "outside lower center", "ncols": min(3 * len(grid[0]), 6)}
    handles = _legend(axes for line in grid for axes in line)
    figure.legend(**handles, **where, frameon=False, fontsize="small")


def tuning(curves: Table, named: Collection[str]) -> Figure | None:
    """A panel a task: the expected best of n points; None while no optimizer's points have all ended."""
    most = max((row["points"] for row in curves.rows), default=0)
    tasks = by([row for row in curves.rows if row["points"] >= min(TUNED_FROM, most)], "task")
    if not tasks:
        return None
    styles = _styles(list(by(curves.rows, "optimizer")), named)
    figure, (panels,) = blank(1, len(tasks), 4.6, 3.8)
    for axes, (task, rows) in zip(panels, tasks.items(), strict=True):
        for label, own in by(rows, "optimizer").items():
            points = [row["points"] for row in own]
            expected = [curves.measure_of(row).scale * row["expected"] for row in own]
            axes.plot(points, expected, label=_legend_name(label, named), linewidth=1.4, **styles[label])
        axes.set_title(task, fontsize="medium")
        axes.set_ylabel(f"expected best {curves.label_of(rows[0])}", fontsize="small")
        time_axis(axes, "points tried")
    _legend_below(figure, [panels])
    return figure


def by_setting(points: Table, alone: Mapping[str, str], named: Collection[str]) -> Figure | None:
    """A row of panels a setting, a panel a task: the score by it of those that tune it alone; None of fewer
    than two. `alone`: the setting of each such optimizer."""
    rows = [row for row in points.rows if row["optimizer"] in alone and row["score"] is not None]
    tasks, styles = by(rows, "task"), _styles(list(by(rows, "optimizer")), named)
    keys = [key for key in dict.fromkeys(alone.values()) if sum(alone[label] == key for label in styles) > 1]
    if not keys:
        return None
    figure, grid = blank(len(keys), len(tasks), 4.6, 3.8)
    for key, line in zip(keys, grid, strict=True):
        for axes, (task, mine) in zip(line, tasks.items(), strict=True):
            _searched(axes, [row for row in mine if alone[row["optimizer"]] == key], key, styles, points)
            axes.set_title(task, fontsize="medium")
    _legend_below(figure, grid)
    return figure


def _searched(
    axes: Any, rows: Sequence[Any], key: str, styles: Mapping[str, Mapping[str, Any]], table: Table
) -> None:
    """Room for the better half of each optimizer's points, beside which those far off could not be told."""
    shown = []
    for label, own in by(sorted(rows, key=lambda row: row[key]), "optimizer").items():
        measure = table.measure_of(own[0])
        scores = [measure.scale * row["score"] for row in own]
        axes.plot([row[key] for row in own], scores, marker="o", markersize=3.5, label=label, **styles[label])
        shown += sorted(scores, reverse=measure.higher)[: (len(scores) + 1) // 2]
    axes.set_xscale("log")
    axes.set_xlabel(key, fontsize="small")
    if shown:
        room = 0.05 * (max(shown) - min(shown)) or 1.0
        axes.set_ylim(min(shown) - room, max(shown) + room)
        axes.set_ylabel(table.label_of(rows[0]), fontsize="small")
    _plain(axes)
