"""Multi30k, task 1, German to English (Elliott et al. 2016): captions of pictures, from Hugging Face."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from aida_bench.data.fetch import cache_folder
from aida_bench.data.text import Pair
from aida_bench.errors import UserError

REPOSITORY = "bentrevett/multi30k"
FILES = {"train": "train.jsonl", "validation": "val.jsonl", "test": "test.jsonl"}
PAIRS = {"train": 29_000, "validation": 1_014, "test": 1_000}


def load_multi30k() -> dict[str, list[Pair]]:
    """(German, English) pairs of the three splits, from the cache folder, else from the hub.

    No checksum of the files is published: each must hold exactly its PAIRS. Raises UserError otherwise.
    """
    return {split: read_pairs(split, _file(name)) for split, name in FILES.items()}


def read_pairs(split: str, file: Path) -> list[Pair]:
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        pairs = [(record["de"].strip(), record["en"].strip()) for record in records]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file} is not Multi30k's {split} file ({error!r}): delete it and try again."
        ) from error
    if len(pairs) != PAIRS[split]:
        raise UserError(f"{file} holds {len(pairs)} pairs, not {PAIRS[split]}: delete it and try again.")
    return pairs


def _file(name: str) -> Path:
    folder = cache_folder("multi30k")
    if (folder / name).exists():
        return folder / name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            os.replace(download(name, Path(part)), folder / name)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(
            f"Multi30k is unavailable from the Hugging Face hub ({reason}): get "
            f"{', '.join(FILES.values())} of its data set {REPOSITORY} and put them in {folder}."
        ) from error
    return folder / name


def download(name: str, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # it would tell of every retry; the error at the end says it once
    return Path(hf_hub_download(REPOSITORY, name, repo_type="dataset", local_dir=folder))
