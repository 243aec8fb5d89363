"""One step at a time in a process."""

from __future__ import annotations

import os
import threading
from typing import Any


class ProcessLock:
    """A lock that a forked child has anew, whoever held the parent's. torch.compile cannot trace it."""

    def __init__(self) -> None:
        self._pid, self._lock = os.getpid(), threading.RLock()

    def __enter__(self) -> None:
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.RLock()
        self._lock.acquire()

    def __exit__(self, *error: Any) -> None:
        self._lock.release()
