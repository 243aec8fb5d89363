"""ImageNet, or any images in folders by class: ROOT/train/CLASS/*.jpg and ROOT/val/CLASS/*.jpg."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from aida_bench.data.fetch import cache_folder
from aida_bench.errors import UserError, warn

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True)
class ImageFolder:
    """Paths and labels; a class is a folder, numbered in the order of their names."""

    paths: list[Path]
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: Tensor) -> ImageFolder:
        return ImageFolder([self.paths[i] for i in index.tolist()], self.labels[index], self.classes)


def load_imagenet() -> tuple[ImageFolder, ImageFolder]:
    """The training and the validation folder. Raises UserError if they are not there, or disagree."""
    root = cache_folder("imagenet")
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise UserError(
            f"ImageNet is unavailable: it may not be passed on, so get it from image-net.org, sort it into "
            f"{root / 'train' / 'CLASS'} and {root / 'val' / 'CLASS'}, or set AIDA_DATA to the folder above."
        )
    train, validation = (read_folder(root / part) for part in ("train", "val"))
    if train.classes != validation.classes:
        raise UserError(f"{root / 'train'} and {root / 'val'} have different classes: they must be the same.")
    return train, validation


def read_folder(folder: Path) -> ImageFolder:
    """Every image below a folder of classes; what is hidden (.ipynb_checkpoints) is left out, and said.

    Raises UserError where a class has no image: an empty folder would shift the others' labels.
    """
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
    hidden = [path for path in folders if path.name.startswith(".")]
    classes = [path.name for path in folders if path not in hidden]
    found: list[tuple[Path, int]] = []
    for label, name in enumerate(classes):
        before = len(found)
        for path in sorted((folder / name).rglob("*")):
            inner = path.relative_to(folder).parts
            if any(part.startswith(".") for part in inner):
                hidden += [path] if not any(part.startswith(".") for part in inner[:-1]) else []
            elif path.suffix.lower() in SUFFIXES:
                found.append((path, label))
        if len(found) == before:
            raise UserError(f"{folder / name} has no images: put its class's in, or remove the folder.")
    if not found:
        raise UserError(f"{folder} has no images: put them in a folder for each class.")
    if hidden:
        warn(f"left out what is hidden in {folder}: {', '.join(_few(hidden, folder))}.")
    paths, labels = zip(*found, strict=True)
    return ImageFolder(list(paths), torch.tensor(labels), classes)


def _few(paths: list[Path], folder: Path) -> list[str]:
    named = sorted(str(path.relative_to(folder)) for path in paths)
    return [*named[:5], *([f"and {len(named) - 5} more"] if len(named) > 5 else [])]
