"""Settings of an optimizer as words of the command line, KEY=VALUES."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aida_bench.errors import UserError

HELP = (
    "A value is a number, true, false or a word, layerwise=post; a pair is joined by a colon, betas=0.9:0.99."
)
PAIRS = ("betas",)
NAMES = ("layerwise", "state_dtype", "no_decay")
"""Settings whose values may be words, such as layerwise=post: the optimizer says which it takes."""
WORDS = {"true": True, "false": False, "none": None}


def read_grid(words: Sequence[str]) -> dict[str, list[Any]]:
    """["lr=1e-3,3e-3", "betas=0.9:0.99"] to {"lr": [0.001, 0.003], "betas": [(0.9, 0.99)]}.

    Raises UserError for anything else, and for a key that comes twice.
    """
    grid: dict[str, list[Any]] = {}
    for word in words:
        key, sign, values = word.partition("=")
        if not sign:
            raise UserError(f"{word!r} is no setting: it has no =, as lr=1e-3 has. {HELP}")
        try:
            found = [_read(key.strip(), value.strip()) for value in values.split(",")]
        except ValueError as error:
            raise UserError(f"{word!r} is no setting: {error}. {HELP}") from error
        if grid.setdefault(key.strip(), found) is not found:
            raise UserError(f"{key.strip()} is given twice: write all its values as one, lr=1e-3,3e-3.")
        if key.strip() in PAIRS and not all(isinstance(value, tuple) for value in found):
            raise UserError(f"{word!r}: {key.strip()} are a pair, joined by a colon, such as betas=0.9:0.99.")
    return grid


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """The same for one value a key. Raises UserError where there are more, with the command that runs all."""
    # Where one value is all that a key may have, a comma can only join a pair.
    pairs = [word.replace(",", ":") if word.partition("=")[0].strip() in PAIRS else word for word in words]
    grid = read_grid(pairs)
    for key, values in grid.items():
        if len(values) > 1:
            listed = ",".join(map(write_setting, values))
            raise UserError(
                f"--set {key}={listed} has {len(values)} values, and train runs one: choose one, or run all "
                f"with aida sweep TASK --grid {key}={listed}."
            )
    return {key: values[0] for key, values in grid.items()}


def write_setting(value: Any) -> str:
    """As it is read: 0.003, true, post, 0.9:0.99."""
    if isinstance(value, str):
        return value
    if isinstance(value, (tuple, list)):
        return ":".join(map(write_setting, value))
    word = next((word for word, each in WORDS.items() if each is value), None)
    return word or (f"{value:g}" if float(f"{value:g}") == value else repr(value))


def _read(key: str, text: str) -> Any:
    if ":" in text:
        return tuple(_number(part) for part in text.split(":"))
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    return text if key in NAMES and text[:1].isalpha() else _number(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None
    return int(value) if value.is_integer() and text.strip().lstrip("+-").isdecimal() else value
