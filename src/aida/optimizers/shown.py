"""How an optimizer shows itself: as torch's do, with each group's largest stepsize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import family


def with_caps(text: str, groups: Iterable[Mapping[str, Any]], eps_outside: bool) -> str:
    """torch's text with a line below each group's title; text: of repr()."""
    caps = {
        f"Parameter Group {i}": f"    (cap of the stepsize: {_cap(group, eps_outside)})"
        for i, group in enumerate(groups)
    }
    lines = (f"{line}\n{caps[line]}" if line in caps else line for line in text.split("\n"))
    return "\n".join(lines)


def _cap(group: Mapping[str, Any], eps_outside: bool) -> str:
    """As text; values that the next step is about to refuse have none."""
    try:
        eps, (_, b2) = group["eps"], group["betas"]
        if not eps > 0:
            return "none"
        return f"{1 / (1 / family.stepsize_cap(eps, b2) + (eps if eps_outside else 0.0)):.4g}"
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return "none"
