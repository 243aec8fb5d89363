"""German-English sentences: the examples in a dictionary of TU Chemnitz (GPL-2+), as Debian packages it."""

from __future__ import annotations

import re

import torch

from aida_bench.data.archives import read_members
from aida_bench.data.fetch import DebianPackage, fetch
from aida_bench.data.text import Pair
from aida_bench.errors import UserError

PACKAGE = DebianPackage(
    "trans-de-en",
    "1.9-6",
    "trans-de-en_1.9-6_all.deb",
    "45f6b4cf1c434776fba6811d7bc522efabb5425c43ba8afd0e289bf9e2e53df4",
)
HELD_OUT, SPLIT_SEED = 500, 0
REMARK = re.compile(r"\[[^\]]*\]|\{[^}]*\}")
ALTERNATIVES = re.compile(r"[;/()|<>]")


def load_de_en() -> dict[str, list[Pair]]:
    """(German, English) pairs: 500 validate, 500 test, and the others train.

    No German and no English sentence is in two splits. Raises UserError if the package is unavailable.
    """
    archive, _ = fetch("de-en", "the German-English sentences", (PACKAGE,))
    dictionary = read_members(archive, lambda name: name == "de-en").get("de-en", b"").decode("utf-8")
    pairs = list(dict.fromkeys(pair for line in dictionary.splitlines() for pair in sentences(line)))
    if len(pairs) <= 2 * HELD_OUT:
        raise UserError(f"{archive} holds {len(pairs)} sentences only: delete it and try again.")
    return split(pairs)


def sentences(line: str) -> list[Pair]:
    """The whole sentences of a line `de | de | … :: en | en | …`, without remarks in [] and {}.

    Those that offer alternatives (a;b, a/b, "(to) a") are left out: no sentence, but several in one.
    """
    german, mark, english = line.partition(" :: ")
    sides = [[clean(variant) for variant in side.split(" | ")] for side in (german, english)]
    if line.startswith("#") or not mark or len(sides[0]) != len(sides[1]):
        return []
    return [pair for pair in zip(*sides, strict=True) if all(map(is_sentence, pair))]


def clean(variant: str) -> str:
    return " ".join(REMARK.sub("", variant).replace("’", "'").split())


def is_sentence(text: str) -> bool:
    return text[:1].isupper() and text[-1:] in tuple(".!?") and not ALTERNATIVES.search(text)


def split(pairs: list[Pair]) -> dict[str, list[Pair]]:
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    parts: dict[str, list[Pair]] = {"validation": [], "test": [], "train": []}
    owner: dict[str, str] = {}
    for index in order:
        pair = pairs[index]
        wanted = next((name for name in ("validation", "test") if len(parts[name]) < HELD_OUT), "train")
        if all(owner.setdefault(text.lower(), wanted) == wanted for text in pair):
            parts[wanted].append(pair)
    return parts
