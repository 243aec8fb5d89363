"""Wasserstein GAN with gradient penalty (Gulrajani et al. 2017) on images, as AdaBelief's code trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities import rank_zero_only
from torch import Generator, Tensor, nn
from torch.nn.functional import interpolate, pad

from aida_bench.data.cifar10 import load_cifar10
from aida_bench.data.images import Images
from aida_bench.data.mnist import load_mnist
from aida_bench.models.dcgan import Critic, generator
from aida_bench.storage.files import replaced
from aida_bench.tasks.cifar10 import hold_out
from aida_bench.tasks.metrics.frechet import FrechetDistance, to_bytes

Batch = tuple[Tensor, Tensor, Tensor]
"""Real images [B, C, S, S] in [-1, 1], latents [B, latent], and t [B, 1, 1, 1] (see WganGp)."""
EVAL_BATCH, EVAL_SEED, GRID, GRIDS_KEPT = 500, 0, 8, 5


def framed(images: Tensor, size: int) -> Tensor:
    """Put black around."""
    return pad(images, [(size - images.shape[-1]) // 2] * 4, value=-1.0)


def resized(images: Tensor, size: int) -> Tensor:
    return interpolate(images, (size, size), mode="bilinear")


@dataclass(frozen=True)
class Source:
    load: Callable[[], tuple[Images, Images]]
    fit: Callable[[Tensor, int], Tensor]


DATA = {"mnist": Source(lambda: load_mnist(), framed), "cifar10": Source(lambda: load_cifar10(), resized)}


class WganGp:
    """Critic: mean D(G(z)) - mean D(x) + penalty * mean (|grad D(t x + (1 - t) G(z))| - 1)^2, t uniform, at
    every batch; generator: -mean D(G(z)), the same z, at the first batch of every `generator_every`. The
    learning rate is constant.

    "wasserstein" is mean D(x) - mean D(G(z)) over a split and as many latents, the same at every epoch: the
    critic's estimate, each run's by its own critic. The Fréchet distance (see FrechetDistance) is taken of
    `samples` images, by default as many as the split has, every `distance_every` epochs and at the last.

    `published`: all training images train and are what is compared with. On several processes G's batch
    normalisation is over a share of the batch, so curves differ a little from one process's.
    """

    name = "wgan-gp"
    parts: tuple[str, ...] = ("generator", "critic")
    clip_norm: float | None = None

    def __init__(
        self,
        *,
        model: str,
        batch_size: int,
        epoch_batches: int | None = None,
        limit_batches: int | None = None,
        data: str,
        size: int,
        width: int,
        latent: int = 100,
        penalty: float = 10.0,
        generator_every: int = 5,
        extractor: str | Path | nn.Module = "classifier",
        samples: int | None = None,
        distance_every: int = 1,
        published: bool = False,
    ) -> None:
        train, test = DATA[data].load()
        held_out = hold_out(train)
        self.data = {"train": train, "validation": train} if published else {**held_out, "test": test}
        self.splits = tuple(split for split in self.data if split != "train")
        self.batch_size, self.epoch_batches, self.limit_batches = batch_size, epoch_batches, limit_batches
        self.size, self.width = size, width
        self.fit, self.latent, self.penalty = DATA[data].fit, latent, penalty
        self.generator_every, self.samples, self.distance_every = generator_every, samples, distance_every
        self.distance = FrechetDistance(extractor, data, held_out["train"], self.prepare)

    def build_model(self) -> nn.Module:
        channels = self.data["train"].pixels.shape[-1]
        made = {
            "generator": generator(channels, self.size, self.latent, self.width),
            "critic": Critic(channels, self.size, self.width),
        }
        return nn.ModuleDict(made).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def batches_per_epoch(self) -> int:
        batches = -(-len(self.data["train"]) // self.batch_size)
        return min(filter(None, (batches, self.epoch_batches, self.limit_batches)))

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 [B, H, W, C] to float32 [B, C, S, S] in [-1, 1]."""
        return self.fit(pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1), self.size)

    def train_batches(self, generator: Generator, device: Any) -> Iterator[Batch]:
        train = self.data["train"]
        order = torch.randperm(len(train), generator=generator)
        for index in islice(order.split(self.batch_size), self.batches_per_epoch()):
            latents = torch.randn(len(index), self.latent, generator=generator)
            mix = torch.rand(len(index), 1, 1, 1, generator=generator)
            yield self.prepare(train.take(index).pixels.to(device)), latents.to(device), mix.to(device)

    def losses(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
        make, score = model["generator"], model["critic"]  # pyright: ignore[reportIndexIssue]
        for number, (real, latents, mix) in enumerate(batches):
            with torch.no_grad():
                made = make(latents)
            scores, slopes = score(torch.cat([real, made]), torch.lerp(made, real, mix))
            of_real, of_made = scores.split(len(real))
            yield "critic", of_made.mean() - of_real.mean() + self.penalty * (slopes - 1).square().mean()
            if number % self.generator_every == 0:
                yield "generator", -score(make(latents)).mean()

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        score = model["critic"]  # pyright: ignore[reportIndexIssue]
        sums, count = torch.zeros(2, dtype=torch.float64), 0
        for real, made in zip(self.real(split, device), self.made(model, split, device), strict=True):
            sums += torch.stack([score(real).double().sum(), score(made).double().sum()]).cpu()
            count += len(real)
        return {"wasserstein": ((sums[0] - sums[1]) / count).item()}

    def real(self, split: str, device: Any) -> Iterator[Tensor]:
        for pixels in islice(self.data[split].pixels.split(EVAL_BATCH), self.limit_batches):
            yield self.prepare(pixels.to(device))

    def made(self, model: nn.Module, split: str, device: Any, count: int | None = None) -> Iterator[Tensor]:
        """`count` images, or as many as the split's that are evaluated; the same latents at every call."""
        latents = Generator().manual_seed(EVAL_SEED)
        for index in islice(
            torch.arange(count or len(self.data[split])).split(EVAL_BATCH), self.limit_batches
        ):
            yield self.generate(model, torch.randn(len(index), self.latent, generator=latents), device)

    def generate(self, model: nn.Module, latents: Tensor, device: Any) -> Tensor:
        return model["generator"](latents.to(device))  # pyright: ignore[reportIndexIssue]

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        """The Fréchet distances, and the same 64 latents' images as samples.png, kept at five epochs."""
        latents = torch.randn(GRID**2, self.latent, generator=Generator().manual_seed(EVAL_SEED))
        picture = grid(self.generate(model, latents, device))
        kept = {round(epochs * share / GRIDS_KEPT) for share in range(1, GRIDS_KEPT + 1)}
        for name in ("samples", *([f"samples-{epoch}"] if epoch in kept else [])):
            save_picture(picture, folder / f"{name}.png")
        if epoch % self.distance_every and epoch != epochs:
            return {}
        return {
            f"{split}_{self.distance.name}": self.distance(
                split, self.real(split, device), self.made(model, split, device, self.samples), device
            )
            for split in self.splits
        }

    def yardsticks(self, device: Any = "cpu") -> dict[str, float]:
        """What the validation distance is of as many other real images, and of uniform noise."""
        split, count = "validation", len(self.data["validation"])
        others = self.data["train"].pixels[:count].split(EVAL_BATCH)
        noise = Generator().manual_seed(EVAL_SEED)
        shapes = [real.shape for real in self.real(split, "cpu")]
        return {
            "real": self.distance(
                split, self.real(split, device), (self.prepare(o.to(device)) for o in others), device
            ),
            "noise": self.distance(
                split, (), (torch.rand(s, generator=noise).mul(2).sub(1).to(device) for s in shapes), device
            ),
        }

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        return 1.0


def grid(images: Tensor) -> Tensor:
    """[N², C, S, S] in [-1, 1] to bytes [N S, N S, C], row by row."""
    side = round(len(images) ** 0.5)
    rows = to_bytes(images).unflatten(0, (side, side)).permute(0, 3, 1, 4, 2)
    return rows.reshape(side * images.shape[2], side * images.shape[3], images.shape[1]).cpu()


@rank_zero_only
def save_picture(pixels: Tensor, path: Path) -> None:
    """Bytes [H, W, C] as PNG."""
    from PIL import Image

    with replaced(path) as beside:
        Image.fromarray(pixels.squeeze(2).numpy()).save(beside, format="PNG", optimize=True)
