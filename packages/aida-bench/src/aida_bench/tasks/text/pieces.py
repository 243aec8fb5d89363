"""Word pieces by byte-pair encoding, learnt from the training text alone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

# The threads of tokenizers would warn in every process that a run forks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from aida_bench.data.text import Pair

SPECIAL = ("<pad>", "<s>", "</s>")
PADDING, BEGIN, END = range(3)
Encoded = tuple[list[int], list[int]]
"""Piece numbers of a source and of its translation, both from BEGIN to END."""


@dataclass(frozen=True)
class WordPieces:
    """Lower-cased byte-level pieces: any text has a code, and codes become the lower-cased text again."""

    tokenizer: Tokenizer

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_frequency: int = 3) -> WordPieces:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size, min_frequency=min_frequency, special_tokens=list(SPECIAL), show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        tokenizer.train_from_iterator(texts, trainer)
        ends = [(SPECIAL[BEGIN], BEGIN), (SPECIAL[END], END)]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[BEGIN]} $A {SPECIAL[END]}", special_tokens=ends
        )
        return cls(tokenizer)

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def encode_pairs(self, pairs: Iterable[Pair]) -> list[Encoded]:
        sides = list(zip(*pairs, strict=True))
        return list(zip(*map(self.encode, sides), strict=True)) if sides else []

    def decode(self, codes: Iterable[list[int]]) -> list[str]:
        return [text.strip() for text in self.tokenizer.decode_batch(list(codes))]
