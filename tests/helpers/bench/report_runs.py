"""Made-up runs for the tests of the report: as results, and as folders such as a comparison leaves."""

from __future__ import annotations

import json
from math import log2
from pathlib import Path

from aida_bench.report.results import Result
from aida_bench.storage.files import to_json_lines

CONDITIONS = {"task": "digits", "model": "cnn", "preset": "small", "epochs": 3, "batch_size": 64}


def result(
    optimizer: str,
    seed: int,
    validation,
    test,
    status: str | None = "finished",
    *,
    measure: str = "accuracy",
    mean: float = 300.0,
    histogram: bool = False,
    settings: dict | None = None,
    **conditions,
) -> Result:
    """A run with the given measures by epoch; two layers of stepsizes, but none for sgd."""
    rows = []
    for epoch, (v, t) in enumerate(zip(validation, test, strict=True), 1):
        measures = {"train_loss": 1 / epoch, f"validation_{measure}": v, f"test_{measure}": t}
        rows.append({"kind": "epoch", "epoch": epoch, "lr": 0.1, **measures})
        for layer in (1, 2) if optimizer != "sgd" else ():
            row = {"kind": "stepsize", "epoch": epoch, "layer": layer, "parameter": f"{layer}.weight"}
            row |= {"numel": 10, "mean": mean / layer, "std": 1.0 * layer}
            if histogram:
                row["histogram"] = {"low": log2(100), "per_octave": 1, "counts": [1, 3 * epoch]}
            rows.append(row)
    if status == "diverged":
        rows.append({"kind": "diverged", "epoch": len(validation) + 1, "lr": 0.1})
    if status == "finished":
        conditions.setdefault("epochs", len(validation))
    timings = [{"epoch": i, "seconds": 2.0, "step_ms": 0.5} for i in range(1, len(validation) + 1)]
    config = {**CONDITIONS, **conditions, "optimizer": optimizer, "seed": seed, "settings": settings or {}}
    return Result(config, status, rows, timings, {"torch": "2.6.0", "commit": "0123456789abcdef"})


RESULTS = [
    result("aida", 0, [0.5, 0.9, 0.9], [0.4, 0.8, 0.85]),
    result("aida", 1, [0.5, 0.6, 0.7], [0.4, 0.6, 0.95]),
    result("sgd", 0, [0.7, 0.6, 0.5], [0.7, 0.6, 0.5]),
    result("sgd", 1, [], [], "diverged"),
]


def write(folder: Path, results) -> Path:
    """Folders as runs leave them: OPTIMIZER/seed-N, each file that the run has come to."""
    for each in results:
        where = folder / each.config["optimizer"] / f"seed-{each.seed}"
        where.mkdir(parents=True)
        (where / "config.json").write_text(json.dumps(each.config))
        (where / "versions.json").write_text(json.dumps(each.versions))
        if each.rows:
            (where / "rows.jsonl").write_text(to_json_lines(each.rows))
            (where / "timings.jsonl").write_text(to_json_lines(each.timings))
        if each.status:
            (where / "done.json").write_text(json.dumps({"status": each.status}))
    return folder
