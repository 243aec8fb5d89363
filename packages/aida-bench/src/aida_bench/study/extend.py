"""A study that adds to another: its tables lie over the other's, whose runs are taken as they are."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import normpath
from pathlib import Path
from typing import Any

from aida_bench.errors import UserError
from aida_bench.storage.files import expand

Content = dict[str, Any]
INHERITED = ("tuning", "final", "published", "comparisons", "space", "tasks")
MACHINE = ("device", "precision", "threads")
"""What of [study] is the other's too: a run is not the same without it."""


def extended(content: Mapping[str, Any], path: Path, above: tuple[Path, ...]) -> Path | None:
    """The file that this one extends, None if it does not. Raises UserError for a circle."""
    about = content.get("study")
    name = about.get("extends") if isinstance(about, dict) else None
    if not isinstance(name, str) or not name:
        return None
    base = Path(normpath(path.parent / expand(Path(name))))
    if base in (*above, Path(normpath(path))):
        raise UserError(f"{path.name} extends {name}, which extends it: leave extends out of one of them.")
    return base


def laid_over(base: Content, own: Content, last_phase: int, name: str) -> Content:
    """The tables of both, key by key; sweeps and claims are each file's own, and phases follow the other's.

    Raises UserError for an optimizer that both have.
    """
    content = dict(own)
    for key in INHERITED:
        content[key] = _merged(base.get(key), own.get(key))
    content = {key: table for key, table in content.items() if table is not None}
    kept = {key: value for key, value in base.get("study", {}).items() if key in MACHINE}
    content["study"] = {**kept, **own["study"]}
    added = own.get("optimizers", {})
    if isinstance(added, dict):
        if both := [label for label in added if label in base["optimizers"]]:
            raise UserError(
                f"[optimizers.{both[0]}] in {name} is in {own['study']['extends']} too: give it another name."
            )
        later = {label: _later(each, last_phase) for label, each in added.items()}
        content["optimizers"] = {**base["optimizers"], **later}
    return content


def _merged(base: Any, own: Any) -> Any:
    """What is no table is left for the reader to refuse."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return base if own is None else own
    return {**base, **own, **{key: _merged(base[key], own[key]) for key in base if key in own}}


def _later(optimizer: Any, last_phase: int) -> Any:
    phase = optimizer.get("phase", 1) if isinstance(optimizer, dict) else None
    return {**optimizer, "phase": last_phase + phase} if type(phase) is int else optimizer
