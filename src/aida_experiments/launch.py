"""The command once a device: the processes of `--devices N`, as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence


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

    The first process speaks; another is heard only if it fails first. One that fails ends all.
    """
    command = [sys.executable, "-m", "aida_experiments", *arguments]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(devices),
              "LOCAL_WORLD_SIZE": str(devices), "NODE_RANK": "0", "GROUP_RANK": "0"}  # fmt: skip
    spoken = [tempfile.TemporaryFile() for _ in range(devices)]  # noqa: SIM115
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for i in range(devices):
            own = {**os.environ, **common, "RANK": str(i), "LOCAL_RANK": str(i)}
            processes.append(
                subprocess.Popen(command, env=own)
                if i == 0
                else subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=spoken[i])
            )
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
