"""One step at a time in a process."""

from __future__ import annotations

import os
import threading
from typing import Any
from weakref import WeakSet

_locks: WeakSet[ProcessLock] = WeakSet()


class ProcessLock:
    """A lock that a forked child has anew, whoever held the parent's. torch.compile cannot trace it."""

    def __init__(self) -> None:
        self._renew()
        _locks.add(self)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *error: Any) -> None:
        self._lock.release()


def _after_fork() -> None:
    """Before the child can start a thread: two of them would each make a lock of their own."""
    for lock in _locks:
        lock._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
