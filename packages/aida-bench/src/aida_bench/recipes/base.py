"""The forms that recipes have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Keyword arguments of an optimizer and where they come from."""

    settings: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class Preset:
    """What a task trains with unless told otherwise.

    `models`: names, the first by default; `recipes`: every optimizer that it can run; `optimizers`: those
    that are compared by default; `options`: further keyword arguments of the task's constructor.
    """

    models: tuple[str, ...]
    epochs: int
    batch_size: int
    seeds: int
    optimizers: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskRecipes:
    """`task` is "module:Class", imported when it is asked for; `presets` has at least "small" and "paper".

    A preset "study" costs 45 to 90 CPU seconds a run on one thread, its evaluations less than a fifth, and
    ends far from where learning is over; its epochs divide by three, so that a search can spend a third.
    """

    task: str
    presets: Mapping[str, Preset]


DEFAULT_OPTIMIZERS = ("sgd", "adamw", "adabelief", "ladam", "ladabelief", "aida")
