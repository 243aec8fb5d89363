"""MNIST: handwritten digits, 28x28."""

from __future__ import annotations

from functools import partial

from aida_bench.data.mnist import load_mnist
from aida_bench.models.cnn import small_cnn
from aida_bench.tasks.cifar10 import hold_out
from aida_bench.tasks.classification import ImageClassification

MODELS = {"cnn": partial(small_cnn, 1, 10, 16)}
SCALE = ((0.1307,), (0.3081,))


class Mnist(ImageClassification):
    """55,000 images train and 5,000 validate (the same for every seed), apart from the 10,000 test images."""

    name = "mnist"

    def __init__(self, *, model: str, batch_size: int, limit_batches: int | None = None) -> None:
        train, test = load_mnist()
        super().__init__(
            {**hold_out(train), "test": test}, MODELS[model], batch_size=batch_size, scale=SCALE,
            limit_batches=limit_batches,
        )  # fmt: skip
