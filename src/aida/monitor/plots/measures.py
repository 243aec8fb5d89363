"""How each field of a row is called and scaled in a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A field's label with its symbol, whether its scale is logarithmic, and its limits if it has any.

    Values `of_u` are stepsizes: they can be compared on one scale between optimizers that share a cap.
    """

    field: str
    label: str
    log: bool = False
    limits: tuple[float, float] | None = None
    of_u: bool = False


MEASURES = {
    measure.field: measure
    for measure in (
        Measure("mean", "mean of the stepsize u", of_u=True),
        Measure("std", "standard deviation of u", of_u=True),
        Measure("min", "smallest u", log=True, of_u=True),
        Measure("max", "largest u", log=True, of_u=True),
        *(
            Measure(f"p{rank:02}", f"percentile {rank} of u", log=True, of_u=True)
            for rank in (5, 25, 50, 75, 95)
        ),
        Measure("capped", "share of elements at the cap", limits=(0.0, 1.0)),
        Measure("cos", "cos θ between g and m", limits=(-1.0, 1.0)),
        Measure("residual", "residual |r| / |m|", log=True),
        Measure("update_ratio", "update ratio |Δp| / |p|, a step", log=True),
        Measure("g_norm", "gradient norm |g|", log=True),
        Measure("m_norm", "momentum norm |m|", log=True),
        Measure("p_norm", "parameter norm |p|", log=True),
    )
}


def measure(field: str) -> Measure:
    """A field's measure; raises ValueError for a field that no row has a number in."""
    if field not in MEASURES:
        raise ValueError(f"no measure {field!r}: the measures are {', '.join(MEASURES)}.")
    return MEASURES[field]
