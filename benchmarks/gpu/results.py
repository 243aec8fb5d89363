"""A part's result: one JSON file, written after every case, from which the next call goes on."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCES = ("src/aida", "packages/aida-bench/src", "benchmarks/gpu", "tests/backends", "tests/helpers")
DONE = ("passed", "failed", "left out")


@dataclass(frozen=True)
class Call:
    """One call of a part: where its files are, and how long it may take."""

    part: int
    out: Path
    """Where the JSON and the log are copied to."""
    work: Path
    """What the next call on this machine goes on from: the same two files, checkpoints."""
    dry: bool = False
    soft: float = 300.0
    """Seconds after which no case is begun."""
    hard: float = 450.0
    """Seconds after which the case at work is stopped."""
    start: float = field(default_factory=time.time)

    @property
    def left(self) -> float:
        return self.start + self.hard - time.time()

    @property
    def may_begin(self) -> bool:
        return time.time() - self.start < self.soft

    def path(self, suffix: str) -> Path:
        return self.work / f"part-{self.part}{suffix}"

    def read(self) -> dict[str, Any]:
        """What is kept of this part; nothing where it is of other code, or was a dry run."""
        path = self.path(".json")
        if not path.exists():
            return {}
        kept = json.loads(path.read_text(encoding="utf-8"))
        if (kept["source"], kept["dry"]) == (source(), self.dry):
            return kept
        os.replace(path, self.path("-before.json"))
        return {}

    def write(self, result: Mapping[str, Any]) -> None:
        write(self.path(".json"), json.dumps(result, indent=1) + "\n")
        self.copy_out()

    def copy_out(self) -> None:
        if self.out.resolve() == self.work.resolve():
            return
        for suffix in (".json", ".log"):
            if self.path(suffix).exists():
                write(self.out / self.path(suffix).name, self.path(suffix).read_text(encoding="utf-8"))


def write(path: Path, text: str) -> None:
    """Whole or not at all: a call may be killed at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def source() -> str:
    """A checksum of the code that is measured: a bare machine has no repository to name a commit."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def finished(result: Mapping[str, Any]) -> bool:
    cases = result.get("cases", {})
    return bool(cases) and all(case["status"] in DONE for case in cases.values())
