"""What runs and groups of them are called: no two that differ have one name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from aida_bench.recipes import PRESETS, Recipe
from aida_bench.report.metrics import told_higher
from aida_bench.report.results import Result, flatten
from aida_bench.storage.files import Row
from aida_bench.storage.run import TOLD

PLACE = ("device", "devices", "strategy", "threads", "workers")
"""What of a configuration says where a run ran: no reason to keep two runs apart."""


def show(value: Any) -> str:
    """A setting as a person writes it, with every digit: 1e-08 is 1e-8, 3.0 is 3."""
    if isinstance(value, float):
        text = repr(value).removesuffix(".0")
        return text.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(show, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def same(value: Any) -> str:
    """Equal for values that mean the same: 1 and 1.0, a setting left out and one that is None."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain for key, each in value.items() if (plain := _plain(each)) is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def recipe_of(result: Result) -> Recipe | None:
    """The recipe that a run's settings began with."""
    preset = PRESETS.get(result.config["task"], {}).get(result.config.get("preset") or "small")
    return preset.recipes.get(result.config["optimizer"]) if preset else None


def given(result: Result) -> list[str]:
    """The names of a run's settings that are not its recipe's; of all, where there is no recipe."""
    recipe = recipe_of(result)
    own = flatten(dict(recipe.settings)) if recipe else {}
    return [key for key, value in result.settings.items() if same(own.get(key)) != same(value)]


def labelled(results: Sequence[Result]) -> Iterator[Result]:
    """Names each by its optimizer and the settings in which it differs from the recipe or from others of that
    optimizer, such as "aida lr=0.003": an optimizer's own name alone is that of its recipe.
    """
    together: dict[str, list[Result]] = {}
    for result in results:
        together.setdefault(result.config["optimizer"], []).append(result)
    told = {name: _told(mine) for name, mine in together.items()}
    for result in results:
        name = result.config["optimizer"]
        shown = (f"{key}={write(result.settings.get(key))}" for key, write in told[name].items())
        yield replace(result, label=" ".join([name, *shown]))


def _told(results: Sequence[Result]) -> dict[str, Callable[[Any], str]]:
    """The settings to tell in the names of one optimizer's runs, and how to write each."""
    keys = dict.fromkeys(key for result in results for key in result.settings)
    own = {key for result in results if recipe_of(result) for key in given(result)}
    values = {key: {same(value): value for value in (r.settings.get(key) for r in results)} for key in keys}
    return {
        key: show if len({show(value) for value in values[key].values()}) == len(values[key]) else same
        for key in keys
        if key in own or len(values[key]) > 1
    }


def conditions(result: Result) -> Row:
    """What all runs of a group share."""
    own = ("optimizer", "settings", "seed", *PLACE, *TOLD)
    return {key: value for key, value in result.config.items() if key not in own}


def titles(shared: Sequence[Row]) -> list[str]:
    """Task and model, and what else tells a group from the others of the same name."""
    names = [" · ".join(str(each[key]) for key in ("task", "model") if each.get(key)) for each in shared]
    found = []
    for name, mine in zip(names, shared, strict=True):
        others = [each for other, each in zip(names, shared, strict=True) if other == name]
        keys = dict.fromkeys(key for each in others for key in each)
        differing = [key for key in keys if len({same(each.get(key)) for each in others}) > 1]
        found.append(
            " · ".join([name, *(f"{key.replace('_', ' ')} {show(mine.get(key))}" for key in differing)])
        )
    return found


def _progress(result: Result) -> tuple[bool, bool, int, bool]:
    """Of two that got as far, the one that tells more comes after the other."""
    return result.finished, result.diverged, len(result.epochs), bool(told_higher(result.config))


def without_copies(results: Iterable[Result]) -> tuple[list[Result], list[tuple[Result, Result]]]:
    """Of runs with one configuration, in several folders, the one that got furthest; the others with it."""
    together: dict[str, list[Result]] = {}
    for result in results:
        own = {key: value for key, value in result.config.items() if key not in (*PLACE, *TOLD)}
        together.setdefault(same(own), []).append(result)
    kept, copies = [], []
    for mine in together.values():
        furthest = max(mine, key=_progress)
        kept.append(furthest)
        copies += [(each, furthest) for each in mine if each is not furthest]
    return kept, copies
