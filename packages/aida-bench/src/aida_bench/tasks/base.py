"""What the training loop asks of a task, and nothing more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from torch import Generator, Tensor, nn

Batch = Any
"""Tensors, or tuples, lists or dictionaries of tensors. Examples lie along the first dimension of each, which
is what several processes divide a batch by; a 0-dim tensor or anything else goes to every process whole."""


class Task(Protocol):
    """A model, its data, its losses and its measures; one object may train many runs, so a run leaves no
    trace in it. Draws come from the generators that are given or from torch's global one, whose states are
    kept: nothing else may be random. A checkpoint lies between two epochs, so what lives within an epoch (a
    hidden state, a counter) is a local variable of `losses` and need not be kept.

    Constructor: keyword arguments `model`, `batch_size`, `limit_batches` and a preset's `options`.
    """

    name: str
    parts: tuple[str, ...]
    """What has an optimizer of its own: ("",) for the whole model. A task with several, say ("generator",
    "critic"), builds an nn.ModuleDict with these keys and is handed one: call `model["critic"](x)`."""
    splits: tuple[str, ...]
    """Splits that are evaluated after each epoch; "validation" first, it chooses the best epoch. Of one
    called "train" no measure is called as the training loss is, such as "loss"."""
    clip_norm: float | None
    """The norm to which a part's gradient is clipped before its step; None leaves it as it is."""

    def build_model(self) -> nn.Module:
        """A freshly initialised model, drawn from torch's global generator."""
        ...

    def batches_per_epoch(self) -> int: ...

    def train_batches(self, generator: Generator, device: Any) -> Iterable[Batch]:
        """One epoch of training batches, in an order drawn from `generator` (on the CPU)."""
        ...

    def losses(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
        """The losses of one epoch: (part, scalar to differentiate, averaged over the batch).

        Between two of them the loop has made a step of that part alone, with that loss's gradient. Taking
        the next batch advances the learning rate; a batch may give several losses, or none. A loss calls the
        model itself (`model(x)`, not a method of it), which is where precision and processes come in.
        """
        ...

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        """Measures of a model in eval mode, by name, e.g. {"loss": 0.31, "accuracy": 0.93}.

        Of a name that report.metrics does not know less counts as better, unless the class has an attribute
        `higher`, a tuple of names of which more is.
        """
        ...

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        """After the evaluation of the 1-based `epoch`, in eval mode: more measures for its row, by their full
        names, which it has not yet, and files for the run's `folder` (a sample grid), written by
        `files.replaced`; most tasks: {}.
        """
        ...

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """Factor on the recipe's learning rate for the 0-based training batch `step`."""
        ...
