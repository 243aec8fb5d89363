"""Finished runs of a study: from their folders, or from committed rows that hold the same."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from aida_bench.errors import UserError, choose
from aida_bench.report.metrics import METRICS, NOTHING, Metric, key_measure, measure_named, told_higher
from aida_bench.report.read_rows import read_folder
from aida_bench.report.results import Result
from aida_bench.storage.files import Row, from_json_lines, make_folder, replaced, to_json_lines
from aida_bench.storage.run import read_done
from aida_bench.study.spec import Study

ROWS = "rows.jsonl.gz"
ABOUT = ("torch", "aida", "commit", "machine")
"""What of a run's versions is kept."""
DIGITS = 6
"""Significant digits of what is told of layers and times; scores keep all."""


@dataclass(frozen=True)
class Record:
    """A finished run: every epoch's measures and times, and its layers' stepsizes at the end; those of tuning
    runs are in no table and are left out."""

    key: str
    config: Row
    status: str
    epochs: list[Row]
    timings: list[Row]
    layers: list[Row] = field(default_factory=list)
    versions: Row = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """ "tune", "final", "published" or "untrained": the last word of its folder, before the point."""
        return PurePosixPath(self.key).parent.name.rpartition(" ")[2].partition("-")[0]

    @property
    def diverged(self) -> bool:
        return self.status == "diverged"

    @cached_property
    def cpu_seconds(self) -> float:
        """Of its epochs; wall seconds where CPU time was not taken."""
        return sum(row.get("cpu_seconds", row.get("seconds", 0.0)) for row in self.timings)

    @cached_property
    def seconds(self) -> float:
        return sum(row.get("seconds", 0.0) for row in self.timings)

    def last(self, key: str) -> float | None:
        """A measure of the last epoch; None for a run that diverged. Raises UserError if it was not taken."""
        if self.diverged:
            return None
        if key not in self.epochs[-1]:
            raise UserError(
                f"the last epoch of {self.key} has no {key}: choose another measure for its task."
            )
        return self.epochs[-1][key]


Found = Mapping[str, Record]
"""Finished runs by the key of their cell, which is their folder."""


def read_records(study: Study) -> dict[str, Record]:
    """All that is finished, committed or in the study's folder; of a study that it extends too."""
    found = read_records(study.base) if study.base else {}
    found |= read_rows(study.rows_folder) if study.rows_folder else {}
    for path in sorted(study.folder.glob("*/*/seed-*/done.json")):
        key = path.parent.relative_to(study.folder).as_posix()
        if read_done(path.parent):
            found[key] = of_result(key, read_folder(path.parent))
    return found


def read_committed(study: Study) -> dict[str, Record]:
    """Its rows alone, and those of a study that it extends."""
    found = read_committed(study.base) if study.base else {}
    return found | (read_rows(study.rows_folder) if study.rows_folder else {})


def own_of(study: Study, found: Found) -> dict[str, Record]:
    """What of the finished runs is not of a study that it extends."""
    others = read_records(study.base) if study.base else {}
    return {key: record for key, record in found.items() if key not in others}


def of_result(key: str, result: Result) -> Record:
    last = len(result.epochs)
    layers = [row for row in result.stepsizes if row["epoch"] == last]
    timings = [row for row in result.timings if isinstance(row.get("epoch"), int)]
    return _kept(Record(
        key, result.config, "diverged" if result.diverged else "finished", result.epochs,
        [_short(row) for row in timings],
        [_short({k: v for k, v in row.items() if k not in ("kind", "histogram", "epoch")}) for row in layers],
        {name: result.versions.get(name) for name in ABOUT},
    ))  # fmt: skip


def _kept(record: Record) -> Record:
    """Rows of before have the layers of tuning runs too."""
    return replace(record, layers=[]) if record.layers and record.stage == "tune" else record


def _short(row: Row) -> Row:
    return {k: float(f"{v:.{DIGITS}g}") if isinstance(v, float) else v for k, v in row.items()}


def read_rows(folder: Path) -> dict[str, Record]:
    """The committed rows in a folder, none where there is no file. Raises UserError for damage."""
    path = folder / ROWS
    if not path.exists():
        return {}
    try:
        rows = from_json_lines(gzip.decompress(path.read_bytes()).decode())
        return {row["key"]: _kept(Record(**row)) for row in rows}
    except (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged ({error}): take it from its commit again.") from error


def write_rows(folder: Path, records: Iterable[Record]) -> Path:
    """The same records give the same bytes."""
    make_folder(folder)
    text = to_json_lines(asdict(each) for each in sorted(records, key=lambda each: each.key))
    with replaced(folder / ROWS) as beside:
        beside.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    return folder / ROWS


@dataclass(frozen=True)
class Scoring:
    """What a task is tuned by and compared by: a measure of the validation split, and of the test split."""

    measure: Metric
    tuned_by: str
    scored_by: str

    def cost(self, record: Record, key: str) -> float:
        """Less is better; inf for a run that diverged."""
        value = record.last(key)
        return float("inf") if value is None else -value if self.measure.higher else value


def scoring_of(study: Study, task: str, found: Found) -> Scoring | None:
    """None before any run of the task has ended; by nothing while all of them have diverged at once.

    Raises UserError for a task without a validation split.
    """
    records = list(of_task(found, task))
    keys = dict.fromkeys(key for record in records for row in record.epochs for key in row)
    names = [key_measure(key).name for key in keys if key.startswith("validation_")]
    if not keys:
        return Scoring(NOTHING, NOTHING.name, NOTHING.name) if records else None
    if not names:
        raise UserError(
            f"runs of {task} have no measure of a validation split, which tuning goes by: let the task's "
            'splits begin with "validation".'
        )
    wanted = study.tasks[task].measure
    if wanted is not None:
        choose(f"measure of [tasks.{task}] in {study.path.name}", wanted, names)
    name = wanted or next((each for each in METRICS if each in names), names[0])
    tuned_by, tested = f"validation_{name}", f"test_{name}"
    higher = {each for record in records for each in told_higher(record.config)}
    return Scoring(measure_named(name, higher), tuned_by, tested if tested in keys else tuned_by)


def of_task(found: Found, task: str) -> Iterator[Record]:
    return (record for key, record in found.items() if key.partition("/")[0] == task)


def plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value))
