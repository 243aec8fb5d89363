"""Optimizers and tasks from outside the package that go wrong, or that start processes of their own."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from filelock import FileLock
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aida_bench.errors import UserError
from aida_bench.execution.job import Job
from helpers.bench.runs import CONFIG

HERE = "helpers.bench.faulty"


def line(folder: Path, optimizer: str = "sgd", task: str = "Line", seed: int = 0) -> Job:
    """A run of two epochs of two batches, of a task and an optimizer of this file or any other optimizer."""
    name = f"{HERE}:{optimizer}" if optimizer in globals() else optimizer
    own = {"task": f"{HERE}:{task}", "model": "default", "optimizer": name, "settings": {"lr": 0.1}}
    run = {**CONFIG, **own, "seed": seed, "epochs": 2, "limit_batches": None}
    return Job(folder / f"{task} {optimizer}" / f"seed-{seed}", run)


class Line:
    """A line through points, as small as a task can be."""

    name, parts, splits, clip_norm = "line", ("",), ("validation",), None

    def __init__(self, *, model, batch_size, limit_batches):
        self.x = torch.linspace(-1, 1, 8)[:, None]

    def build_model(self):
        return nn.Linear(1, 1)

    def batches_per_epoch(self):
        return 2

    def train_batches(self, generator, device):
        yield from self.x[torch.randperm(8, generator=generator)].split(4)

    def losses(self, model, batches):
        yield from (("", (model(x) - x).square().mean()) for x in batches)

    def evaluate(self, model, split, device):
        return {"loss": (model(self.x) - self.x).square().mean().item()}

    def end_epoch(self, *_):
        return {}

    def lr_factor(self, step, steps_per_epoch, epochs):
        return 1.0


class Untold(Line):
    """Its objects, and not its class, say what is evaluated: no validation split."""

    splits: tuple[str, ...] = ()

    def __init__(self, **options):
        super().__init__(**options)
        self.splits = ("test",)


class Tested(Line):
    splits = ("test",)


class Loaded(Line):
    """Its batches come from a process of its own."""

    def train_batches(self, generator, device):
        loader = DataLoader(
            TensorDataset(self.x), batch_size=4, shuffle=True, generator=generator, num_workers=1
        )
        yield from (x for (x,) in loader)


class Holding(Line):
    """Starts a process that never ends by itself and holds the lock AIDA_TEST_LOCK."""

    def train_batches(self, generator, device):
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        context.Process(target=hold, args=(there, os.environ["AIDA_TEST_LOCK"])).start()
        here.recv()
        yield from super().train_batches(generator, device)


def hold(pipe, path):
    with FileLock(path):
        pipe.send("held")
        while True:
            multiprocessing.Event().wait()


class Without(Line):
    """Needs something that is not there."""

    def __init__(self, **options):
        raise UserError("no points: draw some.")


class Sick(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("sick at its step\nand more")


class Leaving(torch.optim.SGD):
    def step(self, closure=None):
        sys.exit(0)


class Unpicklable(torch.optim.SGD):
    def step(self, closure=None):
        raise type("Local", (Exception,), {})("of a class that no other process has")


class Full(torch.optim.SGD):
    def step(self, closure=None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "rows.jsonl")


class Refusing(torch.optim.SGD):
    def __init__(self, params, **settings):
        raise KeyError("lr")


class Going(torch.optim.SGD):
    def __init__(self, params, **settings):
        sys.exit(0)


class Rateless(torch.optim.Optimizer):
    def __init__(self, params, **settings):
        super().__init__(params, {"step_size": 0.1})


class Relative(torch.optim.SGD):
    """Its steps have sizes of their own, as Adafactor's may."""

    def __init__(self, params, **settings):
        super().__init__(params, lr=0.1)
        self.param_groups[0]["lr"] = None


def nothing(params, **settings):
    return None
