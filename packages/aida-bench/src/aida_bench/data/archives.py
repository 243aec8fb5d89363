"""Read files out of an archive into memory: nothing is ever unpacked to disk, so nothing can escape."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from aida_bench.errors import UserError

AR_MAGIC, AR_HEADER = b"!<arch>\n", 60


def read_members(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The wanted files of a tar archive, wheel or Debian package, by their last name.

    Raises UserError for an archive that is damaged.
    """
    read = {".whl": _zip_members, ".zip": _zip_members, ".deb": _deb_members}.get(
        archive.suffix, _tar_members
    )
    try:
        return dict(read(archive, wanted))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise UserError(f"{archive} is not a readable archive ({error}): delete it and try again.") from error


Members = Iterator[tuple[str, bytes]]


def _tar_members(archive: Path | io.BytesIO, wanted: Callable[[str], bool]) -> Members:
    with tarfile.open(archive) if isinstance(archive, Path) else tarfile.open(fileobj=archive) as tar:
        for member in tar:
            name = member.name.rsplit("/", 1)[-1]
            if member.isfile() and wanted(name):
                file = tar.extractfile(member)
                assert file is not None
                yield name, file.read()


def _zip_members(archive: Path, wanted: Callable[[str], bool]) -> Members:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            name = member.filename.rsplit("/", 1)[-1]
            if not member.is_dir() and wanted(name):
                yield name, zipped.read(member)


def _deb_members(archive: Path, wanted: Callable[[str], bool]) -> Members:
    """A .deb is an ar archive (deb(5)); its member data.tar.* holds the files."""
    content = archive.read_bytes()
    if not content.startswith(AR_MAGIC):
        raise ValueError("it does not begin as a Debian package")
    start = len(AR_MAGIC)
    while header := content[start : start + AR_HEADER]:
        start += AR_HEADER
        # Name and decimal size have fixed columns; members begin at even offsets.
        name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
        if len(content) < start + size:
            raise ValueError("it is truncated")
        if name.startswith("data.tar"):
            yield from _tar_members(io.BytesIO(content[start : start + size]), wanted)
            return
        start += size + size % 2
    raise ValueError("it has no member data.tar")
