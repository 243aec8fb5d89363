"""A study's file, read and checked; what is said where it is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from os.path import normpath
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from aida_bench.errors import UserError, choose
from aida_bench.plugins import search_in
from aida_bench.study.check import check, check_names
from aida_bench.study.extend import Content, extended, laid_over
from aida_bench.study.spec import (
    About,
    Claim,
    Comparisons,
    Final,
    Number,
    OptimizerEntry,
    Published,
    Range,
    Study,
    Sweep,
    TaskEntry,
    Tuning,
)


def read_study(path: Path) -> Study:
    """The study of a file, whose own Python files can be imported from then on.

    Raises UserError for a file that is not there, is no TOML, or says what it may not.
    """
    study, _ = _read(path, ())
    search_in(study.import_folders)
    check_names(study)
    return study


def _read(path: Path, above: tuple[Path, ...]) -> tuple[Study, Content]:
    """And its tables with those of the study that it extends; `above`: those that extend it."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: name a study's TOML file, such as studies/claims.toml.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML ({error}): correct that place.") from error
    reader = _Reader(path.name)
    known = (
        "study", "tuning", "final", "published", "comparisons", "space", "tasks", "optimizers", "sweeps",
        "claims",
    )  # fmt: skip
    reader.check_keys(content, known, "the file")
    base = None
    if (lower := extended(content, path, above)) is not None:
        base, theirs = _read(lower, (*above, Path(normpath(path))))
        last = max(each.phase for each in base.optimizers.values())
        content = laid_over(theirs, content, last, path.name)
    about = reader.read(About, content.get("study", {}), "[study]")
    about = About(**{**vars(about), "name": about.name or path.stem})
    tasks = reader.read_all(TaskEntry, content.get("tasks", {}), "tasks")
    optimizers = reader.read_all(OptimizerEntry, content.get("optimizers", {}), "optimizers")
    tasks = {label: TaskEntry(**{**vars(each), "task": each.task or label}) for label, each in tasks.items()}
    optimizers = {
        label: OptimizerEntry(**{**vars(each), "optimizer": each.optimizer or label})
        for label, each in optimizers.items()
    }
    sweeps = reader.read_all(Sweep, content.get("sweeps", {}), "sweeps")
    for label, sweep in sweeps.items():
        optimizers |= _swept(label, sweep, optimizers, reader)
    optional = {"published": Published, "comparisons": Comparisons}
    study = Study(
        path, about,
        tuning=reader.read(Tuning, content.get("tuning", {}), "[tuning]"),
        final=reader.read(Final, content.get("final", {}), "[final]"),
        space=reader.convert(content.get("space", {}), Mapping[str, Range], "[space]"),
        tasks=tasks, optimizers=optimizers, sweeps=sweeps,
        claims=reader.read_all(Claim, content.get("claims", {}), "claims"), base=base,
        **{
            key: reader.read(cls, content[key], f"[{key}]") if key in content else None
            for key, cls in optional.items()
        },
    )  # fmt: skip
    check(study)
    return study, content


def _swept(
    label: str, sweep: Sweep, optimizers: Mapping[str, OptimizerEntry], reader: _Reader
) -> dict[str, Any]:
    choose(f"optimizer of [sweeps.{label}] in {reader.name}", sweep.optimizer, optimizers)
    base, labels = optimizers[sweep.optimizer], [sweep.label(value) for value in sweep.values]
    if taken := [each for each in labels if each in optimizers]:
        raise UserError(
            f"[sweeps.{label}] in {reader.name} has a run {taken[0]!r}, which another sweep or an optimizer "
            "is called too: leave that value out of one of them."
        )
    return {
        sweep.label(value): OptimizerEntry(
            base.optimizer, base.recipe, {**base.settings, sweep.key: value}, settings_from=sweep.optimizer,
            phase=max(sweep.phase, base.phase), seeds=sweep.seeds, tasks=sweep.tasks or base.tasks,
        )
        for value in sweep.values
    }  # fmt: skip


