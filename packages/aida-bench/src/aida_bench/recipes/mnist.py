"""MNIST: minutes on two cores.

`study` adds noise to the images, so that a run of a CPU minute ends far from what can be learnt.
"""

from __future__ import annotations

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, TaskRecipes
from aida_bench.recipes.cifar_settings import CIFAR

MODELS = ("cnn",)
RECIPES = TaskRecipes(
    "aida_bench.tasks.mnist:Mnist",
    {
        "small": Preset(MODELS, 3, 128, 1, DEFAULT_OPTIMIZERS, CIFAR),
        "study": Preset(MODELS, 9, 128, 5, DEFAULT_OPTIMIZERS, CIFAR, {"noise": 0.75, "epoch_batches": 240}),
        # The papers have no MNIST: their protocol for CIFAR, drops at 1/2 and 4/5 included.
        "paper": Preset(MODELS, 200, 128, 3, DEFAULT_OPTIMIZERS, CIFAR),
    },
)
