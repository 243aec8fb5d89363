"""Real models with a batch that they train on: what a whole iteration of training is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.models.gpt import Gpt
from aida_bench.models.resnet import resnet34
from aida_bench.models.transformer import Transformer
from aida_bench.models.vgg import vgg11

Loss = Callable[[], Tensor]
Built = tuple[nn.Module, Callable[[nn.Module], Tensor]]


@dataclass(frozen=True)
class Workload:
    """A model and its batch; `batch` examples on a CPU, `batch_on_accelerator` elsewhere."""

    build: Callable[[int, str], Built]
    batch: int
    batch_on_accelerator: int
    of: str
    """What an example is."""

    def on(self, device: str) -> tuple[Built, int]:
        batch = self.batch if device == "cpu" else self.batch_on_accelerator
        return self.build(batch, device), batch


def images(build: Callable[[], nn.Module], batch: int, device: str) -> Built:
    model = build().to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    pixels = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)
    return model, lambda model: cross_entropy(model(pixels), labels)


def translation(vocabulary: int, words: int, sizes: dict[str, int], batch: int, device: str) -> Built:
    model = Transformer(vocabulary, 0, dropout=0.1, longest=words, **sizes).to(device)
    source, target = torch.randint(1, vocabulary, (2, batch, words), device=device)
    before, after = target[:, :-1], target[:, 1:].flatten()
    return model, lambda model: cross_entropy(model(source, before).flatten(0, 1), after)


def text(vocabulary: int, length: int, sizes: dict[str, int], batch: int, device: str) -> Built:
    model = Gpt(vocabulary, context=length, dropout=0.0, **sizes).to(device)
    tokens = torch.randint(vocabulary, (batch, length + 1), device=device)
    before, after = tokens[:, :-1], tokens[:, 1:].flatten()
    return model, lambda model: cross_entropy(model(before).flatten(0, 1), after)


BASE = dict(layers=6, dim=512, inner=2048, heads=8)
SMALL = dict(layers=12, dim=768, heads=12)
WORKLOADS = {
    "vgg11": Workload(partial(images, vgg11), 128, 128, "CIFAR-10 images"),
    "resnet34": Workload(partial(images, resnet34), 32, 128, "CIFAR-10 images"),
    "transformer-base": Workload(partial(translation, 10_000, 32, BASE), 16, 128, "pairs of 32 words"),
    "gpt2-small": Workload(partial(text, 50_257, 256, SMALL), 1, 32, "sequences of 256 tokens"),
}
ONE = dict(layers=1, dim=16, heads=2)
TINY = {"tiny-gpt": Workload(partial(text, 64, 16, ONE), 4, 4, "sequences of 16 tokens")}
"""To see that it runs, not how fast."""
