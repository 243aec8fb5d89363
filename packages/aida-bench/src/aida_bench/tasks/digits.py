"""Handwritten digits, 8x8: the small task that ends in seconds."""

from __future__ import annotations

from torch import nn

from aida_bench.data.digits import load_digits_splits
from aida_bench.tasks.classification import ImageClassification


class Digits(ImageClassification):
    """scikit-learn's 1,797 digits, split 70/15/15 by class, the same split for every seed."""

    name = "digits"

    def __init__(self, *, model: str, batch_size: int, limit_batches: int | None = None) -> None:
        super().__init__(
            load_digits_splits(), MODELS[model], batch_size=batch_size, scale=((0.3,), (0.38,)),
            limit_batches=limit_batches,
        )  # fmt: skip


def digits_cnn() -> nn.Module:
    """Two convolutions and two linear layers, 84,306 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 152), nn.ReLU(), nn.Dropout(0.5), nn.Linear(152, 10),
    )  # fmt: skip


def digits_mlp() -> nn.Module:
    """One hidden layer and nothing random, so that the number of processes leaves its curve alone."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


MODELS = {"cnn": digits_cnn, "mlp": digits_mlp}
