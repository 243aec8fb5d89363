"""The command once a device: the processes of `--devices N`, which torchrun's own launcher starts."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

COMMAND = (sys.executable, "-m", "aida_bench")
LAUNCHER = "AIDA_LAUNCHER"
"""Names the process that launched this one, even by kill -9 of which all end."""


def launched() -> bool:
    """Whether this is one of several processes, of ours or of torchrun."""
    return "LOCAL_RANK" in os.environ


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def devices_here() -> int | None:
    """What torchrun was asked for, if it was."""
    size = os.environ.get("LOCAL_WORLD_SIZE")
    return int(size) if size else None


def launch(arguments: Sequence[str], devices: int) -> int:
    """Run the command in `devices` processes; return the first exit code that is not 0, else 0;
    of one that a signal ended, the shell's.

    The first process speaks; another is heard only if it fails and the first has not. One that fails ends
    all, and so does the end of this process, by SIGTERM or SIGHUP (with the shell's code) or otherwise.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ |= {LAUNCHER: str(os.getpid())}
    with tempfile.TemporaryDirectory() as said:
        heard = DefaultLogsSpecs(log_dir=said, redirects=dict.fromkeys(range(1, devices), Std.ALL))
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=devices, rdzv_backend="c10d", max_restarts=0,
            rdzv_endpoint="localhost:0", run_id="aida", monitor_interval=0.1, logs_specs=heard,
        )  # fmt: skip
        try:
            elastic_launch(config, COMMAND[0])(*COMMAND[1:], *arguments)
        except SignalException as error:
            return 128 + error.sigval
        except ChildFailedError as error:
            first, failure = error.get_first_failure()
            if first and 0 not in error.failures:
                for path in Path(said).glob(f"*/attempt_0/{first}/stderr.log"):
                    sys.stderr.write(path.read_text(errors="replace"))
            return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    return 0


def end_with_launcher() -> None:
    """In a process that `launch` started: end when that one has ended."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is None or not launched():
        return

    def wait() -> None:
        while os.getppid() == int(launcher):
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
