"""How far stepsizes spread within and across layers at the end of a run, and how many sit at the cap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from statistics import fmean, median, pstdev

from aida_bench.study.records import Record

AT_CAP = 0.95
"""From this share of elements at the cap on, an optimizer is momentum SGD, whatever its residual."""


@dataclass(frozen=True)
class Spreads:
    """`within`: the median over layers of std/mean; `across`: std/mean of the layers' means; `capped`: the
    share of all elements at the cap, None for an optimizer whose eps sets none."""

    within: float
    across: float
    capped: float | None


def spreads(record: Record) -> Spreads | None:
    """Of a run's last epoch; None for one that diverged, or whose optimizer has no stepsizes."""
    layers = [row for row in record.layers if row.get("mean") and row.get("std") is not None]
    if record.diverged or not layers:
        return None
    means = [row["mean"] for row in layers]
    within, across = median(row["std"] / row["mean"] for row in layers), pstdev(means) / fmean(means)
    held = [(row["numel"], row["capped"]) for row in layers if row.get("capped") is not None]
    elements = sum(numel for numel, _ in held)
    capped = sum(numel * share for numel, share in held) / elements if elements else None
    return Spreads(within, across, capped)


def by_seed(records: Mapping[int, Record]) -> dict[int, Spreads]:
    return {seed: found for seed, record in sorted(records.items()) if (found := spreads(record))}


def mean_spreads(records: Mapping[int, Record]) -> Spreads | None:
    """Each number's mean over the seeds that have it."""
    found = by_seed(records).values()
    if not found:
        return None
    within, across, capped = (
        [x for x in each if x is not None] for each in zip(*map(astuple, found), strict=True)
    )
    return Spreads(fmean(within), fmean(across), fmean(capped) if capped else None)


def at_cap(records: Mapping[int, Record]) -> bool:
    found = mean_spreads(records)
    return found is not None and found.capped is not None and found.capped >= AT_CAP
