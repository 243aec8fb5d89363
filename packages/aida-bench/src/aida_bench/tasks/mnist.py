"""MNIST: handwritten digits, 28x28."""

from __future__ import annotations

from functools import partial

import torch

from aida_bench.data.images import Images
from aida_bench.data.mnist import load_mnist
from aida_bench.models.cnn import small_cnn
from aida_bench.tasks.cifar10 import hold_out
from aida_bench.tasks.classification import ImageClassification

MODELS = {"cnn": partial(small_cnn, 1, 10, 16)}
SCALE = ((0.1307,), (0.3081,))
NOISE_SEED = 0


class Mnist(ImageClassification):
    """55,000 images train and 5,000 validate (the same for every seed), apart from the 10,000 test images.

    `noise`: standard deviation, in units of the pixels' range, of the Gaussian noise that is added once to
    every image of the three splits, which keeps a small network from being near its end after 400 batches.
    """

    name = "mnist"

    def __init__(
        self,
        *,
        model: str,
        batch_size: int,
        noise: float = 0.0,
        epoch_batches: int | None = None,
        limit_batches: int | None = None,
    ) -> None:
        train, test = (noisy(images, noise) for images in load_mnist()) if noise else load_mnist()
        super().__init__(
            {**hold_out(train), "test": test}, MODELS[model], batch_size=batch_size, scale=SCALE,
            epoch_batches=epoch_batches, limit_batches=limit_batches,
        )  # fmt: skip


def noisy(images: Images, std: float) -> Images:
    """With Gaussian noise of `std` times 255, rounded and clipped to [0, 255]; the same at every call."""
    generator = torch.Generator().manual_seed(NOISE_SEED)
    noise = torch.randn(images.pixels.shape, generator=generator).mul_(255 * std)
    return Images(noise.add_(images.pixels).round_().clamp_(0, 255).byte(), images.labels)
