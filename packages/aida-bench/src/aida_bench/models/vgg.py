"""VGG11 for 32x32 images, as the CIFAR experiments of arXiv 2203.13273 use it: no batch normalisation."""

from __future__ import annotations

from math import sqrt

from torch import nn

VGG11 = (1, "pool", 2, "pool", 4, 4, "pool", 8, 8, "pool", 8, 8, "pool")


def vgg11(classes: int = 10, width: int = 64) -> nn.Module:
    """Eight 3x3 convolutions with bias, three linear layers, dropout; 9,750,922 parameters for 10 classes.

    Convolution weights are drawn from N(0, 2 / (9 * out_channels)), their biases are zero. `width` is that of
    the first convolution; the others are multiples of it.
    """
    layers: list[nn.Module] = []
    channels = 3
    for factor in VGG11:
        if isinstance(factor, str):
            layers.append(nn.MaxPool2d(2))
            continue
        outputs = factor * width
        convolution = nn.Conv2d(channels, outputs, 3, padding=1)
        nn.init.normal_(convolution.weight, std=sqrt(2 / (9 * outputs)))
        nn.init.zeros_(convolution.bias)  # pyright: ignore[reportArgumentType]
        layers += [convolution, nn.ReLU(inplace=True)]
        channels = outputs
    return nn.Sequential(
        *layers, nn.Flatten(),
        nn.Dropout(), nn.Linear(channels, channels), nn.ReLU(inplace=True),
        nn.Dropout(), nn.Linear(channels, channels), nn.ReLU(inplace=True),
        nn.Linear(channels, classes),
    )  # fmt: skip
