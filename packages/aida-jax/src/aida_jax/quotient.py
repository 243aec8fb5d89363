"""Division with a derivative that float32 holds: jax's own has y*y, which is 0 at y = xi = 1e-20."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax


def divided(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule of gg, gm and mm of family.py, which need not know how its / is differentiated."""

    def divides(gg: Any, gm: Any, mm: Any) -> Any:
        if not isinstance(gg, jax.Array):  # NumPy's, in float64
            return rule(gg, gm, mm)
        return tuple(c.x for c in rule(_Number(gg), _Number(gm), _Number(mm)))

    return divides


class _Number:
    """An array with the operations that family.project uses."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __mul__(self, y: Any) -> _Number:
        return _Number(self.x * _value(y))

    __rmul__ = __mul__

    def __add__(self, y: Any) -> _Number:
        return _Number(self.x + _value(y))

    def __truediv__(self, y: Any) -> _Number:
        return _Number(quotient(self.x, _value(y)))


def _value(x: Any) -> Any:
    return x.x if isinstance(x, _Number) else x


@jax.custom_jvp
def quotient(x: Any, y: Any) -> Any:
    """x / y."""
    return x / y


@quotient.defjvp
def _(primals: Any, tangents: Any) -> tuple[Any, Any]:
    (x, y), (dx, dy) = primals, tangents
    q = quotient(x, y)
    return q, quotient(dx - q * dy, y)
