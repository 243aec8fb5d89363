"""The command once a device: the processes of `--devices N`, as torchrun would start them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

COMMAND = (sys.executable, "-m", "aida_bench")
ALIVE = "AIDA_LAUNCHER"
"""Names the pipe that closes when the process dies that launched this one, even by kill -9."""


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
    """Run the command in `devices` processes; return the first exit code that is not 0, else 0.

    The first process speaks; another is heard only if it fails first. One that fails ends all, and so does
    the end of this process, by SIGTERM or SIGHUP (SystemExit, with the shell's code) or otherwise.
    """
    with _signals_exit():
        return _launch(arguments, devices)


def _launch(arguments: Sequence[str], devices: int) -> int:
    command = [*COMMAND, *arguments]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(devices),
              "LOCAL_WORLD_SIZE": str(devices), "NODE_RANK": "0", "GROUP_RANK": "0"}  # fmt: skip
    spoken = [tempfile.TemporaryFile() for _ in range(devices)]  # noqa: SIM115
    processes: list[subprocess.Popen[Any]] = []
    alive, ours = os.pipe()
    inherited: dict[str, Any] = {"pass_fds": [alive]} if os.name == "posix" else {}
    try:
        for i in range(devices):
            own = {**os.environ, **common, "RANK": str(i), "LOCAL_RANK": str(i)}
            own |= {ALIVE: str(alive)} if inherited else {}
            heard: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": spoken[i]} if i else {}
            processes.append(subprocess.Popen(command, env=own, **inherited, **heard))
        while any(process.poll() is None for process in processes):
            failed = next((i for i, process in enumerate(processes) if process.poll()), None)
            if failed is not None:
                time.sleep(1)  # the first may be about to say the same
                if failed and not processes[0].poll():
                    spoken[failed].seek(0)
                    sys.stderr.write(spoken[failed].read().decode(errors="replace"))
                return processes[failed].returncode
            time.sleep(0.05)
        return next((process.returncode for process in processes if process.returncode), 0)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for file in spoken:
            file.close()
        os.close(alive)
        os.close(ours)


@contextmanager
def _signals_exit() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP, whose default is to die on the spot, raise SystemExit."""

    def leave(number: int, _: Any) -> None:
        sys.exit(128 + number)

    known = [number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
    # Only a process's main thread may set handlers; nohup's SIG_IGN stays.
    free = [n for n in known if signal.getsignal(n) is signal.SIG_DFL] if _in_main_thread() else []
    for number in free:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in free:
            signal.signal(number, signal.SIG_DFL)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def end_with_launcher() -> None:
    """In a process that `launch` started: end when that one has ended."""
    pipe = os.environ.get(ALIVE)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
