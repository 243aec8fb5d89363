"""Image classification on tensors held in memory: the common part of the image tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.data.images import Images

EVAL_BATCH = 500


def crop_and_flip(pixels: Tensor, padding: int, generator: Generator) -> Tensor:
    """Shift each image of [B, H, W, C] by up to `padding` pixels (zeros move in) and mirror half of them.

    One gather for the whole batch: a flip is a crop whose columns run backwards.
    """
    batch, height, width, _ = pixels.shape
    padded = nn.functional.pad(pixels, (0, 0, padding, padding, padding, padding))
    top, left = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5
    rows = top + torch.arange(height)
    columns = torch.arange(width)
    columns = left + torch.where(mirrored, width - 1 - columns, columns)
    rows, columns = rows.to(pixels.device), columns.to(pixels.device)
    return padded[
        torch.arange(batch, device=pixels.device)[:, None, None], rows[:, :, None], columns[:, None, :]
    ]


class ImageClassification:
    """A Task over image splits. `lr_drops` are the fractions of a run (or, if published, epochs) at which
    the learning rate is divided by ten; `scale` = (mean, std) per channel normalises pixels in [0, 1].

    `epoch_batches`: an epoch is so many batches of a new order, not a pass over the training images."""

    name: str
    parts: tuple[str, ...] = ("",)
    splits: tuple[str, ...] = ("validation", "test")
    clip_norm: float | None = None

    def __init__(
        self,
        data: dict[str, Images],
        build: Callable[[], nn.Module],
        *,
        batch_size: int,
        scale: tuple[tuple[float, ...], tuple[float, ...]],
        lr_drops: tuple[float, ...] = (0.5, 0.8),
        epoch_batches: int | None = None,
        limit_batches: int | None = None,
    ) -> None:
        self.data, self.build, self.batch_size = data, build, batch_size
        self.mean, self.std = (255 * torch.tensor(s) for s in scale)
        self.lr_drops, self.epoch_batches, self.limit_batches = lr_drops, epoch_batches, limit_batches
        self._held: dict[tuple[str, str], Images] = {}

    def build_model(self) -> nn.Module:
        # channels_last is the layout that the pixels already have: no conversion in any convolution.
        return self.build().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def batches_per_epoch(self) -> int:
        batches = -(-len(self.data["train"]) // self.batch_size)
        return min(filter(None, (batches, self.epoch_batches, self.limit_batches)))

    def augment(self, pixels: Tensor, generator: Generator) -> Tensor:
        return pixels

    def held(self, split: str, device: Any) -> Images:
        """A split in the device's memory, brought there once: else each batch would wait for its copy."""
        place = split, str(device)
        if place not in self._held:
            self._held[place] = self.data[split].to(device)
        return self._held[place]

    def train_batches(self, generator: Generator, device: Any) -> Iterator[tuple[Tensor, Tensor]]:
        train = self.held("train", device)
        order = torch.randperm(len(train), generator=generator).to(device)
        for index in islice(order.split(self.batch_size), self.batches_per_epoch()):
            batch = train.take(index)
            yield self.normalise(self.augment(batch.pixels, generator)), batch.labels

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to float32 [B, C, H, W], channels last in memory."""
        mean, std = self.mean.to(pixels.device), self.std.to(pixels.device)
        return pixels.float().sub_(mean).div_(std).permute(0, 3, 1, 2)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return cross_entropy(model(images), labels)

    def losses(
        self, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> Iterator[tuple[str, Tensor]]:
        for batch in batches:
            yield "", self.loss(model, batch)

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        data = self.held(split, device)
        seen, loss, correct = 0, torch.zeros((), device=device), torch.zeros((), device=device)
        parts = zip(data.pixels.split(EVAL_BATCH), data.labels.split(EVAL_BATCH), strict=True)
        for pixels, labels in islice(parts, self.limit_batches):
            logits = model(self.normalise(pixels))
            loss += cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(1) == labels).sum()
            seen += len(labels)
        return {"loss": loss.item() / seen, "accuracy": correct.item() / seen}

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        return {}

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        total = steps_per_epoch * epochs
        return 0.1 ** sum(step >= round(drop * total) for drop in self.lr_drops)
