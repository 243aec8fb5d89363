"""What no run takes, refused before anything is trained or written."""

from __future__ import annotations

import json

from torch import nn

from aida_bench.baselines import build_optimizer
from aida_bench.errors import UserError, choose
from aida_bench.seeds import check_seeds
from aida_bench.storage.files import Row
from aida_bench.tasks import has_presets, presets_of
from aida_bench.training.fabric import PRECISIONS


def check_run(config: Row) -> None:
    """Raises UserError for a value in a run's configuration that no run takes."""
    task, threads, seed = (config[key] for key in ("task", "threads", "seed"))
    choose("precision", config["precision"], PRECISIONS)
    if threads is not None and threads < 1:
        raise UserError(f"threads {threads}: a run has at least 1.")
    check_seeds([seed])
    if has_presets(task):
        models = dict.fromkeys(model for preset in presets_of(task).values() for model in preset.models)
        choose(f"model for {task}", config["model"], models)
    check_optimizer(config["optimizer"], config["settings"])


def check_optimizer(name: str, settings: Row) -> None:
    """Raises UserError for settings that an optimizer refuses, in whatever way, or that JSON has not."""
    try:
        json.dumps(dict(settings), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{name} cannot be given {dict(settings)}: a setting is a finite number, a word, true, false or "
            "a list of them."
        ) from error
    try:
        build_optimizer(name, nn.Linear(1, 1), **settings)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} does not take {dict(settings)}: {error}") from error
    except (UserError, ImportError):
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{name} does not take {dict(settings)}: it raises {reason}") from error
