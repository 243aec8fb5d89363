"""Options that `train`, `compare` and `sweep` share, told once, and what is made of them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from aida_bench.errors import UserError, choose
from aida_bench.execution import torchrun
from aida_bench.plugins import OPTIMIZERS as OPTIMIZER_PLUGINS
from aida_bench.plugins import TASKS, is_plugin
from aida_bench.recipes import PRESETS, Preset
from aida_bench.storage.files import expand, make_folder

if TYPE_CHECKING:
    from aida_bench.execution.plan import ExecutionOptions, OptimizerSpec, Plan

RUNS = Path("runs")
Option = typer.Option


def tasks_help() -> str:
    lines = []
    for name, presets in PRESETS.items():
        small = presets["small"]
        lines.append(f"[bold]{name}[/bold] ({', '.join(small.models)}; {small.epochs} epochs)")
    return "One of: " + "; ".join(lines) + "; epochs are those of --preset small."


TaskName = Annotated[str, typer.Argument(help=tasks_help(), show_default=False)]
OPTIMIZERS = ", ".join(
    dict.fromkeys(name for presets in PRESETS.values() for p in presets.values() for name in p.recipes)
)


@dataclass
class RunOptions:
    """What a run depends on, and where it is carried out."""

    preset: Annotated[
        str,
        Option(
            help="small: minutes on two cores; study: about a minute on one, for comparisons, where a task "
            "has it; paper: the published settings and schedule."
        ),
    ] = "small"
    model: Annotated[str | None, Option(help="Model of the task; by default its first.")] = None
    epochs: Annotated[int | None, Option(min=1, help="Epochs per run; by default the preset's.")] = None
    batch_size: Annotated[
        int | None, Option(min=1, help="Examples per batch, over all devices; by default the preset's.")
    ] = None
    device: Annotated[str, Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    precision: Annotated[str, Option(help="32, or bf16 (autocast; parameters stay float32).")] = "32"
    threads: Annotated[
        int | None,
        Option(
            min=1,
            help="CPU threads of a run, which change its numbers by rounding at most; by default those it "
            "began with, else 1 beside other runs, else torch's choice.",
        ),
    ] = None
    devices: Annotated[
        int | None, Option(min=1, help="Devices (on CPU: processes) of one run; torchrun works too.")
    ] = None
    strategy: Annotated[
        str | None, Option(help="With several devices: ddp (the default) or fsdp (FSDP2).")
    ] = None
    workers: Annotated[
        int | None,
        Option(
            min=1,
            help="Runs at a time, each in a process; by default as many as have a core for each of their "
            "threads, or 1 on an accelerator.",
        ),
    ] = None
    ray: Annotated[
        str | None, Option(help="Run on the Ray cluster at this address, or local; --out must be shared.")
    ] = None
    out: Annotated[
        Path | None,
        Option(help="Folder for the results; by default a new runs/TASK-N, or with --resume the latest one."),
    ] = None
    resume: Annotated[
        bool,
        Option(
            "--resume",
            help="Go on in a folder that has results: finished runs are kept, killed ones continue; more "
            "--seeds, --optimizers or --epochs may be asked for.",
        ),
    ] = False
    limit_batches: Annotated[
        int | None,
        Option(min=1, help="Use only so many batches per epoch and per evaluation, for a quick trial."),
    ] = None
    tensorboard: Annotated[
        bool, Option("--tensorboard", help="Write each run's epochs for TensorBoard as they come.")
    ] = False
    keep_checkpoints: Annotated[
        bool,
        Option(
            "--keep-checkpoints",
            help="Keep the last checkpoints of finished runs, from which more --epochs can go on, even if "
            "those of all runs take more than 200 MB.",
        ),
    ] = False
    quiet: Annotated[bool, Option("--quiet", "-q", help="Print nothing but errors.")] = False

    def chosen(self, task: str) -> Preset:
        if is_plugin(TASKS, task):
            from aida_bench.tasks import presets_of

            presets = presets_of(task)
        else:
            presets = PRESETS[choose("task", task, PRESETS)]
        return presets[choose(f"preset for {task}", self.preset, presets)]

    def plan(self, task: str, specs: Sequence[OptimizerSpec], seeds: Sequence[int]) -> Plan:
        """Raises UserError for a name or a combination that does not exist."""
        from aida_bench.execution.plan import Plan

        preset = self.chosen(task)
        model = choose(f"model for {task}", self.model or preset.models[0], preset.models)
        devices = self.several()
        strategy = choose("strategy", self.strategy or "ddp", ("ddp", "fsdp")) if devices > 1 else None
        return Plan(
            task, self.preset, model, specs, seeds,
            epochs=self.epochs or preset.epochs, batch_size=self.batch_size or preset.batch_size,
            limit_batches=self.limit_batches, device=self.device, precision=self.precision,
            threads=self.threads, devices=devices, strategy=strategy,
        )  # fmt: skip

    def several(self) -> int:
        devices = self.devices or torchrun.devices_here() or 1
        if torchrun.devices_here() not in (None, devices):
            raise UserError(
                f"--devices {devices} is not torchrun's {torchrun.devices_here()} processes: leave it out."
            )
        if self.strategy and devices == 1:
            raise UserError(f"--strategy {self.strategy} needs several --devices, for example --devices 2.")
        if devices > 1 and (self.ray or (self.workers or 1) > 1):
            raise UserError("--devices divides one run, --workers and --ray carry out several: choose one.")
        return devices

    def where(self) -> ExecutionOptions:
        from aida_bench.execution.plan import ExecutionOptions

        for option, asked, package in (
            ("--tensorboard", self.tensorboard, "tensorboard"),
            ("--ray", self.ray, "ray"),
        ):
            if asked and find_spec(package) is None:
                raise UserError(f'{option} needs a package: pip install "aida-bench[{package}]".')
        return ExecutionOptions(self.workers, self.ray, self.tensorboard, self.keep_checkpoints)

    def folder(self, task: str) -> Path:
        if torchrun.launched() and self.out is None:
            raise UserError("--out is needed under torchrun, so that all processes write to one folder.")
        return results_folder(task, self.out, self.resume or torchrun.rank() > 0)


def with_run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of RunOptions, which reach it as its parameter `options`."""
    hints = get_type_hints(RunOptions, include_extras=True)
    own = inspect.signature(command, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    added = [
        inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name])
        for f in fields(RunOptions)
    ]
    kept = [parameter.replace(kind=keyword) for parameter in own if parameter.name != "options"]

    @wraps(command)
    def run(**given: Any) -> None:
        options = RunOptions(**{f.name: given.pop(f.name) for f in fields(RunOptions)})
        command(**given, options=options)

    run.__signature__ = inspect.Signature([*kept, *added])  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in [*kept, *added]}
    return run


