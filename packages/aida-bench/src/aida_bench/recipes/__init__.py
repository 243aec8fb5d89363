"""Settings as data: what each task trains with, and every optimizer's settings with their source.

A task is one module here, found by its name (wgan_gp.py is "wgan-gp"), with a constant RECIPES. Nothing here
needs torch, so names are checked before anything heavy is loaded.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from aida_bench.recipes.base import Preset, Recipe, TaskRecipes

__all__ = ["PRESETS", "TASKS", "Preset", "Recipe", "TaskRecipes"]

_FIRST = ("digits", "mnist", "cifar10", "cifar100", "imagenet")
_modules = {info.name: import_module(f"{__name__}.{info.name}") for info in iter_modules(__path__)}
_order = sorted(_modules, key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name))

TASKS: dict[str, TaskRecipes] = {
    name.replace("_", "-"): _modules[name].RECIPES for name in _order if hasattr(_modules[name], "RECIPES")
}
PRESETS = {name: recipes.presets for name, recipes in TASKS.items()}
