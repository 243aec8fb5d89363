"""A run is a folder that survives anything: every file in it is whole at every moment.

config.json          what was asked for: a run is continued only under the same IDENTITY
versions.json        of Python, torch, this package, the commit and the machine
rows.jsonl           what happened; bitwise the same however often the run was killed and resumed
timings.jsonl        wall seconds and optimizer-step milliseconds per epoch
checkpoint.pt        the state after the last whole epoch, loadable with weights_only=True (and numpy's
                     scalars): all that going on needs, the rows and timings too, under one checksum
checkpoint-prior.pt  the one before, for when the last is damaged
done.json            its status, "finished" or "diverged", and the checksums of config, rows and timings; its
                     presence says that the run is never redone
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

from aida_bench.errors import UserError, warn
from aida_bench.storage.environment import versions
from aida_bench.storage.files import (
    ANEW,
    Row,
    from_json_lines,
    read_json,
    read_json_lines,
    sha256,
    to_json_lines,
    write_json,
    write_text,
)
from aida_bench.storage.states import Damaged, load_state, save_state

IDENTITY = (
    "task", "preset", "model", "optimizer", "settings", "seed", "epochs", "batch_size", "limit_batches",
    "device", "precision", "devices", "strategy",
)  # fmt: skip
"""What changes a run's numbers by more than rounding: a run goes on only with the same. Of `device` it is the
kind (cuda:0 is cuda:1), as each kind draws in its own way, and several `devices` each draw a dropout of their
own. `epochs` may grow: see `Run.load`."""
CARRIED_OUT = ("threads", "workers")
"""What changes rounding at most: a run that has begun keeps its own, unless it is given others."""
TOLD = ("higher",)
"""What says how its rows are read, and may be told later."""
SEALED = ("config.json", "rows.jsonl", "timings.jsonl")
REDONE = "delete done.json there and go on: the run is made whole again"


class Run:
    """The folder of one (optimizer, seed). Raises UserError if it belongs to another run, or is damaged."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, json.loads(json.dumps(dict(config)))
        begun = check_folder(folder, self.config)
        if begun is None:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "versions.json", versions())
            write_json(folder / "config.json", self.config)
        self.begun = self.config if begun is None else begun
        self.done = read_done(folder)

    @property
    def status(self) -> str | None:
        """ "finished", "diverged", or None while there is something left to do."""
        return None if self.longer else self.done

    @property
    def longer(self) -> bool:
        """Whether more epochs are wanted than it began with."""
        return self.begun.get("epochs") != self.config.get("epochs")

    def extend(self) -> None:
        """From here on it is the longer run, which has an end of its own."""
        (self.folder / "done.json").unlink(missing_ok=True)
        self.begun = {**self.begun, "epochs": self.config["epochs"]}
        write_json(self.folder / "config.json", self.begun)
        self.done = None

    def finish(self, status: str, keep: float = inf) -> None:
        """Never to be redone; its checkpoints stay if they take at most `keep` bytes."""
        sums = {name: sha256(self.folder / name) for name in SEALED if (self.folder / name).exists()}
        write_json(self.folder / "done.json", {"status": status, "sha256": sums})
        self.done = status
        kept = [path for path in self._checkpoints if path.exists()]
        if sum(path.stat().st_size for path in kept) > keep:
            for path in kept:
                path.unlink()

    @property
    def _checkpoints(self) -> list[Path]:
        """The newest first."""
        return [self.folder / "checkpoint.pt", self.folder / "checkpoint-prior.pt"]

    def load(self) -> Row | None:
        """The newest checkpoint that this run can go on from, or None before the first.

        A damaged one is passed over with a warning. So, without, is one after the last epoch of a run that is
        to be longer now: a task may do more at a run's last epoch, so that epoch is trained again.
        Raises UserError if all are damaged, or one is of another run.
        """
        reasons = []
        for path in filter(Path.exists, self._checkpoints):
            try:
                state = load_state(path)
                config = state["config"]
                epoch, rows, timings = state["epoch"], state["rows"], state["timings"]
            except (Damaged, KeyError) as error:
                reasons.append(f"{path} is damaged ({error})")
                continue
            _refuse_other(path, config, self.begun)
            if config.get("threads") != self.begun.get("threads"):
                both = f"{config.get('threads')} and {self.begun.get('threads')}"
                raise UserError(f"{path} and config.json there have threads {both}: one is damaged; {ANEW}.")
            if config.get("epochs") != self.config.get("epochs") and epoch >= config["epochs"]:
                continue
            if reasons:
                warn(f"{reasons[0]}: going on from {path.name}, after epoch {epoch}.")
            return {**state, "rows": from_json_lines(rows), "timings": from_json_lines(timings)}
        if reasons:
            raise UserError(f"{'; '.join(reasons)}: delete {self.folder} to start it anew.")
        return None

    def save(self, state: Row, rows: list[Row], timings: list[Row]) -> None:
        """Keep an epoch. The checkpoint comes last: until it is there, the epoch has not happened."""
        texts = self.write_rows(rows, timings)
        newest, prior = self._checkpoints
        save_state(newest, {"config": self.begun, **state, **texts}, prior)

    def write_rows(self, rows: list[Row], timings: list[Row]) -> dict[str, str]:
        texts = {"rows": to_json_lines(rows), "timings": to_json_lines(timings)}
        for name, text in texts.items():
            write_text(self.folder / f"{name}.jsonl", text)
        return texts

    def rows(self) -> list[Row]:
        return read_json_lines(self.folder / "rows.jsonl")


def check_folder(folder: Path, config: Mapping[str, Any]) -> Row | None:
    """The configuration that a run in `folder` began with, None if there is none; nothing is written.

    Raises UserError if it is another run's, or damaged.
    """
    path = folder / "config.json"
    if not path.exists():
        return None
    begun = read_json(path)
    _refuse_other(path, begun, config)
    threads = begun.get("threads", 1)
    if not isinstance(threads, int) or threads < 1:
        raise UserError(f"{path} is damaged (threads {threads!r}): {ANEW}.")
    return begun


def read_done(folder: Path) -> str | None:
    """A run's status, None while there is something left to do. Raises UserError for one that is damaged."""
    path = folder / "done.json"
    if not path.exists():
        return None
    done = read_json(path, REDONE)
    status, sums = done.get("status"), done.get("sha256", {})
    known = status in ("finished", "diverged") and done.keys() <= {"status", "sha256"}
    if not known or not isinstance(sums, dict):
        raise UserError(f"{path} is damaged (status {status!r}): {REDONE}.")
    for name, wanted in sums.items():
        if not (folder / name).exists() or sha256(folder / name) != wanted:
            fix = ANEW if name == "config.json" else REDONE
            raise UserError(f"{folder / name} is not as the run left it (its SHA-256 is another): {fix}.")
    return status


def _refuse_other(path: Path, found: Any, wanted: Mapping[str, Any]) -> None:
    found = found if isinstance(found, dict) else {}
    for key in dict.fromkeys((*wanted, *found)):
        mine, theirs = found.get(key), wanted.get(key)
        if key in CARRIED_OUT + TOLD or _kind(key, mine) == _kind(key, theirs):
            continue
        if key == "epochs" and isinstance(mine, int) and isinstance(theirs, int) and 0 < mine < theirs:
            continue
        raise UserError(
            f"{path} belongs to another run: its {key} is {mine!r}, not {theirs!r}. "
            f"Ask for the same as then, or choose another folder."
        )


def _kind(key: str, value: Any) -> Any:
    return value.partition(":")[0] if key == "device" and isinstance(value, str) else value
