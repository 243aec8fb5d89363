"""A GPT on the State of the Union addresses: a small one for minutes, and nanoGPT's settings."""

from __future__ import annotations

from typing import Any

from aida_bench.recipes.base import DEFAULT_OPTIMIZERS, Preset, Recipe, TaskRecipes

NANOGPT = "nanoGPT's train_shakespeare_char: lr 1e-3, betas (.9, .99), decay 0.1 of matrices alone"
ANALOGY = f"AdamW's settings there: {NANOGPT}; eps of the paper's Transformer"
OWN = "own choice, not tuned: nothing is published for this task"


def settings(lr: float, source: str, analogy: str, *, family_lr: float, eps: float) -> dict[str, Recipe]:
    """`lr` of Adam and the like; `family_lr` and `eps` of AdaBelief and of this library's family."""
    betas: dict[str, Any] = {"betas": (0.9, 0.99)}
    matrices: dict[str, Any] = {"no_decay": "norms_and_biases"}
    decay = {"weight_decay": 0.1, **matrices}
    adam = {"lr": lr, "eps": 1e-8, **betas}
    belief = {"lr": family_lr, "eps": eps, "decoupled_weight_decay": True, **betas, **decay}
    return {
        "sgd": Recipe({"lr": 0.1, "momentum": 0.9}, OWN),
        "adabound": Recipe({**adam, "final_lr": 0.1, "gamma": 1e-3, **matrices}, OWN),
        "yogi": Recipe({**adam, "eps": 1e-3, **matrices}, OWN),
        "radam": Recipe({**adam, **decay, "decoupled_weight_decay": True}, analogy),
        "msvag": Recipe({"lr": 0.1, **matrices}, OWN),
        "fromage": Recipe({"lr": 1e-2}, OWN),
        "adam": Recipe(adam, analogy),
        "adamw": Recipe({**adam, **decay}, source),
        **{name: Recipe(belief, analogy) for name in ("adamplus", "adabelief", "ladam", "ladabelief")},
        "laida": Recipe({**belief, "K": 2}, analogy),
        "aida-k1": Recipe({**belief, "K": 1}, analogy),
        "aida": Recipe({**belief, "K": 2}, analogy),
    }


TRIAL = (
    "own choice after unfinished trials of AdamW, lr 1e-3 to 1e-2, one seed; betas and decay are nanoGPT's"
)
LIKE = "own choice, not tuned: betas and decay as AdamW's"
SMALL = settings(3e-3, TRIAL, LIKE, family_lr=3e-3, eps=1e-12)
PUBLISHED = settings(1e-3, NANOGPT, ANALOGY, family_lr=1e-3, eps=1e-16)

MODELS = ("gpt", "gpt-wide")
MINUTE: dict[str, Any] = {
    "vocabulary": 1000, "context": 64, "address_length": 4000, "eval_length": 4000, "epoch_batches": 130
}  # fmt: skip
NANO: dict[str, Any] = {
    "vocabulary": 259, "context": 256, "dropout": 0.2, "warmup": 0.02, "lr_end": 0.1, "epoch_batches": 250
}  # fmt: skip
RECIPES = TaskRecipes(
    "aida_bench.tasks.text.gpt:SotuGpt",
    {
        "small": Preset(
            MODELS,
            9,
            24,
            1,
            DEFAULT_OPTIMIZERS,
            SMALL,
            {**MINUTE, "address_length": None, "epoch_batches": 400},
        ),
        "study": Preset(MODELS, 9, 24, 5, DEFAULT_OPTIMIZERS, SMALL, MINUTE),
        "paper": Preset(("gpt6",), 20, 64, 1, DEFAULT_OPTIMIZERS, PUBLISHED, NANO),
    },
)
