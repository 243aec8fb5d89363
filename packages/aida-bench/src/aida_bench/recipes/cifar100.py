"""CIFAR-100, with CIFAR-10's settings as in the paper."""

from __future__ import annotations

from aida_bench.recipes.base import TaskRecipes
from aida_bench.recipes.cifar10 import PRESETS

RECIPES = TaskRecipes("aida_bench.tasks.cifar100:Cifar100", PRESETS)
