"""VGG11 for 32x32 images, as the CIFAR experiments of arXiv 2203.13273 use it: no batch normalisation."""

from __future__ import annotations

from math import sqrt

from torch import nn

VGG11 = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def vgg11(classes: int = 10) -> nn.Module:
    """Eight 3x3 convolutions with bias, three linear layers, dropout; 9,750,922 parameters for 10 classes.

    Convolution weights are drawn from N(0, 2 / (9 * out_channels)), their biases are zero.
    """
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG11:
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2))
            continue
        convolution = nn.Conv2d(channels, width, 3, padding=1)
        nn.init.normal_(convolution.weight, std=sqrt(2 / (9 * width)))
        nn.init.zeros_(convolution.bias)  # pyright: ignore[reportArgumentType]
        layers += [convolution, nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(
        *layers, nn.Flatten(),
        nn.Dropout(), nn.Linear(512, 512), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(512, 512), nn.ReLU(inplace=True),
        nn.Linear(512, classes),
    )  # fmt: skip
