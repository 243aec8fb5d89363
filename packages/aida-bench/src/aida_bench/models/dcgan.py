"""DCGAN's generator and a critic of its shape (Radford et al. 2016), as in AdaBelief's code for WGAN-GP.

4x4 convolutions without bias, each stage half or twice the size of the one before; weights N(0, 0.02),
those of normalisations N(1, 0.02). Departures: the critic normalises each image by itself, since a gradient
penalty is of one image and the published batch normalisation makes its score depend on the others (Gulrajani
et al. 2017, section 4, advise this); its last layer has no bias, which both losses' gradients cancel.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def stages(size: int, width: int) -> list[int]:
    """Channels from half the image's size down to 4x4: [w, 2w, 4w, 8w] for 64. Raises ValueError."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"an image's size must be a power of two and at least 8, not {size}")
    return [width * 2**stage for stage in range(size.bit_length() - 3)]


def generator(channels: int, size: int, latent: int, width: int) -> nn.Module:
    """Latents [B, latent] to images [B, channels, size, size] in (-1, 1); for 3, 64, 100, 64 it has 3,576,704
    parameters."""
    inputs, *outputs = reversed(stages(size, width))
    layers = [nn.Unflatten(1, (latent, 1, 1)), nn.ConvTranspose2d(latent, inputs, 4, bias=False)]
    for count in (*outputs, channels):
        up = nn.ConvTranspose2d(inputs, count, 4, stride=2, padding=1, bias=False)
        layers += [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), up]
        inputs = count
    return nn.Sequential(*layers, nn.Tanh()).apply(initialise)


class Critic(nn.Module):
    """Images [B, channels, size, size] to scores [B]; given images [B', …] too, also the slopes there [B'].

    The slopes are taken within the call, so that a wrapper (precision, several processes, shards) sees one
    ordinary forward pass; for 3, 64, 64 it has 2,765,568 parameters.
    """

    def __init__(self, channels: int, size: int, width: int) -> None:
        super().__init__()
        first, *others = stages(size, width)
        layers: list[nn.Module] = [nn.Conv2d(channels, first, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
        inputs = first
        for count in others:
            down = nn.Conv2d(inputs, count, 4, 2, 1, bias=False)
            layers += [down, nn.GroupNorm(1, count), nn.LeakyReLU(0.2)]
            inputs = count
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(16 * inputs, 1, bias=False), nn.Flatten(0)
        ).apply(initialise)

    def forward(self, images: Tensor, between: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        scores = self.layers(images)
        return scores if between is None else (scores, slopes(self.layers, between))


def slopes(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Euclidean norm [B] of the gradient of each image's score; it can be differentiated in turn."""
    at = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(at).sum(), at, create_graph=True)
    return gradient.flatten(1).norm(dim=1)


def initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
        nn.init.normal_(module.weight, 1.0, 0.02)
