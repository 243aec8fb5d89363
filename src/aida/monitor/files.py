"""A file that rows are appended to: whole at every moment, and opened when there is something to write."""

from __future__ import annotations

import csv
import json
import os
import stat
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO, StringIO
from pathlib import Path
from typing import Any

from .schema import Row, finite

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

TAIL = 2**24
"""So many bytes are looked at of a file's end; a record of a thousand layers is a tenth of it."""
BLANK = b"\xef\xbb\xbf \t\r\n"
"""Bytes that are no text: spaces, ends of lines and the mark that some editors begin a file with."""


class RowFile:
    """What JSONL and CSV share. mode "a" appends, "w" replaces what is there, "x" refuses it.

    The file is opened at each write alone. The first write of mode "a" cuts it back to its last whole record,
    and says so: a machine that went down may have left half of one. A record that cannot be written whole is
    not written at all. ~ is the home folder, and a relative path is of the folder that this process was in.
    Processes that share a file wait for each other.
    Raises ValueError for another mode, FileExistsError for a file that is there in mode "x".
    """

    def __init__(self, path: str | Path, mode: str = "a") -> None:
        if mode not in ("a", "w", "x"):
            raise ValueError(f'mode is "a" to append, "w" to replace or "x" for a new file, not {mode!r}')
        self.path, self.mode = Path(path).expanduser().absolute(), mode
        self._opened = False
        if mode == "x" and self.path.exists():
            raise FileExistsError(f'{self.path} is there already: mode="a" appends to it, "w" replaces it')

    def last(self, optimizer: str | None) -> Row | None:
        """The last row that there is of the named optimizer of a run, for a run that goes on."""
        if self.mode != "a" or not self.path.is_file():
            return None
        with self.path.open("rb", buffering=0) as file:
            rows = reversed(self._rows(_tail(file)[1]))
            return next((row for row in rows if (row.get("optimizer") or None) == optimizer), None)

    def _rows(self, data: bytes) -> list[Row]:
        """The whole rows among the last bytes of the file."""
        raise NotImplementedError

    def _whole(self, lines: list[bytes], half: bytes) -> tuple[int, bytes]:
        """How many of the last lines stay, and what of the half line after them, which is then ended.

        Raises ValueError for what are no rows.
        """
        raise NotImplementedError

    @contextmanager
    def _open(self) -> Iterator[FileIO]:
        """The file at its end, and this process alone in it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | (os.O_EXCL if self._first("x") else 0)
        with open(os.open(self.path, flags, 0o666), "r+b", buffering=0) as file:
            if fcntl:
                with suppress(OSError):  # not every file system has locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            if self._first("w"):
                with suppress(OSError):  # not a file on a disk
                    file.truncate(0)
            elif self._first("a") and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                self._mend(file)
            self._opened = True
            file.seek(0, os.SEEK_END) if file.seekable() else None
            yield file

    def _first(self, mode: str) -> bool:
        return self.mode == mode and not self._opened

    def _mend(self, file: FileIO) -> None:
        size, tail = _tail(file)
        *lines, half = tail.split(b"\n")
        while lines and not half.strip(BLANK) and not lines[-1].strip(BLANK):
            half = lines.pop()
        kept, whole = self._whole(lines, half)
        stays = sum(len(line) + 1 for line in lines[:kept]) + len(whole)
        if lost := tail[stays:]:
            file.truncate(size - len(lost))
        if lost.strip(BLANK):
            warnings.warn(
                f"{self.path} ended in half a record, as after a crash: its last {len(lost)} bytes are cut "
                "off",
                stacklevel=4,
            )
        if whole:
            _put(file, b"\n", self.path)

    def _append(self, text: str) -> None:
        with self._open() as file:
            _put(file, text.encode(), self.path)


class JSONL(RowFile):
    """Appends rows to a file, a JSON object a line; a number that is not finite becomes null.

    path, and mode "a", "w" or "x": as files.RowFile says. Every row names its run, so that the rows of runs
    that share a file are distinguished by what reads them; nothing is ever overwritten unless mode is "w".
    """

    def write(self, rows: Sequence[Row]) -> None:
        """Append one record, whole or not at all."""
        self._append("".join(json.dumps(finite(row)) + "\n" for row in rows))

    def _rows(self, data: bytes) -> list[Row]:
        return [row for line in data.split(b"\n") if (row := _object(line)) is not None]

    def _whole(self, lines: list[bytes], half: bytes) -> tuple[int, bytes]:
        """A record ends in a row of kind "spread"; an editor may have left out the last line's end."""
        text = half.strip(b"\0" + BLANK)
        if _object(half) is not None:
            return len(lines), half
        if text and not text.startswith(b"{"):
            raise ValueError(f"{self.path} ends in {text[:40]!r}, which is no row: is it another file?")
        kept, of = len(lines), None
        while kept and (row := _object(lines[kept - 1])) and row.get("kind") == "stepsize" and "run" in row:
            if of not in (None, (row["run"], row.get("step"))):
                break
            kept, of = kept - 1, (row["run"], row.get("step"))
        return kept, b""


