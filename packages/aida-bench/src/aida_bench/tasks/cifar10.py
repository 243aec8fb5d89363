"""CIFAR-10 with the models and settings of arXiv 2203.13273."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor, nn

from aida_bench.data.cifar10 import load_cifar10
from aida_bench.data.images import Images
from aida_bench.models.cnn import small_cnn
from aida_bench.models.densenet import densenet121
from aida_bench.models.resnet import resnet34
from aida_bench.models.vgg import vgg11
from aida_bench.tasks.classification import ImageClassification, crop_and_flip

MODELS: dict[str, Callable[..., nn.Module]] = {
    "vgg11": vgg11, "vgg11-quarter": partial(vgg11, width=16), "resnet34": resnet34,
    "densenet121": densenet121, "cnn": partial(small_cnn, 3),
}  # fmt: skip
SCALE = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
VALIDATION, SPLIT_SEED = 5000, 0


class Cifar10(ImageClassification):
    """Random crop (padding 4) and flip. By default 45,000 images train and 5,000 validate (the same for every
    seed), apart from the 10,000 test images, and the learning rate falls at 1/2 and 4/5 of the run.

    `published`: as in the paper, all 50,000 train, the test set validates, lr falls at epochs 100 and 160.
    """

    name = "cifar10"
    classes = 10

    def __init__(
        self,
        *,
        model: str,
        batch_size: int,
        published: bool = False,
        epoch_batches: int | None = None,
        limit_batches: int | None = None,
    ) -> None:
        train, test = self.load()
        super().__init__(
            {"train": train, "validation": test} if published else {**hold_out(train), "test": test},
            partial(MODELS[model], classes=self.classes), batch_size=batch_size, scale=SCALE,
            epoch_batches=epoch_batches, limit_batches=limit_batches,
        )  # fmt: skip
        self.published = published
        if published:
            self.splits = ("validation",)

    def load(self) -> tuple[Images, Images]:
        return load_cifar10()

    def augment(self, pixels: Tensor, generator: Generator) -> Tensor:
        return crop_and_flip(pixels, 4, generator)

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        if not self.published:
            return super().lr_factor(step, steps_per_epoch, epochs)
        return 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in (100, 160))


def hold_out(train: Images, count: int | None = None) -> dict[str, Images]:
    """Training images but for `count` that validate, 5,000 unless told, the same for every seed."""
    count = VALIDATION if count is None else count
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return {"train": train.take(order[count:]), "validation": train.take(order[:count])}
