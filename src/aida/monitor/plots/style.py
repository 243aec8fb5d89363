"""What all pictures share: figures, axes, colours and the legend of the layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

from .series import Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours without their yellow, which is faint on white."""
DASHES = ("-", "--", ":", "-.")
IN_LEGEND = 12
"""So many layers are listed by name; of more, the colour shows the depth."""


def blank(rows: int, columns: int, width: float, height: float) -> tuple[Figure, list[list[Axes]]]:
    """A figure of panels, in inches each, that needs no display and touches no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=130)
    return figure, figure.subplots(rows, columns, squeeze=False).tolist()


def time_axis(axes: Axes, name: str | None = None) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if name:
        axes.set_xlabel(name)


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Short labels at 1, 2 and 5 times the powers of ten from `low` to `high`; of many, at the powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    few = LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=8)
    axis.set_major_locator(few if high > 3 * low else MaxNLocator(4))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_formatter(NullFormatter())


def short(value: float) -> str:
    """316.23 and 2000, but 2e5."""
    if 1e-3 <= value < 1e4:
        return f"{value:.5g}"
    digits, power = f"{value:.1e}".split("e")
    return f"{float(digits):g}e{int(power)}"


def run_styles(count: int) -> list[dict[str, Any]]:
    """A colour and a line style for each of several runs."""
    colours, dashes = islice(cycle(PALETTE), count), islice(cycle(DASHES), count)
    return [{"color": colour, "linestyle": dash} for colour, dash in zip(colours, dashes, strict=True)]


def depth_colours() -> Colormap:
    """viridis without its palest end, which is faint on white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap([colormaps["viridis"](0.9 * i / 255) for i in range(256)], "depth")


def layer_colours(runs: Iterable[Sequence[Layer]]) -> dict[int, Any]:
    """The colour of each layer's number, from the first to the last of all runs."""
    numbers = sorted({layer.number for layers in runs for layer in layers})
    first, last, colours = numbers[0], numbers[-1], depth_colours()
    return {number: colours((number - first) / max(last - first, 1)) for number in numbers}


def draw_layers(axes: Axes, layers: Iterable[Layer], field: str, colours: Mapping[int, Any]) -> None:
    """One line per layer; its points are marked while they can be distinguished."""
    many = len(colours) > IN_LEGEND
    for layer in layers:
        axes.plot(
            layer.time,
            layer.values(field),
            color=colours[layer.number],
            label=f"{layer.number}",
            linewidth=0.7 if many else 1.3,
            alpha=0.8 if many else 1.0,
            marker=marker(layer),
            markersize=3 if many else 5,
        )


def marker(layer: Layer) -> str:
    return "." if len(layer.time) <= 12 else ""


def explain_layers(figure: Figure, runs: Iterable[Sequence[Layer]], colours: Mapping[int, Any]) -> None:
    """A legend of the layers with their parameters' names, or for many layers a colour bar of the depth."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    if len(colours) > IN_LEGEND:
        scale = ScalarMappable(Normalize(min(colours), max(colours)), depth_colours())
        bar = figure.colorbar(scale, ax=figure.axes, label="layer, in the model's order", pad=0.02)
        bar.locator = MaxNLocator(nbins=8, integer=True)
        return
    parameters: dict[int, set[str]] = {number: set() for number in colours}
    for layer in (layer for layers in runs for layer in layers):
        parameters[layer.number].add(layer.parameter)
    figure.legend(
        [Line2D([], [], color=colour) for colour in colours.values()],
        [layer_name(number, *(names if len(names) == 1 else ())) for number, names in parameters.items()],
        title="layer",
        loc="outside right upper",
        frameon=False,
        fontsize="small",
        alignment="left",
    )


def layer_name(number: int, parameter: str = "") -> str:
    """The number and, of a long parameter's name, the end, which differs most."""
    return f"{number} {parameter if len(parameter) <= 20 else '…' + parameter[-19:]}".strip()


def caps(layers: Iterable[Layer]) -> list[float]:
    """The caps that differ; layers have several where groups of parameters differ in eps."""
    found = {f"{layer.cap:.5g}": layer.cap for layer in layers if layer.cap is not None}
    return sorted(found.values())


def same_caps(some: Iterable[Layer], others: Iterable[Layer]) -> bool:
    """To five digits: AdaBelief's second eps lowers its cap by 3e-6, no reason for scales of its own."""
    return [f"{cap:.5g}" for cap in caps(some)] == [f"{cap:.5g}" for cap in caps(others)]


CAP_LINE: dict[str, Any] = {"color": "0.35", "linestyle": (0, (4, 3)), "linewidth": 1.0}
