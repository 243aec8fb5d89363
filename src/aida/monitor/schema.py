"""The rows that a record is made of: plain dictionaries that JSON can hold.

A layer row, of kind "stepsize", one per layer and record; u are the layer's adaptive stepsizes:
  step (optimizer steps taken, one number in all rows of a record), layer (its number, from 1),
  parameter (its name; name[0:64] of a slice, and of several tensors the name that the optimizer's `layers`
  gives them), numel;
  mean, std (population), min, max, p05, p25, p50, p75, p95 of u; histogram of u;
  cap (the largest u that eps allows), capped (the fraction of elements with u >= 0.99 cap);
  cos (of the angle between g and m), g_norm, m_norm, p_norm (Euclidean);
  residual (|r|/|m|, r what enters v squared), update_ratio (|update|/|p|, without weight decay).
Percentiles are read from the histogram, to within one bin, 1.1 %. What an optimizer or a layer does not have
is None: a layer without a gradient in the step, such as a frozen one, keeps the u that its last step left,
and has no cos, g_norm, residual or update_ratio.
A spread row, of kind "spread", one a record: step, layers (how many), and mean, std, min, max and
ratio = std/mean of the layers' average stepsizes. It comes last: without it a record is not whole.
In all rows of a monitor: run (what keeps runs apart in one file); optimizer, where there are several.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

Row = dict[str, Any]

PER_OCTAVE = 64
"""Bins of a histogram to a factor of two."""
AT_CAP = 0.99
"""An element is held at the cap from this fraction of it on."""


def new_run(optimizer: str) -> str:
    """A name for a run of an optimizer's class that no other run has, such as Aida-20261125-204902-9f3a1c."""
    return f"{optimizer}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def finite(row: Row) -> Row:
    """The row with None for every number that JSON cannot hold.

    Example:
        >>> from aida.monitor import finite
        >>> finite({"mean": float("nan"), "step": 3})
        {'mean': None, 'step': 3}
    """
    return {key: None if isinstance(x, float) and not isfinite(x) else x for key, x in row.items()}


def histogram_edges(histogram: Mapping[str, Any]) -> list[float]:
    """The n + 1 edges of the n bins of a row's histogram: 2^(low + i/per_octave).

    Example:
        >>> from aida.monitor import histogram_edges
        >>> histogram_edges({"low": 1, "per_octave": 1, "counts": [5, 7]})
        [2.0, 4.0, 8.0]
    """
    low, per_octave = histogram["low"], histogram["per_octave"]
    return [2 ** (low + i / per_octave) for i in range(len(histogram["counts"]) + 1)]
