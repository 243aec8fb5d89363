"""The published figure at its full length: VGG11 on CIFAR-10 with four optimizers, 200 epochs each.

A case is one optimizer's run, by the command that trains it anywhere; it is stopped when the call's time is
over and goes on from its last whole epoch. Checkpoints stay in the working folder; the JSON has the rows.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from aida_bench.storage.files import read_json_lines
from aida_bench.storage.run import read_done
from gpu.device import Device
from gpu.parts import Cases, GoingOn
from gpu.results import Call

OPTIMIZERS = ("adamplus", "adabelief", "aida-k1", "aida")
PUBLISHED = ("cifar10", "--preset", "paper", "--model", "vgg11", "--epochs", "200")
DRY = ("digits", "--model", "mlp", "--epochs", "2", "--limit-batches", "2")
LEAVE = 25
"""Seconds before the end of the call that a run is stopped: it ends between two batches."""


def cases(device: Device, call: Call) -> Cases:
    optimizers = OPTIMIZERS[:1] if call.dry else OPTIMIZERS
    return {name: partial(_train, name, device, call) for name in optimizers}


def _train(optimizer: str, device: Device, call: Call) -> dict[str, Any]:
    folder = call.work / ("study-dry" if call.dry else "study") / optimizer
    command = [
        sys.executable, "-m", "aida_bench", "train", *(DRY if call.dry else PUBLISHED),
        "--optimizer", optimizer, "--seed", "0", "--device", device.type,
        "--out", str(folder), "--resume", "--keep-checkpoints", "--quiet",
    ]  # fmt: skip
    print("$", " ".join(command), flush=True)
    training = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"} if call.dry else None)
    try:
        code = training.wait(max(call.left - LEAVE, 1))
    except subprocess.TimeoutExpired:
        training.send_signal(signal.SIGINT)
        try:
            training.wait(LEAVE / 2)
        except subprocess.TimeoutExpired:
            training.kill()
            training.wait()
        code = None
    run = folder / optimizer / "seed-0"
    rows = read_json_lines(run / "rows.jsonl")
    epochs = sum(row["kind"] == "epoch" for row in rows)
    if code is None:
        raise GoingOn(f"{epochs} epochs so far")
    assert code == 0, f"the command ended with code {code}; what it said is in the log"
    about = {name: json.loads((run / f"{name}.json").read_text()) for name in ("config", "versions")}
    return {
        "ended": read_done(run), "epochs": epochs, **about, "rows": _rounded(rows),
        "timings": read_json_lines(run / "timings.jsonl"), "checkpoint_bytes": _size(run / "checkpoint.pt"),
    }  # fmt: skip


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Eight digits: the whole must stay under 16 MiB."""
    return [{k: float(f"{v:.8g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
