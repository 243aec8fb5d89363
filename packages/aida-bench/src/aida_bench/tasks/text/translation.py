"""German-English translation by a Transformer (the paper: Multi30k; small: a dictionary's sentences)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.data.de_en import load_de_en
from aida_bench.data.multi30k import load_multi30k
from aida_bench.data.text import Pair
from aida_bench.models.transformer import Transformer
from aida_bench.storage.files import write_text
from aida_bench.tasks.text.beam import beam_search
from aida_bench.tasks.text.pieces import BEGIN, END, PADDING, Encoded, WordPieces

CORPORA: dict[str, Callable[[], dict[str, list[Pair]]]] = {"de-en": load_de_en, "multi30k": load_multi30k}
LAYERS = {"transformer6": 6, "transformer2": 2}
EVAL_BATCH, POOL, LONGEST = 100, 50, 512
Batch = tuple[Tensor, Tensor]
"""Padded word pieces [B, S] of the sources and [B, T] of the targets, these from BEGIN to END."""


class Translation:
    """`layers` + `layers` post-norm Transformer on lower-cased byte-pair pieces that both languages share.

    Pairs of over `max_length` pieces are not trained on. Batches hold sentences of like length. Label
    smoothing in training only; perplexity and token accuracy given the true words before; BLEU (sacrebleu,
    13a, lower-cased) by beam search after the last epoch.
    Learning rate factor of step n = 1, 2, …: min((n/warmup)^-1/2, n/warmup); the recipe's lr is the highest.
    """

    name = "translation"
    parts: tuple[str, ...] = ("",)
    splits: tuple[str, ...] = ("validation", "test")
    clip_norm: float | None = None

    def __init__(
        self,
        *,
        model: str,
        batch_size: int,
        limit_batches: int | None = None,
        corpus: str,
        vocabulary: int,
        dim: int,
        inner: int,
        heads: int,
        warmup: int,
        dropout: float = 0.1,
        smoothing: float = 0.1,
        max_length: int = 100,
        beams: int = 4,
    ) -> None:
        self.pairs = CORPORA[corpus]()
        self.pieces = WordPieces.learn((text for pair in self.pairs["train"] for text in pair), vocabulary)
        self.data = {split: self.pieces.encode_pairs(pairs) for split, pairs in self.pairs.items()}
        self.data["train"] = [pair for pair in self.data["train"] if max(map(len, pair)) <= max_length]
        self.build = partial(
            Transformer, len(self.pieces), PADDING, layers=LAYERS[model], dim=dim, inner=inner, heads=heads,
            dropout=dropout, longest=LONGEST,
        )  # fmt: skip
        self.batch_size, self.limit_batches = batch_size, limit_batches
        self.warmup, self.smoothing, self.beams = warmup, smoothing, beams

    def build_model(self) -> nn.Module:
        return self.build()

    def batches_per_epoch(self) -> int:
        batches = -(-len(self.data["train"]) // self.batch_size)
        return min(batches, self.limit_batches or batches)

    def train_batches(self, generator: Generator, device: Any) -> Iterator[Batch]:
        """Random pools of 50 batches are sorted by length and cut, and the pool's batches shuffled."""
        data, size = self.data["train"], self.batch_size
        order = torch.randperm(len(data), generator=generator).tolist()
        batches = []
        for start in range(0, len(order), POOL * size):
            pool = by_length(data, order[start : start + POOL * size])
            cut = [pool[i : i + size] for i in range(0, len(pool), size)]
            batches += [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]
        for batch in islice(batches, self.limit_batches):
            yield padded([data[i] for i in batch], device)

    def losses(self, model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
        for source, target in batches:
            logits = model(source, target[:, :-1])
            yield "", cross_entropy(
                logits.flatten(0, 1), target[:, 1:].flatten(),
                ignore_index=PADDING, label_smoothing=self.smoothing,
            )  # fmt: skip

    def evaluate(self, model: nn.Module, split: str, device: Any) -> dict[str, float]:
        total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
        seen = 0
        for _, (source, target) in self.eval_batches(split, device):
            logits, words = model(source, target[:, :-1]).flatten(0, 1), target[:, 1:].flatten()
            total += cross_entropy(logits, words, ignore_index=PADDING, reduction="sum")
            correct += ((logits.argmax(1) == words) & (words != PADDING)).sum()
            seen += int((words != PADDING).sum())
        loss = total.double() / seen
        return {"loss": loss.item(), "perplexity": loss.exp().item(), "token_accuracy": correct.item() / seen}

    def eval_batches(self, split: str, device: Any) -> Iterator[tuple[list[int], Batch]]:
        """Batches of like length, with the numbers of their pairs."""
        data = self.data[split]
        order = by_length(data, range(len(data)))
        starts = range(0, len(order), EVAL_BATCH)
        for start in islice(starts, self.limit_batches):
            chosen = order[start : start + EVAL_BATCH]
            yield chosen, padded([data[i] for i in chosen], device)

    def end_epoch(
        self, model: nn.Module, epoch: int, epochs: int, folder: Path, device: Any
    ) -> dict[str, float]:
        """After the last epoch BLEU, and translations.txt: source, reference and translation of each test."""
        if epoch < epochs:
            return {}
        measures, texts = {}, []
        for split in self.splits:
            found = self.translate(model, split, device)
            sources, references = zip(*(self.pairs[split][i] for i in found), strict=True)
            measures[f"{split}_bleu"] = bleu(found.values(), references)
            texts = [f"{s}\n{r}\n{h}\n" for s, r, h in zip(sources, references, found.values(), strict=True)]
        write_text(folder / "translations.txt", "\n".join(texts))
        return measures

    def copy_bleu(self, split: str) -> float:
        """The floor: BLEU of the sources, copied as they are."""
        return bleu(*zip(*self.pairs[split], strict=True))

    def translate(self, model: nn.Module, split: str, device: Any) -> dict[int, str]:
        """Beam search's translation of each pair, by its number, in order."""
        found = {}
        for numbers, (source, _) in self.eval_batches(split, device):
            memory = model(source).repeat_interleave(self.beams, 0)
            sources = source.repeat_interleave(self.beams, 0)
            longest = min(2 * source.shape[1] + 10, LONGEST)
            words = beam_search(
                lambda target, m=memory, s=sources: model(s, target, m), len(numbers), self.beams,
                begin=BEGIN, end=END, padding=PADDING, longest=longest, device=device,
            )  # fmt: skip
            found.update(zip(numbers, self.pieces.decode(words), strict=True))
        return dict(sorted(found.items()))

    def lr_factor(self, step: int, steps_per_epoch: int, epochs: int) -> float:
        done = (step + 1) / self.warmup
        return min(done**-0.5, done)


def by_length(data: Sequence[Encoded], numbers: Iterable[int]) -> list[int]:
    return sorted(numbers, key=lambda i: (len(data[i][1]), len(data[i][0])))


def padded(pairs: Sequence[Encoded], device: Any) -> Batch:
    source, target = (
        nn.utils.rnn.pad_sequence(
            [torch.tensor(text) for text in side], batch_first=True, padding_value=PADDING
        )
        for side in zip(*pairs, strict=True)
    )
    return source.to(device), target.to(device)


def bleu(hypotheses: Iterable[str], references: Iterable[str]) -> float:
    from sacrebleu import corpus_bleu

    return corpus_bleu(list(hypotheses), [list(references)], lowercase=True).score