class CSV(RowFile):
    """Appends the layers' rows to a file, a header first; histograms and the spread are left out.

    path, and mode "a", "w" or "x": as files.RowFile says. Rows follow the header that is there; where it
    lacks a column, as another version's may, they go to a file beside it, NAME-2.csv, with a warning.
    """

    def write(self, rows: Sequence[Row]) -> None:
        """Append one record, whole or not at all."""
        plain = [{key: x for key, x in row.items() if key != "histogram"} for row in layers_of(rows)]
        if not plain:
            return
        header = self._choose(list(plain[0]))
        text = StringIO()
        writer = csv.DictWriter(text, header or list(plain[0]), lineterminator="\n")
        if header is None:
            writer.writeheader()
        writer.writerows(plain)
        self._append(text.getvalue())

    def _choose(self, columns: list[str]) -> list[str] | None:
        """The header to write under, None where there is none yet; the path moves on to one that fits."""
        given, number = self.path, 1
        while header := self._header():
            if set(columns) <= set(header):
                break
            number += 1
            self.path = given.with_name(f"{given.stem}-{number}{given.suffix}")
        if self.path != given:
            warnings.warn(
                f"{given} has other columns than these rows, which go to {self.path} instead", stacklevel=4
            )
        return header

    def _header(self) -> list[str] | None:
        """Of the first line with any text, where that is whole."""
        if self._first("w") or not self.path.is_file():
            return None
        with self.path.open("rb") as file:
            line = next((line for line in file if line.strip(BLANK)), b"")
        if not line.endswith(b"\n"):
            return None
        return next(csv.reader([line.decode("utf-8-sig", errors="replace")]))

    def _rows(self, data: bytes) -> list[Row]:
        header, lines = self._header(), data.decode(errors="replace").split("\n")[:-1]
        return list(csv.DictReader(lines, header)) if header else []

    def _whole(self, lines: list[bytes], half: bytes) -> tuple[int, bytes]:
        """A row that an editor has left without its end stays, without its last number, as it may be half."""
        text = half.strip(b"\0" + BLANK)
        if text and not lines and not text.startswith(b"kind,"[: len(text)]):
            raise ValueError(
                f"{self.path} begins with {half[:40]!r}, which is no header: is it another file?"
            )
        columns = len(self._header() or ())
        is_row = columns > 1 and text.count(b",") == columns - 1 and b'"' not in text
        return len(lines), half[: half.rindex(b",") + 1] if is_row else b""


def layers_of(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["kind"] == "stepsize"]


def _tail(file: FileIO) -> tuple[int, bytes]:
    """The file's size and its last bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - TAIL, 0))
    return size, file.readall()


def _object(line: bytes) -> Row | None:
    try:
        found: Any = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _put(file: FileIO, data: bytes, path: Path) -> None:
    """All of it or, where there is no room, none: then the error names the file."""
    start = os.fstat(file.fileno()).st_size
    try:
        while data:
            data = data[file.write(data) :]
    except OSError as error:
        with suppress(OSError):  # what is not a file on a disk cannot be cut
            file.truncate(start)
        raise OSError(error.errno, error.strerror, str(path)) from error
