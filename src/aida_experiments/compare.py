"""Train several optimizers on one task with several seeds, each in its own run folder, and report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aida_experiments import report
from aida_experiments.errors import UserError
from aida_experiments.recipes import PRESETS
from aida_experiments.runs import Run, to_json_lines, write_text
from aida_experiments.task import Task
from aida_experiments.tasks import create_task
from aida_experiments.train import make_fabric, train


@dataclass(frozen=True)
class Comparison:
    """Everything that the command asks for; names are already known to be valid."""

    task: str
    model: str
    optimizers: Sequence[str]
    seeds: Sequence[int]
    epochs: int
    batch_size: int
    published: bool
    lr: float | None
    device: str
    precision: str
    threads: int | None
    limit_batches: int | None

    def settings(self, optimizer: str) -> dict[str, Any]:
        settings = dict(PRESETS[self.task].recipes[optimizer].settings)
        return settings if self.lr is None else {**settings, "lr": self.lr}

    def config(self, optimizer: str, seed: int, device: str, threads: int) -> dict[str, Any]:
        """What a run's result depends on, and so what a resumed run must agree with."""
        return {
            "task": self.task, "model": self.model, "optimizer": optimizer,
            "settings": self.settings(optimizer), "seed": seed, "epochs": self.epochs,
            "batch_size": self.batch_size, "published": self.published, "limit_batches": self.limit_batches,
            "device": device, "precision": self.precision, "threads": threads,
        }  # fmt: skip


def compare(asked: Comparison, folder: Path, console: Console) -> None:
    """Run what is not finished in `folder`, then print the table; write rows.jsonl and the figures there."""
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    try:
        fabric = make_fabric(asked.device, asked.precision)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"no device {asked.device!r} here ({error}): use --device cpu or auto.") from error
    device, threads = str(fabric.device), torch.get_num_threads()
    pairs = [(optimizer, seed) for seed in asked.seeds for optimizer in asked.optimizers]
    # All folders are opened before anything is trained: a conflict shows in the first second.
    runs = [
        Run(folder / optimizer / f"seed-{seed}", asked.config(optimizer, seed, device, threads))
        for optimizer, seed in pairs
    ]
    if any(run.status is None for run in runs):
        with console.status(f"loading the data of {asked.task} …"):
            task = load_task(asked)
        train_all(asked, task, runs, fabric, console)
    in_table_order = sorted(runs, key=lambda run: asked.optimizers.index(run.config["optimizer"]))
    results = [report.read_result(run) for run in in_table_order]
    rows = folder / "rows.jsonl"
    write_text(rows, to_json_lines(report.merged_rows(runs)))
    figures = report.write_figures(results, folder)
    console.print(report.table(results, f"{asked.task} · {asked.model} · {asked.epochs} epochs"))
    for path in (rows, *figures):
        console.print(f"wrote {path}", highlight=False, soft_wrap=True)


def load_task(asked: Comparison) -> Task:
    options: dict[str, Any] = {
        "model": asked.model, "batch_size": asked.batch_size, "limit_batches": asked.limit_batches
    }  # fmt: skip
    if PRESETS[asked.task].published:
        options["published"] = asked.published
    return create_task(asked.task, **options)


def train_all(asked: Comparison, task: Task, runs: Sequence[Run], fabric: Any, console: Console) -> None:
    """Train every run in turn, with nested bars on a terminal and one line per run elsewhere."""
    bars = Progress(
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, disable=console.quiet or not console.is_terminal,
        transient=True, refresh_per_second=4,
    )  # fmt: skip
    with bars:
        over_runs = bars.add_task("runs", total=len(runs))
        over_epochs = bars.add_task("", total=asked.epochs)
        over_batches = bars.add_task("batches", total=task.batches_per_epoch())
        for run in runs:
            config = run.config
            name = f"{config['optimizer']} seed {config['seed']}"
            bars.reset(over_epochs, description=f"{name}")

            def on_batch(epoch: int, batch: int) -> None:
                bars.update(over_epochs, completed=epoch - 1)
                bars.update(over_batches, completed=batch, description=f"epoch {epoch}")

            status = train(
                task, run, fabric=fabric, optimizer=config["optimizer"], settings=config["settings"],
                seed=config["seed"], epochs=asked.epochs, on_batch=on_batch,
            )  # fmt: skip
            bars.advance(over_runs)
            if not console.is_terminal:
                console.print(f"{name}: {status}")
