"""Every run below a folder, whoever else keeps files there. What is left out is said, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aida_bench.errors import UserError, warn
from aida_bench.report.names import conditions, labelled, same, titles, without_copies
from aida_bench.report.results import Group, Result, number
from aida_bench.storage.files import read_json, read_json_lines
from aida_bench.storage.run import Run, read_done

LeftOut = tuple[Path, str]
"""A path, and why it is not in the report."""


@dataclass(frozen=True)
class Found:
    groups: list[Group]
    left_out: list[LeftOut]


def read_result(run: Run) -> Result:
    return read_folder(run.folder)


def read_folder(folder: Path) -> Result:
    """One run's folder, whatever there is of it yet. Raises UserError for a file that is damaged."""
    versions, config, status = folder / "versions.json", read_json(folder / "config.json"), read_done(folder)
    try:
        found = read_json(versions, "nothing else depends on it") if versions.exists() else {}
    except UserError as error:
        warn(str(error))
        found = {}
    rows, timings = (read_json_lines(folder / f"{name}.jsonl") for name in ("rows", "timings"))
    return Result(config, status, rows, timings, found, folder)


def config_files(folder: Path, left_out: list[LeftOut]) -> Iterator[Path]:
    """Every config.json below a folder, in order; links are followed, each place is entered once."""
    seen: dict[str, Path] = {}
    for where, folders, files in os.walk(folder, followlinks=True):
        here, real = Path(where), os.path.realpath(where)
        if real in seen:
            folders.clear()
            left_out.append((here, f"is {inside(seen[real], folder)}, which is read there"))
            continue
        seen[real] = here
        for name in sorted(folders):
            if name.startswith("."):
                left_out += [(path, "is in a hidden folder") for path in (here / name).rglob("config.json")]
        # A folder is read under its own name rather than a link's.
        shown = (name for name in folders if not name.startswith("."))
        folders[:] = sorted(shown, key=lambda name: ((here / name).is_symlink(), name))
        left_out += [
            (here / name, "is a link to nothing") for name in sorted(files) if _dangling(here / name)
        ]
        if "config.json" in files:
            yield here / "config.json"


def inside(path: Path, folder: Path) -> str:
    """A path as it is seen from a folder that it lies in."""
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _dangling(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def stranger(config: object) -> str:
    """Why a configuration is none of a run of ours; nothing if it is one."""
    if not isinstance(config, dict):
        return "it is not an object"
    kinds = {"task": str, "optimizer": str, "seed": int}
    wrong = [key for key, kind in kinds.items() if not isinstance(config.get(key), kind)]
    if number(config.get("seed")) and not wrong and isinstance(config.get("settings") or {}, dict):
        return ""
    return f"its {wrong[0] if wrong else 'seed or settings'} is none of a run's"


def read_found(folder: Path) -> Found:
    """The runs below a folder, grouped by what is comparable, and what is no part of them.

    Raises UserError where there is no run; if damage is why, for that.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: name one with runs in it, such as runs/digits-1.")
    left_out: list[LeftOut] = []
    damaged: list[Exception] = []
    results = []
    for path in config_files(folder, left_out):
        try:
            foreign = stranger(json.loads(path.read_text(encoding="utf-8")))
            if foreign:
                left_out.append((path, f"is not of a run of aida: {foreign}"))
                continue
            results.append(_checked(read_folder(path.parent)))
        except (UserError, OSError, ValueError, RecursionError) as error:
            damaged.append(error)
            left_out.append((path.parent, f"cannot be read: {error}"))
    if not results:
        if damaged:
            raise (
                damaged[0]
                if isinstance(damaged[0], UserError)
                else UserError(f"{left_out[-1][0]} {left_out[-1][1]}: delete it and run it again.")
            )
        raise UserError(f"no runs below {folder}: `aida compare TASK --out {folder}` makes some.")
    kept, copies = without_copies(results)
    left_out += [(each.folder, f"is a copy of {inside(other.folder, folder)}") for each, other in copies]
    return Found(group(kept), left_out)


def _checked(result: Result) -> Result:
    for name, rows in (("rows", result.rows), ("timings", result.timings)):
        wrong = next((row for row in rows if not isinstance(row, dict)), None)
        if wrong is not None:
            raise UserError(f"{result.folder / name}.jsonl has a line that is no row: {str(wrong)[:40]}")
    return result


def read_groups(folder: Path) -> list[Group]:
    """The groups of `read_found`; what is left out is said on stderr."""
    found = read_found(folder)
    say_left_out(found.left_out)
    return found.groups


def say_left_out(left_out: Iterable[LeftOut]) -> None:
    for path, reason in left_out:
        warn(f"left out: {path} {reason}")


def group(results: Iterable[Result]) -> list[Group]:
    """Runs that can be compared, together; each with its label."""
    together: dict[str, list[Result]] = {}
    for result in results:
        together.setdefault(same(conditions(result)), []).append(result)
    named = titles([conditions(mine[0]) for mine in together.values()])
    return [Group(title, list(labelled(mine))) for title, mine in zip(named, together.values(), strict=True)]
