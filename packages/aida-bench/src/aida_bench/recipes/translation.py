"""German-English: the paper's Transformer on Multi30k, and a small one on the sentences of a dictionary."""

from __future__ import annotations

from typing import Any

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, Recipe, TaskRecipes

PAPER = "arXiv 2203.13273: lr 2 * 512^-0.5 * min(n^-0.5, n * 128000^-1.5), betas (.9, .98), no weight decay"
ANALOGY = f"as there: {PAPER}"
OWN = "own choice, not tuned: nothing is published for this task"

WARMUP = 128_000
LR = 2 * 512**-0.5 * WARMUP**-0.5
"""The published schedule's highest rate; the task's factor is its form."""


def settings(lr: float, sgd_lr: float, published: str, analogy: str) -> dict[str, Recipe]:
    """eps 1e-16 for the paper's optimizers and the family, 1e-9 for Adam's."""
    common: dict[str, Any] = {"lr": lr, "betas": (0.9, 0.98)}
    belief, adam = {**common, "eps": 1e-16}, {**common, "eps": 1e-9}
    return {
        "sgd": Recipe({"lr": sgd_lr, "momentum": 0.9}, OWN),
        "adabound": Recipe({**adam, "final_lr": sgd_lr, "gamma": 1e-3}, OWN),
        "yogi": Recipe({**common, "eps": 1e-3}, OWN),
        "radam": Recipe(adam, analogy),
        "msvag": Recipe({"lr": sgd_lr}, OWN),
        "fromage": Recipe({"lr": 1e-2}, OWN),
        "adam": Recipe(adam, published),
        "adamw": Recipe({**adam, "weight_decay": 0.0}, analogy),
        "adamplus": Recipe(belief, analogy),
        "adabelief": Recipe(belief, published),
        **{name: Recipe(belief, analogy) for name in ("ladam", "ladabelief")},
        "laida": Recipe({**belief, "K": 2}, analogy),
        "aida-k1": Recipe({**belief, "K": 1}, published),
        "aida": Recipe({**belief, "K": 2}, published),
    }


TRIAL = "own choice, not tuned: the paper's betas and eps; Aida's run at this lr beats the copied sources"
SMALL = {"corpus": "de-en", "vocabulary": 6000, "dim": 128, "inner": 512, "heads": 4, "warmup": 1000}
BASE = {"corpus": "multi30k", "vocabulary": 10_000, "dim": 512, "inner": 2048, "heads": 8, "warmup": WARMUP}
RECIPES = TaskRecipes(
    "aida_bench.tasks.text.translation:Translation",
    {
        "small": Preset(
            ("transformer2",), 15, 64, 1, DEFAULT_OPTIMIZERS, settings(1e-3, 0.3, TRIAL, TRIAL), SMALL
        ),
        "paper": Preset(
            ("transformer6",), 400, 200, 1, DEFAULT_OPTIMIZERS, settings(LR, 0.1, PAPER, ANALOGY), BASE
        ),
    },
)
