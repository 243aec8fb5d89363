"""Settings as data: what each task trains with, and every optimizer's settings with their source.

Nothing here needs torch, so names are checked before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Keyword arguments of an optimizer and where they come from."""

    settings: Mapping[str, Any]
    source: str


@dataclass(frozen=True)
class Preset:
    """A task's defaults; `recipes` has every optimizer that it can run, `optimizers` the default ones."""

    models: tuple[str, ...]
    epochs: int
    batch_size: int
    seeds: int
    optimizers: tuple[str, ...]
    recipes: Mapping[str, Recipe]
    published: bool = False
    """Whether the task has the paper's own split and schedule to offer."""


COMMON = {"weight_decay": 5e-4}
SWEEP = (
    "highest mean over three seeds of the best validation accuracy (of equals, the lower validation loss) "
    "among lr 1e-3, 3e-3, 1e-2, 3e-2 (sgd: and 1e-1, 3e-1); each by "
    "`aida compare digits --optimizers all --lr LR --first-seed 100`"
)


def swept(lr: float, **settings: Any) -> Recipe:
    return Recipe({"lr": lr, **COMMON, **settings}, SWEEP)


DIGITS = {
    "sgd": swept(1e-1, momentum=0.9),
    "adam": swept(1e-2),
    "adamw": swept(1e-2, weight_decay=1e-2),
    "adamplus": swept(1e-2),
    "adabelief": swept(1e-2),
    "ladam": swept(1e-2),
    "ladabelief": swept(1e-2),
    "laida": swept(3e-3),
    "aida": swept(3e-3),
}

PAPER = "arXiv 2203.13273 and its authors' code"
ADABELIEF = "AdaBelief's code (arXiv 2010.07468), the comparison's origin"
AS_ADABELIEF = "AdaBelief's settings on CIFAR-10: the same stepsize cap and learning rate"

CIFAR10 = {
    "sgd": Recipe({"lr": 1e-1, "momentum": 0.9, **COMMON}, ADABELIEF),
    "adam": Recipe({"lr": 1e-3, "eps": 1e-8, **COMMON}, ADABELIEF),
    "adamw": Recipe({"lr": 1e-3, "eps": 1e-8, "weight_decay": 1e-2}, ADABELIEF),
    "adamplus": Recipe({"lr": 1e-3, "eps": 1e-8, **COMMON}, AS_ADABELIEF),
    "adabelief": Recipe({"lr": 1e-3, "eps": 1e-8, **COMMON}, ADABELIEF),
    "ladam": Recipe({"lr": 1e-3, "eps": 1e-8, **COMMON}, PAPER),
    "ladabelief": Recipe({"lr": 1e-3, "eps": 1e-8, **COMMON}, PAPER),
    "laida": Recipe({"lr": 1e-3, "eps": 1e-8, "K": 2, "xi": 1e-20, **COMMON}, AS_ADABELIEF),
    "aida": Recipe({"lr": 1e-3, "eps": 1e-8, "K": 2, "xi": 1e-20, **COMMON}, PAPER),
}

DEFAULT = ("sgd", "adamw", "adabelief", "ladam", "ladabelief", "aida")

PRESETS = {
    "digits": Preset(("cnn",), 20, 64, 3, DEFAULT, DIGITS),
    "cifar10": Preset(("vgg11", "resnet34"), 200, 128, 1, DEFAULT, CIFAR10, published=True),
}
