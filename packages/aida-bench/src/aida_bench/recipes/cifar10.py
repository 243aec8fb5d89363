"""CIFAR-10: the paper's protocol, and a network small enough for two cores."""

from __future__ import annotations

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, TaskRecipes
from aida_bench.recipes.cifar_settings import CIFAR

MODELS = ("vgg11", "resnet34", "densenet121", "cnn")
PRESETS = {
    "small": Preset(("cnn", *MODELS[:3]), 10, 128, 1, DEFAULT_OPTIMIZERS, CIFAR),
    "study": Preset(("cnn", "vgg11-quarter"), 6, 128, 5, DEFAULT_OPTIMIZERS, CIFAR, {"epoch_batches": 150}),
    "paper": Preset(MODELS, 200, 128, 3, DEFAULT_OPTIMIZERS, CIFAR, {"published": True}),
}
RECIPES = TaskRecipes("aida_bench.tasks.cifar10:Cifar10", PRESETS)
