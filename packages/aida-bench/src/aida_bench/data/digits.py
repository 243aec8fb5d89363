"""The 8x8 digits that scikit-learn embeds (UCI Optical Recognition of Handwritten Digits, test part)."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from aida_bench.data.images import Images

SPLIT_SEED = 0


def load_digits_splits() -> dict[str, Images]:
    """Stratified train (1,257), validation (270) and test (270) images; pixels 0..16 widened to 0..255."""
    pixels, labels = load_digits(return_X_y=True)
    train, rest = train_test_split(
        np.arange(len(labels)), test_size=540, stratify=labels, random_state=SPLIT_SEED
    )
    validation, test = train_test_split(rest, test_size=270, stratify=labels[rest], random_state=SPLIT_SEED)
    images = Images(
        torch.from_numpy((pixels.reshape(-1, 8, 8, 1) * (255 / 16)).round().astype(np.uint8)),
        torch.from_numpy(labels.astype(np.int64)),
    )
    parts = {"train": train, "validation": validation, "test": test}
    return {name: images.take(torch.from_numpy(index)) for name, index in parts.items()}
