"""Language models: AWD-LSTM on Penn Treebank as AdaBelief's code trains it, and a small one for minutes."""

from __future__ import annotations

from typing import Any

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, Recipe, TaskRecipes

ADABELIEF = "AdaBelief's code for LSTMs (arXiv 2010.07468), weight decay 1.2e-6 for all"
ANALOGY = f"AdaBelief's settings there: {ADABELIEF}"
FINAL = f"{ADABELIEF}; AdaBound's own final_lr and gamma"
FROMAGE = "AdaBelief's code for CIFAR; it has no run of Fromage on LSTMs"
OWN = "own choice, not tuned: the published lr for three layers, or what a short trial took"

DECAY = {"weight_decay": 1.2e-6}


def published(lr: float, eps: float, adam_eps: float) -> dict[str, Recipe]:
    """`lr` and `eps` of AdaBelief (and of this library's family), `adam_eps` of Adam, AdamW and RAdam."""
    belief, adam = {"lr": lr, "eps": eps, **DECAY}, {"lr": lr, "eps": adam_eps, **DECAY}
    return {
        "sgd": Recipe({"lr": 30.0, **DECAY}, ADABELIEF),
        "adabound": Recipe({"lr": 1e-2, "eps": 1e-8, "final_lr": 0.1, "gamma": 1e-3, **DECAY}, FINAL),
        "yogi": Recipe({"lr": 1e-2, "eps": 1e-3, **DECAY}, ADABELIEF),
        "radam": Recipe({**adam, "decoupled_weight_decay": True}, ADABELIEF),
        "msvag": Recipe({"lr": 30.0, **DECAY}, ADABELIEF),
        "fromage": Recipe({"lr": 1e-2}, FROMAGE),
        "adam": Recipe(adam, ADABELIEF),
        "adamw": Recipe(adam, ADABELIEF),
        "adabelief": Recipe(belief, ADABELIEF),
        **{name: Recipe(belief, ANALOGY) for name in ("adamplus", "ladam", "ladabelief")},
        "laida": Recipe({**belief, "K": 2, "xi": 1e-20}, ANALOGY),
        "aida-k1": Recipe({**belief, "K": 1, "xi": 1e-20}, ANALOGY),
        "aida": Recipe({**belief, "K": 2, "xi": 1e-20}, ANALOGY),
    }


LOWEST = "lowest validation loss after 160 batches, seed 100"
AIDA = (
    f"{LOWEST}, among eps 1e-8 lr 1e-1; 1e-9, 3e-2; 1e-10, 3e-3 to 3e-2; 1e-12, 1e-3 and 3e-3; 1e-16, 3e-4 "
    "and 1e-3; `aida sweep lm --limit-batches 160 --epochs 1 --first-seed 100 --grid eps=EPS lr=LR`"
)
CAPPED = "as Aida: at this eps all their stepsizes lie close to the cap, where the family is one"
CAP = {"lr": 1e-1, "eps": 1e-8}
SMALL = {
    "sgd": Recipe({"lr": 20.0}, OWN),
    "adabound": Recipe({"lr": 3e-3, "final_lr": 1.0, "gamma": 1e-3}, OWN),
    "yogi": Recipe({"lr": 1e-2, "eps": 1e-3}, OWN),
    "radam": Recipe({"lr": 3e-3}, OWN),
    "msvag": Recipe({"lr": 20.0}, OWN),
    "fromage": Recipe({"lr": 1e-2}, OWN),
    **{name: Recipe({"lr": 3e-3}, OWN) for name in ("adam", "adamw")},
    **{name: Recipe(CAP, CAPPED) for name in ("adamplus", "adabelief", "ladam", "ladabelief", "laida")},
    "aida-k1": Recipe({**CAP, "K": 1}, CAPPED),
    "aida": Recipe(CAP, AIDA),
}

AWD_LSTM = {
    "embedding": 400, "hidden": 1150, "bptt": 70, "clip_norm": 0.25, "lr_drops": (0.5, 0.725),
    "dropouts": (0.1, 0.4, 0.25, 0.4, 0.5), "activity": 2.0, "change": 1.0,
}  # fmt: skip
"""Dropouts of words, input, between layers, output and weights; lr falls at epochs 100 and 145 of 200."""
MINUTES: dict[str, Any] = {
    "embedding": 200, "hidden": 200, "bptt": 35, "clip_norm": 0.25, "dropouts": (0.0, 0.2, 0.2, 0.2, 0.0)
}  # fmt: skip
MINUTE: dict[str, Any] = {
    "embedding": 128, "hidden": 128, "bptt": 35, "clip_norm": 0.25, "dropouts": (0.0, 0.1, 0.1, 0.1),
    "lr_drops": (0.5, 0.8), "epoch_batches": 120, "eval_pieces": 50,
}  # fmt: skip
"""About a minute on one core: 504,000 words in all, and the first 17,500 of each text that is evaluated."""

ONE_LAYER, MORE_LAYERS = published(1e-3, 1e-16, 1e-12), published(1e-2, 1e-12, 1e-8)
PRESETS = {
    "small": Preset(("lstm2", "lstm1", "lstm3"), 3, 20, 1, DEFAULT_OPTIMIZERS, SMALL, MINUTES),
    "study": Preset(("lstm1", "lstm2"), 6, 20, 5, DEFAULT_OPTIMIZERS, SMALL, MINUTE),
    "paper": Preset(("lstm3", "lstm2"), 200, 20, 1, DEFAULT_OPTIMIZERS, MORE_LAYERS, AWD_LSTM),
    "paper-1-layer": Preset(("lstm1",), 200, 20, 1, DEFAULT_OPTIMIZERS, ONE_LAYER, AWD_LSTM),
}
RECIPES = TaskRecipes("aida_bench.tasks.text.lm:Lm", PRESETS)
