"""Language models on running text: LSTMs with truncated backpropagation through time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.data.ptb import load_ptb
from aida_bench.data.sotu import load_sotu
from aida_bench.data.text import Corpus
from aida_bench.models.lstm import Dropouts, LanguageModel, detached

MODELS = {"lstm1": 1, "lstm2": 2, "lstm3": 3}
EVAL_STREAMS = 10
Batch = tuple[Tensor, Tensor]
"""Words [B, T] and the words that follow them."""


class Lm:
    """Penn Treebank. The text is cut into `batch_size` parallel streams and these into pieces of `bptt`
    words; the hidden state is carried from piece to piece, the gradient is not.

    Each epoch begins at an offset drawn from [0, bptt), so that the cuts move (AWD-LSTM draws each piece's
    length instead and scales the learning rate by it). `activity` and `change` weigh the mean squares of the
    last layer's dropped output and of its change from word to word in the training loss. The learning rate
    falls by ten at the fractions `lr_drops` of the run. Perplexity = exp(mean cross entropy in nats).

    `epoch_batches`: an epoch is so many pieces from an offset drawn from the whole text, not a pass over it;
    `eval_pieces`: the first so many pieces of a split's streams are evaluated.
    """

    name = "lm"
    parts: tuple[str, ...] = ("",)
    splits: tuple[str, ...] = ("validation", "test")
    load: Callable[[], Corpus] = staticmethod(load_ptb)

    def __init__(
        self,
        *,
        model: str,
        batch_size: int,
        limit_batches: int | None = None,
        embedding: int,
        hidden: int,
        bptt: int,
        dropouts: Sequence[float] = (),
        activity: float = 0.0,
        change: float = 0.0,
        clip_norm: float | None = None,
        lr_drops: Sequence[float] = (),
        epoch_batches: int | None = None,
        eval_pieces: int | None = None,
    ) -> None:
        self.corpus = self.load()
        self.layers, self.embedding, self.hidden = MODELS[model], embedding, hidden
        self.dropouts, self.bptt, self.limit_batches = Dropouts(*dropouts), bptt, limit_batches
        self.activity, self.change, self.clip_norm, self.lr_drops = activity, change, clip_norm, lr_drops
        self.epoch_batches, self.eval_pieces = epoch_batches, eval_pieces
        self.train_streams = streams(self.corpus.splits["train"], batch_size)

    def build_model(self) -> nn.Module:
        return LanguageModel(
            len(self.corpus.words), layers=self.layers, embedding=self.embedding, hidden=self.hidden,
            dropouts=self.dropouts,
        )  # fmt: skip

    def batches_per_epoch(self) -> int:
        """So many whole pieces remain after the largest offset."""
        pieces = self.train_streams.shape[1] // self.bptt - 1
        return min(filter(None, (pieces, self.epoch_batches, self.limit_batches)))

    def train_batches(self, generator: Generator, device: Any) -> Iterator[Batch]:
        length = self.batches_per_epoch() * self.bptt + 1
        room = self.train_streams.shape[1] - length + 1 if self.epoch_batches else self.bptt
        offset = int(torch.randint(room, (), generator=generator))
        end = offset + length
        return pieces(self.train_streams[:, offset:end].to(device), self.bptt)

    def losses(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
        state = None
        for words, following in batches:
            output = model(words, state)
            state = detached(output.state)
            loss = cross_entropy(output.logits.flatten(0, 1), following.flatten())
            if self.activity:
                loss = loss + self.activity * output.dropped.square().mean()
            if self.change:
                loss = loss + self.change * output.hidden.diff(dim=0).square().mean()
            yield "", loss

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        """Over ten parallel streams, each from an empty state."""
        data = streams(self.corpus.splits[split], EVAL_STREAMS)
        if most := min(filter(None, (self.eval_pieces, self.limit_batches)), default=None):
            data = data[:, : most * self.bptt + 1]
        state, seen, total = None, 0, torch.zeros((), device=device)
        for words, following in pieces(data.to(device), self.bptt):
            output = model(words, state)
            state = output.state
            total += cross_entropy(output.logits.flatten(0, 1), following.flatten(), reduction="sum")
            seen += following.numel()
        loss = total.double() / seen
        return {"loss": loss.item(), "perplexity": loss.exp().item()}

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        return {}

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        return 0.1 ** sum(step >= round(drop * steps_per_epoch * epochs) for drop in self.lr_drops)


class Sotu(Lm):
    """State of the Union addresses, in place of the Penn Treebank: text that may be passed on."""

    name = "sotu"
    load = staticmethod(load_sotu)


def streams(text: Tensor, count: int) -> Tensor:
    """Cut [tokens] into `count` consecutive parts of equal length, one a row; the rest is left out."""
    length = len(text) // count
    return text[: count * length].view(count, length)


def pieces(data: Tensor, bptt: int) -> Iterator[Batch]:
    """Consecutive columns of [B, L], at most `bptt` at a time, and the columns that follow them."""
    for start in range(0, data.shape[1] - 1, bptt):
        end = min(start + bptt, data.shape[1] - 1)
        yield data[:, start:end], data[:, start + 1 : end + 1]
