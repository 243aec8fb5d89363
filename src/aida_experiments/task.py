"""What the training loop asks of a task, and nothing more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Generator, Tensor, nn

Batch = Any
"""Whatever `train_batches` yields; only the task itself looks inside."""


class Task(Protocol):
    """A model, its data, its loss and its measures. Every draw of the data comes from the given generator."""

    name: str
    splits: tuple[str, ...]
    """Splits that are evaluated after each epoch; "validation" first, it chooses the best epoch."""

    def build_model(self) -> nn.Module:
        """A freshly initialised model, drawn from torch's global generator."""
        ...

    def batches_per_epoch(self) -> int: ...

    def train_batches(self, generator: Generator, device: Any) -> Iterator[Batch]:
        """One epoch of training batches, in an order drawn from `generator` (on the CPU)."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar to differentiate, averaged over the batch."""
        ...

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        """Measures of a model in eval mode, by name, e.g. {"loss": 0.31, "accuracy": 0.93}."""
        ...

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Factor on the recipe's learning rate for the 0-based training step `step`."""
        ...
