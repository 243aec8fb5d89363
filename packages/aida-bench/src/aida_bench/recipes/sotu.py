"""Language models on State of the Union addresses: all as on Penn Treebank, on text that may be passed on."""

from __future__ import annotations

from aida_bench.recipes.base import TaskRecipes
from aida_bench.recipes.lm import PRESETS

RECIPES = TaskRecipes("aida_bench.tasks.text.lm:Sotu", PRESETS)
