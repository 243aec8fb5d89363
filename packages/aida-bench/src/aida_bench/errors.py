"""What the command says when a person has to change something."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class UserError(Exception):
    """One clear sentence: the value, the reason and the fix. The command prints it and exits with 2."""


def warn(message: str) -> None:
    """One line on stderr, for what a person should know and need not change."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: a path in it may have brackets or a :name: in it, and is not broken."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


def choose(kind: str, name: str, valid: Iterable[str]) -> str:
    """Return `name` if it is valid, else raise a UserError that names the nearest valid names."""
    names = list(valid)
    if name in names:
        return name
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"unknown {kind} {name!r}: {hint}Valid: {', '.join(names)}.")
