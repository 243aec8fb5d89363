"""ImageNet with ResNet18, from folders of images: decoded, cropped and flipped as they are needed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.data.imagenet import ImageFolder, load_imagenet
from aida_bench.models.resnet import resnet18
from aida_bench.tasks.cifar10 import SPLIT_SEED

SCALE = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
EVAL_BATCH, READERS = 100, 4
Batch = tuple[Tensor, Tensor]


class ImageNet:
    """A random crop of 8 to 100 % of the area, resized to `size`, and a flip; for evaluation the middle 7/8.

    A twentieth of the training images validates (the same for every seed); the validation images that are
    published with labels are the test set.
    """

    name = "imagenet"
    parts: tuple[str, ...] = ("",)
    splits: tuple[str, ...] = ("validation", "test")
    clip_norm: float | None = None

    def __init__(
        self, *, model: str, batch_size: int, limit_batches: int | None = None, size: int = 224
    ) -> None:
        train, test = load_imagenet()
        order = torch.randperm(len(train), generator=Generator().manual_seed(SPLIT_SEED))
        held = max(1, len(train) // 20)
        self.data = {
            "train": train.take(order[held:]), "validation": train.take(order[:held]), "test": test
        }  # fmt: skip
        self.batch_size, self.limit_batches, self.size = batch_size, limit_batches, size
        self.mean, self.std = (255 * torch.tensor(s) for s in SCALE)

    def build_model(self) -> nn.Module:
        return resnet18(len(self.data["train"].classes)).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def batches_per_epoch(self) -> int:
        batches = -(-len(self.data["train"]) // self.batch_size)
        return min(batches, self.limit_batches or batches)

    def train_batches(self, generator: Generator, device: Any) -> Iterator[Batch]:
        order = torch.randperm(len(self.data["train"]), generator=generator)
        # Draws are made here and in order, so that it does not matter which reader is quicker.
        draws = torch.rand(len(order), 5, dtype=torch.float64, generator=generator)
        yield from self._read(self.data["train"], order.split(self.batch_size), device, draws)

    def losses(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
        for images, labels in batches:
            yield "", cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        data, seen = self.data[split], 0
        loss, first, fifth = torch.zeros(3, device=device)
        for images, labels in self._read(data, torch.arange(len(data)).split(EVAL_BATCH), device, None):
            logits = model(images)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            loss = loss + cross_entropy(logits, labels, reduction="sum")
            first, fifth = first + best[:, 0].sum(), fifth + best.any(1).sum()
            seen += len(labels)
        measures = {"loss": loss, "accuracy": first, "top5_accuracy": fifth}
        return {name: total.item() / seen for name, total in measures.items()}

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        return {}

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        """The published drops at epochs 70 and 80 of 90, as fractions."""
        return 0.1 ** sum(step >= round(steps_per_epoch * epochs * drop / 90) for drop in (70, 80))

    def _read(
        self, data: ImageFolder, batches: Iterable[Tensor], device: Any, draws: Tensor | None
    ) -> Iterator[Batch]:
        """Batches in order; `draws` [N, 5] belong to a training epoch's images in its order."""
        done = 0
        with ThreadPoolExecutor(READERS) as readers:
            for index in islice(batches, self.limit_batches):
                chosen = data.take(index)
                mine = [None] * len(index) if draws is None else draws[done : done + len(index)].tolist()
                pixels = readers.map(partial(read_image, size=self.size), chosen.paths, mine)
                images = torch.from_numpy(np.stack(list(pixels))).to(device)
                mean, std = self.mean.to(images.device), self.std.to(images.device)
                done += len(index)
                yield images.float().sub_(mean).div_(std).permute(0, 3, 1, 2), chosen.labels.to(device)


def read_image(path: Path, draws: list[float] | None, size: int) -> np.ndarray:
    """uint8 [size, size, 3]: the middle, or the crop and flip that five draws in [0, 1) choose."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        if draws is None:
            side = max(1, min(image.size) * 7 // 8)
            box, mirrored = (side, side, (image.width - side) // 2, (image.height - side) // 2), False
        else:
            box, mirrored = random_box(image.width, image.height, draws[:4]), draws[4] < 0.5
        width, height, left, top = box
        # Cut first: resizing a part of an image mixes in what lies beyond its edges.
        part = image.crop((left, top, left + width, top + height))
        pixels = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if mirrored else pixels


def random_box(width: int, height: int, draws: list[float]) -> tuple[int, int, int, int]:
    """Width, height, left and top of a part of the area, its sides' ratio drawn on a log scale, that fits."""
    area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * draws[0])
    ratio = RATIO[0] * (RATIO[1] / RATIO[0]) ** draws[1]
    w = min(width, max(1, round(math.sqrt(area * ratio))))
    h = min(height, max(1, round(math.sqrt(area / ratio))))
    return w, h, int((width - w + 1) * draws[2]), int((height - h + 1) * draws[3])
