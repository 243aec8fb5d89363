"""Files that survive a crash, a full disk and a flipped bit: the one place that writes and reads them
(checkpoints: storage.states).

Each is written whole: to a temporary beside it, flushed to the disk, then renamed, and the folder flushed.
None is appended to, so half a record can only be damage, and a reader says where it is and what to do.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import Any

from filelock import FileLock, Timeout

from aida_bench.errors import UserError

Row = dict[str, Any]
ANEW = "delete its folder and run it again"
"""What to do about most damaged files of a run."""


def expand(path: Path) -> Path:
    """With ~ as the home folder; a shell leaves it in --out=~/runs. Raises UserError where there is none."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: there is no home folder ({error}): give a path without ~.") from error


def make_folder(path: Path) -> None:
    """Raises UserError if it is there and of no use."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(
            f"{path} cannot be a folder: a file is in its place; choose another folder."
        ) from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise UserError(f"{path} cannot be read and written by you: choose another folder.")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of what goes on inside that names no file, such as that of a full disk, names `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def replaced(path: Path, prior: Path | None = None) -> Iterator[Path]:
    """A path to write to beside `path`, which it then replaces: a reader never sees half a file, and of two
    that write at a time the last stays.

    What `path` held is kept as `prior`, if that is given.
    """
    beside = path.with_name(f".{path.name}.{token_hex(4)}.part")
    with naming(path):
        try:
            yield beside
            flush(beside)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        if prior is not None and path.exists():
            os.replace(path, prior)
        os.replace(beside, path)
        flush(path.parent)


def clear(folder: Path) -> None:
    """Remove what a killed process has left half written, where nobody else writes."""
    for path in folder.glob(".*.part"):
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name != "posix":
        return  # only POSIX opens folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some network file systems flush no folders
            raise
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """In UTF-8; what that lacks, as a file's name may have it, is a question mark."""
    with replaced(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def to_json_lines(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def from_json_lines(text: str) -> list[Row]:
    return [json.loads(line) for line in text.split("\n") if line]


def read_json(path: Path, fix: str = ANEW) -> Row:
    """The object in a file. Raises UserError, with `fix` as what to do, where there is none."""
    with naming(path):
        content = path.read_bytes()
    if not content.strip():
        raise UserError(f"{path} is empty: {fix}.")
    try:
        found = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {fix}.") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged (it is {json.dumps(found)[:40]}, no object): {fix}.")
    return found


def read_json_lines(path: Path, fix: str = ANEW) -> list[Row]:
    """The records of a file, [] if it is not there. A last line that was cut is left out.

    Raises UserError, with the line's number and with `fix` as what to do, for a line that is no record.
    """
    if not path.exists():
        return []
    with naming(path):
        *lines, cut = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}, line {number} is damaged ({error}): {fix}.") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number} is {line[:40].decode()}, no record: {fix}.")
        rows.append(row)
    with suppress(ValueError):
        rows += [row] if isinstance(row := json.loads(cut), dict) else []
    return rows


@contextmanager
def locked(path: Path, timeout: float = -1) -> Iterator[None]:
    """Alone with the lock `path`, which goes with its process.

    Raises filelock.Timeout after `timeout` seconds, and UserError where the file system has no locks.
    """
    lock = FileLock(path)
    try:
        with naming(path):
            lock.acquire(timeout=timeout)
    except NotImplementedError as error:
        raise UserError(f"{path} cannot be locked ({error}): choose a folder on another disk.") from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        reason = f"{error.strerror}; its file system has no locks"
        raise UserError(f"{path} cannot be locked ({reason}): choose a folder on another disk.") from error
    try:
        yield
    finally:
        lock.release()


def held(path: Path) -> bool | None:
    """Whether a process has the lock `path`; None where one may not try."""
    if not path.exists():
        return False
    try:
        with locked(path, 0):
            return False
    except Timeout:
        return True
    except (OSError, UserError):
        return None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with naming(path), open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
