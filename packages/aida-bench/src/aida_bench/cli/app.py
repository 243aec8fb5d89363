"""The command `aida`. Heavy packages are imported inside the commands, so that help is instant."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.console import Console

from aida_bench.cli import bench as cli_bench
from aida_bench.cli import data as cli_data
from aida_bench.cli import report as cli_report
from aida_bench.cli import stepsizes as cli_stepsizes
from aida_bench.cli import study as cli_study
from aida_bench.cli.errors import one_line_errors
from aida_bench.cli.run_options import (
    OPTIMIZERS,
    RunOptions,
    TaskName,
    named,
    optimizer_specs,
    with_run_options,
)
from aida_bench.errors import UserError, warn
from aida_bench.execution import torchrun
from aida_bench.settings import HELP, read_grid, read_settings

app = typer.Typer(
    name="aida",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Compare layerwise adaptive optimizers (Aida, AdaBelief, LAdam, …) with others on real data.\n\n"
    "Start with [bold]aida compare digits[/bold]: real handwritten digits, about two minutes on two cores.",
)


Option = typer.Option


def show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"aida {version('aida-optim')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def carry_out(
    task: str, specs: Sequence[Any], seeds: Sequence[int], options: RunOptions, console: Console
) -> None:
    """Check what was asked for, find the folder, and hand over: to this process, or to one a device."""
    from aida_bench.cli.conclusion import conclude
    from aida_bench.execution import dispatch

    plan, where = options.plan(task, specs, seeds), options.where()
    plan.check()
    folder = options.folder(task)
    torchrun.end_with_launcher()
    if plan.devices > 1 and not torchrun.launched():
        code = torchrun.launch([*sys.argv[1:], "--out", str(folder), "--resume"], plan.devices)
        if code:
            raise typer.Exit(code)
        return
    ended = dispatch.carry_out(plan, folder, where, console)
    try:
        if ended.runs:
            conclude(plan, ended.runs, folder, console)
    except UserError as error:
        if ended.failure is None:
            raise
        warn(str(error))
    if ended.failure is not None:
        raise ended.failure


def quiet_unless_first(options: RunOptions) -> Console:
    return Console(quiet=options.quiet or torchrun.rank() > 0)


RESUME = "the same command with --resume and its --out goes on from the last whole epoch."
RESULTS = (
    "writes, in the results folder: rows.jsonl (every measure of every epoch), learning-curves.png, "
    "stepsizes.png (mean and standard deviation of each layer's adaptive stepsize), and one folder per run "
    "with its configuration, versions, timings (seconds, and milliseconds per optimizer step) and checkpoint."
    "\n\nA command that was killed goes on with --resume and ends with the same rows as an undisturbed one."
    "\n\nData sets are kept in $AIDA_DATA, by default ~/.cache/aida."
)


@app.command(
    # Paragraphs are whole strings, because the help keeps the line ends of a docstring.
    help="Train several optimizers on one task and compare them.\n\n"
    "Each optimizer runs once per seed; runs with the same seed share the initial model and the order of "
    "the data. Prints a table of scores (at the epoch that is best on the validation set, and at "
    f"the last) and {RESULTS}",
    epilog="Examples:\n\n"
    "[bold]aida compare digits[/bold]\n\n"
    "[bold]aida compare digits --optimizers all --seeds 5 --workers 2 --out runs/mine[/bold]\n\n"
    "[bold]aida compare cifar10 --model vgg11 --epochs 2 --optimizers aida,adabelief[/bold]\n\n"
    "[bold]aida compare cifar10 --preset paper --device cuda --precision bf16 --resume[/bold]",
)
@with_run_options
def compare(
    task: TaskName,
    options: RunOptions,
    optimizers: Annotated[
        str | None,
        Option(help=f"Names separated by commas, or 'all'; by default the preset's. Known: {OPTIMIZERS}."),
    ] = None,
    seeds: Annotated[
        int | None, Option(min=1, help="Number of runs per optimizer; by default the preset's.")
    ] = None,
    first_seed: Annotated[int, Option(min=0, help="The seeds count up from here.")] = 0,
    lr: Annotated[
        float | None, Option(help="One learning rate for every optimizer, instead of each recipe's own.")
    ] = None,
) -> None:
    with one_line_errors(RESUME):
        preset = options.chosen(task)
        if lr is not None and not lr > 0:
            raise UserError(f"--lr {lr} is not a learning rate: it must be above 0.")
        chosen = optimizer_specs(
            task, preset, named(optimizers, preset), **({} if lr is None else {"lr": lr})
        )
        numbers = range(first_seed, first_seed + (seeds or preset.seeds))
        carry_out(task, chosen, numbers, options, quiet_unless_first(options))


@app.command(
    help=f"Train one optimizer on one task. Prints its scores and {RESULTS}",
    epilog="Examples:\n\n"
    "[bold]aida train mnist --optimizer aida[/bold]\n\n"
    "[bold]aida train digits --optimizer aida --set eps=1e-12 --set K=1 --tensorboard[/bold]\n\n"
    "[bold]aida train digits --devices 2 --strategy fsdp --device cpu[/bold]",
)
@with_run_options
def train(
    task: TaskName,
    options: RunOptions,
    optimizer: Annotated[str, Option(help=f"One of {OPTIMIZERS}.")] = "aida",
    seed: Annotated[int, Option(min=0, help="Decides the initial model and the order of the data.")] = 0,
    settings: Annotated[
        list[str] | None,
        Option("--set", help=f"KEY=VALUE in place of the recipe's setting; may be repeated. {HELP}"),
    ] = None,
) -> None:
    with one_line_errors(RESUME):
        chosen = optimizer_specs(task, options.chosen(task), [optimizer], **read_settings(settings or []))
        carry_out(task, chosen, [seed], options, quiet_unless_first(options))


@app.command(
    help="Train one or more optimizers at every point of a grid of settings. "
    f"Prints the scores of every point and {RESULTS}",
    epilog="Examples:\n\n"
    "[bold]aida sweep digits --grid lr=1e-3,3e-3 eps=1e-8,1e-12[/bold]\n\n"
    "[bold]aida sweep digits --optimizers aida,adabelief --seeds 3 --grid lr=1e-3,3e-3[/bold]",
)
@with_run_options
def sweep(
    task: TaskName,
    options: RunOptions,
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUES]...", help="Further axes of the grid.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        Option(help=f"KEY=VALUES, such as lr=1e-3,3e-3; every further axis may follow it. {HELP}"),
    ] = None,
    optimizers: Annotated[str, Option(help="Names separated by commas, or 'all'.")] = "aida",
    seeds: Annotated[int, Option(min=1, help="Number of runs per point.")] = 1,
    first_seed: Annotated[int, Option(min=0, help="The seeds count up from here.")] = 0,
) -> None:
    with one_line_errors(RESUME):
        preset = options.chosen(task)
        axes = read_grid([*(grid or []), *(more or [])])
        if not axes:
            raise UserError("no grid: name at least one axis, such as --grid lr=1e-3,3e-3.")
        from aida_bench.execution.plan import grid_points

        points = grid_points(optimizer_specs(task, preset, named(optimizers, preset)), axes)
        numbers = range(first_seed, first_seed + seeds)
        carry_out(task, points, numbers, options, quiet_unless_first(options))


app.command(epilog=cli_report.EPILOG)(cli_report.report)
app.command(epilog=cli_stepsizes.EPILOG)(cli_stepsizes.stepsizes)
app.add_typer(cli_bench.app, name="bench")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_study.app, name="study")
