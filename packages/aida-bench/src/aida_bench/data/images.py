"""A set of labelled images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Images:
    """`pixels` [N, H, W, C] as uint8 and `labels` [N] as int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: Any) -> Images:
        return Images(self.pixels.to(device), self.labels.to(device))

    def take(self, index: Tensor) -> Images:
        return Images(self.pixels[index], self.labels[index])
