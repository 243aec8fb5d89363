"""CIFAR-100, with CIFAR-10's settings as in the paper."""

from __future__ import annotations

from aida_experiments.recipes.base import TaskRecipes
from aida_experiments.recipes.cifar10 import PRESETS

RECIPES = TaskRecipes("aida_experiments.tasks.cifar100:Cifar100", PRESETS)
