"""Carry a part out: cases run in a process of their own, since one that crashes takes the device along."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpu.parts import GoingOn, LeftOut, Part
from gpu.results import Call, finished, source

LOG_BYTES = 8 * 2**20
ERROR_CHARACTERS = 6000
AGAIN = 3  # the exit code of a part that needs another call
NEXT = 4  # the exit code of a worker that leaves the cases that are left to another


def carry_out(part: Part, call: Call, retry: bool = False) -> int:
    """0: all has passed or was left out; 1: something has failed; AGAIN: the same command goes on."""
    if missing := [name for name in part.needs if find_spec(name) is None]:
        print(f"part {part.number} needs {', '.join(missing)}: carry wheels of them and give WHEELS=folder")
        return 2
    # What is still begun was stopped from outside, together with its call.
    _wait_for(call, ("begun", "failed") if retry else ("begun",))
    while call.may_begin:
        code = run_worker(command(part, call), call)
        result = call.read()
        begun = [case for case in result.get("cases", {}).values() if case["status"] == "begun"]
        for case in begun:
            reason = f"was stopped after {call.hard:.0f} s" if call.left <= 0 else f"ended with code {code}"
            case |= {"status": "failed", "error": f"the process {reason}; its output is in the log"}
        if result:
            call.write(result)
        if code != NEXT and not begun:
            break
    return _conclude(part, call.read(), call)


def _wait_for(call: Call, statuses: tuple[str, ...]) -> None:
    if result := call.read():
        for case in result["cases"].values():
            if case["status"] in statuses:
                case["status"] = "waiting"
        call.write(result)


def command(part: Part, call: Call) -> list[str]:
    return [
        sys.executable, "-m", "gpu", str(part.number), "--worker", "--out", str(call.out),
        "--work", str(call.work), "--soft", str(call.soft), "--hard", str(call.hard),
        "--start", str(call.start), *(["--dry"] if call.dry else []),
    ]  # fmt: skip


def run_worker(command: list[str], call: Call) -> int:
    """Run the cases that are left; what they print goes to the terminal and to the log."""
    worker = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    reader = threading.Thread(target=_tee, args=(worker, call.path(".log")), daemon=True)
    reader.start()
    try:
        worker.wait(max(call.left, 1))
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
    reader.join(5)
    if not reader.is_alive():  # a child of the worker may hold the pipe
        worker.stdout.close()  # type: ignore[union-attr]
    call.copy_out()
    return worker.returncode


def _tee(worker: Any, log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:
        for line in worker.stdout:
            print(line, end="", flush=True)
            if file.tell() < LOG_BYTES:
                file.write(line)
                file.flush()


def work(part: Part, call: Call) -> int:
    """In the worker: one case after the other, until one fails or the time is over."""
    from gpu.device import Device

    device = Device.find(call.dry)
    about = device.about()
    result = call.read()
    if result.get("machine", about)["device"] != about["device"]:
        result = {}
    cases = part.cases(device, call)
    kept = result.get("cases", {})
    waiting = {"status": "waiting"}
    result = {
        "part": part.number, "name": part.name, "dry": call.dry, "source": source(), "machine": about,
        "cases": {name: kept.get(name, {**waiting}) for name in cases},
    }  # fmt: skip
    for name, case in cases.items():
        row = result["cases"][name]
        if row["status"] in ("waiting", "going on") and call.may_begin:
            spent = row.get("seconds", 0.0)
            row["status"] = "begun"
            call.write(result)
            result["cases"][name] = row = _carried_out(case, spent)
            call.write(result)
            print(f"{part.name}, {name}: {row['status']}, {row['seconds']:.1f} s", flush=True)
            if row["status"] == "failed":
                print(row["error"], flush=True)
                return NEXT
    return 0


def _carried_out(case: Any, spent: float) -> dict[str, Any]:
    start = time.monotonic()
    try:
        row = {"status": "passed", **case()}
    except LeftOut as reason:
        row = {"status": "left out", "reason": str(reason)}
    except GoingOn as so_far:
        row = {"status": "going on", "reason": str(so_far)}
    except Exception:
        row = {"status": "failed", "error": traceback.format_exc()[-ERROR_CHARACTERS:]}
    return {**row, "seconds": spent + time.monotonic() - start}


def _conclude(part: Part, result: dict[str, Any], call: Call) -> int:
    cases = result.get("cases", {})
    by_status: dict[str, list[str]] = {}
    for name, case in cases.items():
        by_status.setdefault(case["status"], []).append(name)
    counts = ", ".join(f"{len(names)} {status}" for status, names in by_status.items()) or "nothing was begun"
    print(f"part {part.number}, {part.name}: {counts}; {call.out / call.path('.json').name}")
    for name in by_status.get("left out", []):
        print(f"  left out: {name}: {cases[name]['reason']}")
    for name in by_status.get("failed", []):
        print(f"  failed: {name}: {cases[name]['error'].strip().splitlines()[-1]}")
    if not cases:
        return 1
    if not finished(result):
        print("not finished: the same command goes on")
        return AGAIN
    return 1 if "failed" in by_status else 0