def optimizer_specs(task: str, preset: Preset, names: Iterable[str], **settings: Any) -> list[OptimizerSpec]:
    """Each optimizer with its recipe, if it has one, and with `settings` in place of the recipe's. One's own,
    and on a task of one's own any that the library has, may be without: it has its own defaults."""
    from aida_bench.execution.plan import OptimizerSpec

    found, own_task = [], is_plugin(TASKS, task)
    for name in dict.fromkeys(names):
        if name not in preset.recipes and (own_task or is_plugin(OPTIMIZER_PLUGINS, name)):
            own: Mapping[str, Any] = {}
        else:
            own = preset.recipes[choose(f"optimizer for {task}", name, preset.recipes)].settings
        found.append(OptimizerSpec(name.replace(":", "."), name, {**own, **settings}))
    if not found:
        raise UserError(
            f"{task} has no optimizers of its own to compare: name some with --optimizers aida,adamw."
        )
    labels = [each.label for each in found]
    if twice := [each.optimizer for each in found if labels.count(each.label) > 1]:
        raise UserError(
            f"{' and '.join(twice)} would write to one folder: run them apart, each with an --out."
        )
    return found


def named(optimizers: str | None, preset: Preset) -> list[str]:
    if optimizers is None:
        return list(preset.optimizers)
    return list(preset.recipes) if optimizers == "all" else [name.strip() for name in optimizers.split(",")]


def results_folder(task: str, out: Path | None, resume: bool) -> Path:
    """The folder to write in: a new one of its own where none is named, or with `resume` the latest there is.

    Raises UserError for one with results, unless resumed, or with a name that torch cannot write to.
    """
    if out is None:
        numbers = {
            int(path.name.rsplit("-", 1)[1]): path
            for path in RUNS.glob(f"{task}-*")
            if path.name.rsplit("-", 1)[1].isdecimal()
        }
        # One that a refused command left empty is nothing to go on with.
        begun = [number for number, path in numbers.items() if any(path.glob("*/seed-*/config.json"))]
        if resume and begun:
            return numbers[max(begun)]
        number = max(numbers, default=0)
        while True:
            number += 1
            folder = RUNS / f"{task}-{number}"
            make_folder(folder.parent)
            with suppress(FileExistsError):  # another command has just made it
                folder.mkdir()
                return folder
    out = expand(out)
    try:
        os.fspath(out).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"--out {out} is not in UTF-8, as torch has it: choose another --out.") from error
    if file := next((path for path in (out, *out.parents) if path.is_file()), None):
        raise UserError(f"--out {out} cannot be a folder, since {file} is a file: choose another --out.")
    if not resume and out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: add --resume to go on with it, or choose another --out.")
    return out
