"""The command `aida`. Heavy packages are imported inside the commands, so that help is instant."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aida_experiments.errors import UserError, choose
from aida_experiments.recipes import PRESETS

RUNS = Path("runs")

app = typer.Typer(
    name="aida",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Compare layerwise adaptive optimizers (Aida, AdaBelief, LAdam, …) with others on real data.\n\n"
    "Start with [bold]aida compare digits[/bold]: real handwritten digits, about two minutes on two cores.",
)


bench = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Measure what a step costs.")
app.add_typer(bench, name="bench")


@app.callback()
def _root() -> None:
    """Keeps `compare` a subcommand while it is the only one."""


@contextmanager
def one_line_errors(resume_hint: str) -> Iterator[None]:
    """What a person can put right ends in one line on stderr and exit code 2; an interruption in code 130."""
    stderr = Console(stderr=True)
    try:
        yield
    except UserError as error:
        message, code = f"error: {error}", 2
    except OSError as error:
        message, code = f"error: {error.filename or 'input or output'}: {error.strerror or error}.", 2
    except KeyboardInterrupt:
        message, code = f"interrupted; {resume_hint}", 130
    else:
        return
    stderr.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def _tasks_help() -> str:
    lines = []
    for name, preset in PRESETS.items():
        defaults = f"{preset.epochs} epochs of batches of {preset.batch_size}, {preset.seeds} seed(s)"
        lines.append(f"[bold]{name}[/bold] (models {', '.join(preset.models)}; by default {defaults})")
    return "One of: " + "; ".join(lines) + "."


OPTIMIZERS = sorted({name for preset in PRESETS.values() for name in preset.recipes})
DEFAULTS = ",".join(next(iter(PRESETS.values())).optimizers)
Option = typer.Option


@app.command(
    # Paragraphs are whole strings, because the help keeps the line ends of a docstring.
    help="Train several optimizers on one task and compare them.\n\n"
    "Each optimizer runs once per seed; runs with the same seed share the initial model and the order of "
    "the data. Prints a table of test accuracies (at the epoch that is best on the validation set, and at "
    "the last) and writes, in the results folder: rows.jsonl (every measure of every epoch), "
    "learning-curves.png, stepsizes.png (mean and standard deviation of each layer's adaptive stepsize), and "
    "one folder per run with its configuration, versions, timings (seconds, and milliseconds per optimizer "
    "step) and checkpoint.\n\n"
    "A command that was killed goes on with --resume and ends with the same rows as an undisturbed one.\n\n"
    "Data sets are kept in $AIDA_DATA, by default ~/.cache/aida.",
    epilog="Examples:\n\n"
    "[bold]aida compare digits[/bold]\n\n"
    "[bold]aida compare digits --optimizers aida,adamw --seeds 5 --out runs/mine[/bold]\n\n"
    "[bold]aida compare cifar10 --model vgg11 --epochs 2 --optimizers aida,adabelief[/bold]\n\n"
    "[bold]aida compare cifar10 --published --device cuda --precision bf16 --out runs/paper --resume[/bold]",
)
def compare(
    task: Annotated[str, typer.Argument(help=_tasks_help(), show_default=False)],
    optimizers: Annotated[
        str, Option(help=f"Names separated by commas, or 'all'. Known: {', '.join(OPTIMIZERS)}.")
    ] = DEFAULTS,
    model: Annotated[str | None, Option(help="Model of the task; by default its first.")] = None,
    seeds: Annotated[
        int | None, Option(min=1, help="Number of runs per optimizer; by default the task's.")
    ] = None,
    first_seed: Annotated[int, Option(min=0, help="The seeds count up from here.")] = 0,
    epochs: Annotated[int | None, Option(min=1, help="Epochs per run; by default the task's.")] = None,
    batch_size: Annotated[int | None, Option(min=1, help="Images per batch; by default the task's.")] = None,
    lr: Annotated[
        float | None, Option(help="One learning rate for every optimizer, instead of each recipe's own.")
    ] = None,
    published: Annotated[
        bool,
        Option(
            "--published",
            help="cifar10: the paper's protocol. All 50,000 images train, the test set validates, the "
            "learning rate falls by ten at epochs 100 and 160. Otherwise 5,000 images are held out to "
            "validate and it falls after 1/2 and 4/5 of the epochs.",
        ),
    ] = False,
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    precision: Annotated[str, Option(help="32, or bf16 (autocast; parameters stay float32).")] = "32",
    threads: Annotated[
        int | None,
        Option(min=1, help="CPU threads; by default torch's choice. Part of a run's configuration."),
    ] = None,
    out: Annotated[
        Path | None,
        Option(help="Folder for the results; by default a new runs/TASK-N, or with --resume the latest one."),
    ] = None,
    resume: Annotated[
        bool,
        Option(
            "--resume",
            help="Go on in a folder that has results: finished runs are kept, killed ones continue.",
        ),
    ] = False,
    limit_batches: Annotated[
        int | None,
        Option(min=1, help="Use only so many batches per epoch and per evaluation, for a quick trial."),
    ] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Check what was asked for, find the folder, and hand over to `compare.compare`."""
    console = Console(quiet=quiet)
    with one_line_errors("the same command with --resume and its --out goes on from the last whole epoch."):
        preset = PRESETS[choose("task", task, PRESETS)]
        names = (
            list(preset.recipes) if optimizers == "all" else [name.strip() for name in optimizers.split(",")]
        )
        names = [choose(f"optimizer for {task}", name, preset.recipes) for name in dict.fromkeys(names)]
        model = choose(f"model for {task}", model or preset.models[0], preset.models)
        choose("precision", precision, ("32", "bf16"))
        if lr is not None and not lr > 0:
            raise UserError(f"--lr {lr} is not a learning rate: it must be above 0.")
        if published and not preset.published:
            raise UserError(f"--published has no meaning for {task}: only for cifar10.")
        folder = results_folder(task, out, resume)

        from aida_experiments.compare import Comparison
        from aida_experiments.compare import compare as run_comparison

        asked = Comparison(
            task, model, names,
            seeds=range(first_seed, first_seed + (seeds or preset.seeds)),
            epochs=epochs or preset.epochs, batch_size=batch_size or preset.batch_size, published=published,
            lr=lr, device=device, precision=precision, threads=threads, limit_batches=limit_batches,
        )  # fmt: skip
        run_comparison(asked, folder, console)


