"""Quasi-random points in a space of settings, log-uniform, and what is added where a range was too narrow.

As in Choi et al. (arXiv 1910.05446) every optimizer gets the same number of points. All take them from one
scrambled Sobol sequence, so that two optimizers that share a range try the very same values of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from typing import Any

from aida_bench.study.spec import Range, Study

OUTER = 0.1
"""A best point within this fraction of a range's logarithmic length from one of its ends is at the edge."""

EXTENDED = 7919
"""Added to the seed of the sequence from which the settings come that only an extension tunes."""

Axis = tuple[str, Range]
"""A setting and its declared range; optimizers that declare the same share what becomes of it."""
Side = tuple[Axis, str]
"""An axis and "low" or "high"."""
Ranges = Mapping[Axis, Range]
"""What has become of each axis that was widened."""


def axis_of(study: Study, optimizer: str, key: str) -> Axis:
    return key, study.range_of(optimizer, key)


def first_points(study: Study, optimizer: str) -> list[dict[str, float]]:
    """The points that the study declares."""
    units = _units(study, study.tuning.points, 0)
    return [_point(study, optimizer, unit, {}) for unit in units]


def wider_points(
    study: Study, optimizer: str, number: int, before: Ranges, sides: Sequence[Side]
) -> list[dict[str, float]]:
    """The points of widening `number` (from 1): in turn, one in each part by which a range has grown at one
    of `sides`, its other settings anywhere in their ranges. One without that axis gets a point of its own.
    """
    after = widen(study, before, sides)
    units = _units(study, study.tuning.widening_points, number)
    points = []
    for i, unit in enumerate(units):
        axis, end = sides[i % len(sides)]
        (low, high), (new_low, new_high) = before.get(axis, axis[1]), after[axis]
        added = (new_low, low) if end == "low" else (high, new_high)
        points.append(_point(study, optimizer, unit, {**after, axis: added}))
    return points


def widen(study: Study, ranges: Ranges, sides: Iterable[Side]) -> dict[Axis, Range]:
    factor, wider = study.tuning.widening_factor, dict(ranges)
    for axis, end in sides:
        low, high = wider.get(axis, axis[1])
        wider[axis] = (low / factor, high) if end == "low" else (low, high * factor)
    return wider


def edges(study: Study, optimizer: str, point: Mapping[str, float], ranges: Ranges) -> list[Side]:
    """The sides in whose outer tenth a point lies."""
    found: list[Side] = []
    for key in study.optimizers[optimizer].tune:
        axis = axis_of(study, optimizer, key)
        low, high = ranges.get(axis, axis[1])
        place = log(point[key] / low) / log(high / low)
        if place < OUTER or place > 1 - OUTER:
            found.append((axis, "low" if place < OUTER else "high"))
    return found


def unit_points(count: int, dimensions: int, seed: int) -> list[list[float]]:
    """The first `count` of a scrambled Sobol sequence in (0, 1)^dimensions."""
    from scipy.stats import qmc

    drawn = 1 << (count - 1).bit_length()  # a power of two, without which scipy warns
    engine: Any = qmc.Sobol  # whose seed newer versions call rng
    return engine(max(dimensions, 1), scramble=True, seed=seed).random(drawn)[:count].tolist()


def _units(study: Study, count: int, number: int) -> list[dict[str, float]]:
    """Points of the unit cube, one dimension for each setting that any optimizer tunes, whoever tunes it.

    A study that extends another has its points; settings that only it tunes come from a sequence of their
    own, since one of more dimensions is another one in each of them.
    """
    own = (key for each in study.optimizers.values() for key in each.tune)
    keys = list(dict.fromkeys([*study.space, *own]))
    points = _units(study.base, count, number) if study.base else [{} for _ in range(count)]
    keys, seed = [key for key in keys if key not in points[0]], study.tuning.sobol_seed + number
    if not keys:
        return points
    units = unit_points(count, len(keys), seed + (EXTENDED if study.base else 0))
    return [{**old, **dict(zip(keys, unit, strict=True))} for old, unit in zip(points, units, strict=True)]


def _point(
    study: Study, optimizer: str, place: Mapping[str, float], ranges: Mapping[Axis, Any]
) -> dict[str, float]:
    point = {}
    for key in study.optimizers[optimizer].tune:
        axis = axis_of(study, optimizer, key)
        low, high = ranges.get(axis, axis[1])
        value = exp(log(low) + place[key] * (log(high) - log(low)))
        point[key] = min(max(float(f"{value:.4g}"), low), high)
    return point
