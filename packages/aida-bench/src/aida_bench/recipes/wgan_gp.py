"""WGAN-GP: AdaBelief's protocol for CIFAR-10 at 64x64, and digits at 32x32 in minutes."""

from __future__ import annotations

from typing import Any

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, Recipe, TaskRecipes

ADABELIEF = "AdaBelief's code for WGAN-GP (arXiv 2010.07468), as its script runs AdaBelief"
DEFAULTS = "AdaBelief's code for WGAN-GP, its options' defaults: what it ran this one with is not stated"
AIDA = "arXiv 2203.13273, whose WGAN-GP follows AdaBelief's code: AdaBelief's settings there"
ANALOGY = f"as there: {ADABELIEF}"

_BELIEF: dict[str, Any] = {"lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-12}
_ADAM = {**_BELIEF, "eps": 1e-8}
PUBLISHED = {
    "sgd": Recipe({"lr": 2e-4}, DEFAULTS),
    "adabound": Recipe({**_ADAM, "final_lr": 1e-2, "gamma": 1e-3}, DEFAULTS),
    "yogi": Recipe(_ADAM, DEFAULTS),
    "radam": Recipe(_ADAM, DEFAULTS),
    "msvag": Recipe({"lr": 2e-4, "beta": 0.5}, DEFAULTS),
    "fromage": Recipe({"lr": 2e-4}, DEFAULTS),
    "adam": Recipe(_ADAM, DEFAULTS),
    "adamw": Recipe({**_ADAM, "weight_decay": 1e-2}, DEFAULTS),
    "adabelief": Recipe(_BELIEF, ADABELIEF),
    **{name: Recipe(_BELIEF, ANALOGY) for name in ("adamplus", "ladam", "ladabelief")},
    "laida": Recipe({**_BELIEF, "K": 2, "xi": 1e-20}, ANALOGY),
    "aida-k1": Recipe({**_BELIEF, "K": 1, "xi": 1e-20}, AIDA),
    "aida": Recipe({**_BELIEF, "K": 2, "xi": 1e-20}, AIDA),
}

OWN = "own choice, not tuned: nothing is published for this task"
LIKE = "own choice, not tuned: lr as for aida"
TRIAL = (
    "of lr 5e-4 and 2e-3 the lower validation distance after an epoch (256, 48), one seed; else as published"
)

_SMALL = {**_BELIEF, "lr": 2e-3}
_SMALL_ADAM = {**_SMALL, "eps": 1e-8}
SMALL = {
    "sgd": Recipe({"lr": 1e-2, "momentum": 0.5}, OWN),
    "adabound": Recipe({**_SMALL_ADAM, "final_lr": 1e-2, "gamma": 1e-3}, LIKE),
    "yogi": Recipe({**_SMALL, "eps": 1e-3}, LIKE),
    "radam": Recipe(_SMALL_ADAM, LIKE),
    "msvag": Recipe({"lr": 1e-2, "beta": 0.5}, OWN),
    "fromage": Recipe({"lr": 1e-2}, OWN),
    "adam": Recipe(_SMALL_ADAM, LIKE),
    "adamw": Recipe({**_SMALL_ADAM, "weight_decay": 1e-2}, LIKE),
    **{name: Recipe(_SMALL, LIKE) for name in ("adamplus", "adabelief", "ladam", "ladabelief")},
    "laida": Recipe({**_SMALL, "K": 2, "xi": 1e-20}, LIKE),
    "aida-k1": Recipe({**_SMALL, "K": 1, "xi": 1e-20}, LIKE),
    "aida": Recipe({**_SMALL, "K": 2, "xi": 1e-20}, TRIAL),
}
MODELS = ("dcgan",)
DIGITS: dict[str, Any] = {"data": "mnist", "size": 32, "width": 16}
MINUTE: dict[str, Any] = {**DIGITS, "epoch_batches": 240, "distance_every": 3}
PAPER: dict[str, Any] = {
    "data": "cifar10", "size": 64, "width": 64, "published": True, "samples": 64_000, "distance_every": 100
}  # fmt: skip
RECIPES = TaskRecipes(
    "aida_bench.tasks.wgan_gp:WganGp",
    {
        "small": Preset(MODELS, 8, 64, 1, DEFAULT_OPTIMIZERS, SMALL, DIGITS),
        "study": Preset(MODELS, 6, 64, 5, DEFAULT_OPTIMIZERS, SMALL, MINUTE),
        "paper": Preset(
            MODELS, 100, 64, 5, DEFAULT_OPTIMIZERS, PUBLISHED, {**PAPER, "extractor": "inception"}
        ),
        # Where Inception's weights are unavailable: the measure says so by its name.
        "paper-classifier": Preset(MODELS, 100, 64, 5, DEFAULT_OPTIMIZERS, PUBLISHED, PAPER),
    },
)
