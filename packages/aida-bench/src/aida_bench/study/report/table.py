"""A table as Markdown, for reading, and as CSV, for computing: the one shows what the other holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from aida_bench.report.metrics import Metric, key_label, key_measure, written
from aida_bench.report.names import show as as_written

NUMBER = re.compile(r"[-+]?\d|–$")
Show = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Table:
    """`columns`: headings of the Markdown, each with what it shows of a row; the CSV has the rows' values;
    `measures`: what each task is compared by, for the figures."""

    name: str
    title: str
    note: str
    rows: Sequence[Mapping[str, Any]]
    columns: Mapping[str, Show]
    measures: Mapping[str, Metric] = field(default_factory=dict)

    def measure_of(self, row: Mapping[str, Any]) -> Metric:
        """As the row's task says it: one of its name may be turned around on another."""
        return self.measures.get(row["task"]) or key_measure(row["measure"])

    def label_of(self, row: Mapping[str, Any]) -> str:
        return key_label(row["measure"], self.measure_of(row))

    def markdown(self) -> str:
        if not self.rows:
            return "Nothing yet.\n"
        body = [[show(row) for show in self.columns.values()] for row in self.rows]
        rule = ["---:" if all(map(NUMBER.match, cells)) else "---" for cells in zip(*body, strict=True)]
        return "".join(f"| {' | '.join(map(_cell, cells))} |\n" for cells in ([*self.columns], rule, *body))

    def csv(self) -> str:
        out = io.StringIO()
        names = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in self.rows)
        return out.getvalue()


def by(rows: Sequence[Any], key: str) -> dict[str, list[Any]]:
    """Rows that share what `key` says, in the order in which it first appears."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _cell(text: str) -> str:
    """On one line, whatever a file's text has."""
    return " ".join(text.split("\n")).strip().replace("|", "\\|")


def _plain(value: Any) -> Any:
    """What is unknown is empty."""
    return "" if value is None else value


def beside(row: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A row with settings after it; one that is called as a column of the row gets a _ at its end."""
    return {**row, **{f"{key}_" if key in row else key: value for key, value in settings.items()}}


def text(key: str) -> Show:
    return lambda row: "–" if row.get(key) in (None, "") else str(row[key])


def number(key: str, form: str = ".4g") -> Show:
    """In `form`; what is no number, such as eps = [1e-30, 1e-3], as a person writes it."""

    def shown(row: Mapping[str, Any]) -> str:
        value = row.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return written(value, form) if isfinite(value) else "–"
        return as_written(value)

    return shown


def percent(key: str) -> Show:
    return lambda row: "–" if row.get(key) is None else f"{100 * row[key]:.1f} %"


def score(key: str, signed: bool = False) -> Show:
    """As the row's measure is written, which its name alone decides."""

    def show(row: Mapping[str, Any]) -> str:
        measure, value = key_measure(row["measure"]), row.get(key)
        return "–" if value is None else measure.signed(value) if signed else measure.show(value)

    return show


def spread(row: Mapping[str, Any]) -> str:
    """Mean ± standard deviation."""
    return score("mean")(row) + ("" if row["std"] is None else f" ± {score('std')(row)}")


def interval(show: Callable[[str], Show], key: str) -> Show:
    """`key` with [low, high] after it, where the row has them."""

    def both(row: Mapping[str, Any]) -> str:
        ends = "" if row["low"] is None else f" [{show('low')(row)}, {show('high')(row)}]"
        return show(key)(row) + ends

    return both


def signed(key: str) -> Show:
    return score(key, signed=True)


def ratio(key: str) -> Show:
    return number(key, ".3f")
