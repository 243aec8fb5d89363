"""Language models on State of the Union addresses: all as on Penn Treebank, on text that may be passed on."""

from __future__ import annotations

from aida_experiments.recipes.base import TaskRecipes
from aida_experiments.recipes.lm import PRESETS

RECIPES = TaskRecipes("aida_experiments.tasks.lm:Sotu", PRESETS)
