"""Measures over time: a line a layer, a column a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING

from .measures import measure
from .series import Layer, Missing, Runs, across_layers, layers, named, time_field, with_field
from .style import (
    CAP_LINE,
    IN_LEGEND,
    blank,
    caps,
    draw_layers,
    explain_layers,
    layer_colours,
    log_ticks,
    marker,
    run_styles,
    same_caps,
    short,
    time_axis,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEAR = 20
"""A cap so many times above the usual mean leaves nothing to see on its own linear scale."""


def stepsizes(runs: Runs) -> Figure:
    """The two panels of arXiv 2203.13273: mean (above) and standard deviation (below) of u in each layer.

    The cap is dashed. Runs of one cap share their scales, linear from 0 to the cap; where all stay far below
    it, or there is no cap, the scales are logarithmic. Raises Missing if no row has "mean" and "std".
    """
    time, found = with_field(named(runs), "mean", "std")
    figure, (above, below) = blank(2, len(found), *_size(len(found)))
    colours = layer_colours(found.values())
    limits = {name: caps(many) for name, many in found.items()}
    for (name, many), *pair in zip(found.items(), above, below, strict=True):
        for axes, field in zip(pair, ("mean", "std"), strict=True):
            draw_layers(axes, many, field, colours)
            time_axis(axes, time if field == "std" else None)
        for cap in limits[name]:
            pair[0].axhline(cap, **CAP_LINE)
        peers = [one for other in found.values() if same_caps(other, many) for one in other]
        linear = near_cap(peers, limits[name])
        _scale(pair[0], *_range(peers, "mean"), limits[name], linear)
        # Deviations of a millionth of the cap are none.
        _scale(pair[1], *_range(peers, "std"), [limits[name][-1] / 300] if linear else [], linear)
        capped = f"cap {', '.join(map(short, limits[name]))}" if limits[name] else ""
        pair[0].set_title(f"{name} ({capped})" if name and capped else name or capped, fontsize="medium")
    above[0].set_ylabel(measure("mean").label)
    below[0].set_ylabel(measure("std").label)
    explain_layers(figure, found.values(), colours)
    return figure


def _size(columns: int) -> tuple[float, float]:
    """Inches of a panel: one is as wide as two of several."""
    return (6.4, 2.9) if columns == 1 else (3.2, 2.6)


def near_cap(found: Sequence[Layer], limits: Sequence[float]) -> bool:
    """Whether most layers' means are of the order of the cap: only then a linear scale shows them."""
    means = [value for layer in found for value in layer.values("mean") if isfinite(value)]
    return bool(limits and means) and median(means) * NEAR >= limits[-1]


def _scale(axes: Axes, lowest: float, highest: float, limits: Sequence[float], linear: bool) -> None:
    """From 0 to the cap, or logarithmic."""
    top = max([highest, *limits])
    if linear:
        axes.set_ylim(0, 1.05 * top if top else 1)
    elif lowest > 0:
        axes.set_yscale("log")
        log_ticks(axes.yaxis, lowest, top)


def _range(found: Iterable[Layer], field: str) -> tuple[float, float]:
    """The smallest value above 0, if there is one, and the largest."""
    values = [value for layer in found for value in layer.values(field) if isfinite(value)]
    return min((value for value in values if value > 0), default=0.0), max(values, default=0.0)


def _median(found: Iterable[Layer], field: str) -> tuple[list[int], list[float]]:
    """Over the layers at each time, of those that were measured then."""
    at: dict[int, list[float]] = {}
    for layer in found:
        for time, value in zip(layer.time, layer.values(field), strict=True):
            at.setdefault(time, []).extend([value] if isfinite(value) else [])
    times = sorted(time for time, values in at.items() if values)
    return times, [median(at[time]) for time in times]


def by_layer(runs: Runs, field: str) -> Figure:
    """One measure over time, such as "cos" or "update_ratio": a line a layer, a column a run, one scale.

    Of many layers the median is drawn too. Raises ValueError for an unknown measure,
    Missing if no row has it.
    """
    shown = measure(field)
    time, found = with_field(named(runs), field)
    width, height = _size(len(found))
    figure, (row,) = blank(1, len(found), width, 1.25 * height)
    colours = layer_colours(found.values())
    for (name, many), axes in zip(found.items(), row, strict=True):
        draw_layers(axes, many, field, colours)
        if len(many) > IN_LEGEND:
            middle = axes.plot(
                *_median(many, field), color="black", linewidth=1.6, label="median of the layers"
            )
            axes.legend(handles=middle, frameon=False, fontsize="small")
        time_axis(axes, time)
        axes.set_title(name, fontsize="medium")
        if axes is not row[0]:
            axes.sharey(row[0])
            axes.tick_params("y", labelleft=False)
    row[0].set_ylabel(shown.label)
    if shown.limits:
        low, high = shown.limits
        row[0].set_ylim(low - 0.03 * (high - low), high + 0.03 * (high - low))
    elif shown.log:
        _scale(row[0], *_range([one for many in found.values() for one in many], field), (), linear=False)
    explain_layers(figure, found.values(), colours)
    return figure


def spread(runs: Runs) -> Figure:
    """How far the layers' average stepsizes lie apart: a panel a run, then the ratio std/mean of all runs.

    In a run's panel the line is the mean over layers, the bands one standard deviation and the range.
    Raises Missing if no row has "mean".
    """
    given = named(runs)
    time = time_field(given)
    found = {name: across_layers(rows, time) for name, rows in given.items()}
    found = {name: series for name, series in found.items() if series.time}
    if not found:
        raise Missing("no row has 'mean'.")
    width, height = _size(len(found) + 1)
    figure, (row,) = blank(1, len(found) + 1, width, 1.25 * height)
    limits = {name: caps(layers(given[name], time)) for name in found}
    for (name, series), axes, style in zip(found.items(), row, run_styles(len(found)), strict=False):
        mean, std, low, high, ratio = map(series.values, ("mean", "std", "min", "max", "ratio"))
        below = [max(m - s, l) for m, s, l in zip(mean, std, low, strict=True)]
        above = [min(m + s, h) for m, s, h in zip(mean, std, high, strict=True)]
        shade = {"color": style["color"], "linewidth": 0}
        axes.fill_between(series.time, low, high, **shade, alpha=0.15, label="range")
        axes.fill_between(series.time, below, above, **shade, alpha=0.3, label="± 1 std")
        axes.plot(series.time, mean, **style, marker=marker(series), label="mean")
        for cap in limits[name]:
            axes.axhline(cap, **CAP_LINE, label="cap")
        lowest, _ = _range([series], "min")
        _, highest = _range([series], "max")
        _scale(axes, lowest, highest, limits[name], near_cap([series], limits[name]))
        axes.set_title(name, fontsize="medium")
        row[-1].plot(series.time, ratio, **style, marker=marker(series), label=name)
    for axes in row:
        time_axis(axes, time)
    row[0].set_ylabel("average u of a layer")
    row[0].legend(framealpha=0.7, edgecolor="none", fontsize="small")
    row[-1].set_title("spread of the layers' averages", fontsize="medium")
    row[-1].set_ylabel("std / mean over the layers")
    row[-1].set_ylim(bottom=0)
    if len(found) > 1:
        row[-1].legend(frameon=False, fontsize="small")
    return figure
