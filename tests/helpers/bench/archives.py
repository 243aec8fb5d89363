"""Archives of data sets, made small, and sources that cannot be reached."""

from __future__ import annotations

import io
import tarfile


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def no_download(self, folder) -> None:
    raise OSError("no network")
