"""Distributions within layers over time, and a measure of all layers as a map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil, isfinite, log2
from typing import TYPE_CHECKING, Any

import numpy as np

from ..schema import histogram_edges
from .measures import Measure, measure
from .series import Layer, Missing, Row, Runs, choose_bins, named, rebin, subsample, with_field
from .style import CAP_LINE, blank, caps, depth_colours, layer_name, log_ticks, same_caps, time_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

RIDGES, BINS, PANELS = 12, 90, 6
"""So many ridges in a panel at most, bins in its width, about, and panels of one run by default."""
TAIL = 5e-3
"""The share of elements at each end that a ridge's axis may leave out."""


def ridges(runs: Runs, chosen: Sequence[int] | None = None) -> Figure:
    """Histograms of u over time, one above the other, the last in front: a panel for each layer and run.

    `chosen` are the numbers of the layers; by default up to six, three of several runs, evenly spaced.
    u is on a logarithmic axis, the same for one layer of all runs that share a cap. A ridge's height is the
    square root of the share of elements, so that tails are seen beside a peak at the cap, in units of the
    ridge's highest. The cap is dashed. Raises Missing if no row, or none of a chosen layer, has "histogram".
    """
    time, found = with_field(named(runs), "histogram")
    numbers = sorted({layer.number for many in found.values() for layer in many})
    if absent := sorted(set(chosen or ()) - set(numbers)):
        raise Missing(f"no layer {absent[0]} has a histogram: those that have are {_ranges(numbers)}.")
    numbers = list(chosen) if chosen else subsample(numbers, PANELS if len(found) == 1 else PANELS // 2)
    columns = len(found) if len(found) > 1 else min(len(numbers), 3)
    figure, rows = blank(ceil(len(numbers) * len(found) / columns), columns, 3.4 if columns > 1 else 6.4, 2.7)
    panels = [axes for row in rows for axes in row]
    wanted = [(name, number) for number in numbers for name in found]
    for axes, (name, number) in zip(panels, wanted, strict=False):
        layer = next((one for one in found[name] if one.number == number), None)
        if layer is None:
            axes.set_axis_off()
            continue
        same = [one for many in found.values() for one in many if one.number == number]
        peers = [one for one in same if same_caps([one], [layer])]
        _ridges(axes, layer, *_shown(peers))
        axes.set_title(
            " · ".join(filter(None, (name, layer_name(number, layer.parameter)))), fontsize="medium"
        )
    for axes in panels[len(wanted) :]:
        axes.set_axis_off()
    figure.supxlabel("adaptive stepsize u (height: √ of the share of elements)", fontsize="medium")
    figure.supylabel(time, fontsize="medium")
    return figure


def _ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 5 is "1-3, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _shown(layers: Sequence[Layer]) -> tuple[float, float, int]:
    """The bounds of u that hold all but the tails, in octaves, and the bins an octave that suit them."""
    histograms = [each for layer in layers for each in layer.histograms if each]
    low, high = np.inf, -np.inf
    for histogram in histograms:
        share = np.cumsum(histogram["counts"]) / sum(histogram["counts"])
        edges = np.log2(histogram_edges(histogram))
        low = min(low, float(edges[np.searchsorted(share, TAIL)]))
        high = max(high, float(edges[np.searchsorted(share, 1 - TAIL) + 1]))
    low = min(low, high - 0.5)  # where all are equal
    # Bins of a few elements each would be noise.
    most = min(BINS, max(12, max(layer.numel for layer in layers) // 10))
    return low, high, choose_bins(histograms, most, octaves=high - low)


def _ridges(axes: Axes, layer: Layer, low: float, high: float, bins: int) -> None:
    shown = subsample([(at, h) for at, h in zip(layer.time, layer.histograms, strict=True) if h], RIDGES)
    colours = depth_colours()
    for place, (_, histogram) in enumerate(shown):
        edges, share = _share(histogram, bins)
        base = len(shown) - 1 - place
        axes.stairs(
            base + 1.6 * np.sqrt(share / share.max()),
            edges,
            baseline=base,
            fill=True,
            facecolor=colours(place / max(len(shown) - 1, 1)),
            edgecolor="white",
            linewidth=0.6,
            zorder=2 + place,
        )
    time_axis(axes)
    for cap in caps([layer]):
        axes.axvline(cap, **CAP_LINE, zorder=2 + len(shown))
        high = max(high, log2(cap))
    axes.set_xscale("log")
    margin = 0.04 * (high - low)
    axes.set_xlim(2 ** (low - margin), 2 ** (high + margin))
    log_ticks(axes.xaxis, 2**low, 2**high)
    axes.set_yticks(range(len(shown)), [f"{at}" for at, _ in reversed(shown)])
    axes.set_ylim(-0.2, len(shown) + 0.7)
    axes.tick_params("y", length=0)
    axes.grid(visible=False, axis="y")


def _share(histogram: Row, bins: int) -> tuple[list[float], Any]:
    wider = rebin(histogram, bins)
    return histogram_edges(wider), np.array(wider["counts"]) / sum(wider["counts"])


def heat_map(runs: Runs, field: str = "mean") -> Figure:
    """One measure of every layer (downwards, in the model's order) over time: a map a run.

    One colour scale, but for stepsizes of runs whose caps differ. Grey: not measured.
    Raises ValueError for an unknown measure, Missing if no row has it.
    """
    shown = measure(field)
    time, found = with_field(named(runs), field)
    tall = max(map(len, found.values()))
    figure, (row,) = blank(
        1, len(found), 6.4 if len(found) == 1 else 3.4, min(max(1.4 + 0.16 * tall, 2.6), 6.4)
    )
    alone = shown.of_u and not all(same_caps(*pair) for pair in product(found.values(), repeat=2))
    for (name, many), axes in zip(found.items(), row, strict=True):
        peers = [one for other in found.values() if not alone or same_caps(other, many) for one in other]
        picture = _map(axes, many, shown, _colours(shown, peers))
        time_axis(axes, time)
        axes.grid(visible=False)
        axes.set_title(name, fontsize="medium")
        _name_layers(axes, many, by_parameter=tall <= 30 and axes is row[0])
        if alone or axes is row[-1]:
            figure.colorbar(picture, ax=axes if alone else row, label=shown.label, pad=0.02)
    row[0].set_ylabel("layer")
    return figure


def _colours(shown: Measure, peers: Sequence[Layer]) -> Normalize:
    from matplotlib.colors import LogNorm, Normalize

    values = [value for one in peers for value in one.values(shown.field) if isfinite(value)]
    low, high = shown.limits or (min(values), max(values))
    # A few orders of magnitude can only be seen on a logarithmic scale.
    log = low > 0 and (shown.log or high > 50 * low)
    return (LogNorm if log else Normalize)(low, high if high > low else low + (abs(low) or 1.0) * 1e-3)


def _map(axes: Axes, layers: Sequence[Layer], shown: Measure, colours: Normalize) -> QuadMesh:
    times = sorted({at for layer in layers for at in layer.time})
    known = [dict(zip(layer.time, layer.values(shown.field), strict=True)) for layer in layers]
    table = np.array([[one.get(at, np.nan) for at in times] for one in known])
    axes.set_facecolor("0.85")
    rows, cmap = np.arange(len(layers) + 1) - 0.5, "PuOr" if shown.limits == (-1, 1) else "viridis"
    return axes.pcolormesh(
        _borders(times), rows, np.ma.masked_invalid(table), norm=colours, cmap=cmap, rasterized=True
    )


def _name_layers(axes: Axes, layers: Sequence[Layer], *, by_parameter: bool) -> None:
    """The first layer above; few layers have names, many some numbers."""
    axes.invert_yaxis()
    if by_parameter:
        axes.set_yticks(range(len(layers)), [layer_name(one.number, one.parameter) for one in layers])
        axes.tick_params("y", labelsize="small")
    else:
        places = subsample(range(len(layers)), 9)
        axes.set_yticks(places, [f"{layers[at].number}" for at in places])


def _borders(times: Sequence[int]) -> np.ndarray:
    """The borders of the columns: half way between the times."""
    middle = np.array(times, float)
    half = np.diff(middle) / 2 if len(middle) > 1 else np.array([0.5])
    return np.concatenate(
        [[middle[0] - half[0]], middle[:-1] + half[: len(middle) - 1], middle[-1:] + half[-1]]
    )
