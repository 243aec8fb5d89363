"""Where rows go: each a small class with one method, write(rows), which may raise; the monitor warns then."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from .record import Row, finite, histogram_edges


class Sink(Protocol):
    """Anything with this method."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take one record: a row for each layer and one of their spread."""
        ...


class Memory:
    """Keeps rows in a list, `rows`; frame() makes a pandas DataFrame of the layers'."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        self.rows += rows

    def frame(self, kind: str = "stepsize") -> Any:
        """The rows of one kind, "stepsize" or "spread", as a DataFrame. Needs pandas."""
        import pandas

        return pandas.DataFrame([row for row in self.rows if row["kind"] == kind])


class JSONL:
    """Appends rows to a file, a JSON object a line; a number that is not finite becomes null.

    A record that cannot be written whole is not written at all, as in CSV.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, rows: Sequence[Row]) -> None:
        _append(self.path, "".join(json.dumps(finite(row)) + "\n" for row in rows))


class CSV:
    """Appends the layers' rows to a file, a header first; histograms and the spread are left out."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def write(self, rows: Sequence[Row]) -> None:
        plain = [{key: x for key, x in row.items() if key != "histogram"} for row in _layers(rows)]
        if not plain:
            return
        text = StringIO()
        writer = csv.DictWriter(text, list(plain[0]), lineterminator="\n")
        if not self.path.exists() or not self.path.stat().st_size:
            writer.writeheader()
        writer.writerows(plain)
        _append(self.path, text.getvalue())


class TensorBoard:
    """Scalars "stepsize_mean/LAYER" and so on, and histograms, to a folder or a SummaryWriter of your own."""

    def __init__(self, writer: str | Path | Any) -> None:
        if isinstance(writer, str | Path):
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(writer))
        self.writer = writer

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            for tag, x in _scalars(row).items():
                self.writer.add_scalar(tag, x, row["step"])
        for row in _layers(rows):
            counts, edges = row["histogram"]["counts"], histogram_edges(row["histogram"])
            if counts:
                self.writer.add_histogram_raw(
                    f"stepsize/{row['parameter']}",
                    min=row["min"],
                    max=row["max"],
                    num=row["numel"],
                    sum=row["mean"] * row["numel"],
                    sum_squares=(row["std"] ** 2 + row["mean"] ** 2) * row["numel"],
                    bucket_limits=edges[1:],
                    bucket_counts=counts,
                    global_step=row["step"],
                )
        self.writer.flush()


class WandB:
    """Scalars and histograms to a Weights & Biases run, by default the one that wandb.init() has begun.

    They are logged against their own axis, "stepsizes/step", so that the run's own steps are not disturbed.
    """

    def __init__(self, run: Any = None) -> None:
        import wandb

        self.wandb: Any = wandb
        self.run: Any = run if run is not None else wandb.run
        if self.run is None:
            raise ValueError("there is no Weights & Biases run: call wandb.init() first, or give WandB(run)")
        self.run.define_metric("stepsizes/step", hidden=True)
        self.run.define_metric("stepsizes/*", step_metric="stepsizes/step")

    def write(self, rows: Sequence[Row]) -> None:
        values: dict[str, Any] = {f"stepsizes/{tag}": x for row in rows for tag, x in _scalars(row).items()}
        for row in _layers(rows):
            if row["histogram"]["counts"]:
                counts = row["histogram"]["counts"]
                histogram = self.wandb.Histogram(np_histogram=(counts, histogram_edges(row["histogram"])))
                values[f"stepsizes/histogram/{row['parameter']}"] = histogram
        self.run.log({"stepsizes/step": rows[0]["step"], **values})


NOT_CURVES = {"kind", "step", "layer", "layers", "parameter", "numel", "cap", "histogram"}


def _scalars(row: Row) -> dict[str, float]:
    """By tag: "stepsize_mean/LAYER" of a layer's row, "stepsize_spread/mean" of all layers'."""
    values = {key: x for key, x in row.items() if key not in NOT_CURVES and x is not None}
    if row["kind"] == "spread":
        return {f"stepsize_spread/{key}": x for key, x in values.items()}
    return {f"stepsize_{key}/{row['parameter']}": x for key, x in values.items()}


def _append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        start = file.tell()
        data = text.encode()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with suppress(OSError):  # what is not a file on a disk cannot be cut
                file.truncate(start)
            raise


def _layers(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["kind"] == "stepsize"]
