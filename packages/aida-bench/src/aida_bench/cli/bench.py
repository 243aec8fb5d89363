"""`aida bench`: what a step costs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aida_bench.cli.errors import one_line_errors
from aida_bench.errors import UserError, choose, say
from aida_bench.storage.files import expand, write_text

Option = typer.Option
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Measure what a step costs.")


@app.callback()
def main() -> None:
    pass


@app.command(
    epilog="Examples:\n\n"
    "[bold]aida bench step[/bold]\n\n"
    "[bold]aida bench step --quick --models vgg11 --out step.json[/bold]"
)
def step(
    models: Annotated[
        str | None, Option(help="Names of models separated by commas; by default all five.")
    ] = None,
    threads: Annotated[str, Option(help="Numbers of CPU threads, separated by commas.")] = "1,2",
    device: Annotated[str, Option(help="cpu, cuda or xpu.")] = "cpu",
    quick: Annotated[
        bool, Option("--quick", help="The two smallest models and few pairs: does it run, not how fast.")
    ] = False,
    out: Annotated[Path, Option(help="File for the result, with commit, machine and versions.")] = Path(
        "benchmarks/step.json"
    ),
) -> None:
    """Time whole steps against torch's fused AdamW, in interleaved pairs; print tables and write JSON."""
    console = Console()
    with one_line_errors("nothing was written."):
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler counts the bytes, without a word
        from aida_bench.bench import report
        from aida_bench.bench.model_shapes import MODELS
        from aida_bench.bench.step import step_benchmark

        asked = models.split(",") if models else list(MODELS)[: 2 if quick else None]
        names = [choose("model", name.strip(), MODELS) for name in asked]
        if not all(count.strip().isdigit() and int(count) > 0 for count in threads.split(",")):
            raise UserError(f"--threads {threads} is not a list of numbers above 0, such as 1,2.")
        path = expand(out)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = step_benchmark(
            models=names,
            threads=[int(count) for count in threads.split(",")],
            device=device,
            quick=quick,
            on_row=lambda row: console.print(report.line(row), highlight=False, soft_wrap=True),
        )
        write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
        for table in report.tables(result):
            console.print(table)
        say(console, f"wrote {path}")