@bench.command(
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
        from aida_experiments import bench_report
        from aida_experiments.bench import step_benchmark
        from aida_experiments.runs import write_text
        from aida_experiments.shapes import MODELS

        asked = models.split(",") if models else list(MODELS)[: 2 if quick else None]
        names = [choose("model", name.strip(), MODELS) for name in asked]
        if not all(count.strip().isdigit() and int(count) > 0 for count in threads.split(",")):
            raise UserError(f"--threads {threads} is not a list of numbers above 0, such as 1,2.")
        out.parent.mkdir(parents=True, exist_ok=True)
        result = step_benchmark(
            models=names,
            threads=[int(count) for count in threads.split(",")],
            device=device,
            quick=quick,
            on_row=lambda row: console.print(bench_report.line(row), highlight=False, soft_wrap=True),
        )
        write_text(out, json.dumps(result, indent=1, allow_nan=False) + "\n")
        for table in bench_report.tables(result):
            console.print(table)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)


def results_folder(task: str, out: Path | None, resume: bool) -> Path:
    """The folder to write in, made if need be. Raises UserError for one with results, unless resumed."""
    if out is None:
        numbers = [
            int(path.name.rsplit("-", 1)[1])
            for path in RUNS.glob(f"{task}-*")
            if path.name.rsplit("-", 1)[1].isdigit()
        ]
        latest = max(numbers, default=0)
        out = RUNS / f"{task}-{latest if resume and latest else latest + 1}"
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a folder.")
    out.mkdir(parents=True, exist_ok=True)
    if not resume and any(out.iterdir()):
        raise UserError(f"{out} is not empty: add --resume to go on with it, or choose another --out.")
    if not os.access(out, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{out} cannot be read and written by you: choose another --out.")
    return out
