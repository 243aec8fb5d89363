"""The command that makes a group of runs again, from their configurations."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from aida_experiments.recipes import PRESETS, Recipe
from aida_experiments.report_data import Group, Result, conditions, show


def command(group: Group) -> str:
    """`aida compare …`, or `aida sweep …` where settings are neither a recipe's nor one learning rate."""
    first = group.results[0].config
    shared = conditions(group.results[0])
    shared |= {"device": first.get("device"), "threads": first.get("threads")}
    if first.get("devices", 1) > 1:
        shared |= {key: first.get(key) for key in ("devices", "strategy")}
    optimizers = dict.fromkeys(result.config["optimizer"] for result in group.results)
    seeds = sorted({result.seed for result in group.results})
    grid = _grid(group)
    one_lr = list(grid) == ["lr"] and len(grid["lr"]) == 1
    return shlex.join(
        [
            *("aida", "sweep" if grid and not one_lr else "compare", shared.pop("task")),
            *("--optimizers", ",".join(optimizers)),
            *("--seeds", str(seeds[-1] - seeds[0] + 1), "--first-seed", str(seeds[0])),
            *_options(shared),
            *(["--lr" if one_lr else "--grid"] if grid else []),
            *(grid["lr"] if one_lr else (f"{key}={','.join(values)}" for key, values in grid.items())),
        ]
    )


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
    """The values of every setting that is not everywhere its recipe's."""
    own = dict.fromkeys(key for result in group.results for key in given(result))
    found = {key: [result.config.get("settings", {}).get(key) for result in group.results] for key in own}
    return {
        key: list(dict.fromkeys(show(value) for value in values if value is not None))
        for key, values in found.items()
    }


def given(result: Result) -> list[str]:
    """The names of a run's settings that are not its recipe's."""
    recipe = recipe_of(result)
    settings = result.config.get("settings", {})
    return [key for key, value in settings.items() if recipe is None or recipe.settings.get(key) != value]


def recipe_of(result: Result) -> Recipe | None:
    """The recipe that a run's settings began with."""
    preset = PRESETS.get(result.config["task"], {}).get(result.config.get("preset", "small"))
    return preset.recipes.get(result.config["optimizer"]) if preset else None


def source(result: Result) -> str:
    """Where a run's settings come from."""
    recipe = recipe_of(result)
    if recipe is None:
        return "–"
    own = ", ".join(given(result))
    return f"{own}: given; else {recipe.source}" if own else recipe.source
