"""A run's epochs for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from aida_bench.errors import UserError
from aida_bench.storage.files import Row


class EpochBoard:
    """A run's epochs as TensorBoard sees them, in its folder "tensorboard"."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise UserError(
                '--tensorboard needs a package: pip install "aida-bench[tensorboard]".'
            ) from error
        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def __enter__(self) -> EpochBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()

    def add(self, rows: list[Row]) -> None:
        for row in rows:
            of_layer = row["kind"] == "stepsize"
            for key, value in row.items():
                if isinstance(value, float):
                    tag = f"stepsize/{row['layer']:02d}-{key}" if of_layer else key.replace("_", "/", 1)
                    self.writer.add_scalar(tag, value, row["epoch"])
        self.writer.flush()
