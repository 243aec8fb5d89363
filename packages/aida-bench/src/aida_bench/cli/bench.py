"""`aida bench`: what a step and an iteration of training cost, and whether that has changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from aida_bench.cli.errors import one_line_errors
from aida_bench.errors import UserError, choose, say
from aida_bench.storage.files import expand, write_text

Option = typer.Option
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Measure what optimizers cost.")
Models = Annotated[str | None, Option(help="Names of models separated by commas; by default all.")]
Device = Annotated[str, Option(help="cpu, cuda or xpu.")]
Rounds = Annotated[
    int | None, Option(min=1, help="Rounds, each with new tensors; by default as many as it needs.")
]


@app.callback()
def main() -> None:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler counts the bytes, without a word


def chosen(kind: str, asked: str | None, valid: Iterable[str], default: Iterable[str]) -> list[str]:
    return [choose(kind, name.strip(), valid) for name in asked.split(",")] if asked else list(default)


def counts(threads: str) -> list[int]:
    if not all(count.strip().isdecimal() and int(count) > 0 for count in threads.split(",")):
        raise UserError(f"--threads {threads} is not a list of numbers above 0, such as 1,2.")
    return [int(count) for count in threads.split(",")]


def keep(out: Path, result: dict[str, Any], console: Console) -> None:
    path = expand(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
    say(console, f"wrote {path}")


@app.command(
    epilog="Examples:\n\n"
    "[bold]aida bench step[/bold]\n\n"
    "[bold]aida bench step --quick --models vgg11 --out step.json[/bold]"
)
def step(
    models: Models = None,
    threads: Annotated[str, Option(help="Numbers of CPU threads, separated by commas.")] = "1,2",
    device: Device = "cpu",
    quick: Annotated[
        bool, Option("--quick", help="The two smallest models and few pairs: does it run, not how fast.")
    ] = False,
    rounds: Rounds = None,
    out: Annotated[Path, Option(help="File for the result, with commit, machine and versions.")] = Path(
        "benchmarks/step.json"
    ),
) -> None:
    """Time whole steps against torch's fused AdamW, in interleaved pairs; print tables and write JSON."""
    console = Console()
    with one_line_errors("nothing was written."):
        from aida_bench.bench import report
        from aida_bench.bench.measure import Effort
        from aida_bench.bench.model_shapes import MODELS
        from aida_bench.bench.step import step_benchmark

        result = step_benchmark(
            models=chosen("model", models, MODELS, list(MODELS)[: 2 if quick else None]),
            threads=counts(threads),
            device=device,
            quick=quick,
            rounds=rounds or Effort.rounds,
            on_row=lambda row: console.print(report.line(row), highlight=False, soft_wrap=True),
        )
        for table in report.tables(result):
            console.print(table)
        keep(out, result, console)


@app.command(
    epilog="Examples:\n\n"
    "[bold]aida bench train[/bold]\n\n"
    "[bold]aida bench train --models vgg11 --precisions float32 --device cuda[/bold]"
)
def train(
    models: Models = None,
    precisions: Annotated[str, Option(help="float32, and bfloat16 by autocast.")] = "float32,bfloat16",
    threads: Annotated[int | None, Option(min=1, help="CPU threads; by default torch's choice.")] = None,
    device: Device = "cpu",
    quick: Annotated[
        bool, Option("--quick", help="A tiny model and few pairs: does it run, not how fast.")
    ] = False,
    rounds: Rounds = None,
    out: Annotated[Path, Option(help="File for the result, with commit, machine and versions.")] = Path(
        "benchmarks/train.json"
    ),
) -> None:
    """Time whole iterations of training against torch's fused AdamW; print a table and write JSON."""
    console = Console()
    with one_line_errors("nothing was written."):
        from aida_bench.bench import train_report
        from aida_bench.bench.train import EFFORT, PRECISIONS, train_benchmark
        from aida_bench.bench.workloads import TINY, WORKLOADS

        result = train_benchmark(
            models=chosen("model", models, [*WORKLOADS, *TINY], TINY if quick else WORKLOADS),
            precisions=chosen("precision", precisions, PRECISIONS, PRECISIONS),
            threads=threads,
            device=device,
            quick=quick,
            rounds=rounds or EFFORT.rounds,
            on_row=lambda row: console.print(train_report.line(row), highlight=False, soft_wrap=True),
        )
        console.print(train_report.table(result))
        keep(out, result, console)


@app.command(epilog="Example:\n\n[bold]aida bench check[/bold]")
def check(
    results: Annotated[
        Path, Option(help="Folder of committed results, a file for each kind of machine.")
    ] = Path("docs/results/step"),
    models: Models = None,
    threads: Annotated[int, Option(min=1, help="CPU threads.")] = 2,
    rounds: Annotated[
        int, Option(min=5, help="Rounds, each with new tensors: more see smaller changes.")
    ] = 10,
) -> None:
    """Time the library's fused steps, and say which have moved since the last committed result.

    Compares ratios to torch's fused AdamW with those of the same processor, instruction set, number of
    threads and minor version of torch. Exit code 1: something has become slower, or could not be timed; 2:
    there is no such result.
    """
    console = Console()
    with one_line_errors("nothing was compared."):
        from aida_bench.bench import check as checks
        from aida_bench.bench import machine, report
        from aida_bench.bench.model_shapes import MODELS
        from aida_bench.bench.step import step_benchmark
        from aida_bench.storage.environment import versions

        names = chosen("model", models, MODELS, MODELS)
        here = {"machine": machine.machine("cpu"), "versions": versions(), "results": [{"threads": threads}]}
        name, then = checks.committed(expand(results), machine.kind(here))
        now = step_benchmark(
            models=names,
            threads=[threads],
            core=True,
            rounds=rounds,
            on_row=lambda row: console.print(report.line(row), highlight=False, soft_wrap=True),
        )
        found, gone = checks.changes(then, now), checks.missing(then, now)
    slower = [change for change in found if change.slower]
    for word, lines in (
        ("slower", slower),
        ("faster", [change for change in found if change.faster]),
        ("not timed", gone),
    ):
        for each in lines:
            say(console, f"{word}: {each}", style="red" if word != "faster" else "green")
    say(
        console,
        f"{len(found)} comparisons with {name} ({machine.kind(then)}): {len(slower)} slower; a change of one "
        f"model is seen from about {checks.resolution(found):.0%}.",
    )
    if slower or gone:
        raise typer.Exit(1)
