"""Running text as numbered words, for language models; pairs of sentences, for translation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

EOS, UNKNOWN = "<eos>", "<unk>"
Pair = tuple[str, str]
"""A source sentence and its translation."""


@dataclass(frozen=True)
class Corpus:
    """`words[i]` is the word of number i; `splits` has each part of the text as int64 [tokens]."""

    words: tuple[str, ...]
    splits: Mapping[str, Tensor]


def with_eos(lines: Iterable[str]) -> list[str]:
    """The words of non-empty lines, each line closed by <eos>."""
    return [word for line in lines if line.strip() for word in (*line.split(), EOS)]


def number_words(parts: Mapping[str, list[str]], most: int) -> Corpus:
    """Number the `most` commonest words of the training part (ties: alphabetically); <unk> is all others."""
    counts = Counter(parts["train"])
    counts.pop(UNKNOWN, None)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    words = (UNKNOWN, *ranked[: most - 1])
    number = {word: i for i, word in enumerate(words)}
    return Corpus(
        words,
        {name: torch.tensor([number.get(word, 0) for word in part]) for name, part in parts.items()},
    )
