"""Files are whole or the error says which is not: crashes, full disks, flipped bits."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import threading
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from aida_bench.errors import UserError
from aida_bench.storage import files, states
from aida_bench.storage.files import read_json, read_json_lines, write_text
from aida_bench.storage.states import Damaged, load_state, save_state
from helpers.bench.runs import flipped, go


def calls(monkeypatch) -> list[str]:
    """What is flushed and renamed, in order; a temporary file without what tells it from others."""
    log: list[str] = []
    fsync, replace = os.fsync, os.replace

    def name(path):
        return re.sub(r"\.[0-9a-f]{8}\.part$", ".part", Path(path).name)

    def flushed(handle):
        log.append(f"flush {name(os.readlink(f'/proc/self/fd/{handle}'))}")
        fsync(handle)

    def renamed(source, target):
        log.append(f"rename {name(source)} {name(target)}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    return log


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names file handles by /proc")
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_before_the_next_step(
    tmp_path, monkeypatch
):
    log = calls(monkeypatch)
    write_text(tmp_path / "a", "text")
    assert log == ["flush .a.part", "rename .a.part a", f"flush {tmp_path.name}"]
    log.clear()
    for value in (1, 2):
        save_state(tmp_path / "c", {"x": value}, tmp_path / "prior")
    assert log[3:] == ["flush .c.part", "rename c prior", "rename .c.part c", f"flush {tmp_path.name}"]
    assert (load_state(tmp_path / "prior"), load_state(tmp_path / "c")) == ({"x": 1}, {"x": 2})


def test_a_file_in_a_folder_s_place_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file/under"):
        with pytest.raises(UserError, match=rf"^{path} cannot be a folder: .*; choose another folder\.$"):
            files.make_folder(path)


def test_of_two_that_write_one_file_at_a_time_the_last_stays_whole(tmp_path):
    path = tmp_path / "report.html"
    with files.replaced(path) as first:
        first.write_text("A" * 100)
        with files.replaced(path) as second:
            second.write_text("B" * 9)
        assert path.read_text() == "B" * 9
    assert path.read_text() == "A" * 100
    with files.replaced(path) as first:
        first.write_text("C" * 100)
        with pytest.raises(OSError, match="no second"), files.replaced(path):
            raise OSError("no second")
    assert path.read_text() == "C" * 100
    assert os.listdir(tmp_path) == ["report.html"]


def test_what_a_killed_run_left_half_written_is_removed_when_it_goes_on(tmp_path):
    go(tmp_path / "calm")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".checkpoint.pt.0123abcd.part").write_bytes(b"half")
    go(run)
    assert not list(run.glob(".*.part"))
    assert (run / "rows.jsonl").read_bytes() == (tmp_path / "calm/rows.jsonl").read_bytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "write"])
def test_an_error_of_the_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, code, call):
    path = tmp_path / "rows.jsonl"
    write_text(path, "old")

    def fail(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "write_text")), fail)
    with pytest.raises(OSError, match=os.strerror(code)) as raised:
        write_text(path, "new")
    assert raised.value.filename == str(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["rows.jsonl"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EACCES])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, code):
    def fail(self, **_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(FileLock, "acquire", fail)
    with pytest.raises((UserError, OSError)) as raised, files.locked(tmp_path / ".lock"):
        pass
    assert str(tmp_path / ".lock") in str(raised.value)
    assert isinstance(raised.value, UserError) == (code != errno.EACCES)


def some_state() -> dict:
    return {"model": {"w": torch.randn(20, 30), "b": torch.zeros(30)}, "epoch": 3, "rows": "{}\n" * 40}


def test_every_flipped_bit_and_every_cut_of_a_checkpoint_is_found(tmp_path):
    """2,500 flips of one bit, 2,500 of a few, 1,000 cuts, and bytes after the end."""
    path, rng = tmp_path / "checkpoint.pt", random.Random(0)
    save_state(path, some_state())
    whole = path.read_bytes()
    assert torch.load(path, weights_only=True)["epoch"] == 3
    damages = [flipped(whole, rng, count) for count in (1, 5) for _ in range(2500)]
    damages += [whole[: rng.randrange(len(whole))] for _ in range(1000)] + [whole + b"\0", b"\0" + whole, b""]
    damages += [bytes([*whole[:-1], whole[-1] ^ 1]), whole[:-71], bytes(len(whole))]
    for damage in damages:
        path.write_bytes(damage)
        with pytest.raises(Damaged):
            load_state(path)
    path.write_bytes(whole)
    assert torch.equal(load_state(path)["model"]["b"], torch.zeros(30))


def test_torch_alone_loads_other_weights_from_a_flipped_bit(tmp_path):
    """The negative control: why there is a checksum of our own."""
    path = tmp_path / "checkpoint.pt"
    state = some_state()
    torch.save(state, path)
    whole = bytearray(path.read_bytes())
    whole[whole.find(state["model"]["w"].numpy().tobytes()) + 2] ^= 1
    path.write_bytes(whole)
    assert not torch.equal(torch.load(path, weights_only=True)["model"]["w"], state["model"]["w"])


def test_records_are_those_that_were_written_or_the_error_has_file_and_line(tmp_path):
    path, rng = tmp_path / "rows.jsonl", random.Random(1)
    rows = [{"epoch": i, "loss": 1 / (i + 1), "name": "µ\u2028x"} for i in range(8)]
    whole = files.to_json_lines(rows).encode()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # A last record is whole without its line's end, too.
        kept = whole[:cut].count(b"\n") + (whole[cut : cut + 1] == b"\n")
        assert read_json_lines(path) == rows[:kept]
    read = told = 0
    for _ in range(3000):
        path.write_bytes(flipped(whole, rng))
        try:
            read += all(isinstance(row, dict) for row in read_json_lines(path))
        except UserError as error:
            told += str(error).startswith(f"{path}, line ") and "\n" not in str(error)
    assert told > 500
    assert read + told == 3000
    path.write_bytes(b'{"a": 1}\n[]\n{"a": 2}\n')
    with pytest.raises(UserError, match=r"line 2 is \[\], no record: delete its folder"):
        read_json_lines(path)
    assert read_json_lines(tmp_path / "absent") == []


@pytest.mark.parametrize("content", [b"", b" \n", b'{"a": ', b"[1]", b"\xff{}", b"nul"])
def test_a_json_file_that_is_none_is_named_with_what_to_do(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match=r"config\.json is (empty|damaged).*: do this\.$"):
        read_json(tmp_path / "config.json", "do this")
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "config.json", "") == {"a": 1}


def test_a_state_comes_back_as_it_was_or_its_key_is_named_and_what_was_there_stays(tmp_path):
    path = tmp_path / "checkpoint.pt"
    kinds = (np.float64, np.float32, np.float16, np.int64, np.uint8, np.bool_, np.complex64, np.longdouble)
    numbers = {kind.__name__: kind(1) / 3 if kind in kinds[:3] else kind(1) for kind in kinds}
    save_state(path, {"parts": {"": {"seen": numbers}}})
    found = load_state(path)["parts"][""]["seen"]
    assert found == numbers
    assert {name: type(value) for name, value in found.items()} == {kind.__name__: kind for kind in kinds}
    for wrong, kind in (
        (Decimal(1), "Decimal"),
        (lambda: 1, "function"),
        (random.Random(0), "Random"),
        (np.zeros(2), "ndarray"),
        (object(), "object"),
        (threading.Lock(), "lock"),
    ):
        groups = [{"lr": 0.1}, {"lr": 0.1, "seen": (1, wrong)}]
        with pytest.raises(UserError, match=rf"since parts\.groups\.1\.seen\.1 is of type .*{kind}: "):
            save_state(path, {"parts": {"": {"groups": groups}}})
        assert os.listdir(tmp_path) == ["checkpoint.pt"]
        assert load_state(path)["parts"][""]["seen"] == numbers


def test_a_whole_checkpoint_that_torch_does_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(states, "NUMBERS", [*states.NUMBERS, Decimal])
    save_state(tmp_path / "checkpoint.pt", {"seen": Decimal(1)})
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"checkpoint\.pt is whole, but torch .*: delete its folder"):
        load_state(tmp_path / "checkpoint.pt")
