"""ResNet34 for CIFAR and ResNet18 for ImageNet, of basic blocks (He et al. 2016)."""

from __future__ import annotations

from torch import Tensor, nn


def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False), nn.BatchNorm2d(outputs)
    )


class BasicBlock(nn.Module):
    """relu(x + f(x)); where the shape changes, x goes through a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            convolution(inputs, outputs, 3, stride), nn.ReLU(inplace=True), convolution(outputs, outputs, 3)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.residual(x)).relu_()


def residual(stem: list[nn.Module], blocks: tuple[int, ...], classes: int) -> nn.Module:
    """A stem of 64 channels, four stages of basic blocks, the mean over the image, a linear layer."""
    layers, channels = [*stem], 64
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), blocks, strict=True)):
        for block in range(count):
            layers.append(BasicBlock(channels, width, stride=2 if stage and not block else 1))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def resnet34(classes: int = 10) -> nn.Module:
    """For 32x32 images: 3x3 stem, stride 1, no max-pool; 21,282,122 parameters for 10 classes."""
    return residual([convolution(3, 64, 3), nn.ReLU(inplace=True)], (3, 4, 6, 3), classes)


def resnet18(classes: int = 1000) -> nn.Module:
    """For ImageNet: 7x7 stem, stride 2, max-pool; 11,689,512 parameters for 1,000 classes."""
    stem = [convolution(3, 64, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, padding=1)]
    return residual(stem, (2, 2, 2, 2), classes)
