"""How an optimizer shows itself: as torch's do, with each group's largest stepsize."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .. import family


def with_caps(text: str, groups: Iterable[Mapping[str, Any]], eps_outside: bool) -> str:
    """torch's text with a line below each group's title; text: of repr()."""
    caps = {
        f"Parameter Group {i}": f"    (cap of the stepsize: {_cap(group, eps_outside):.4g})"
        for i, group in enumerate(groups)
    }
    lines = (f"{line}\n{caps[line]}" if line in caps else line for line in text.split("\n"))
    return "\n".join(lines)


def _cap(group: Mapping[str, Any], eps_outside: bool) -> float:
    eps = group["eps"]
    return 1 / (1 / family.stepsize_cap(eps, group["betas"][1]) + (eps if eps_outside else 0.0))
