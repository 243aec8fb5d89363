"""A study's file, read and checked; what is said where it is wrong."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from os.path import normpath
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from aida_bench.errors import UserError, choose
from aida_bench.plugins import search_in
from aida_bench.study.extend import Content, extended, laid_over
from aida_bench.study.spec import (
    CLAIM_KINDS,
    About,
    Claim,
    Comparisons,
    Final,
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
    return study


def _read(path: Path, above: tuple[Path, ...]) -> tuple[Study, Content]:
    """And its tables with those of the study that it extends; `above`: those that extend it."""
    if not path.is_file():
        raise UserError(f"{path} is not a file: name a study's TOML file, such as studies/claims.toml.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
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
        label: OptimizerEntry(
            **{
                **vars(each),
                "optimizer": each.optimizer or label,
                "recipe": each.recipe or each.optimizer or label,
            }
        )
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
        space={k: reader.convert(v, Range, f"{k} in [space]") for k, v in content.get("space", {}).items()},
        tasks=tasks, optimizers=optimizers, sweeps=sweeps,
        claims=reader.read_all(Claim, content.get("claims", {}), "claims"), base=base,
        **{
            key: reader.read(cls, content[key], f"[{key}]") if key in content else None
            for key, cls in optional.items()
        },
    )  # fmt: skip
    _check(study, reader)
    return study, content


def _swept(
    label: str, sweep: Sweep, optimizers: Mapping[str, OptimizerEntry], reader: _Reader
) -> dict[str, Any]:
    choose(f"optimizer of [sweeps.{label}] in {reader.name}", sweep.optimizer, optimizers)
    base = optimizers[sweep.optimizer]
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
        return cls(
            **{key: self.convert(value, hints[key], f"{key} in {where}") for key, value in table.items()}
        )

    def convert(self, value: Any, hint: Any, where: str) -> Any:
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
            return tuple(self.convert(each, get_args(hint)[0], where) for each in value)
        if get_origin(hint) is Mapping:
            if not isinstance(value, dict):
                raise UserError(f"{where} of {self.name} is {value!r}: write a table, {{ lr = 1e-3 }}.")
            of = get_args(hint)[1]
            return {
                k: self._setting(v) if of is Any else self.convert(v, of, where) for k, v in value.items()
            }
        if hint is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            raise UserError(f"{where} of {self.name} is {value!r}: write {KINDS[hint]}.")
        if hint in (int, float) and value < 0:
            raise UserError(f"{where} of {self.name} is {value!r}: it cannot be below 0.")
        return value

    def _numbers(self, values: list[Any], where: str) -> list[float]:
        return [self.convert(each, float, where) for each in values]

    @staticmethod
    def _setting(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


KINDS = {int: "a whole number", float: "a number", str: "a word in quotes", bool: "true or false"}


def _check(study: Study, reader: _Reader) -> None:
    """What the parts of a file must be to each other."""
    name, tuning = reader.name, study.tuning
    for what, found in (("tasks", study.tasks), ("optimizers", study.optimizers)):
        if not found:
            raise UserError(f"{name} names no {what}: add a table [{what}.NAME].")
        for label in found:
            if not label.strip() or "/" in label or ":" in label or label.startswith("."):
                raise UserError(
                    f"[{what}.{label}] in {name} names folders: leave out / and : and a first dot."
                )
    base = study.base
    if base and {study.folder, study.rows_folder} & {base.folder, base.rows_folder} - {None}:
        raise UserError(
            f"{name} has the runs or rows of {base.path.name}, which it extends: give [study] a name and "
            "rows of its own."
        )
    for label, each in study.optimizers.items():
        where = f"[optimizers.{label}] in {name}"
        for key in each.tune:
            if key not in each.space:
                choose(f"tuned setting of {where}, which has no range in [space],", key, study.space)
        for key in each.space:
            choose(f"key of space in {where}, which is not tuned,", key, each.tune)
        for task in each.tasks or ():
            choose(f"task of {where}", task, study.tasks)
        if each.settings_from:
            tuned = [other for other, spec in study.optimizers.items() if spec.tune]
            choose(f"settings_from of {where}", each.settings_from, tuned)
            source = study.optimizers[each.settings_from]
            if each.tune:
                raise UserError(f"{where} is tuned and has settings_from: leave one of them out.")
            if source.phase > each.phase:
                raise UserError(
                    f"{where} has phase {each.phase}, its settings_from {source.phase}: raise its phase."
                )
            if source.tasks is not None and not set(each.tasks or study.tasks) <= set(source.tasks):
                raise UserError(
                    f"{where} takes part in tasks that its settings_from does not: give it fewer tasks."
                )
    if study.comparisons:
        for label in (
            study.comparisons.of,
            *study.comparisons.primary,
            *filter(None, [study.comparisons.target]),
        ):
            choose(f"optimizer of [comparisons] in {name}", label, study.optimizers)
    for label, claim in study.claims.items():
        _check_claim(claim, f"[claims.{label}] in {name}", study)
    if not tuning.points or not 0 < tuning.fraction <= 1:
        raise UserError(f"[tuning] in {name} needs points above 0 and a fraction above 0, at most 1.")
    if tuning.widening_factor <= 1 or (tuning.widenings and not tuning.widening_points):
        raise UserError(f"[tuning] in {name}: widening_factor must be above 1 and widening_points above 0.")
    finals = {seed for each in study.optimizers.values() for seed in each.seeds or ()} | {*study.final.seeds}
    if not tuning.seeds or not study.final.seeds:
        raise UserError(f"{name} needs seeds in [tuning] and in [final].")
    if both := sorted(finals & {*tuning.seeds}):
        raise UserError(
            f"{name} tunes on seed {both[0]}, which is a final one too: choose other seeds in [tuning]."
        )


def _check_claim(claim: Claim, where: str, study: Study) -> None:
    choose(f"kind of {where}", claim.kind, CLAIM_KINDS)
    for label in claim.optimizers:
        choose(f"optimizer of {where}", label, study.optimizers)
    for task in claim.tasks or ():
        choose(f"task of {where}", task, study.tasks)
    if claim.kind == "within-margin":
        if not claim.pairs or any(len(pair) != 2 for pair in claim.pairs):
            raise UserError(f'{where} needs pairs of two optimizers: add pairs = [["ladam", "adamw"]].')
    elif not claim.of or not claim.against:
        raise UserError(f'{where} needs of and against: add of = "aida" and against = ["adamw"].')
