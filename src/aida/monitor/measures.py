"""What is measured of a layer, each a short function of the layer's sums; and of all layers together.

Sums are the numbers and counts that `sums.layer_sums` takes on the device. Everything here is NumPy's
float64, which goes on to inf and nan where Python's own would raise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite, log2, nan
from typing import Any

import numpy as np

from .. import family
from .schema import AT_CAP, PER_OCTAVE, Row

Sums = Mapping[str, Any]
PERCENTILES = (5, 25, 50, 75, 95)

quiet = np.errstate(all="ignore")
"""What the functions below are called in, so that no warning and no user's np.seterr meets a training."""


def mean(s: Sums) -> float:
    return float(np.float64(s["u"]) / s["n"]) if s["n"] else nan


def pooled_mean(s: Sums) -> float:
    """The mean over elements with v != 0, which is every element's stepsize; where v is 0 all u are equal."""
    return float(np.float64(s["u_moved"]) / s["moved"]) if s["moved"] else mean(s)


@quiet
def std(s: Sums) -> float:
    """Population standard deviation, from the pieces' own and their means'.

    What the means differ by, below 1e-12 of their square, is rounding: of one piece it is exactly that.
    """
    between = s["means"] - np.float64(s["u"]) ** 2 / s["n"]
    if not between > 1e-12 * s["means"]:
        between = 0.0
    within = np.float64(s["within"])
    return _root(np.maximum(within, 0.0) / s["n"] + between / s["n"]) if isfinite(within) else nan


def percentile(counts: np.ndarray, low: float, q: float) -> float:
    """The stepsize below which q % of the counted elements lie; nan where none is counted.

    counts [n]: of bins that begin at 2^low, PER_OCTAVE to a factor of two, evenly filled within one.
    """
    total = counts.cumsum()
    if not total.size or not total[-1]:
        return nan
    wanted = q / 100 * total[-1]
    i = int(np.searchsorted(total, wanted))
    while not counts[i]:  # q = 0 lies at the first bin that has something
        i += 1
    return float(2 ** (low + (i + 1 - (total[i] - wanted) / counts[i]) / PER_OCTAVE))


@quiet
def cosine(gg: float, gm: float, mm: float) -> float | None:
    """cos(theta) between g and m; None where one of them is zero."""
    norms = _root(gg) * _root(mm)
    return float(np.clip(np.float64(gm) / norms, -1.0, 1.0)) if norms else None


@quiet
def residual(alpha: float, beta: float, gg: float, gm: float, mm: float, dd: float) -> float | None:
    """|r|/|m|, r = beta*m - alpha*g; None where m is 0."""
    if not mm:
        return None
    alpha_, beta_, gg_, gm_, mm_, dd_ = map(np.float64, (alpha, beta, gg, gm, mm, dd))
    return _root(family.residual_square(alpha_, beta_, gg_, gm_, dd_) / mm_)


@quiet
def update_ratio(updates: float, pp: float) -> float | None:
    """|update|/|p|, p after the step; None where p is zero."""
    return _root(np.float64(updates) / pp) if pp else None


@quiet
def spread(rows: Iterable[Row]) -> Row:
    """How far layers' average stepsizes are apart: mean, std (population), min, max and ratio = std/mean."""
    averages = np.array([row["mean"] for row in rows], np.float64)
    centre, deviation = averages.mean(), averages.std()
    found = {"mean": centre, "std": deviation, "min": averages.min(), "max": averages.max(),
             "ratio": deviation / centre}  # fmt: skip
    return {"kind": "spread", "layers": len(averages), **{key: float(x) for key, x in found.items()}}


