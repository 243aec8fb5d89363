"""Optimizers and tasks from outside the package: by import path, or by an entry point.

An import path is "package.module:Name". It is looked for in the folder where the command was started too, as
`python -m` does, and beside a study's file. An entry point is a name in one of the two groups below, which
any installed package can have:

    [project.entry-points."aida_bench.optimizers"]
    lion = "mypackage.optim:Lion"
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from aida_bench.errors import UserError, choose

OPTIMIZERS, TASKS = "aida_bench.optimizers", "aida_bench.tasks"


def is_plugin(group: str, name: str) -> bool:
    """Whether a name is an import path, or an entry point of the group."""
    return ":" in name or name in installed(group)


@cache
def installed(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def load_plugin(group: str, name: str) -> Any:
    """What a name stands for. Raises UserError where it cannot be imported, with the reason and the fix."""
    path = name if ":" in name else installed(group)[name].value
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise UserError(f"{name} is no import path: write it as package.module:Name.")
    search_in([Path.cwd()])
    try:
        with _own_first():
            found: Any = importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported ({error}): install its package, or start the command in the folder "
            f"that {module.partition('.')[0]} lies in."
        ) from error
    except (Exception, SystemExit) as error:
        raise UserError(f"{name} cannot be imported ({_where(error)}): correct that place.") from error
    here = f"{module} ({getattr(found, '__file__', None) or 'built in'})"
    for part in attribute.split("."):
        if not hasattr(found, part):
            choose(f"name in {here}", attribute, (each for each in vars(found) if not each.startswith("_")))
        found = getattr(found, part)
    return found


def _where(error: BaseException) -> str:
    """What was raised while a module was imported, with the file and line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    file, line, reason = last.filename, last.lineno, str(error)
    if isinstance(error, SyntaxError):
        file, line, reason = error.filename, error.lineno, error.msg
    return f"{type(error).__name__}: {reason}, {file}, line {line}"


@contextmanager
def _own_first() -> Iterator[None]:
    """Within it a module of one's own comes before an installed one of its name, as for `python -m`."""
    before, own = list(sys.path), _known()
    sys.path[:] = [*own, *(each for each in before if each not in own)]
    try:
        yield
    finally:
        added = [each for each in sys.path if each not in before and each not in own]
        sys.path[:] = [*before, *added]


def search_in(folders: Iterable[Path]) -> None:
    """Let import paths be found in these folders, here and in the processes that are started from here."""
    for folder in map(str, folders):
        if folder not in sys.path:
            sys.path.append(folder)
        if folder not in _known():
            os.environ["PYTHONPATH"] = os.pathsep.join([*_known(), folder])


def _known() -> list[str]:
    return [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
