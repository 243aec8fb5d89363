"""Small made data in the place of each task's own."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from aida_bench.data.images import Images
from aida_bench.data.text import number_words
from aida_bench.tasks import cifar10, cifar100, mnist, wgan_gp
from aida_bench.tasks.text import gpt, lm, translation


def images(size: int, channels: int, classes: int = 10) -> tuple[Images, Images]:
    """Noise; a class is a brightness."""
    labels = torch.arange(200) % classes
    noise = torch.randint(20, (len(labels), size, size, channels))
    made = Images((noise + 235 * labels[:, None, None, None] // classes).byte(), labels)
    return made, made


def text():
    """Words that count up, so that each tells the next."""
    words = [str(number % 30) for number in range(20 * 35 * 10)]
    return number_words(dict.fromkeys(("train", "validation", "test"), words), 31)


def sentences():
    pairs = [(f"Zahl {number} hier.", f"Number {number} here.") for number in range(100)]
    return {"train": pairs, "validation": pairs[:2], "test": pairs[:2]}


def addresses():
    counted = " ".join(str(number % 30) for number in range(2000))
    return {"train": [counted] * 4, "validation": [counted], "test": [counted]}


def folder_of_images(root: Path) -> None:
    for part in ("train", "val"):
        for colour in ("blue", "red"):
            folder = root / "imagenet" / part / colour
            folder.mkdir(parents=True)
            for number in range(25):
                Image.new("RGB", (70, 70), colour).save(folder / f"{number}.png")


STAND_INS = {
    "digits": lambda patch, root: None,
    "mnist": lambda patch, root: patch.setattr(mnist, "load_mnist", lambda: images(28, 1)),
    "cifar10": lambda patch, root: patch.setattr(cifar10, "load_cifar10", lambda: images(32, 3)),
    "cifar100": lambda patch, root: patch.setattr(cifar100, "load_cifar100", lambda: images(32, 3, 100)),
    "imagenet": lambda patch, root: folder_of_images(root),
    "lm": lambda patch, root: patch.setattr(lm.Lm, "load", staticmethod(text)),
    "sotu": lambda patch, root: patch.setattr(lm.Sotu, "load", staticmethod(text)),
    "gpt": lambda patch, root: patch.setattr(gpt, "load_sotu_texts", addresses),
    "wgan-gp": lambda patch, root: patch.setattr(wgan_gp, "load_mnist", lambda: images(28, 1)),
    "translation": lambda patch, root: patch.setitem(translation.CORPORA, "de-en", sentences),
}
