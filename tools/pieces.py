"""A large file in pieces that can be carried one at a time, with checksums.

    python3 tools/pieces.py split FILE FOLDER [--mib 48]    FOLDER/FILE.1-of-4, ...
    python3 tools/pieces.py join FOLDER FILE                as often as pieces arrive; 3 until all are there

A piece's first line has its SHA-256 and that of the whole file. Those that have arrived are kept in
FILE.pieces. It needs nothing but Python.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

HEAD = re.compile(rb"piece (\d+) of (\d+), sha256 ([0-9a-f]{64}) of whole ([0-9a-f]{64})\n")
WAITING = 3


def split(file: Path, folder: Path, mib: int = 48) -> list[Path]:
    """Pieces of `mib` MiB at most, with a head of their own; returns their paths."""
    whole, size = _sha256(file), mib * 2**20 - 256
    count = -(-file.stat().st_size // size) or 1
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with open(file, "rb") as source:
        for number in range(1, count + 1):
            body = source.read(size)
            head = f"piece {number} of {count}, sha256 {hashlib.sha256(body).hexdigest()} of whole {whole}\n"
            made.append(folder / f"{file.name}.{number}-of-{count}")
            made[-1].write_bytes(head.encode() + body)
    return made


def join(folder: Path, file: Path) -> int:
    """How many pieces are still to come; 0 when the file is there. Raises ValueError for a damaged piece."""
    if file.exists():
        return 0
    kept = file.with_name(f"{file.name}.pieces")
    kept.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if re.search(r"\.\d+-of-\d+$", path.name):
            number, *_ = _read(path)
            beside = kept / f".{number}"
            shutil.copyfile(path, beside)
            os.replace(beside, kept / str(number))
    found = {path.name: _read(path) for path in kept.iterdir() if path.name.isdigit()}
    if not found:
        raise ValueError(f"{folder} has no pieces, such as {file.name}.1-of-4")
    if len(kinds := {(count, whole) for _, count, whole, _ in found.values()}) > 1:
        raise ValueError(f"the pieces in {folder} and {kept} are of different files: delete {kept}")
    count, whole = kinds.pop()
    if len(found) < count:
        return count - len(found)
    beside = file.with_name(f".{file.name}.part")
    with open(beside, "wb") as target:
        for number in range(1, count + 1):
            target.write(found[str(number)][3])
    if _sha256(beside) != whole:
        raise ValueError(f"the pieces in {kept} do not make the file that was split: split it again")
    os.replace(beside, file)
    shutil.rmtree(kept)
    return 0


def _read(path: Path) -> tuple[int, int, str, bytes]:
    """A piece's number, how many there are, the whole file's checksum, and what it holds."""
    content = path.read_bytes()
    head = HEAD.match(content)
    body = content[head.end() :] if head else b""
    if head is None or hashlib.sha256(body).hexdigest() != head[3].decode():
        raise ValueError(f"{path} is no piece, or is damaged: bring it again")
    return int(head[1]), int(head[2]), head[4].decode(), body


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    splitting, joining = verbs.add_parser("split"), verbs.add_parser("join")
    splitting.add_argument("file", type=Path)
    splitting.add_argument("folder", type=Path)
    splitting.add_argument("--mib", type=int, default=48, help="of a piece at most")
    joining.add_argument("folder", type=Path)
    joining.add_argument("file", type=Path)
    given = parser.parse_args()
    try:
        if given.verb == "split":
            for path in split(given.file, given.folder, given.mib):
                print(path)
            return 0
        left = join(given.folder, given.file)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{left} pieces are still to come" if left else f"{given.file} is there")
    return WAITING if left else 0


if __name__ == "__main__":
    sys.exit(main())
