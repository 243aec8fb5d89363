"""`aida study`: run, look at, report and export a study that one TOML file declares."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from aida_bench.cli.errors import one_line_errors
from aida_bench.errors import UserError, choose, say
from aida_bench.storage.files import expand

if TYPE_CHECKING:
    from aida_bench.study.spec import Study
    from aida_bench.study.status import Status, TaskStatus

Option = typer.Option
app = typer.Typer(
    no_args_is_help=True,
    help="Tuned, paired comparisons of optimizers over tasks, declared in one TOML file.",
)
File = Annotated[Path, typer.Argument(help="The study's TOML file, such as studies/claims.toml.")]
Only = Annotated[list[str] | None, Option("--only", help="A task of the study; may be repeated.")]
RESUME = "the same command goes on from the last whole epoch of each run."


@app.command(
    epilog="Examples:\n\n[bold]aida study run studies/claims.toml --dry-run[/bold]\n\n"
    "[bold]aida study run studies/claims.toml --workers 2 --only mnist[/bold]"
)
def run(
    file: File,
    only: Only = None,
    workers: Annotated[
        int | None,
        Option(
            min=1,
            help="Runs at a time; by default as many as have a core for each of their threads, or 1 on an "
            "accelerator.",
        ),
    ] = None,
    ray: Annotated[str | None, Option(help="Run on the Ray cluster at this address, or local.")] = None,
    nice: Annotated[int, Option(min=0, max=19, help="Added to the processes' niceness.")] = 10,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the plan and its cost, and run nothing.")
    ] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run what is left of a study. It may be stopped at any moment, and be run by several commands at a time
    on a shared folder: the same command goes on."""
    with one_line_errors(RESUME):
        study, tasks = _study(file, only)
        from aida_bench.execution.cores import runs_at_once
        from aida_bench.study.records import read_records
        from aida_bench.study.run import Processes, carry_out, check_ahead

        console, about = Console(quiet=quiet), study.about
        workers = workers or runs_at_once(about.device, about.threads)
        if dry_run:
            check_ahead(study, tasks, read_records(study), set())
            _show(study, tasks, console, workers)
            return
        if nice and hasattr(os, "nice"):
            os.nice(nice)
        if not carry_out(study, tasks, Processes(workers, ray), console):
            raise UserError(
                f"the {study.about.core_hours:g} core-hours of {file} do not suffice for the next run: "
                "raise core_hours in [study], or leave it here; `aida study status` says what is left."
            )
        say(console, f"all runs of {study.about.name} have ended: `aida study report {file}` shows them.")


@app.command()
def status(
    file: File,
    only: Only = None,
    workers: Annotated[int | None, Option(min=1, help="When it ends with so many runs at a time.")] = None,
) -> None:
    """Say what is done, what is left, what it cost, and when it will be done."""
    with one_line_errors(RESUME):
        study, tasks = _study(file, only)
        _show(study, tasks, Console(), workers)


@app.command()
def report(
    file: File,
    to: Annotated[
        Path | None, Option(help="The folder; by default that of the rows, [study] rows, or beside the runs.")
    ] = None,
) -> None:
    """Write the page, tables and figures of all finished runs, whole or partial. Never trains."""
    with one_line_errors("what is written is whole."):
        study, _ = _study(file, None)
        from aida_bench.study.records import read_records
        from aida_bench.study.report.write import write_report

        found = read_records(study)
        if not found:
            raise UserError(f"no run of {file} has ended yet: `aida study run {file}` starts them.")
        folder = expand(to) if to else study.rows_folder or study.folder / "report"
        for path in write_report(study, found, folder):
            say(Console(), f"wrote {path}")


@app.command()
def export(
    file: File,
    to: Annotated[Path | None, Option(help="The folder; by default the file's own, [study] rows.")] = None,
) -> None:
    """Write the rows of all finished runs into one compressed file, from which a fresh clone goes on; what
    the file has of the study already is kept."""
    with one_line_errors("nothing was written."):
        study, _ = _study(file, None)
        from aida_bench.study.export import export as write

        folder = expand(to) if to else study.rows_folder
        if folder is None:
            raise UserError(f"{file} names no folder for rows: give --to, or add rows = … to [study].")
        path, count = write(study, folder)
        say(Console(), f"wrote {count} runs to {path} ({path.stat().st_size / 1e3:.0f} kB)")


def _study(file: Path, only: Sequence[str] | None) -> tuple[Study, list[str]]:
    from aida_bench.study.read import read_study

    study = read_study(expand(file))
    named = dict.fromkeys(only or study.tasks)
    return study, [choose(f"task of {file}", task, study.tasks) for task in named]


def _show(study: Study, tasks: Sequence[str], console: Console, workers: int | None) -> None:
    from aida_bench.study import status as of
    from aida_bench.study.records import read_records

    found = of.status(study, tasks, read_records(study))
    lines = [_cells(each) for each in found.tasks]
    view = _table(f"{study.about.name}: runs done of planned, core-hours", lines)
    if Measurement.get(console, console.options.update(max_width=WIDEST), view).maximum <= console.width:
        console.print(view)
    else:
        for cells in lines:
            say(console, ", ".join(f"{head} {cell}" for head, cell in zip(HEADS, cells, strict=True)))
    say(console, "epochs of a tuning run and of a final one; s/ep: CPU seconds of an epoch; base: untrained")
    for line in _summary(study, found, workers):
        say(console, line)


HEADS = ("task", "epochs", "s/ep", "tune", "final", "publ.", "base", "used", "left", "+wide")
WIDEST = 10_000
"""Columns of text for which a table is measured."""


def _cells(task: TaskStatus) -> list[str]:
    from aida_bench.study.status import STAGES

    runs = [f"{task.done[s]}/{task.planned[s]}" for s in STAGES]  # base: the untrained model
    seconds = f"{task.epoch_seconds:.3g}{'' if task.measured else '?'}" if task.epoch_seconds else "–"
    hours = (f"{task.used:.2f}", *(_hours(h) for h in (task.left, task.widening)))
    return [task.task, f"{task.tuning_epochs}, {task.epochs}", seconds, *runs, *hours]


def _table(title: str, lines: Sequence[Sequence[str]]) -> Table:
    """Names as they are, even with signs of markup; no number is broken."""
    view = Table(
        title=Text(title, "table.title"), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False,
        pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for head in HEADS:
        view.add_column(head, justify="left" if head == "task" else "right", no_wrap=True)
    for cells in lines:
        view.add_row(*map(Text, cells))
    return view


def _hours(hours: float | None) -> str:
    return "–" if hours is None else f"{hours:.2f}"


def _summary(study: Study, found: Status, workers: int | None) -> list[str]:
    limit = "" if study.about.core_hours is None else f" of {study.about.core_hours:g}"
    running = "unknown, as the folder may only be read" if found.running is None else len(found.running)
    lines = [
        f"used {found.used:.2f} core-hours{limit}, left {_hours(found.left)}, "
        f"with all widenings {_hours(found.most)}; running now: {running}"
    ]
    if any(not each.measured for each in found.tasks):
        lines.append("s/epoch with ? is declared; – is neither measured nor declared (epoch_seconds).")
    at_once = workers or len(found.running or ())
    if found.left and at_once and (end := found.ends(at_once)):
        lines.append(f"with {at_once} at a time it ends about {end:%Y-%m-%d %H:%M}")
    elif found.left and not at_once:
        nothing = "" if found.running is None else "nothing runs now: "
        lines.append(f"{nothing}--workers N says when it would end.")
    return lines
