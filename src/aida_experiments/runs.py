"""A run is a folder that survives anything: every file in it is whole at every moment.

config.json    what was asked for: a run is continued only under exactly the same configuration
versions.json  of Python, torch, this package, the commit and the machine
rows.jsonl     what happened; deterministic, bitwise the same however often the run was killed and resumed
timings.jsonl  wall seconds and optimizer-step milliseconds per epoch
checkpoint.pt  the state after the last whole epoch, loadable with weights_only=True
done.json      its status, "finished" or "diverged"; its presence says that the run is never redone
"""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from aida_experiments.errors import UserError

Row = dict[str, Any]


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path to write to beside `path`, which it then replaces: a reader never sees half a file."""
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    os.replace(beside, path)


def write_text(path: Path, text: str) -> None:
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8")


def to_json_lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def read_json_lines(path: Path) -> list[Row]:
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


class Run:
    """The folder of one (optimizer, seed). Raises UserError if it belongs to another configuration."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, json.loads(json.dumps(dict(config)))
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "config.json").exists():
            _refuse_other(
                folder / "config.json", json.loads((folder / "config.json").read_text()), self.config
            )
        else:
            write_text(folder / "versions.json", json.dumps(versions(), indent=1) + "\n")
            write_text(folder / "config.json", json.dumps(self.config, indent=1) + "\n")

    @property
    def status(self) -> str | None:
        """ "finished", "diverged", or None while there is something left to do."""
        path = self.folder / "done.json"
        return json.loads(path.read_text())["status"] if path.exists() else None

    def finish(self, status: str) -> None:
        write_text(self.folder / "done.json", json.dumps({"status": status}) + "\n")

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None. Raises UserError if it is damaged or of another configuration."""
        path = self.folder / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            config = state["config"]
        except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is not a checkpoint of this program: delete {self.folder} to start it anew."
            ) from error
        _refuse_other(path, config, self.config)
        return state

    def save(self, state: dict[str, Any], rows: list[Row], timings: list[Row]) -> None:
        """Keep an epoch. The checkpoint comes last: until it is there, the epoch has not happened."""
        write_text(self.folder / "rows.jsonl", to_json_lines(rows))
        write_text(self.folder / "timings.jsonl", to_json_lines(timings))
        with replaced(self.folder / "checkpoint.pt") as beside:
            try:
                torch.save({"config": self.config, **state}, beside)
            except RuntimeError as error:
                raise UserError(f"cannot write {beside} (is the disk full?): {error}") from error

    def rows(self, epochs: int | None = None) -> list[Row]:
        return _first(read_json_lines(self.folder / "rows.jsonl"), epochs)

    def timings(self, epochs: int | None = None) -> list[Row]:
        return _first(read_json_lines(self.folder / "timings.jsonl"), epochs)


def _first(rows: list[Row], epochs: int | None) -> list[Row]:
    return rows if epochs is None else [row for row in rows if row["epoch"] <= epochs]


def _refuse_other(path: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    found = found if isinstance(found, dict) else {}
    for key in [*wanted, *found]:
        if found.get(key) != wanted.get(key):
            raise UserError(
                f"{path} belongs to another run: its {key} is {found.get(key)!r}, not {wanted.get(key)!r}. "
                f"Give the same options as then, or another --out."
            )


def random_states() -> dict[str, Any]:
    """Every global generator's state, in types that torch.load(weights_only=True) accepts."""
    # numpy's legacy generator, because libraries that a task uses may draw from it.
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_states(states: dict[str, Any]) -> None:
    kind, keys, *rest = states["numpy"]
    random.setstate(states["python"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    torch.cuda.set_rng_state_all(states["cuda"])


@cache
def versions() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "aida": _version("aida-optim"),
        "lightning": _version("lightning-fabric"),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}",
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the source tree that this file lies in; None for an installed package."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
