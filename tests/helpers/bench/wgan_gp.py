"""A small WGAN-GP task, and one whose curve does not depend on the number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from aida_bench.data.images import Images
from aida_bench.storage.files import read_json_lines
from aida_bench.storage.run import Run
from aida_bench.tasks.wgan_gp import WganGp
from aida_bench.training.fabric import make_fabric
from aida_bench.training.loop import train


class Means(nn.Module):
    """Four features: the means of the quarters of an image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2).flatten(1)


def digits(side: int, channels: int, n: int = 96) -> Images:
    """Bright squares on black; where, says the label."""
    pixels = torch.zeros(n, side, side, channels, dtype=torch.uint8)
    draw = torch.Generator().manual_seed(0)
    for image, corner in zip(pixels, torch.randint(side // 2, (n, 2), generator=draw).tolist(), strict=True):
        image[corner[0] : corner[0] + side // 2, corner[1] : corner[1] + side // 2] = 200
    return Images(pixels, torch.arange(n) % 10)


def load(side: int, channels: int) -> tuple[Images, Images]:
    images = digits(side, channels)
    return images.take(torch.arange(80)), images.take(torch.arange(80, 96))


def run(
    task: WganGp, folder: Path, optimizer="aida", epochs=2, fabric=None, on_batch=lambda *_: None, **settings
) -> list:
    given = dict(optimizer=optimizer, settings={"lr": 1e-3, **settings}, seed=1, epochs=epochs)
    fabric = fabric or make_fabric("cpu", "32")
    if fabric.is_global_zero:  # as execution.job does: two processes would write the same files
        Run(folder, given)
    fabric.barrier()
    train(task, Run(folder, given), fabric=fabric, on_batch=on_batch, **given)
    return read_json_lines(folder / "rows.jsonl")


class Alike(WganGp):
    """A generator without batch normalisation, so that several processes have one process's curve."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        layers = model["generator"]
        for number, layer in enumerate(layers):
            if isinstance(layer, nn.BatchNorm2d):
                layers[number] = nn.GroupNorm(1, layer.num_features)
        return model


def alike(folder: Path, *place: Any) -> list:
    given = dict(model="dcgan", batch_size=9, data="mnist", size=8, width=4, latent=5, extractor=Means())
    return run(Alike(**given), folder, "aida", fabric=make_fabric("cpu", "32", *place), eps=1e-8)
