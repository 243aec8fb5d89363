"""Runs as a report sees them: what is whole in their rows, and groups of them that can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from aida_bench.report.metrics import METRICS, NOTHING, SPLITS, Metric, key_label, key_measure, told_higher
from aida_bench.storage.files import Row

CAPPED = ("aida", "laida", "adabelief", "ladabelief", "adamplus", "ladam")
"""Members of the family, with eps inside the root; a suffix as in "aida-k1" names a variant."""


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True)
class Result:
    """One run: its configuration, what its done.json says, and its rows as they were found.

    What the rows do not bear out does not count: `state` is "finished" only where every epoch is there.
    """

    config: Row
    status: str | None
    rows: list[Row]
    timings: list[Row] = field(default_factory=list)
    versions: Row = field(default_factory=dict)
    folder: Path = Path()
    label: str = ""

    @property
    def optimizer(self) -> str:
        return self.label or self.config["optimizer"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def wanted(self) -> int | None:
        """The epochs that were asked for, where the configuration says it."""
        epochs = self.config.get("epochs")
        return epochs if isinstance(epochs, int) and not isinstance(epochs, bool) else None

    @cached_property
    def _read(self) -> tuple[list[Row], str, bool]:
        """The epochs up to the first fault, what that is, and whether it is a number that is not finite."""
        epochs: list[Row] = []
        for row in self.rows:
            if row.get("kind") != "epoch":
                continue
            if row.get("epoch") != len(epochs) + 1:
                return epochs, f"epoch {row.get('epoch')} follows epoch {len(epochs)}", False
            measures = {key: value for key, value in row.items() if number(value)}
            for key, value in measures.items():
                if not isfinite(value):
                    return epochs, f"epoch {row['epoch']} has {key} {value}", True
            epochs.append(measures)
        return epochs, "", False

    @property
    def epochs(self) -> list[Row]:
        """The numbers of each whole epoch, in order, before any that are not finite."""
        return self._read[0]

    @cached_property
    def state(self) -> str:
        """ "finished", "diverged" or "unfinished"."""
        _, fault, lost = self._read
        if self.status == "diverged" or lost:
            return "diverged"
        whole = not fault and len(self.epochs) >= (self.wanted or 1)
        return "finished" if self.status == "finished" and whole else "unfinished"

    @property
    def note(self) -> str:
        """Where the rows and done.json disagree."""
        fault = self._read[1]
        if self.status == "finished" and self.state == "unfinished":
            has = fault or f"rows.jsonl has {len(self.epochs)} of {self.wanted or 'its'} epochs"
            return f"done.json says finished, but {has}"
        return fault

    @property
    def diverged(self) -> bool:
        return self.state == "diverged"

    @property
    def finished(self) -> bool:
        return self.state == "finished"

    @cached_property
    def stepsizes(self) -> list[Row]:
        """The rows of its layers that say which layer and epoch; what is not a finite number is None."""
        return [
            _layer(row)
            for row in self.rows
            if row.get("kind") == "stepsize" and all(_whole(row.get(key)) for key in ("layer", "epoch"))
        ]

    @cached_property
    def times(self) -> list[Row]:
        """The timings of its whole epochs; none unless every one of them was timed."""
        keys = ("seconds", "step_ms")
        timed = [row for row in self.timings if all(_finite(row.get(key)) for key in keys)]
        first = timed[: len(self.epochs)]
        return first if [row.get("epoch") for row in first] == [row["epoch"] for row in self.epochs] else []

    @property
    def seconds(self) -> float | None:
        """Wall seconds of its whole epochs."""
        return sum(row["seconds"] for row in self.times) if self.times else None

    @property
    def settings(self) -> dict[str, Any]:
        return flatten(self.config.get("settings") or {})

    @property
    def cap(self) -> float | None:
        """The largest adaptive stepsize, sqrt((1 - b2) / eps), 316.23 by default; None if eps sets none."""
        if self.config["optimizer"].split("-")[0] not in CAPPED:
            return None
        settings = self.config.get("settings") or {}
        return sqrt((1 - settings.get("betas", (0.9, 0.999))[1]) / settings.get("eps", 1e-8))

    def series(self, key: str) -> dict[int, float]:
        """A measure by epoch, where it was taken."""
        return {row["epoch"]: row[key] for row in self.epochs if key in row}


def _finite(value: Any) -> bool:
    return number(value) and isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _layer(row: Row) -> Row:
    told = {
        key: value for key, value in row.items() if key in ("kind", "parameter") and isinstance(value, str)
    }
    numbers = {key: value if _finite(value) else None for key, value in row.items() if key not in told}
    histogram = row.get("histogram")
    if isinstance(histogram, dict) and isinstance(histogram.get("counts"), list):
        bins, low, counts = histogram.get("per_octave"), histogram.get("low"), histogram["counts"]
        if isinstance(bins, int) and bins > 0 and _finite(low) and all(_whole(count) for count in counts):
            numbers["histogram"] = histogram
    return (
        {"numel": 0, **numbers, **told} if _whole(numbers.get("numel")) else {**numbers, **told, "numel": 0}
    )


def flatten(settings: Row, prefix: str = "") -> Row:
    """Nested settings with joined names: {"critic": {"lr": 1}} is {"critic.lr": 1}."""
    flat = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


@dataclass(frozen=True)
class Group:
    """Results of one task under the same conditions, which differ in optimizer, its settings and seed."""

    title: str
    results: Sequence[Result]

    @cached_property
    def optimizers(self) -> list[str]:
        """Labels in the order in which they first occur."""
        return list(dict.fromkeys(result.optimizer for result in self.results))

    def of(self, optimizer: str) -> list[Result]:
        return [result for result in self.results if result.optimizer == optimizer]

    def counted(self, optimizer: str) -> list[Result]:
        """What speaks for an optimizer: its finished runs, or all that have not diverged where none is."""
        whole = [result for result in self.of(optimizer) if not result.diverged]
        return [result for result in whole if result.finished] or whole

    @cached_property
    def keys(self) -> list[str]:
        """Everything that was measured by epoch, the training loss first."""
        names = dict.fromkeys(key for result in self.results for row in result.epochs for key in row)
        return sorted((key for key in names if key not in ("epoch", "lr")), key=_key_order)

    @cached_property
    def measure(self) -> Metric:
        """What ranks the optimizers: the first of METRICS that was taken on the split that chooses."""
        chosen = [key for key in self.keys if key.startswith("validation_")] or self.keys
        if not chosen:
            return NOTHING
        names = [key_measure(key).name for key in chosen]
        return next((METRICS[name] for name in METRICS if name in names), self.measure_of(chosen[0]))

    @cached_property
    def _higher(self) -> set[str]:
        return set().union(*(told_higher(result.config) for result in self.results))

    def measure_of(self, key: str) -> Metric:
        """The measure of a key of its rows, as the task says it."""
        return key_measure(key, self._higher)

    def label_of(self, key: str) -> str:
        return key_label(key, self.measure_of(key))

    @property
    def choosing_key(self) -> str:
        """The measure that chooses a run's best epoch."""
        key = f"validation_{self.measure.name}"
        if key in self.keys:
            return key
        return next((key for key in self.keys if key_measure(key).name == self.measure.name), NOTHING.name)

    @property
    def scored_key(self) -> str:
        """The measure that is compared: of the test set, or that which chooses if there is no other."""
        key = f"test_{self.measure.name}"
        return key if key in self.keys else self.choosing_key

    @property
    def scored(self) -> str:
        return self.label_of(self.scored_key)

    @property
    def chosen_by(self) -> str:
        return self.label_of(self.choosing_key).removesuffix(", %")

    @property
    def tested(self) -> bool:
        """Whether the score is of another set than the one that chooses the epoch."""
        return self.scored_key != self.choosing_key

    def _scored_rows(self, result: Result) -> list[Row]:
        return [row for row in result.epochs if self.choosing_key in row and self.scored_key in row]

    def best(self, result: Result) -> Row | None:
        """The first epoch of the best choosing measure; None before there is one."""
        sign = 1 if self.measure.higher else -1
        return max(self._scored_rows(result), key=lambda row: sign * row[self.choosing_key], default=None)

    def last(self, result: Result) -> Row | None:
        """The last epoch with a score, which in a finished run is its last."""
        return next(reversed(self._scored_rows(result)), None)


def _key_order(key: str) -> tuple[int, int]:
    split, name = key.partition("_")[0], key_measure(key).name
    measure = list(METRICS).index(name) if name in METRICS else len(METRICS)
    return SPLITS.index(split) if split in SPLITS else len(SPLITS), measure
