"""The commands that make a group of runs again, from their configurations."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from aida_bench.report.names import conditions, given, recipe_of, same, show
from aida_bench.report.results import Group, Result, flatten


def command(group: Group) -> str:
    """One `aida compare …`, or `aida sweep …` where settings are neither a recipe's nor one learning rate.

    Where one command would run more than there is, such as seeds that are missing: a line for each optimizer
    and its consecutive seeds.
    """
    if _product(group.results) in (None, {_run(result) for result in group.results}):
        return _command(group.results)
    return "\n".join(_command(part) for label in group.optimizers for part in _consecutive(group.of(label)))


def _command(results: Sequence[Result]) -> str:
    first = results[0].config
    shared = conditions(results[0])
    shared |= {"device": first.get("device"), "threads": first.get("threads")}
    if first.get("devices", 1) > 1:
        shared |= {key: first.get(key) for key in ("devices", "strategy")}
    seeds = _seeds(results)
    grid = _grid(results)
    one_lr = list(grid) == ["lr"] and len(grid["lr"]) == 1
    values = {key: ",".join(map(show, each)) for key, each in grid.items()}
    return shlex.join(
        [
            *("aida", "sweep" if grid and not one_lr else "compare", shared.pop("task")),
            *("--optimizers", ",".join(_optimizers(results))),
            *("--seeds", str(len(seeds)), "--first-seed", str(seeds[0])),
            *_options(shared),
            *(["--lr" if one_lr else "--grid"] if grid else []),
            *(values.values() if one_lr else (f"{key}={each}" for key, each in values.items())),
        ]
    )


def _optimizers(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.config["optimizer"] for result in results))


def _seeds(results: Sequence[Result]) -> range:
    seeds = [result.seed for result in results]
    return range(min(seeds), max(seeds) + 1)


def _run(result: Result) -> tuple[str, str, int]:
    return result.config["optimizer"], same(result.settings), result.seed


def _product(results: Sequence[Result]) -> set[tuple[str, str, int]] | None:
    """The runs that one command would make; None where that cannot be known without a recipe."""
    recipes = {result.config["optimizer"]: recipe_of(result) for result in results}
    grid = _grid(results)
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    made = set()
    for name, recipe in recipes.items():
        if recipe is None:
            return None
        for point, seed in product(points, _seeds(results)):
            made.add((name, same({**flatten(dict(recipe.settings)), **point}), seed))
    return made


def _consecutive(results: Sequence[Result]) -> Iterator[list[Result]]:
    part: list[Result] = []
    for result in sorted(results, key=lambda result: result.seed):
        if part and result.seed != part[-1].seed + 1:
            yield part
            part = []
        part.append(result)
    yield part


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


def _grid(results: Sequence[Result]) -> dict[str, list[Any]]:
    """The values of every setting that is not everywhere its recipe's."""
    own = dict.fromkeys(key for result in results for key in given(result))
    found = {key: {same(value): value for value in (r.settings.get(key) for r in results)} for key in own}
    return {key: [value for value in values.values() if value is not None] for key, values in found.items()}


def source(result: Result) -> str:
    """Where a run's settings come from."""
    recipe = recipe_of(result)
    if recipe is None:
        return "–"
    own = ", ".join(given(result))
    return f"{own}: given; else {recipe.source}" if own else recipe.source
