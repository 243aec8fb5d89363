"""A network for 28x28 or 32x32 images that two cores train in minutes."""

from __future__ import annotations

from torch import nn


def small_cnn(channels: int, classes: int, width: int = 32) -> nn.Module:
    """Four 3x3 convolutions with batch normalisation in two stages, and two linear layers."""

    def convolution(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]

    return nn.Sequential(
        *convolution(channels, width), nn.MaxPool2d(2), *convolution(width, width), nn.Dropout(0.1),
        nn.MaxPool2d(2), *convolution(width, 2 * width), *convolution(2 * width, 2 * width),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(),
        nn.Linear(2 * width * 16, 128), nn.ReLU(True), nn.Dropout(0.3), nn.Linear(128, classes),
    )  # fmt: skip
