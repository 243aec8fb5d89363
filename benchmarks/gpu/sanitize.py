"""compute-sanitizer on a step of every kernel: addresses, races, uninitialised memory, barriers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import partial
from typing import Any

from gpu.device import Device
from gpu.parts import Cases, LeftOut
from gpu.results import Call

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 99
"""The sanitizer's exit code where it has found something."""


def cases(device: Device, call: Call) -> Cases:
    tools = {f"{tool} finds nothing": partial(_check, tool, call) for tool in TOOLS}
    return {"memcheck finds a planted error": partial(_planted, call), **tools}


def _run(tool: str, call: Call, *arguments: str) -> tuple[int, str]:
    """The exit code and the end of the output; the dry run leaves the sanitizer out."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not call.dry and not os.path.exists(program):
        raise LeftOut("compute-sanitizer is not installed")
    watched = [] if call.dry else [program, "--tool", tool, "--error-exitcode", str(FOUND)]
    done = subprocess.run(
        [*watched, sys.executable, "-m", "gpu.one_step", *arguments, *(["--dry"] if call.dry else [])],
        # Each tensor an allocation of its own, so that an address beyond it is nobody's.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True, text=True, timeout=max(call.left - 5, 1), check=False,
    )  # fmt: skip
    output = (done.stdout + done.stderr)[-8000:]
    print(output, flush=True)
    if not call.dry and "Device not supported" in output:
        raise LeftOut("compute-sanitizer does not support this machine's device")
    return done.returncode, output


def _check(tool: str, call: Call) -> dict[str, Any]:
    if call.dry and tool != TOOLS[0]:
        raise LeftOut("a dry run steps once")
    code, output = _run(tool, call)
    assert code == 0, f"{tool}: exit code {code}\n{output[-4000:]}"
    return {"tail": output[-400:]}


def _planted(call: Call) -> dict[str, Any]:
    if call.dry:
        raise LeftOut("the interpreter has no sanitizer")
    code, output = _run("memcheck", call, "--planted")
    assert code == FOUND, f"memcheck has not seen the planted error: exit code {code}\n{output[-4000:]}"
    return {"tail": output[-400:]}
