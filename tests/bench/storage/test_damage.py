"""A run's folder, damaged at random: it goes on with the same rows, or one line says what to do."""

from __future__ import annotations

import errno
import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from aida_bench.errors import UserError
from aida_bench.report.read_rows import read_folder
from aida_bench.storage.files import from_json_lines
from aida_bench.storage.run import Run
from aida_bench.storage.states import load_state
from helpers.bench.runs import CONFIG, EPOCHS, Killed, flipped, go

FILES = (
    "config.json",
    "versions.json",
    "rows.jsonl",
    "timings.jsonl",
    "checkpoint.pt",
    "checkpoint-prior.pt",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert go(folder) == "finished"
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    """In its last epoch."""
    folder = tmp_path_factory.mktemp("killed") / "run"

    def kill(progress):
        if progress.epoch == EPOCHS:
            raise Killed

    with pytest.raises(Killed):
        go(folder, kill)
    return folder


def damaged(content: bytes, rng: random.Random) -> bytes:
    return flipped(content, rng) if rng.random() < 0.5 else content[: rng.randrange(len(content))]


def weights(state) -> list[float]:
    return torch.cat([p.flatten() for p in state["parts"][""]["model"].values()]).tolist()


def one_line(error: Exception, *parts: str) -> bool:
    """Whether it is; raises AssertionError if not."""
    assert "\n" not in str(error)
    assert all(part in str(error) for part in parts), error
    return True


def copy(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def test_two_thousand_damages_of_a_killed_run_load_what_was_saved_or_say_so(killed, tmp_path, capfd):
    rng, folder = random.Random(0), copy(killed, tmp_path / "run")
    rows = {}
    for name in FILES[4:]:
        state = load_state(killed / name)
        rows[name] = (state["epoch"], from_json_lines(state["rows"]), weights(state))
    told = dict.fromkeys(FILES, 0)
    for trial in range(2000):
        name = FILES[trial % len(FILES)]
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged(whole, rng))
        try:
            state = Run(folder, CONFIG).load()
            source = "checkpoint-prior.pt" if name == "checkpoint.pt" else "checkpoint.pt"
            assert (state["epoch"], state["rows"], weights(state)) == rows[source], name
        except UserError as error:
            told[name] += one_line(error, name)
        warned = capfd.readouterr().err
        assert warned.count("\n") == (name == "checkpoint.pt"), warned
        assert not warned or f"{name} is damaged" in warned
        (folder / name).write_bytes(whole)
    assert told["config.json"] > 100
    assert sum(told.values()) == told["config.json"]


def test_two_thousand_damages_of_a_finished_run_are_read_whole_or_told(finished, tmp_path, capfd):
    rng, folder = random.Random(1), copy(finished, tmp_path / "run")
    good = read_folder(folder)
    names = (*FILES, "done.json")
    for trial in range(2000):
        name = names[trial % len(names)]
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(damaged(whole, rng))
        try:
            found = read_folder(folder)
            assert (found.config, found.status, found.rows, found.timings) == (
                good.config, good.status, good.rows, good.timings,
            ), name  # fmt: skip
        except UserError as error:
            one_line(error, "" if name == "done.json" else name)
        warned = capfd.readouterr().err
        assert not warned or (name == "versions.json" and warned.count("\n") == 1)
        (folder / name).write_bytes(whole)


def test_damaged_runs_end_with_the_same_rows_or_one_line(finished, killed, tmp_path):
    """Sixty times through a real resume."""
    rng, rows, ended, told = random.Random(2), (finished / "rows.jsonl").read_bytes(), 0, 0
    for trial in range(60):
        folder = copy(killed, tmp_path / "run")
        name = FILES[trial % len(FILES)]
        (folder / name).write_bytes(damaged((folder / name).read_bytes(), rng))
        try:
            assert go(folder) == "finished"
        except UserError as error:
            told += one_line(error, "config.json") * (name == "config.json")
            continue
        ended += 1
        assert (folder / "rows.jsonl").read_bytes() == rows
    assert (ended >= 50, ended + told) == (True, 60)


@pytest.mark.parametrize("name", ["rows.jsonl", "timings.jsonl"])
def test_what_the_error_tells_to_do_makes_a_finished_run_whole(finished, tmp_path, name):
    folder = copy(finished, tmp_path / "run")
    whole = (folder / "rows.jsonl").read_bytes()
    (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match=f"{name} is not as the run left it.*delete done.json there"):
        go(folder)
    (folder / "done.json").unlink()
    assert go(folder) == "finished"
    assert (folder / "rows.jsonl").read_bytes() == whole
    assert len(read_folder(folder).timings) == EPOCHS


def test_both_checkpoints_damaged_is_one_line(killed, tmp_path):
    folder = copy(killed, tmp_path / "run")
    for name in FILES[4:]:
        (folder / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged.*prior\.pt is damaged.*delete") as raised:
        go(folder)
    assert "\n" not in str(raised.value)


def test_checkpoints_of_finished_runs_are_kept_where_there_is_room_or_asked_for(tmp_path):
    go(tmp_path / "kept")
    size = sum(path.stat().st_size for path in (tmp_path / "kept").glob("*.pt"))
    # Sizes of two runs differ by some bytes: what was timed is in them.
    go(tmp_path / "fits", keep=2 * size)
    go(tmp_path / "not", keep=size // 2)
    found = {path.name: len(list(path.glob("*.pt"))) for path in tmp_path.iterdir()}
    assert found == {"kept": 2, "fits": 2, "not": 0}
    assert go(tmp_path / "not") == "finished"


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_at_any_write_loses_nothing(finished, tmp_path, monkeypatch, call):
    real, count = getattr(os, call), 0
    rows = (finished / "rows.jsonl").read_bytes()
    for full_at in range(1, 40, 3):
        count, folder = 0, tmp_path / str(full_at)

        def fill(*arguments, full_at=full_at):
            nonlocal count
            count += 1
            if count == full_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, fill)
            try:
                go(folder)
            except OSError as error:
                one_line(error, str(folder))
        assert go(folder) == "finished"
        assert (folder / "rows.jsonl").read_bytes() == rows
