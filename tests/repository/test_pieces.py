"""A file carried in pieces is the file, or an error: tools/pieces.py."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "pieces.py"
PIECES = runpy.run_path(str(SCRIPT))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "archive.tar.gz"
    path.write_bytes(bytes(range(256)) * 10_000)  # 2.4 MiB: three pieces of at most 1
    return path


def test_pieces_that_come_one_at_a_time_make_the_file(archive, tmp_path):
    pieces = PIECES["split"](archive, tmp_path / "all", mib=1)
    assert [piece.name for piece in pieces] == [f"archive.tar.gz.{i}-of-3" for i in (1, 2, 3)]
    assert all(piece.stat().st_size <= 2**20 for piece in pieces)
    target = tmp_path / "there" / "archive.tar.gz"
    for number, left in ((2, 2), (3, 1), (2, 1), (1, 0)):
        came = tmp_path / f"came-{number}-{left}"
        came.mkdir()
        (came / pieces[number - 1].name).write_bytes(pieces[number - 1].read_bytes())
        assert target.exists() is False
        assert PIECES["join"](came, target) == left
    assert target.read_bytes() == archive.read_bytes()
    assert list(target.parent.iterdir()) == [target]
    assert PIECES["join"](tmp_path / "nothing", target) == 0


def test_a_damaged_piece_is_named_and_nothing_is_made(archive, tmp_path):
    pieces = PIECES["split"](archive, tmp_path / "all", mib=1)
    content = bytearray(pieces[1].read_bytes())
    content[-1] ^= 1
    pieces[1].write_bytes(content)
    target = tmp_path / "there" / "archive.tar.gz"
    with pytest.raises(ValueError, match="2-of-3 is no piece, or is damaged"):
        PIECES["join"](tmp_path / "all", target)
    assert not target.exists()


def test_pieces_of_two_files_are_not_joined(archive, tmp_path):
    first = PIECES["split"](archive, tmp_path / "one", mib=1)
    archive.write_bytes(archive.read_bytes()[::-1])
    second = PIECES["split"](archive, tmp_path / "two", mib=1)
    first[0].write_bytes(second[0].read_bytes())
    with pytest.raises(ValueError, match="of different files"):
        PIECES["join"](tmp_path / "one", tmp_path / "there" / "archive.tar.gz")


@pytest.mark.processes
def test_the_commands_exit_codes(archive, tmp_path):
    def run(*words):
        done = subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True)
        return done.returncode, (done.stdout + done.stderr).strip()

    assert run("split", archive, tmp_path / "all", "--mib", 2)[0] == 0
    target, (first, second) = tmp_path / "there.tar.gz", sorted((tmp_path / "all").iterdir())
    kept = second.read_bytes()
    second.unlink()
    assert run("join", tmp_path / "all", target) == (3, "1 pieces are still to come")
    first.unlink()
    second.write_bytes(kept)
    assert run("join", tmp_path / "all", target) == (0, f"{target} is there")
    assert run("split", tmp_path / "none", tmp_path)[0] == 2