@dataclass(frozen=True)
class _Reader:
    """Tables to dataclasses; an error names the file, the key and what may stand there."""

    name: str

    def check_keys(self, table: Mapping[str, Any], known: Any, where: str) -> None:
        for key in table:
            choose(f"key of {where} in {self.name}", key, known)

    def read_all(self, cls: type, tables: Any, where: str) -> dict[str, Any]:
        if not isinstance(tables, dict) or not all(isinstance(each, dict) for each in tables.values()):
            raise UserError(f"{where} in {self.name} is no table of tables: write [{where}.NAME] for each.")
        return {label: self.read(cls, table, f"[{where}.{label}]") for label, table in tables.items()}

    def read(self, cls: type, table: Any, where: str) -> Any:
        if not isinstance(table, dict):
            raise UserError(
                f"{where} in {self.name} is {table!r}, not a table: write {where} on a line of its own."
            )
        hints = get_type_hints(cls)
        self.check_keys(table, hints, where)
        for each in fields(cls):
            if each.default is MISSING and each.default_factory is MISSING and each.name not in table:
                raise UserError(f"{where} in {self.name} lacks {each.name}: add a line {each.name} = …")
        made = cls(
            **{key: self.convert(value, hints[key], f"{key} in {where}") for key, value in table.items()}
        )
        for key in table.keys() & set(POSITIVE):
            if getattr(made, key) == 0:
                raise UserError(f"{key} in {where} of {self.name} is 0: write a number above 0.")
        return made

    def convert(self, value: Any, hint: Any, where: str) -> Any:
        if hint == Number:
            return self.convert(value, int if type(value) is int else float, where)
        if get_origin(hint) in (Union, UnionType):
            return self.convert(value, get_args(hint)[0], where)
        if hint == Range:
            low, high = self._numbers(value, where) if isinstance(value, list) and len(value) == 2 else (0, 0)
            if not 0 < low < high:
                raise UserError(
                    f"{where} of {self.name} is {value!r}: write two numbers above 0, [lowest, highest]."
                )
            return low, high
        if get_origin(hint) is tuple:
            if not isinstance(value, list):
                raise UserError(f"{where} of {self.name} is {value!r}: write a list, [{value!r}].")
            found = tuple(self.convert(each, get_args(hint)[0], where) for each in value)
            if twice := [each for i, each in enumerate(found) if each in found[:i]]:
                raise UserError(f"{where} of {self.name} has {twice[0]!r} twice: leave one of them out.")
            return found
        if get_origin(hint) is Mapping:
            if not isinstance(value, dict):
                raise UserError(f"{where} of {self.name} is {value!r}: write a table, {{ lr = 1e-3 }}.")
            of = get_args(hint)[1]
            return {
                k: self._setting(v, f"{k} in {where}")
                if of is Any
                else self.convert(v, of, f"{k} in {where}")
                for k, v in value.items()
            }
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            raise UserError(f"{where} of {self.name} is {value!r}: write {KINDS[hint]}.")
        if hint in (int, float) and not (isfinite(value) and value >= 0):
            raise UserError(f"{where} of {self.name} is {value!r}: it must be finite, and cannot be below 0.")
        return value

    def _numbers(self, values: list[Any], where: str) -> list[float]:
        return [self.convert(each, float, where) for each in values]

    def _setting(self, value: Any, where: str) -> Any:
        """As a run's row can hold it."""
        if isinstance(value, list):
            return tuple(self._setting(each, where) for each in value)
        if not isinstance(value, (bool, int, float, str)) or (
            isinstance(value, float) and not isfinite(value)
        ):
            raise UserError(
                f"{where} of {self.name} is {value}: write a finite number, a word, true, false or a list."
            )
        return value


POSITIVE = ("epochs", "batch_size", "limit_batches", "epoch_seconds", "threads", "points", "widening_points")
KINDS = {int: "a whole number", float: "a number", str: "a word in quotes", bool: "true or false"}
