"""Other libraries that this one is tested in."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

import pytest

REQUIRED = os.environ.get("AIDA_PEERS", "").split()
"""Peers that have to be there, as `make test-integrations` says: elsewhere their tests are skipped."""


def needed(name: str) -> Any:
    """The peer's module; the test is skipped where it is not installed and need not be."""
    if name.partition(".")[0] in REQUIRED:
        return import_module(name)
    return pytest.importorskip(name)
