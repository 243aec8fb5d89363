"""The one loop: (task, optimizer, seed) -> rows."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from aida.monitor import finite, layer_stepsizes, watchable
from aida_bench.baselines import build_optimizer
from aida_bench.errors import UserError
from aida_bench.storage.files import Row
from aida_bench.storage.run import Run
from aida_bench.tasks.base import Batch, Task
from aida_bench.training.fabric import (
    all_random_states,
    get_states,
    separate_draws,
    set_own_random_states,
    set_states,
    share,
)
from aida_bench.training.step_timer import StepClock

NAMES = ("kind", "epoch", "lr", "optimizer", "seed", "label")
"""What an epoch's row has beside its measures, in a run's folder or in a comparison's rows."""
OnBatch = Callable[[int, int], None]
"""Called after each training batch with (epoch, batch), both 1-based."""
OnEpoch = Callable[[list[Row]], None]
"""Called with the rows there are at the start, then with each epoch's once they are kept."""


def train(
    task: Task,
    run: Run,
    *,
    fabric: Fabric,
    optimizer: str,
    settings: dict[str, Any],
    seed: int,
    epochs: int,
    on_batch: OnBatch = lambda epoch, batch: None,
    on_epoch: OnEpoch = lambda rows: None,
    keep: float = inf,
) -> str:
    """Train to the end, from the run's last checkpoint if it has one; return "finished" or "diverged".

    The seed alone decides the initial model, the data order, the augmentation and the dropout, so runs of
    different optimizers with one seed are paired. A run diverges at the first epoch with a measure that is
    not finite. Its last checkpoints stay if they take at most `keep` bytes.
    """
    if run.status:
        return run.status
    for seed_generator in (random.seed, np.random.seed, torch.manual_seed):
        seed_generator(seed)
    data_order = torch.Generator().manual_seed(seed)
    steps = task.batches_per_epoch()
    raw = task.build_model()
    separate_draws(fabric, seed)
    parts = {
        name: TrainedModule.build(fabric, raw.get_submodule(name), optimizer, settings, task.clip_norm)
        for name in task.parts
    }
    optimizers = [part.optimizer for part in parts.values()]
    schedule = Schedule(optimizers, lambda step: task.lr_factor(step, steps, epochs))
    model = parts[""].model if "" in parts else nn.ModuleDict({n: p.model for n, p in parts.items()})

    state = run.load()
    done = state["epoch"] if state else 0
    rows, timings = (state["rows"], state["timings"]) if state else ([], [])
    if run.longer:
        check_longer(task, run, done, epochs)
        if fabric.is_global_zero:
            run.extend()
    if state:
        if fabric.is_global_zero:
            run.write_rows(rows, timings)
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        schedule.set(state["batches"])
        data_order.set_state(state["data_order"])
        set_own_random_states(fabric, state["random"])
    kept = len(rows)
    on_epoch(rows)

    # A run that was killed between its last checkpoint and its status has no epoch left.
    diverged = bool(rows) and rows[-1]["kind"] == "diverged"
    for epoch in range(done + 1, 0 if diverged else epochs + 1):
        start, clock, losses = time.perf_counter(), StepClock(fabric.device), LossMeter()
        cpu_start = time.process_time()
        lr = learning_rate(task, optimizers[0])
        model.train()
        whole = task.train_batches(data_order, fabric.device)
        feed = TrainBatches(whole, fabric, schedule, partial(on_batch, epoch))
        for name, loss in task.losses(model, feed):
            weighted = loss if feed.weight == 1 else loss * feed.weight
            parts[name].step(weighted, clock)
            losses.add(f"train_{name}_loss" if name else "train_loss", weighted)
        measures = losses.read(fabric)
        trained = time.perf_counter() - start
        measures = evaluate(task, model, epoch, epochs, run, fabric.device, measures)
        diverged = not all(map(isfinite, measures.values()))
        if diverged:
            rows.append({"kind": "diverged", "epoch": epoch, "lr": lr})
        else:
            rows.append({"kind": "epoch", "epoch": epoch, "lr": lr, **measures})
            rows += stepsize_rows(parts, epoch)
        timings.append({"epoch": epoch, "batches": schedule.batches, "train_seconds": trained,
                        "seconds": time.perf_counter() - start,
                        "cpu_seconds": time.process_time() - cpu_start,
                        "step_ms": clock.median_ms})  # fmt: skip
        state = {
            "epoch": epoch,
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "batches": schedule.batches,
            "data_order": data_order.get_state(),
            "random": all_random_states(fabric),
        }
        if fabric.is_global_zero:
            run.save(state, rows, timings)
            on_epoch(rows[kept:])
        kept = len(rows)
        if diverged:
            break
    status = "diverged" if diverged else "finished"
    if fabric.is_global_zero:
        run.finish(status, keep)
    fabric.barrier()
    return status


def check_longer(task: Task, run: Run, done: int, epochs: int) -> None:
    """Raises UserError unless a run of `epochs` has the same first `done` epochs as the shorter one there."""
    shorter, steps = run.begun["epochs"], task.batches_per_epoch()
    if run.done and done < shorter - 1:
        raise UserError(
            f"{run.folder} has no checkpoint from which its {shorter} epochs can become {epochs} "
            f"(--keep-checkpoints keeps them): choose another folder."
        )
    for step in range(done * steps):
        if task.lr_factor(step, steps, shorter) != task.lr_factor(step, steps, epochs):
            raise UserError(
                f"{run.folder} cannot go on from {shorter} to {epochs} epochs: the learning rate of epoch "
                f"{step // steps + 1} is another in a run of {epochs}. Choose another folder."
            )


