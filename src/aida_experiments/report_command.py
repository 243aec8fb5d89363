"""The command that makes a group of runs again, from their configurations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from aida_experiments.recipes import PRESETS, Recipe
from aida_experiments.report_data import Group, Result, conditions, show


def command(group: Group) -> str:
    """`aida compare …`, or `aida sweep …` where one optimizer ran with several settings."""
    shared = conditions(group.results[0])
    task = shared.pop("task")
    optimizers = list(dict.fromkeys(result.config["optimizer"] for result in group.results))
    seeds = sorted({result.seed for result in group.results})
    grid = _grid(group)
    words = ["aida", "sweep" if len(group.optimizers) > len(optimizers) else "compare", task]
    words += ["--optimizers", ",".join(optimizers)]
    words += ["--seeds", str(seeds[-1] - seeds[0] + 1), "--first-seed", str(seeds[0])]
    words += _options(shared)
    words += _options({key: group.results[0].config.get(key) for key in ("device", "threads")})
    if words[1] == "sweep":
        words += ["--grid", *(f"{key}={','.join(values)}" for key, values in grid.items())]
    elif list(grid) == ["lr"] and len(grid["lr"]) == 1:
        words += ["--lr", grid["lr"][0]]
    return shlex.join(words)


def _options(values: Mapping[str, Any]) -> list[str]:
    """Options named after the configuration's keys; what is None or off needs no word."""
    words = []
    for key, value in values.items():
        name = f"--{key.replace('_', '-')}"
        if value is True:
            words.append(name)
        elif value is not None and value is not False:
            words += [name, show(value)]
    return words


def _grid(group: Group) -> dict[str, list[str]]:
    """The values of every setting that is not its recipe's."""
    grid: dict[str, list[str]] = {}
    for result in group.results:
        recipe = recipe_of(result)
        for key, value in result.config.get("settings", {}).items():
            values = grid.setdefault(key, []) if recipe is None or recipe.settings.get(key) != value else []
            if show(value) not in values:
                values.append(show(value))
    return grid


def recipe_of(result: Result) -> Recipe | None:
    """The recipe that a run's settings began with."""
    preset = PRESETS.get(result.config["task"], {}).get(result.config.get("preset", "small"))
    return preset.recipes.get(result.config["optimizer"]) if preset else None


def source(result: Result) -> str:
    """Where a run's settings come from."""
    recipe = recipe_of(result)
    if recipe is None:
        return "–"
    settings = result.config.get("settings", {})
    own = [key for key, value in settings.items() if recipe.settings.get(key) != value]
    return f"{', '.join(own)}: given; else {recipe.source}" if own else recipe.source
