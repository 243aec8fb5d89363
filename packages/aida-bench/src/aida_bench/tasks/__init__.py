"""The tasks by name. A task's module is imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module

from aida_bench.recipes import TASKS
from aida_bench.tasks.base import Task

__all__ = ["TASKS", "create_task"]


def create_task(name: str, **options: object) -> Task:
    """Build the task `name`; `options` are its constructor's (model, batch_size, limit_batches, …)."""
    module, _, cls = TASKS[name].task.partition(":")
    return getattr(import_module(module), cls)(**options)
