"""Rows as series: a layer's measures over time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, nan
from statistics import fmean, pstdev
from typing import Any, TypeAlias

from ..schema import finite

Row: TypeAlias = Mapping[str, Any]
Runs: TypeAlias = Mapping[str, Iterable[Row]] | Iterable[Row]


class Missing(ValueError):
    """There is nothing to draw; the message names the field that no row has."""


@dataclass(frozen=True)
class Layer:
    """One layer over time: at each time its rows, more than one where there are several seeds."""

    number: int
    parameter: str
    time: list[int]
    rows: list[list[Row]]

    @property
    def numel(self) -> int:
        return self.rows[0][0].get("numel", 0)

    def values(self, field: str) -> list[float]:
        """A field at each time, its mean over the rows that have it; nan where none has."""
        found = [[row[field] for row in rows if row.get(field) is not None] for rows in self.rows]
        return [fmean(values) if values else nan for values in found]

    def has(self, field: str) -> bool:
        if field == "histogram":
            return any(self.histograms)
        return any(row.get(field) is not None for rows in self.rows for row in rows)

    @property
    def cap(self) -> float | None:
        """The largest stepsize that eps allows, as last recorded."""
        return next((cap for rows in reversed(self.rows) if (cap := rows[0].get("cap"))), None)

    @property
    def histograms(self) -> list[Row | None]:
        """At each time that of the first row, if it counts any: bins of several seeds are not added up."""
        return [histogram if _drawable(histogram := rows[0].get("histogram")) else None for rows in self.rows]


def _drawable(histogram: Any) -> bool:
    if not isinstance(histogram, Mapping) or not isfinite(histogram["low"]):
        return False
    return all(map(isfinite, histogram["counts"])) and any(histogram["counts"])


def named(runs: Runs) -> dict[str, list[Row]]:
    """{name: rows}, several names where rows are of several runs; the rows of a single run have no name.

    A number that is not finite stands for none.
    """
    found: dict[str, list[Row]] = {}
    for name, rows in runs.items() if isinstance(runs, Mapping) else [("", runs)]:
        each = apart(map(finite, map(dict, rows)))
        for label, own in each.items():
            found[f"{name} {label}".strip() if len(each) > 1 else str(name)] = own
    return found


def apart(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows of each run and optimizer, by the optimizer's name, with the run's where one had several.

    Where a run was resumed from a checkpoint, what it had recorded after that is left out.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    series: dict[Any, list[Row]] = {}
    gone: set[int] = set()
    for row in rows:
        key = row.get("optimizer") or "", row.get("run") or ""
        found.setdefault(key, []).append(row)
        if row.get("run") and row.get("step") is not None:
            own = series.setdefault((key, *map(row.get, ("kind", "layer", "parameter"))), [])
            while own and own[-1]["step"] >= row["step"]:
                gone.add(id(own.pop()))
            own.append(row)
    optimizers = [optimizer for optimizer, _ in found]
    return {
        (f"{optimizer} {run}".strip() or "without a name")
        if optimizers.count(optimizer) > 1
        else optimizer: [row for row in own if id(row) not in gone]
        for (optimizer, run), own in found.items()
    } or {"": []}


def time_field(runs: Mapping[str, Sequence[Row]]) -> str:
    """ "epoch" if every row has one, else "step"; raises Missing where neither is in all rows."""
    rows = [row for rows in runs.values() for row in rows if row.get("kind") in ("stepsize", "spread")]
    for field in ("epoch", "step"):
        if all(row.get(field) is not None for row in rows):
            return field
    raise Missing('neither "epoch" nor "step" is in every row: these runs have no time in common.')


def layers(rows: Iterable[Row], time: str = "epoch") -> list[Layer]:
    """The stepsize rows, layer by layer in their order, each sorted by time."""
    cells: dict[tuple[int, str], dict[int, list[Row]]] = {}
    for row in rows:
        if row.get("kind") != "stepsize":
            continue
        for field in ("layer", time):
            if row.get(field) is None:
                raise Missing(f'a row has no "{field}": {dict(row)}.')
        cell = cells.setdefault((row["layer"], row.get("parameter") or ""), {})
        cell.setdefault(row[time], []).append(row)
    return [
        Layer(number, parameter, sorted(by_time), [by_time[at] for at in sorted(by_time)])
        for (number, parameter), by_time in sorted(cells.items())
    ]


def with_field(runs: Mapping[str, Sequence[Row]], *fields: str) -> tuple[str, dict[str, list[Layer]]]:
    """The field of time, and each run's layers that have all the fields; raises Missing if no layer has."""
    time = time_field(runs)
    found = {name: layers(rows, time) for name, rows in runs.items()}
    if not any(found.values()):
        raise Missing('no row has the kind "stepsize": an optimizer without adaptive stepsizes writes none.')
    kept = {name: [one for one in many if all(map(one.has, fields))] for name, many in found.items()}
    kept = {name: many for name, many in kept.items() if many}
    if not kept:
        absent = [field for field in fields if not any(one.has(field) for m in found.values() for one in m)]
        raise Missing(f"no row has {' or '.join(f'{each!r}' for each in absent or fields)}.")
    return time, kept


