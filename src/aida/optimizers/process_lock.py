"""One step at a time in a process."""

from __future__ import annotations

import os
import threading
from typing import Any

import torch


class ProcessLock:
    """A lock that a forked child has anew, whoever held the parent's. torch.compile does not trace it."""

    def __init__(self) -> None:
        self._pid, self._lock = os.getpid(), threading.RLock()

    def __enter__(self) -> None:
        if torch.compiler.is_compiling():
            return
        if self._pid != os.getpid():
            self._pid, self._lock = os.getpid(), threading.RLock()
        self._lock.acquire()

    def __exit__(self, *error: Any) -> None:
        if not torch.compiler.is_compiling():
            self._lock.release()
