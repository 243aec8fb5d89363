"""What the command says when a person has to change something."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable


class UserError(Exception):
    """One clear sentence: the value, the reason and the fix. The command prints it and exits with 2."""


def warn(message: str) -> None:
    """One line on stderr, for what a person should know and need not change."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is valid, else raise a UserError that names the nearest valid names."""
    names = list(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown {kind} {name!r}: {hint}Valid: {', '.join(names)}.")
