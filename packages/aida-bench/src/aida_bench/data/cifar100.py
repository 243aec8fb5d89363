"""CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 images of 100 classes, from its own binary archive."""

from __future__ import annotations

import numpy as np
import torch

from aida_bench.data.archives import read_members
from aida_bench.data.fetch import Url, fetch
from aida_bench.data.images import Images
from aida_bench.errors import UserError

BINARY = Url(
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
)
COUNTS = {"train.bin": 50_000, "test.bin": 10_000}


def load_cifar100() -> tuple[Images, Images]:
    """The training and the test images, in the original order. Raises UserError if they are unavailable."""
    archive, _ = fetch("cifar100", "CIFAR-100", (BINARY,))
    members = read_members(archive, COUNTS.__contains__)
    try:
        train, test = (_read(members[name], count) for name, count in COUNTS.items())
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{archive} does not hold what CIFAR-100 should ({error!r}): delete it and try again."
        ) from error
    return train, test


def _read(content: bytes, count: int) -> Images:
    """Records of a byte of the superclass, one of the class, and 3,072 pixel bytes, channel by channel."""
    records = np.frombuffer(content, np.uint8).reshape(count, 3074)
    labels = records[:, 1].astype(np.int64)
    if labels.max() > 99:
        raise ValueError(f"a label of {labels.max()}")
    pixels = records[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels))
