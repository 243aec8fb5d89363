"""The tasks by name. A task's module is imported only when it is asked for.

A name is one of TASKS, or stands for a class with the Task protocol from outside the package: an import path
such as "mypackage.tasks:MyTask", or an entry point of the group "aida_bench.tasks". Its attribute `presets`
(name to recipes.Preset), if it has one, holds what it trains with unless told otherwise, and `higher` the
names of those of its own measures of which more is better.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from aida_bench import plugins
from aida_bench.errors import UserError, choose
from aida_bench.recipes import TASKS, Preset
from aida_bench.tasks.base import Task

__all__ = ["TASKS", "create_task", "has_presets", "presets_of"]

_plain = Preset(("default",), epochs=1, batch_size=64, seeds=1, optimizers=(), recipes={})
PLAIN = {"small": _plain, "study": _plain}
"""Of a class without presets: `model` is "default" unless told otherwise, and every optimizer that is named
has its own defaults."""


def create_task(name: str, **options: object) -> Task:
    """Build the task `name`; `options` are its constructor's (model, batch_size, limit_batches, …). Raises
    UserError for one whose parts or splits are no lists of words."""
    task = _task_class(name)(**options)
    for key in ("parts", "splits"):
        _words(name, key, getattr(task, key, None))
    return task


def presets_of(name: str) -> Mapping[str, Preset]:
    """A task's presets by name. Raises UserError for a task that does not exist, or has none that fit."""
    if name in TASKS:
        return TASKS[name].presets
    found = getattr(_task_class(name), "presets", PLAIN)
    if not isinstance(found, Mapping) or not all(isinstance(p, Preset) and p.models for p in found.values()):
        raise UserError(
            f"presets of {name} are {found!r:.80}: write a dictionary of aida_bench.recipes.Preset by name, "
            "each with a model or more."
        )
    return found


def higher_of(name: str) -> dict[str, list[str]]:
    """What a run's configuration says of the measures of which more is better, where its task says it."""
    if name in TASKS:
        return {}
    found = getattr(_task_class(name), "higher", ())
    return {"higher": [found] if isinstance(found, str) else _words(name, "higher", found)} if found else {}


def splits_of(name: str) -> tuple[str, ...]:
    """The splits of a task of one's own as its class has them; none where only its objects do."""
    found = () if name in TASKS else getattr(_task_class(name), "splits", ())
    return tuple(_words(name, "splits", found)) if isinstance(found, Collection) else ()


def _words(name: str, key: str, found: Any) -> list[str]:
    """Raises UserError for what is no list of words, such as one word, of which each letter would count."""
    words = found if isinstance(found, Collection) and not isinstance(found, str) else [None]
    if all(isinstance(each, str) for each in words):
        return list(words)
    one = f'("{found}",)' if isinstance(found, str) else '("test",)'
    raise UserError(f"{key} of {name} is {found!r:.80}, no tuple of words: write {one}, with its comma.")


def has_presets(name: str) -> bool:
    """Whether a task says which models it has."""
    return presets_of(name) is not PLAIN


def _task_class(name: str) -> Any:
    if name not in TASKS and plugins.is_plugin(plugins.TASKS, name):
        found = plugins.load_plugin(plugins.TASKS, name)
        if not callable(found):
            raise UserError(f"{name} is {found!r:.80}, which makes no task: name its class.")
        return found
    module, _, cls = TASKS[choose("task", name, TASKS)].task.partition(":")
    return getattr(import_module(module), cls)
