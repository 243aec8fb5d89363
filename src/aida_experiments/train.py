"""The one loop: (task, optimizer, seed) -> rows."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from math import isfinite
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from aida import create_optimizer
from aida.monitor import layer_stepsizes
from aida_experiments.runs import Row, Run, random_states, set_random_states
from aida_experiments.task import Task

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed"]] = {"32": "32-true", "bf16": "bf16-mixed"}
OnBatch = Callable[[int, int], None]
"""Called after each training batch with (epoch, batch), both 1-based."""


def make_fabric(device: str, precision: str) -> Fabric:
    """Lightning Fabric on one device. Raises ValueError or RuntimeError if there is no such device."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    accelerator, _, index = device.partition(":")
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    return Fabric(
        accelerator=accelerator, devices=[int(index)] if index else 1, precision=PRECISIONS[precision]
    )  # pyright: ignore[reportArgumentType]


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
) -> str:
    """Train to the end, from the run's last checkpoint if it has one; return "finished" or "diverged".

    The seed alone decides the initial model, the data order, the augmentation and the dropout, so runs of
    different optimizers with one seed are paired. A run diverges at the first epoch with a measure that is
    not finite.
    """
    if run.status:
        return run.status
    for seed_generator in (random.seed, np.random.seed, torch.manual_seed):
        seed_generator(seed)
    data_order = torch.Generator().manual_seed(seed)
    raw_model = task.build_model()
    raw_optimizer = create_optimizer(optimizer, raw_model, **settings)
    steps = task.batches_per_epoch()
    schedule = LambdaLR(raw_optimizer, lambda step: task.lr_factor(step, steps, epochs))
    model, wrapped = fabric.setup(raw_model, raw_optimizer)

    state = run.load()
    done = state["epoch"] if state else 0
    rows, timings = (run.rows(done), run.timings(done)) if state else ([], [])
    if state:
        raw_model.load_state_dict(state["model"])
        raw_optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        data_order.set_state(state["data_order"])
        set_random_states(state["random"])

    # A run that was killed between its last checkpoint and its status has no epoch left.
    diverged = bool(rows) and rows[-1]["kind"] == "diverged"
    for epoch in range(done + 1, 0 if diverged else epochs + 1):
        start, clock = time.perf_counter(), StepClock(fabric.device)
        lr = raw_optimizer.param_groups[0]["lr"]
        total = torch.zeros((), device=fabric.device)
        model.train()
        for batch_number, batch in enumerate(task.train_batches(data_order, fabric.device), 1):
            wrapped.zero_grad()
            loss = task.loss(model, batch)
            fabric.backward(loss)
            with clock:
                wrapped.step()
            schedule.step()
            total += loss.detach()
            on_batch(epoch, batch_number)
        train_loss = total.item() / steps
        trained = time.perf_counter() - start
        measures = {"train_loss": train_loss, **evaluate(task, model, fabric.device)}
        diverged = not all(map(isfinite, measures.values()))
        if diverged:
            rows.append({"kind": "diverged", "epoch": epoch, "lr": lr})
        else:
            rows.append({"kind": "epoch", "epoch": epoch, "lr": lr, **measures})
            rows += stepsize_rows(raw_optimizer, raw_model, epoch)
        timings.append({"epoch": epoch, "train_seconds": trained, "seconds": time.perf_counter() - start,
                        "step_ms": clock.median_ms})  # fmt: skip
        run.save(
            {
                "epoch": epoch,
                "model": raw_model.state_dict(),
                "optimizer": raw_optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "data_order": data_order.get_state(),
                "random": random_states(),
            },
            rows,
            timings,
        )
        if diverged:
            break
    status = "diverged" if diverged else "finished"
    run.finish(status)
    return status


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, device: torch.device) -> Row:
    """Measures of every split, named e.g. "validation_accuracy"."""
    model.eval()
    return {
        f"{split}_{measure}": value
        for split in task.splits
        for measure, value in task.evaluate(model, split, device).items()
    }


def stepsize_rows(optimizer: Optimizer, model: nn.Module, epoch: int) -> list[Row]:
    """Mean and standard deviation of the adaptive stepsize by weight tensor, numbered as in the paper."""
    weights = {name for name, parameter in model.named_parameters() if parameter.ndim >= 2}
    layers = [layer for layer in layer_stepsizes(optimizer, model) if layer["layer"] in weights]
    return [
        {"kind": "stepsize", "epoch": epoch, "layer": number, "parameter": layer["layer"],
         "numel": layer["numel"], "mean": layer["mean"], "std": layer["std"]}
        for number, layer in enumerate(layers, 1)
    ]  # fmt: skip


class StepClock:
    """Times optimizer steps; on an accelerator only every 16th, because timing waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps, self.times = device, 0, []
        self.every = 1 if device.type == "cpu" else 16

    def __enter__(self) -> None:
        self.timed = self.steps % self.every == 0
        self.steps += 1
        if self.timed:
            self.start = self._now()

    def __exit__(self, *_: object) -> None:
        if self.timed:
            self.times.append(self._now() - self.start)

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()

    @property
    def median_ms(self) -> float:
        return 1e3 * median(self.times)
