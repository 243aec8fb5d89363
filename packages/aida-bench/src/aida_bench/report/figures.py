"""The comparison as pictures. Reads what runs have written; never trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aida.monitor import plots
from aida.monitor.plots.style import blank, run_styles, time_axis
from aida_bench.report.results import Group, Result
from aida_bench.report.statistics import band, stepsize_rows
from aida_bench.storage.files import replaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path, description: str | None = None) -> None:
    """Write in the format of the path's suffix; the same figure gives the same bytes. The `description` goes
    into the file."""
    from matplotlib import rc_context

    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    if description is not None:
        metadata["Description"] = description
    _as_written(figure)
    with rc_context({"svg.hashsalt": path.name}), replaced(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], metadata=metadata)


def _as_written(figure: Figure) -> None:
    """No text is a formula, whatever $ a name has in it, but the numbers that matplotlib writes itself."""
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter, FuncFormatter

    axis = [each for axes in figure.axes for each in (axes.xaxis, axes.yaxis)]
    own = (FixedFormatter, FuncFormatter)
    numbers = {
        label
        for each in axis
        for minor in (False, True)
        if not isinstance(each.get_minor_formatter() if minor else each.get_major_formatter(), own)
        for label in (*each.get_ticklabels(minor=minor), each.get_offset_text())
    }
    for text in figure.findobj(Text):
        if text not in numbers:
            text.set_parse_math(False)  # pyright: ignore[reportAttributeAccessIssue]


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
        measure = group.measure_of(key)
        settled = []
        for optimizer, style in zip(group.optimizers, run_styles(len(group.optimizers)), strict=True):
            curve = band(group, optimizer, key)
            mean = [measure.scale * spread.mean for spread in curve.values()]
            std = [measure.scale * (spread.std or 0.0) for spread in curve.values()]
            axes.plot(list(curve), mean, label=optimizer, linewidth=1.6, **style)
            low, high = ([m + sign * s for m, s in zip(mean, std, strict=True)] for sign in (-1, 1))
            axes.fill_between(list(curve), low, high, color=style["color"], alpha=0.15, linewidth=0)
            settled += mean[len(mean) // 4 :]
        axes.set_ylabel(group.label_of(key))
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
