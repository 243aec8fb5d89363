"""The tasks by name. A task's module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

from aida_experiments.task import Task

TASKS = {
    "digits": "aida_experiments.tasks.digits:Digits",
    "cifar10": "aida_experiments.tasks.cifar10:Cifar10",
}


def create_task(name: str, **options: object) -> Task:
    """Build the task `name`; `options` are its constructor's (model, batch_size, limit_batches, …)."""
    module, _, cls = TASKS[name].partition(":")
    return getattr(import_module(module), cls)(**options)
