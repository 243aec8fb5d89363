"""A decoder-only Transformer on the State of the Union addresses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from math import cos, log, pi
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.data.sotu import load_sotu_texts
from aida_bench.models.gpt import Gpt
from aida_bench.tasks.metrics.kneser_ney import KneserNey
from aida_bench.tasks.text.pieces import WordPieces

MODELS = {
    "gpt": {"layers": 3, "dim": 96, "heads": 4},
    "gpt-wide": {"layers": 3, "dim": 192, "heads": 4},
    "gpt6": {"layers": 6, "dim": 384, "heads": 6},
}
EVAL_BATCH = 100
Batch = Tensor
"""Pieces [B, context + 1]: all but the last are read, all but the first are to be told."""


class SotuGpt:
    """Prediction of the next one of lower-cased byte-pair pieces; of single bytes where `vocabulary` is 259.

    A batch's windows of `context` pieces begin at random places of the training text, the first
    `address_length` characters of each address. An epoch is `epoch_batches` batches, by default as many as
    read the text once. What is evaluated are the first `eval_length` characters of each address, in windows
    that do not overlap: nats a piece, and bits a character, which compare with any other model of the text.
    The learning rate rises linearly over the fraction `warmup` of the run, and falls as half a cosine to
    `lr_end` times its highest.
    """

    name = "gpt"
    parts: tuple[str, ...] = ("",)
    splits: tuple[str, ...] = ("validation", "test")

    def __init__(
        self,
        *,
        model: str,
        batch_size: int,
        limit_batches: int | None = None,
        vocabulary: int,
        context: int,
        epoch_batches: int | None = None,
        address_length: int | None = None,
        eval_length: int | None = None,
        dropout: float = 0.0,
        warmup: float = 0.1,
        lr_end: float = 0.0,
        clip_norm: float | None = 1.0,
    ) -> None:
        lengths = {"train": address_length, "validation": eval_length, "test": eval_length}
        self.texts = {
            split: [address[: lengths[split]].lower() for address in addresses]
            for split, addresses in load_sotu_texts().items()
        }
        pieces = WordPieces.learn(self.texts["train"], vocabulary)
        self.data = {
            split: torch.tensor([piece for address in pieces.encode(texts) for piece in address])
            for split, texts in self.texts.items()
        }
        self.vocabulary, self.context, self.batch_size = len(pieces), context, batch_size
        self.epoch_batches, self.limit_batches = epoch_batches, limit_batches
        self.warmup, self.lr_end, self.clip_norm = warmup, lr_end, clip_norm
        self.build = partial(Gpt, len(pieces), context=context, dropout=dropout, **MODELS[model])

    def build_model(self) -> nn.Module:
        return self.build()

    def batches_per_epoch(self) -> int:
        """By default the text's length, in tokens, is read once."""
        batches = len(self.data["train"]) // (self.batch_size * self.context)
        return min(filter(None, (self.epoch_batches or batches, self.limit_batches)))

    def train_batches(self, generator: Generator, device: Any) -> Iterator[Batch]:
        windows = self.data["train"].unfold(0, self.context + 1, 1)
        for _ in range(self.batches_per_epoch()):
            places = torch.randint(len(windows), (self.batch_size,), generator=generator)
            yield windows[places].to(device)

    def losses(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
        for batch in batches:
            yield "", next_loss(model, batch)

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        windows = self.data[split].unfold(0, self.context + 1, self.context)
        batches = windows.split(EVAL_BATCH)[: self.limit_batches]
        total = torch.zeros((), device=device)
        for batch in batches:
            total += next_loss(model, batch.to(device), "sum")
        loss = total.item() / (self.context * sum(map(len, batches)))
        return {"loss": loss, "bits_per_character": self.bits(loss, split)}

    def bits(self, loss: float, split: str) -> float:
        """Per character, of a loss in nats a piece."""
        return loss / log(2) * len(self.data[split]) / sum(map(len, self.texts[split]))

    def ngram_bits(self, split: str, order: int = 5) -> dict[str, float]:
        """The yardsticks: bits a character of Kneser-Ney models that learn from the same training text, one
        of its characters and one of its pieces."""
        number = {character: i for i, character in enumerate(sorted(set("".join(self.texts["train"]))), 1)}
        characters = {
            split: torch.tensor([number.get(c, 0) for address in texts for c in address])
            for split, texts in self.texts.items()
        }
        of_characters = KneserNey(characters["train"], order, len(number) + 1).loss(characters[split])
        of_pieces = KneserNey(self.data["train"], order, self.vocabulary).loss(self.data[split])
        return {"characters": of_characters / log(2), "pieces": self.bits(of_pieces, split)}

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        return {}

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        total = steps_per_epoch * epochs
        rising = max(1, round(self.warmup * total))
        if step < rising:
            return (step + 1) / rising
        falling = 0.5 * (1 + cos(pi * (step - rising) / max(1, total - rising)))
        return self.lr_end + (1 - self.lr_end) * falling


def next_loss(model: nn.Module, batch: Batch, reduction: str = "mean") -> Tensor:
    logits = model(batch[:, :-1])
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction=reduction)