def across_layers(rows: Sequence[Row], time: str) -> Layer:
    """The averages of the layers as one series: mean, std, min, max and ratio = std/mean, over the layers.

    Those of the rows of kind "spread"; where there are none, of the layers' rows, a seed at a time.
    """
    spreads = [row for row in rows if row.get("kind") == "spread" and row.get("mean") is not None]
    if not spreads:
        means: dict[tuple[int, Any], list[float]] = {}
        for one in layers(rows, time):
            for at, each in zip(one.time, one.rows, strict=True):
                for row in each:
                    if row.get("mean") is not None:
                        means.setdefault((at, row.get("seed")), []).append(row["mean"])
        spreads = [{time: at, **_spread(values)} for (at, _), values in means.items()]
    by_time: dict[int, list[Row]] = {}
    for row in spreads:
        by_time.setdefault(row[time], []).append(row)
    times = sorted(by_time)
    return Layer(0, "", times, [by_time[at] for at in times])


def _spread(values: Sequence[float]) -> Row:
    mean, std = fmean(values), pstdev(values)
    ratio = std / mean if mean else None
    return {"mean": mean, "std": std, "min": min(values), "max": max(values), "ratio": ratio}


def rebin(histogram: Row, per_octave: int) -> dict[str, Any]:
    """The same counts in wider bins, `per_octave` of them to a factor of two; it must divide the row's."""
    factor, remainder = divmod(histogram["per_octave"], per_octave)
    if remainder:
        raise ValueError(
            f"{per_octave} bins an octave do not divide the {histogram['per_octave']} there are."
        )
    first = round(histogram["low"] * histogram["per_octave"])
    counts: dict[int, int] = {}
    for i, count in enumerate(histogram["counts"], first):
        counts[floor(i / factor)] = counts.get(floor(i / factor), 0) + count
    low = floor(first / factor)
    return {"low": low / per_octave, "per_octave": per_octave, "counts": list(counts.values())}


def choose_bins(histograms: Iterable[Row], most: int, octaves: float | None = None) -> int:
    """Bins an octave, the rows' own halved until about `most` of them cover `octaves`, or the widest row."""
    bins, widest = 1, 0.0
    for histogram in histograms:
        bins, widest = (
            histogram["per_octave"],
            max(widest, len(histogram["counts"]) / histogram["per_octave"]),
        )
    while bins % 2 == 0 and bins * (widest if octaves is None else octaves) > most:
        bins //= 2
    return bins


def subsample(values: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the values: the first, and at a constant distance those up to the last."""
    if len(values) <= most:
        return list(values)
    kept = list(values[:: -ceil((len(values) - 1) / (most - 1))])[::-1]
    return kept if kept[0] == values[0] else [values[0], *kept]
