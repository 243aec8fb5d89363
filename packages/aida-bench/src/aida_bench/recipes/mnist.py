"""MNIST: minutes on two cores."""

from __future__ import annotations

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, TaskRecipes
from aida_bench.recipes.cifar_settings import CIFAR

MODELS = ("cnn",)
RECIPES = TaskRecipes(
    "aida_bench.tasks.mnist:Mnist",
    {
        "small": Preset(MODELS, 3, 128, 1, DEFAULT_OPTIMIZERS, CIFAR),
        # The papers have no MNIST: their protocol for CIFAR, drops at 1/2 and 4/5 included.
        "paper": Preset(MODELS, 200, 128, 3, DEFAULT_OPTIMIZERS, CIFAR),
    },
)