def record(rows: Sequence[Row], **about: Any) -> list[Row]:
    """What sinks take of one step: the layers' rows, then their spread; `about`, such as run, in each.

    All have one step, the largest of those that the rows have: members side by side may count apart. No rows
    make no record.

    Example:
        >>> from aida.monitor import Memory
        >>> from aida.monitor.measures import record
        >>> memory = Memory()
        >>> memory.write(record([{"kind": "stepsize", "step": 1, "mean": 2.0}], run="first"))
        >>> [(row["kind"], row["run"], row["mean"]) for row in memory.rows]
        [('stepsize', 'first', 2.0), ('spread', 'first', 2.0)]
    """
    if not rows:
        return []
    step = max(row["step"] for row in rows)
    whole = [*rows, {**spread(rows), "step": step}]
    return [{"kind": row["kind"], **about, **row, "step": step} for row in whole]


@quiet
def stepsizes(s: Sums, counts: np.ndarray, top: float, cap: float | None, pooled: bool) -> Row:
    """All that a row says of a layer's stepsizes u. counts: the whole histogram, which ends at 2^top.

    Elements that are not numbers have no place among the others: then there are no percentiles.
    """
    average = pooled_mean(s) if pooled else mean(s)
    low = top - len(counts) / PER_OCTAVE
    if pooled:  # of pieces of a layer that share one stepsize, each has its own share of it alone
        counts = np.zeros_like(counts)
        if isfinite(average) and average > 0:
            counts[min(max(int((log2(average) - low) * PER_OCTAVE), 0), len(counts) - 1)] = s["n"]
    smallest, largest = (average, average) if pooled else (float(-s["-min"]), float(s["max"]))
    filled = np.flatnonzero(counts)
    start, end = (int(filled[0]), int(filled[-1]) + 1) if filled.size else (0, 0)
    counts, low = counts[start:end], low + start / PER_OCTAVE
    numbers = not np.isnan(average)
    capped = float(average >= AT_CAP * (cap or inf)) if pooled else float(s["capped"] / s["n"])
    percentiles = {
        f"p{q:02d}": min(max(percentile(counts, low, q), smallest), largest) if numbers else nan
        for q in PERCENTILES
    }
    histogram = {"low": low, "per_octave": PER_OCTAVE, "counts": [int(count) for count in counts]}
    return {"mean": average, "std": 0.0 if pooled else std(s), "min": smallest, "max": largest, **percentiles,
            "cap": cap, "capped": None if cap is None else capped if numbers else nan,
            "histogram": histogram}  # fmt: skip


@quiet
def products(s: Sums, pooled: bool, decay: float) -> Sums:
    """The sums with those that gradient and update enter as the step had them.

    Where stepsizes are pooled, g lacks decay times the update: g + c*m is the gradient that the step used.
    """
    if not pooled:
        return s
    gg, gm, mm, dd = (np.float64(s[key]) for key in ("gg", "gm", "mm", "dd"))
    step = np.float64(s["step_size"]) * pooled_mean(s)
    c = decay * step
    gg, gm, dd = gg + 2 * c * gm + c * c * mm, gm + c * mm, dd - 2 * c * (mm - gm) + c * c * mm
    return {**s, "gg": gg, "gm": gm, "dd": dd, "updates": step * step * mm}


@quiet
def directions(
    s: Sums, has_g: bool, has_m: bool, coefficients: tuple[float, float] | None, moved: bool = True
) -> Row:
    """All that a row says of a layer's gradient, momentum, parameter and update, from its products.

    coefficients: the layer's (alpha, beta), None where they are not known. moved: whether it was stepped.
    """
    gg, gm, mm, dd, pp, updates = (np.float64(s[key]) for key in ("gg", "gm", "mm", "dd", "pp", "updates"))
    both = has_g and has_m
    return {
        "cos": cosine(gg, gm, mm) if both else None,
        "g_norm": _root(gg) if has_g else None,
        "m_norm": _root(mm) if has_m else None,
        "p_norm": _root(pp),
        "residual": residual(*coefficients, gg, gm, mm, dd) if both and coefficients else None,
        "update_ratio": update_ratio(updates, pp) if moved and (has_g or has_m) else None,
    }


def _root(x: Any) -> float:
    return float(np.sqrt(x))
