"""Settings by task or kind of model, as keyword arguments for a member, each with its source."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

_DEFAULTS = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
_DECOUPLED = {**_DEFAULTS, "decoupled_weight_decay": True}
_AUTHORS = "the authors' code of arXiv 2203.13273, for"
_ADABELIEF = "the code of AdaBelief (arXiv 2010.07468), which arXiv 2203.13273 follows, for"
_UNMEASURED = "not measured with this library"
_STUDY = "docs/results/study, Aida K=2 tuned on"


class Presets(Mapping[str, dict[str, Any]]):
    """Settings by task or kind of model, as keyword arguments for a member.

    Each look-up gives a dict of its own. A call gives it with some of your own in their place; `source(name)`
    says where they are from, and where nothing was measured says that. Of the paper's tasks: "cifar",
    "transformer", "lstm-1" to "lstm-3" (layers), "wgan-gp", "imagenet". To begin with: "llm", "vit", "cnn",
    "lstm", "rl". Schedules, warm-up and clipping are the task's, not the optimizer's. "llm", "lstm" and "cnn"
    are what the study chose for Aida on models of less than three million weights, in runs of a minute: on
    another model tune lr again. Raises KeyError for a name that is not there, with those that are.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters(), **aida.presets["cifar"])
        >>> optimizer = aida.Aida(model.parameters(), **aida.presets("cifar", lr=3e-4))
        >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]
        (0.0003, 0.0005)
        >>> print(aida.presets.source("lstm-1"))
        the code of AdaBelief (arXiv 2010.07468), which arXiv 2203.13273 follows, for LSTMs of one layer

    (Python itself refuses `Aida(params, lr=3e-4, **presets["cifar"])`, since the lr is there twice.)
    """

    def __init__(self, settings: dict[str, tuple[dict[str, Any], str]]) -> None:
        self._settings = settings

    def __getitem__(self, name: str) -> dict[str, Any]:
        if name in self._settings:
            return {**self._settings[name][0]}
        near = difflib.get_close_matches(str(name), self, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "there are"
        raise KeyError(f"no preset {name!r}: {hint} {', '.join(map(repr, self))}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._settings)

    def __len__(self) -> int:
        return len(self._settings)

    def __repr__(self) -> str:
        return repr({**self})

    def __call__(self, name: str, /, **own: Any) -> dict[str, Any]:
        """The settings of a name with `own` in their place."""
        return {**self[name], **own}

    def source(self, name: str) -> str:
        """Where the settings of a name are from, and what was measured with them."""
        _ = self[name]
        return self._settings[name][1]


_CIFAR = {**_DEFAULTS, "weight_decay": 5e-4}
_LSTM = {**_DEFAULTS, "lr": 1e-2, "eps": 1e-12, "weight_decay": 1.2e-6}

presets = Presets(
    {
        "cifar": (
            _CIFAR,
            f"{_AUTHORS} CIFAR; with a small CNN on CIFAR-10, docs/results/study: test loss 0.9344, AdamW as "
            "published 0.9588 (three seeds)",
        ),
        "transformer": (
            {**_DEFAULTS, "betas": (0.9, 0.98), "eps": 1e-16},
            f"{_AUTHORS} the translation Transformer; its eps on a GPT, docs/results/study: test loss 3.528, "
            "and 3.922 at 1e-8, where it is no better than momentum SGD",
        ),
        "lstm-1": ({**_LSTM, "lr": 1e-3, "eps": 1e-16}, f"{_ADABELIEF} LSTMs of one layer"),
        "lstm-2": (_LSTM, f"{_ADABELIEF} LSTMs of two layers"),
        "lstm-3": (_LSTM, f"{_ADABELIEF} LSTMs of three layers"),
        "wgan-gp": (
            {**_DEFAULTS, "lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-12},
            f"{_ADABELIEF} WGAN-GP, for 100 epochs; in the six of docs/results/study it has not begun to "
            "learn, and at lr 2.3e-3 it has: Fréchet distance 30.09 (eps 2.1e-17)",
        ),
        "imagenet": ({**_DECOUPLED, "weight_decay": 1e-2}, f"{_ADABELIEF} ImageNet"),
        "llm": (
            {**_DECOUPLED, "lr": 1.3e-3, "betas": (0.9, 0.99), "eps": 5.1e-13, "weight_decay": 4.6e-2},
            f'{_STUDY} gpt (0.4 million weights; no_decay="norms_and_biases"): test loss 3.527, AdamW 3.655, '
            "but where lr is tuned finely AdamW is not told apart; betas are nanoGPT's; at its lr "
            "1e-3 and decay 0.1, with eps 1e-16, 3.549",
        ),
        "vit": (
            {**_DECOUPLED, "lr": 5e-4, "eps": 1e-16, "weight_decay": 0.05},
            "lr (for a batch of 512) and decay are AdamW's in DeiT (arXiv 2012.12877), not measured with "
            "this library; eps: a ViT of 39,242 weights on the digits learned at 1e-16 and not at 1e-12 or "
            "1e-8 (8 epochs at lr 3e-3, one seed)",
        ),
        "cnn": (
            {**_DECOUPLED, "lr": 2.2e-3, "eps": 1.3e-10, "weight_decay": 1e-4},
            f'{_STUDY} mnist: test loss 0.2460, AdamW 0.2513 (not told apart), "cifar" 0.2539; "cifar" on '
            "CIFAR-10, docs/results/cifar10-small: 77.48 % test accuracy after 10 epochs, one seed, no rival",
        ),
        "lstm": (
            {**_DECOUPLED, "lr": 5.1e-3, "eps": 1.4e-14, "weight_decay": 7e-3},
            f'{_STUDY} lm: test loss 5.518, "lstm-2" 6.614; AdaBelief 5.412 and LAdam 5.393, tuned, are '
            "better there, and momentum SGD, 5.512, is not told apart",
        ),
        "rl": (
            {**_DEFAULTS, "lr": 3e-4, "eps": 1e-13},
            f"{_UNMEASURED}: Adam's lr for PPO in Stable-Baselines3, and the cap of its eps 1e-5 there, "
            "1e5: eps_for_cap(1e5)",
        ),
    }
)
