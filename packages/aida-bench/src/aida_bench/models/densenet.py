"""DenseNet121 (Huang et al. 2017) for 32x32 images: 3x3 stem at stride 1, growth 32, bottlenecks, halving."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROWTH, BLOCKS = 32, (6, 12, 24, 16)


def normalised(inputs: int, outputs: int, size: int) -> nn.Sequential:
    """Normalisation and activation come before the convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs), nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False),
    )  # fmt: skip


class Dense(nn.Module):
    """x joined by 32 new channels, made of 4 * 32 that a 1x1 convolution leaves of x."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.new = nn.Sequential(normalised(inputs, 4 * GROWTH, 1), normalised(4 * GROWTH, GROWTH, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.new(x)], 1)


def densenet121(classes: int = 10) -> nn.Module:
    """Four dense blocks; 6,956,298 parameters for 10 classes."""
    channels = 2 * GROWTH
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for stage, depth in enumerate(BLOCKS):
        if stage:
            layers += [normalised(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
        for _ in range(depth):
            layers.append(Dense(channels))
            channels += GROWTH
    end = (nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, *end, nn.Linear(channels, classes))
