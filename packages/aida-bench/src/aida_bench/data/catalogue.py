"""The data sets by name: what they are, who loads them, and how much must be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class DataSet:
    """`loader` is "module:function", of (train, test), a mapping of splits, or what has it as `.splits`.

    `counts` are the lengths of the splits, {} where they vary; `unit` is what they count. `embedded`: a
    dependency contains the data, so that nothing is fetched.
    """

    title: str
    loader: str
    unit: str
    counts: Mapping[str, int]
    licence: str
    embedded: bool = False

    def load(self) -> dict[str, int]:
        """Load it, fetching it first if need be; return its counts. Raises UserError if it is unavailable."""
        module, _, function = self.loader.partition(":")
        loaded: Any = getattr(import_module(f"aida_bench.data.{module}"), function)()
        parts = getattr(loaded, "splits", loaded)
        if not isinstance(parts, Mapping):
            parts = dict(zip(("train", "test"), parts, strict=True))
        return {name: len(part) for name, part in parts.items()}


CIFAR_COUNTS = {"train": 50_000, "test": 10_000}
DATA_SETS = {
    "digits": DataSet(
        "handwritten digits, 8x8 (UCI)", "digits:load_digits_splits", "images",
        {"train": 1_257, "validation": 270, "test": 270}, "BSD, within scikit-learn", embedded=True,
    ),
    "mnist": DataSet("MNIST", "mnist:load_mnist", "images", {"train": 60_000, "test": 10_000}, "not stated"),
    "cifar10": DataSet("CIFAR-10", "cifar10:load_cifar10", "images", CIFAR_COUNTS, "not stated"),
    "cifar100": DataSet("CIFAR-100", "cifar100:load_cifar100", "images", CIFAR_COUNTS, "not stated"),
    "imagenet": DataSet("ImageNet, in your own folders", "imagenet:load_imagenet", "images", {}, "its own"),
    "ptb": DataSet(
        "Penn Treebank", "ptb:load_ptb", "tokens",
        {"train": 929_589, "validation": 73_760, "test": 82_430}, "LDC: for your own use only",
    ),
    "sotu": DataSet("State of the Union addresses", "sotu:load_sotu", "tokens", {}, "public domain"),
    "de-en": DataSet("German-English sentences", "de_en:load_de_en", "pairs", {}, "GPL-2+"),
    "multi30k": DataSet(
        "Multi30k, German-English", "multi30k:load_multi30k", "pairs",
        {"train": 29_000, "validation": 1_014, "test": 1_000}, "not stated; captions of Flickr30k",
    ),
}  # fmt: skip
