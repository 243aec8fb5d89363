"""Finished runs of a study that nobody trained: their scores are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from zlib import crc32

from aida_bench.study.cells import Cell, next_cells
from aida_bench.study.records import Record
from aida_bench.study.spec import Study

Score = Callable[[Cell], float | None]
"""A run's last loss; None for one that diverges."""
BATCHES, SECONDS = 10, 2.0
"""Of an epoch, alike in all."""
EVEN = {"numel": 8, "mean": 1.0, "std": 0.0, "capped": 0.0}


def record(cell: Cell, score: float | None, layers: Sequence[dict] = ()) -> Record:
    """Its loss falls from a tenth above `score` to it, over the epochs."""
    count = cell.config["epochs"]
    losses = [score + 0.1 * (count - epoch) for epoch in range(1, count + 1)] if score is not None else []
    epochs = [
        {"epoch": epoch, "validation_loss": loss + 0.5, "test_loss": loss}
        for epoch, loss in enumerate(losses, 1)
    ]
    timings = [
        {"epoch": row["epoch"], "batches": BATCHES * row["epoch"], "seconds": 3.0, "cpu_seconds": SECONDS}
        for row in epochs
    ]
    status = "diverged" if score is None else "finished"
    layers = [] if score is None or cell.stage == "tune" else [*layers]
    return Record(cell.key, cell.config, status, epochs, timings, layers, {"commit": "0" * 40, "torch": "2"})


def finish(
    study: Study, score: Score, layers: Callable[[Cell], Sequence[dict]] = lambda _: ()
) -> dict[str, Record]:
    """All runs of a study, stage after stage, as they would be chosen."""
    found: dict[str, Record] = {}
    while cells := next_cells(study, study.tasks, found):
        found |= {cell.key: record(cell, score(cell), layers(cell)) for cell in cells}
    return found


def noise(*about: object) -> float:
    """The same for the same, in [0, 1), on every machine."""
    return crc32(repr(about).encode()) / 2**32
