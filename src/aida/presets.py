"""The settings of the paper's tasks, as keyword arguments for a member of the family."""

from __future__ import annotations

import difflib
from typing import Any

_DEFAULTS = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)


class Presets(dict[str, dict[str, Any]]):
    """Settings by task, as keyword arguments for a member; a call gives them with some of your own.

    Sources: the authors' code for "cifar" and "transformer"; for the rest the code of the AdaBelief paper
    (arXiv 2010.07468), whose experiments arXiv 2203.13273 follows. Schedules are the task's, not the
    optimizer's. Raises KeyError for a task that is not there, with those that are.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters(), **aida.presets["cifar"])
        >>> optimizer = aida.Aida(model.parameters(), **aida.presets("cifar", lr=3e-4))
        >>> optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]
        (0.0003, 0.0005)

    (Python itself refuses `Aida(params, lr=3e-4, **presets["cifar"])`, since the lr is there twice.)
    """

    def __call__(self, task: str, /, **own: Any) -> dict[str, Any]:
        """The task's settings with `own` in their place."""
        return {**self[task], **own}

    def __missing__(self, task: str) -> dict[str, Any]:
        near = difflib.get_close_matches(str(task), self, n=1)
        hint = f"did you mean {near[0]!r}? There are" if near else "there are"
        raise KeyError(f"no preset {task!r}: {hint} {', '.join(map(repr, self))}")


presets = Presets(
    {
        "cifar": {**_DEFAULTS, "weight_decay": 5e-4},
        "transformer": {**_DEFAULTS, "betas": (0.9, 0.98), "eps": 1e-16},
        "lstm-1": {**_DEFAULTS, "eps": 1e-16, "weight_decay": 1.2e-6},
        "lstm-2": {**_DEFAULTS, "lr": 1e-2, "eps": 1e-12, "weight_decay": 1.2e-6},
        "lstm-3": {**_DEFAULTS, "lr": 1e-2, "eps": 1e-12, "weight_decay": 1.2e-6},
        "wgan-gp": {**_DEFAULTS, "lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-12},
        "imagenet": {**_DEFAULTS, "weight_decay": 1e-2, "decoupled_weight_decay": True},
    }
)
