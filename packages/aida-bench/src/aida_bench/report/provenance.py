"""The commands that make a group of runs again, from their configurations."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from aida_bench.report.names import conditions, given, recipe_of, same, show
from aida_bench.report.results import Group, Result, flatten, number
from aida_bench.settings import write_setting

OPTIONS = (
    "preset", "model", "epochs", "batch_size", "limit_batches", "precision", "device", "threads", "devices",
    "strategy",
)  # fmt: skip
"""What of a configuration the command line has an option for, of the same name."""


def command(group: Group) -> str:
    """One `aida compare …`, or `aida sweep …` where settings are neither a recipe's nor one learning rate.

    Where one command would run more than there is, such as seeds that are missing: a line for each optimizer
    and its consecutive seeds.
    """
    if _product(group.results) == {_run(result) for result in group.results}:
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
    one_lr = list(grid) == ["lr"] and len(grid["lr"]) == 1 and number(grid["lr"][0])
    axes = [f"{key}={','.join(map(write_setting, each))}" for key, each in grid.items()]
    return shlex.join(
        [
            *("aida", "sweep" if grid and not one_lr else "compare", first["task"]),
            *("--optimizers", ",".join(_optimizers(results))),
            *("--seeds", str(len(seeds)), "--first-seed", str(seeds[0])),
            *_options(shared),
            *(["--lr", show(grid["lr"][0])] if one_lr else ["--grid", *axes] if grid else []),
        ]
    )


def _optimizers(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.config["optimizer"] for result in results))


def _seeds(results: Sequence[Result]) -> range:
    seeds = [result.seed for result in results]
    return range(min(seeds), max(seeds) + 1)


def _run(result: Result) -> tuple[str, str, int]:
    return result.config["optimizer"], same(result.settings), result.seed


def _product(results: Sequence[Result]) -> set[tuple[str, str, int]]:
    """The runs that one command would make; without a recipe an optimizer has its own defaults."""
    recipes = {result.config["optimizer"]: recipe_of(result) for result in results}
    grid = _grid(results)
    points = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    made = set()
    for name, recipe in recipes.items():
        own = flatten(dict(recipe.settings)) if recipe else {}
        for point, seed in product(points, _seeds(results)):
            made.add((name, same({**own, **point}), seed))
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
    """Options named after the configuration's keys; what is None needs no word."""
    words = []
    for key, value in values.items():
        if key in OPTIONS and value is not None:
            words += [f"--{key.replace('_', '-')}", show(value)]
    return words


def _grid(results: Sequence[Result]) -> dict[str, list[Any]]:
    """The values of every setting that is not everywhere its recipe's."""
    own = dict.fromkeys(key for result in results for key in given(result))
    told = {key: [result.settings[key] for result in results if key in result.settings] for key in own}
    return {key: list({same(value): value for value in values}.values()) for key, values in told.items()}


def source(result: Result) -> str:
    """Where a run's settings come from."""
    recipe = recipe_of(result)
    if recipe is None:
        return "–"
    own = ", ".join(given(result))
    return f"{own}: given; else {recipe.source}" if own else recipe.source
