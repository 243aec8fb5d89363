"""Figures and a page of the stepsizes in a monitor's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aida.monitor import plots
from aida.monitor.plots.series import named, time_field
from aida_bench.errors import UserError
from aida_bench.report.figures import save_figure
from aida_bench.report.html.charts import layer_charts
from aida_bench.report.html.page import page
from aida_bench.report.html.view import stepsize_table
from aida_bench.storage.files import Row, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Runs = Mapping[str, Sequence[Row]]
Draw = Callable[[Runs], "Figure"]
NOTE = (
    "u is each optimizer's adaptive stepsize by its own definition, without learning rate and first bias "
    "correction; means over seeds."
)


def figures(chosen: Sequence[int] = (), mapped: Sequence[str] = ("mean",)) -> dict[str, Draw]:
    """Every figure by its file's name; `chosen` layers have ridges, `mapped` measures have heat maps."""
    return {
        "stepsizes": plots.stepsizes,
        "spread": plots.spread,
        "histograms": partial(plots.ridges, chosen=chosen or None),
        "cosine": partial(plots.by_layer, field="cos"),
        "update-ratio": partial(plots.by_layer, field="update_ratio"),
        "capped": partial(plots.by_layer, field="capped"),
        **{f"heat-map-{field.replace('_', '-')}": partial(plots.heat_map, field=field) for field in mapped},
    }


def write_figures(
    runs: Runs, folder: Path, drawn: Mapping[str, Draw], formats: Sequence[str]
) -> tuple[list[Path], dict[str, str]]:
    """The files written, and for each figure left out the reason. Raises UserError if all are."""
    tried = {name: _try(draw, runs) for name, draw in drawn.items()}
    left_out = {name: found for name, found in tried.items() if isinstance(found, str)}
    made = {name: found for name, found in tried.items() if not isinstance(found, str)}
    if not made:
        reasons = dict.fromkeys(reason.rstrip(".") for reason in left_out.values())
        raise UserError(f"nothing to draw: {'; '.join(reasons)}.")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{form}" for name in made for form in formats]
    for path in paths:
        save_figure(made[path.stem], path)
    return paths, left_out


def _try(draw: Draw, runs: Runs) -> Figure | str:
    """The figure, or why there is none."""
    try:
        return draw(runs)
    except plots.Missing as error:
        return str(error)


def write_page(runs: Runs, folder: Path, name: str) -> Path:
    """stepsizes.html, which needs no network: panels, measures, and distributions with a slider over time."""
    given = named(runs)
    time = time_field(given)
    stepsizes = {label: plots.layers(rows, time) for label, rows in given.items()}
    charts: dict[str, Any] = layer_charts(stepsizes, time)
    charts["optimizers"] = [
        {"name": label, "colour": 0, **each} for label, each in charts["optimizers"].items()
    ]
    path = folder / "stepsizes.html"
    view = {"id": "layers", "stepsize_note": NOTE, "stepsize_table": stepsize_table(stepsizes)}
    write_text(
        path, page("stepsizes.html.j2", name=name, about="stepsizes", charts={"layers": charts}, group=view)
    )
    return path
