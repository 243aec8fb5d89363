"""ImageNet with ResNet18: AdaBelief's protocol, and a short one for a folder of a few thousand images."""

from __future__ import annotations

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, Recipe, TaskRecipes

PAPER = "AdaBelief's code for ImageNet (arXiv 2010.07468): lr 1e-3, decoupled weight decay 1e-2"
ANALOGY = f"as there: {PAPER}"
OWN = "the usual SGD for ImageNet (lr 0.1, momentum 0.9, weight decay 1e-4); AdaBelief's schedule"
CIFAR = "AdaBelief's code for CIFAR, with the weight decay of SGD; no published setting on ImageNet"

_DECOUPLED = {"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-2, "decoupled_weight_decay": True}
_AIDA = {**_DECOUPLED, "xi": 1e-20}
SETTINGS = {
    "sgd": Recipe({"lr": 1e-1, "momentum": 0.9, "weight_decay": 1e-4}, OWN),
    "adabound": Recipe({"lr": 1e-3, "final_lr": 0.1, "gamma": 1e-3, "weight_decay": 1e-4}, CIFAR),
    "yogi": Recipe({"lr": 1e-3, "eps": 1e-3, "weight_decay": 1e-4}, CIFAR),
    "radam": Recipe(_DECOUPLED, ANALOGY),
    "msvag": Recipe({"lr": 1e-1, "weight_decay": 1e-4}, CIFAR),
    "fromage": Recipe({"lr": 1e-2}, CIFAR),
    "adam": Recipe({"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-4}, CIFAR),
    "adamw": Recipe({"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-2}, ANALOGY),
    **{name: Recipe(_DECOUPLED, ANALOGY) for name in ("adamplus", "ladam", "ladabelief")},
    "adabelief": Recipe(_DECOUPLED, PAPER),
    "laida": Recipe({**_AIDA, "K": 2}, ANALOGY),
    "aida-k1": Recipe({**_AIDA, "K": 1}, ANALOGY),
    "aida": Recipe({**_AIDA, "K": 2}, PAPER),
}
RECIPES = TaskRecipes(
    "aida_bench.tasks.imagenet:ImageNet",
    {
        "small": Preset(("resnet18",), 3, 64, 1, DEFAULT_OPTIMIZERS, SETTINGS, {"size": 64}),
        "paper": Preset(("resnet18",), 90, 256, 1, DEFAULT_OPTIMIZERS, SETTINGS),
    },
)