@dataclass(frozen=True)
class TrainedModule:
    """What one optimizer trains: the model, or one of several in it."""

    fabric: Fabric
    raw: nn.Module
    model: nn.Module
    optimizer: Optimizer
    clip_norm: float | None

    @classmethod
    def build(
        cls, fabric: Fabric, raw: nn.Module, optimizer: str, settings: dict[str, Any], clip: float | None
    ) -> TrainedModule:
        # Fabric shards parameters, so the optimizer is built of what they have become.
        model = fabric.setup_module(raw)
        return cls(fabric, raw, model, build_optimizer(optimizer, raw, **settings), clip)

    def step(self, loss: Tensor, clock: StepClock) -> None:
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.raw.parameters(), self.clip_norm)
        with clock:
            self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return get_states(self.fabric, self.raw, self.optimizer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_states(self.fabric, self.raw, self.optimizer, state)


class Schedule:
    """The learning rates after so many `batches` in all; of all optimizers, stepped at that batch or not."""

    def __init__(self, optimizers: Sequence[Optimizer], factor: Callable[[int], float]) -> None:
        self.factor = factor
        self.base = [(o, [group["lr"] for group in o.param_groups]) for o in optimizers]
        self.set(0)

    def set(self, batches: int) -> None:
        self.batches = batches
        for optimizer, rates in self.base:
            for group, lr in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = lr * self.factor(batches)


class TrainBatches:
    """One epoch's batches, each process's share of them; `weight` is the factor on the latest one's loss."""

    def __init__(
        self,
        whole: Iterable[Batch],
        fabric: Fabric,
        schedule: Schedule,
        on_batch: Callable[[int], None],
    ) -> None:
        self.whole, self.schedule, self.on_batch, self.weight = whole, schedule, on_batch, 1.0
        self.place = fabric.global_rank, fabric.world_size

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.whole, 1):
            mine, self.weight = share(batch, *self.place)
            yield mine
            self.schedule.set(self.schedule.batches + 1)
            self.on_batch(number)


class LossMeter:
    """LossMeter of losses by name; the device is waited for once, at the end."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, name: str, loss: Tensor) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + loss.detach()
        self.counts[name] += 1

    def read(self, fabric: Fabric) -> Row:
        """Over all processes."""
        sums: dict[str, Any] = {name: fabric.all_reduce(total) for name, total in self.sums.items()}
        return {name: total.item() / self.counts[name] for name, total in sums.items()}


@torch.no_grad()
def evaluate(
    task: Task, model: nn.Module, epoch: int, epochs: int, run: Run, device: torch.device, losses: Row
) -> Row:
    """The `losses`, measures of every split, named e.g. "validation_accuracy", and the task's own at an
    epoch's end. Raises UserError where two have one name."""
    model.eval()
    measures = dict(losses)
    for split in task.splits:
        method = f"evaluate({split!r})"
        found = numbers(task, method, task.evaluate(model, split, device))
        _add(measures, {f"{split}_{measure}": value for measure, value in found.items()}, task, method)
    own = task.end_epoch(model, epoch, epochs, run.folder, device) or {}
    _add(measures, numbers(task, "end_epoch", own), task, "end_epoch")
    return measures


def _add(measures: Row, more: Row, task: Task, method: str) -> None:
    for key, value in more.items():
        if key in measures or key in NAMES:
            raise UserError(
                f"{_told(task, method)} gives {key}, as something else in an epoch's row is called: give it "
                "another name."
            )
        measures[key] = value


def learning_rate(task: Task, optimizer: Optimizer) -> float:
    """Of its first group, as JSON has it. Raises UserError for one that is not finite."""
    lr = numbers(task, "lr_factor", {"lr": optimizer.param_groups[0]["lr"]})["lr"]
    if not isfinite(lr):
        raise UserError(f"{_told(task, 'lr_factor')} makes the learning rate {lr}: it must be finite.")
    return lr


def _told(task: Task, method: str) -> str:
    return f"{method} of the task {getattr(task, 'name', type(task).__name__)}"


def numbers(task: Task, method: str, measures: Any) -> Row:
    """Measures as JSON has them: one of numpy or torch becomes plain. Raises UserError for what is none."""
    told = _told(task, method)
    if not isinstance(measures, Mapping):
        raise UserError(f"{told} gives {measures!r:.80}: it must return a dictionary of numbers by name.")
    plain: Row = {}
    for key, value in measures.items():
        try:
            plain[key] = value if type(value) in (int, float) else float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{told} gives {key} {value!r:.80}: a measure must be one number.") from error
    return plain


def stepsize_rows(parts: Mapping[str, TrainedModule], epoch: int) -> list[Row]:
    """The monitor's measures of each weight tensor, numbered as in the paper; of one part after the other."""
    rows = []
    for name, part in parts.items():
        if not watchable(part.optimizer):
            continue
        for row in layer_stepsizes(part.optimizer, part.raw, select=lambda _, p: p.ndim >= 2):
            parameter = ".".join(filter(None, (name, row["parameter"])))
            rows.append(finite({**row, "epoch": epoch, "layer": len(rows) + 1, "parameter": parameter}))
    return rows
