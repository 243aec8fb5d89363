"""Forest plot of differences, performance profile and tuning curves, drawn from the report's tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aida.monitor.plots.style import blank, run_styles, time_axis
from aida_bench.report.metrics import key_label, key_measure
from aida_bench.study.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRIMARY, OTHER, ZERO = "#0072B2", "#777777", "#000000"


def _by(rows: Sequence[Any], key: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def forest(differences: Table) -> Figure | None:
    """A panel a task; None without a difference."""
    tasks = _by(differences.rows, "task")
    if not tasks:
        return None
    longest = max(map(len, tasks.values()))
    figure, (panels,) = blank(1, len(tasks), 4.2, 0.9 + 0.26 * longest)
    for axes, (task, rows) in zip(panels, tasks.items(), strict=True):
        axes.axvline(0, color=ZERO, linewidth=0.8)
        for place, row in enumerate(reversed(rows)):
            colour, width = (PRIMARY, 2.2) if row["primary"] else (OTHER, 1.2)
            scale = key_measure(row["measure"]).scale
            if row["low"] is not None:
                ends = [scale * row["low"], scale * row["high"]]
                axes.plot(ends, [place, place], color=colour, linewidth=width)
            axes.plot(scale * row["difference"], place, "o", color=colour, markersize=4.5)
        axes.set_yticks(range(len(rows)), [row["rival"] for row in reversed(rows)], fontsize="small")
        axes.set_title(f"{task}: {rows[0]['optimizer']} minus rival", fontsize="medium")
        side = "right" if key_measure(rows[0]["measure"]).higher else "left"
        axes.set_xlabel(f"{key_label(rows[0]['measure'])} ({side} is better)", fontsize="small")
        _plain(axes)
    return figure


def profile(profiles: Table, aggregates: Table) -> Figure | None:
    """Lines in the order of the interquartile means; None while no optimizer is whole."""
    lines = _by(profiles.rows, "optimizer")
    if not lines:
        return None
    figure, ((axes,),) = blank(1, 1, 6.4, 4.2)
    order = [row["optimizer"] for row in aggregates.rows]
    for label, style in zip(order, run_styles(len(order)), strict=True):
        rows = lines[label]
        at, fraction = ([row[key] for row in rows] for key in ("score", "fraction"))
        axes.step(at, fraction, where="post", label=label, linewidth=1.6, **style)
    axes.set_xlabel("normalised score (0: untrained, 1: best tuned optimizer)")
    axes.set_ylabel("fraction of runs above it")
    low = min(row["score"] for row in profiles.rows if row["fraction"] < 1)
    axes.set_xlim(max(low - 0.05, profiles.rows[0]["score"]), None)
    axes.legend(frameon=False, fontsize="small", loc="lower left")
    _plain(axes)
    return figure


def tuning(curves: Table) -> Figure | None:
    """A panel a task: the expected best of n points; None while no optimizer's points have all ended."""
    tasks = _by(curves.rows, "task")
    if not tasks:
        return None
    names = list(dict.fromkeys(row["optimizer"] for row in curves.rows))
    styles = dict(zip(names, run_styles(len(names)), strict=True))
    figure, (panels,) = blank(1, len(tasks), 4.6, 3.8)
    for axes, (task, rows) in zip(panels, tasks.items(), strict=True):
        for label, own in _by(rows, "optimizer").items():
            points = [row["points"] for row in own]
            expected = [key_measure(row["measure"]).scale * row["expected"] for row in own]
            axes.plot(points, expected, label=label, linewidth=1.4, **styles[label])
        axes.set_title(task, fontsize="medium")
        axes.set_ylabel(f"expected best {key_label(rows[0]['measure'])}", fontsize="small")
        time_axis(axes, "points tried")
    lines = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    below: dict[str, Any] = {"loc": "outside lower center", "ncols": 6, "frameon": False}
    figure.legend([*lines.values()], [*lines], fontsize="small", **below)
    return figure
