"""Settings for CIFAR that several image tasks share, from the papers and their authors' code."""

from __future__ import annotations

from aida_bench.recipes.base import Recipe

AIDA = "arXiv 2203.13273 and its authors' code"
ADABELIEF = "AdaBelief's code (arXiv 2010.07468), the comparison's origin"
ANALOGY = "AdaBelief's settings on CIFAR-10: the same stepsize cap and learning rate"
FINAL = f"{ADABELIEF}; AdaBound's own final_lr and gamma"
NO_DECAY = f"{ADABELIEF}; Fromage keeps norms by itself and has no weight decay"
DECOUPLED = f"{ADABELIEF}, whose RAdam decays decoupled"

_ADAM = {"lr": 1e-3, "eps": 1e-8, "weight_decay": 5e-4}
_AIDA = {**_ADAM, "xi": 1e-20}

CIFAR = {
    "sgd": Recipe({"lr": 1e-1, "momentum": 0.9, "weight_decay": 5e-4}, ADABELIEF),
    "adabound": Recipe({**_ADAM, "final_lr": 0.1, "gamma": 1e-3}, FINAL),
    "yogi": Recipe({**_ADAM, "eps": 1e-3}, ADABELIEF),
    "radam": Recipe({**_ADAM, "decoupled_weight_decay": True}, DECOUPLED),
    "msvag": Recipe({"lr": 1e-1, "weight_decay": 5e-4}, ADABELIEF),
    "fromage": Recipe({"lr": 1e-2}, NO_DECAY),
    "adam": Recipe(_ADAM, ADABELIEF),
    "adamw": Recipe({**_ADAM, "weight_decay": 1e-2}, ADABELIEF),
    "adamplus": Recipe(_ADAM, ANALOGY),
    "adabelief": Recipe(_ADAM, ADABELIEF),
    "ladam": Recipe(_ADAM, AIDA),
    "ladabelief": Recipe(_ADAM, AIDA),
    "laida": Recipe({**_AIDA, "K": 2}, ANALOGY),
    "aida-k1": Recipe({**_AIDA, "K": 1}, AIDA),
    "aida": Recipe({**_AIDA, "K": 2}, AIDA),
}
