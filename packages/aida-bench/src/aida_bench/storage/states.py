"""Checkpoints: torch's files under a checksum, each seen to load before it has its name."""

from __future__ import annotations

import codecs
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from pickle import PickleError
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals

from aida_bench.errors import UserError
from aida_bench.storage.files import ANEW, Row, replaced, sha256

SEAL = b"sha256:"
END, SEALED = 22, len(SEAL) + 64
"""Bytes of a zip's last record without a comment, and of the comment that holds the checksum."""
NUMBERS = [
    np.float64(0).__reduce__()[0], np.dtype, codecs.encode,
    *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"]},
]  # fmt: skip
"""What numpy's scalars are pickled with: a state may hold them, beside what weights_only=True reads."""
REFUSED = (AttributeError, TypeError, ValueError, PickleError)
"""What torch.save and torch.load raise for an object that they do not take."""


class Damaged(Exception):
    """A file does not hold what was written to it; the message says why."""


def save_state(path: Path, state: Mapping[str, Any], prior: Path | None = None) -> None:
    """torch.save, with the SHA-256 of the file as the comment of its zip: torch's own sums are not read.

    Raises UserError, and leaves what is there as it is, for a state that could not be loaded again.
    """
    with replaced(path, prior) as beside:
        try:
            torch.save(dict(state), beside)
            _load(beside, mmap=True)  # its objects; no tensor is read
        except REFUSED as error:
            where, kind = _refused(state)
            raise UserError(
                f"{path} could not be loaded again, since {where} is of type {kind}: keep numbers, words, "
                "tensors, and lists and dictionaries of them in an optimizer's state and groups."
            ) from error
        except RuntimeError as error:
            raise UserError(f"cannot write {path} (is the disk full?): {error}") from error
        with open(beside, "r+b") as file:
            file.seek(-2, os.SEEK_END)
            file.write(SEALED.to_bytes(2, "little"))
        seal = SEAL + sha256(beside).encode()
        with open(beside, "ab") as file:
            file.write(seal)


def load_state(path: Path) -> Row:
    """What `save_state` wrote, on the CPU. Raises Damaged if a single bit of it is another, and UserError for
    a whole file that this version of torch does not read."""
    content = memoryview(path.read_bytes())
    body, seal = content[:-SEALED], bytes(content[-SEALED:])
    if len(body) < END or not seal.startswith(SEAL):
        raise Damaged("it is cut, or was not written by this version")
    if seal != SEAL + hashlib.sha256(body).hexdigest().encode():
        raise Damaged("its SHA-256 is not the one it was written with")
    try:
        return _load(path)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{path} is whole, but torch {torch.__version__} does not read what is in it ({reason}): {ANEW}."
        ) from error


def _load(source: Any, **options: Any) -> Row:
    with safe_globals(NUMBERS):
        return torch.load(source, map_location="cpu", weights_only=True, **options)


def _refused(value: Any, where: tuple[str, ...] = ()) -> tuple[str, str]:
    """Where in a state the first object lies that could not be loaded again, and its type."""
    parts = value.items() if isinstance(value, Mapping) else []
    if isinstance(value, (list, tuple)):
        parts = enumerate(value)
    for key, part in parts:
        try:
            torch.save(part, file := io.BytesIO())
            file.seek(0)
            _load(file)
        except REFUSED:
            return _refused(part, (*where, str(key)))
    return ".".join(filter(None, where)), type(value).__qualname__
