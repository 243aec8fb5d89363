"""A monitor's rows from wherever they were written: folders of runs, JSON lines or CSV."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from aida.monitor import finite
from aida.monitor.plots import MEASURES
from aida.monitor.plots.series import apart
from aida_bench.errors import UserError
from aida_bench.report.read_rows import config_files, read_groups
from aida_bench.report.results import Result
from aida_bench.report.results import number as is_number
from aida_bench.report.statistics import stepsize_rows
from aida_bench.storage.files import Row, expand

Runs = dict[str, list[Row]]
TEXT = ("kind", "parameter", "optimizer", "run", "label")
WHOLE = ("step", "epoch", "layer", "numel")
DRAWN = (*WHOLE, *MEASURES, "cap", "ratio", "layers")
LONGEST = 40
"""Signs of a row or a cell that an error shows."""


def read_runs(sources: Sequence[str]) -> tuple[Runs, list[str]]:
    """{name: rows} of all sources, each PATH or NAME=PATH, and the names of those without stepsizes.

    Raises UserError where a source is not there, is damaged, or none has stepsizes.
    """
    given = [split_name(source) for source in sources]
    base = os.path.commonpath([path.absolute().parent for _, path in given])
    found: list[tuple[str, Path, list[Row]]] = []
    for name, path in given:
        runs = _folder(path) if path.is_dir() else _file(path)
        for own, rows in runs.items():
            label = name if name and len(runs) == 1 else f"{name} {own}".strip()
            found.append((label or (path.stem if len(given) > 1 else ""), path, rows))
    labels = [label for label, _, _ in found]
    runs: Runs = {
        label if labels.count(label) == 1 else f"{label} {os.path.relpath(path.absolute(), base)}": rows
        for label, path, rows in found
    }
    without = [name for name, rows in runs.items() if not any(row.get("kind") == "stepsize" for row in rows)]
    if len(without) == len(runs):
        told = " and ".join(filter(None, without)) or str(given[0][1])
        raise UserError(
            f"no stepsizes in the rows of {told}: an optimizer without an adaptive stepsize, such as sgd, "
            "has none; name a run of another."
        )
    return {name: rows for name, rows in runs.items() if name not in without}, without


def split_name(source: str) -> tuple[str, Path]:
    """NAME=PATH as ("NAME", PATH); a path that is there may have an equals sign in it."""
    name, equals, path = source.partition("=")
    named = equals and not expand(Path(source)).exists()
    return (name, expand(Path(path))) if named else ("", expand(Path(source)))


def _folder(folder: Path) -> Runs:
    """Every optimizer of the runs below a folder; seeds of one go together."""
    if next(config_files(folder, []), None) is None:
        if (folder / "rows.jsonl").exists():
            return _file(folder / "rows.jsonl")
        raise UserError(f"{folder} has no rows: it is no run's folder, and there is none below it.")
    groups = read_groups(folder)
    if len(groups) > 1:
        titles = ", ".join(group.title for group in groups)
        raise UserError(f"{folder} holds runs that cannot be compared ({titles}): name the folder of one.")
    (group,) = groups
    if not any(result.rows for result in group.results):
        raise UserError(f"{folder} has no rows yet: a run writes its first after a whole epoch.")
    return {name: _rows(group.of(name)) for name in group.optimizers}


def _rows(results: Sequence[Result]) -> list[Row]:
    return stepsize_rows(results) or [row for result in results for row in result.rows]


def _file(path: Path) -> Runs:
    """A file of rows: each run and optimizer that they say they are of apart."""
    if not path.exists():
        raise UserError(f"{path} does not exist: name a folder of runs, or a .jsonl or .csv file of rows.")
    readers = {".jsonl": _json_lines, ".csv": _csv}
    if path.suffix not in readers:
        raise UserError(f"{path} is neither a folder nor a .jsonl or .csv file of rows.")
    if not (rows := readers[path.suffix](path)):
        raise UserError(f"{path} has no rows yet.")
    # A comparison's label tells an optimizer's settings apart.
    named = [{**row, "optimizer": row["label"]} if row.get("label") else row for row in rows]
    return {name: [dict(row) for row in own] for name, own in apart(named).items()}


def _json_lines(path: Path) -> list[Row]:
    rows, text = [], _text(path)
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                break  # a monitor is still writing it
            raise UserError(f"{path}, line {number} is not JSON ({error}): remove the line.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is not a row but {_short(line)}: remove the line.")
        rows.append(_row(finite(row), f"{path}, line {number}"))
    return rows


def _row(row: Row, place: str) -> Row:
    """What is drawn of a row is a number, and what names it is text; fields of one's own may be anything, and
    a histogram that is none is left out. Raises UserError for what is not."""
    layer = row.get("kind") == "stepsize"
    if layer and row.get("layer") is None:
        raise UserError(f"{place} has no layer: remove it.")
    for key in DRAWN if layer or row.get("kind") == "spread" else ("step",):
        value, whole = row.get(key), key in WHOLE
        if value is not None and (not is_number(value) or (whole and value % 1 != 0)):
            kind = "whole number" if whole else "number"
            raise UserError(f"{place}: {key} is {_short(repr(value))}, which is no {kind}: correct it.")
    names = {key: str(row[key]) for key in TEXT if row.get(key) is not None}
    return {**{key: each for key, each in row.items() if key != "histogram" or _counts(each)}, **names}


def _counts(histogram: Any) -> bool:
    if not isinstance(histogram, dict) or not isinstance(histogram.get("counts"), list):
        return False
    numbers = [histogram.get("low"), histogram.get("per_octave"), *histogram["counts"]]
    return all(is_number(each) for each in numbers) and isinstance(numbers[1], int) and numbers[1] > 0


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _text(path: Path) -> str:
    """Spreadsheets begin a file with a mark, which is no text."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): save it as UTF-8.") from error


def _csv(path: Path) -> list[Row]:
    text, rows = _text(path), []
    table = csv.DictReader(
        text[: text.rfind("\n") + 1].splitlines()
    )  # a monitor is still writing what follows
    for row in table:
        place = f"{path}, line {table.line_num}"
        if None in row or None in row.values():
            raise UserError(
                f"{place} has not the {len(table.fieldnames or ())} columns of line 1: remove it."
            )
        rows.append(_row({key: _cell(key, cell, place) for key, cell in row.items() if cell}, place))
    return rows


def _cell(key: str, text: str, place: str) -> Any:
    """Names are text, everything else is a number; one that is not finite is None, as in JSON lines."""
    if key in TEXT:
        return text
    try:
        number = float(text)
        return (int(text) if text.isdecimal() else number) if isfinite(number) else None
    except ValueError as error:
        raise UserError(
            f"{place}: {_short(key)} is {_short(repr(text))}, which is no number: correct it."
        ) from error
