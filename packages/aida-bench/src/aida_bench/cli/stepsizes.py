"""`aida stepsizes`: pictures of each layer's stepsizes, of one run or of several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aida_bench.cli.errors import one_line_errors
from aida_bench.errors import UserError, choose, say
from aida_bench.storage.files import expand

EPILOG = (
    "Examples:\n\n"
    "[bold]aida stepsizes runs/digits-1/aida/seed-0[/bold]\n\n"
    "[bold]aida stepsizes monitor.jsonl --layers 2,11 --heat-map mean,cos --svg[/bold]\n\n"
    "[bold]aida stepsizes --compare runs/digits-1 long=runs/digits-2/aida --out side-by-side[/bold]"
)


def stepsizes(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="A run's folder, a folder of runs, or a monitor's .jsonl or .csv file; or NAME=RUN.",
        ),
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Put several runs side by side.")] = False,
    layers: Annotated[
        str | None, typer.Option(help="Numbers of the layers whose histograms are drawn, such as 2,11.")
    ] = None,
    heat_map: Annotated[
        str, typer.Option(help="Measures with a heat map, such as mean,cos,update_ratio.")
    ] = "mean",
    svg: Annotated[bool, typer.Option("--svg", help="Write every figure as SVG too.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the figures; by default stepsizes, in the run's folder, or of several runs here."
        ),
    ] = None,
) -> None:
    """Draw each layer's adaptive stepsizes: figures as PNG, and stepsizes.html with a slider over time."""
    with one_line_errors("what is written is whole."):
        if len(runs) > 1 and not compare:
            raise UserError(f"{len(runs)} runs: --compare puts them side by side.")
        from aida.monitor.plots import MEASURES
        from aida_bench.report import stepsizes as stepsize_report
        from aida_bench.report.figures import plain_text
        from aida_bench.report.read_stepsizes import read_runs, split_name

        mapped = [choose("measure", field.strip(), MEASURES) for field in heat_map.split(",")]
        chosen = [_number(text) for text in layers.split(",")] if layers else []
        found, without = read_runs(runs)
        present = {row["layer"] for rows in found.values() for row in rows if row.get("layer") is not None}
        if absent := [number for number in chosen if number not in present]:
            raise UserError(f"--layers {absent[0]}: no run has it; the layers' numbers go to {max(present)}.")
        source = split_name(runs[0])[1]
        folder = expand(out) if out else (Path("stepsizes") if len(runs) > 1 else _beside(source))
        drawn = stepsize_report.figures(chosen, mapped)
        with plain_text():
            paths, left_out = stepsize_report.write_figures(found, folder, drawn, ["png", *["svg"] * svg])
        title = source.resolve().name if len(runs) == 1 else " · ".join(found)
        paths.append(stepsize_report.write_page(found, folder, title))
        left_out |= dict.fromkeys(without, "none of its rows has stepsizes.")
        lines = [f"wrote {path}" for path in paths]
        lines += [f"left out {name}: {reason}" for name, reason in left_out.items()]
        for line in lines:
            say(Console(), line)


def _beside(source: Path) -> Path:
    """Not the run's folder itself, whose pictures are the run's own."""
    return source / "stepsizes" if source.is_dir() else source.with_name(f"{source.stem}-stepsizes")


def _number(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"--layers: {text.strip()!r} is not the number of a layer; give such as 2,11.")
    return int(text)
