"""One run on two processes: DDP and FSDP2 give the curve of one process, and survive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aida_bench.storage.files import read_json_lines
from aida_bench.training.fabric import share
from helpers.bench.kills import killed

OPTIONS = ["digits", "--model", "mlp", "--limit-batches", "4", "--batch-size", "30", "--threads", "1",
           "--device", "cpu"]  # fmt: skip


def aida(*arguments: object, through=("-m",)) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *through, "aida_bench", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def train(folder: Path, *more: object, epochs: int = 3) -> list[dict]:
    done = aida("train", *OPTIONS, "--epochs", epochs, *more, "--out", folder, "--resume", "--quiet")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    return read_json_lines(folder / "aida" / "seed-0" / "rows.jsonl")


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> list[dict]:
    return train(tmp_path_factory.mktemp("one"), "--workers", 1)


def same_curve(found: list[dict], wanted: list[dict], rel: float) -> None:
    """Every number of every row; sums over a batch are taken in another order, hence not bitwise.

    An element near the edge of a histogram's bin (1.1 % wide) may be counted in the next one.
    """
    assert [row["kind"] for row in found] == [row["kind"] for row in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        theirs = dict(theirs)
        counts = theirs.pop("histogram", {"counts": []})["counts"]
        assert sum(counts) == sum(mine.get("histogram", {"counts": []})["counts"])
        binned = {key: theirs.pop(key) for key in ("p05", "p25", "p50", "p75", "p95") if key in theirs}
        assert {key: mine[key] for key in binned} == pytest.approx(binned, rel=0.0111)
        exact = {key: value for key, value in theirs.items() if not isinstance(value, float)}
        assert exact.items() <= mine.items()
        numbers = {key: value for key, value in theirs.items() if isinstance(value, float)}
        assert {key: mine[key] for key in numbers} == pytest.approx(numbers, rel=rel)


@pytest.mark.distributed
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_curve_of_one(one, tmp_path, strategy):
    """Three epochs of 4 batches; loss, accuracy and every layer's stepsizes to 1e-6; measured, 1.05e-7."""
    rows = train(tmp_path, "--devices", 2, "--strategy", strategy)
    same_curve(rows, one, rel=1e-6)
    checkpoint = torch.load(tmp_path / "aida" / "seed-0" / "checkpoint.pt", weights_only=True)
    shapes = [tuple(p.shape) for p in checkpoint["parts"][""]["model"].values()]
    assert shapes == [(64, 64), (64,), (10, 64), (10,)]


@pytest.mark.distributed
@pytest.mark.timeout(1800)
def test_torchrun_and_resuming_a_sharded_run(tmp_path):
    """Killed by a full stop after one epoch, it ends with bitwise the rows of an undisturbed run."""
    several = ["--devices", 2, "--strategy", "fsdp"]
    undisturbed = train(tmp_path / "calm", *several)
    folder = tmp_path / "shaken"
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    shaken = ["train", *OPTIONS, "--epochs", 3, "--strategy", "fsdp", "--out", folder, "--resume", "--quiet"]
    marks = tmp_path / "marks"
    stopped = subprocess.run(
        [sys.executable, "-m", "aida_bench", *map(str, shaken), "--devices", "2"],
        env={**os.environ, **killed(marks, group=True)}, start_new_session=True, timeout=900, check=False,
    )  # fmt: skip
    assert stopped.returncode == 128 + signal.SIGKILL
    assert not (folder / "aida" / "seed-0" / "done.json").exists()
    done = aida(*shaken, through=torchrun)
    assert done.returncode == 0, done.stderr
    assert read_json_lines(folder / "aida" / "seed-0" / "rows.jsonl") == undisturbed


@pytest.mark.distributed
@pytest.mark.timeout(1800)
def test_a_mistake_is_told_once_and_ends_all_processes(tmp_path):
    train(tmp_path, "--devices", 2, epochs=2)
    other = aida("train", *OPTIONS, "--epochs", 1, "--devices", 2, "--out", tmp_path, "--resume")
    assert (other.returncode, other.stdout) == (2, "")
    assert other.stderr.count("\n") == 1
    assert "its epochs is 2, not 1" in other.stderr


@pytest.mark.parametrize("total", [1, 2, 3, 7])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shares_make_up_the_batch_and_its_mean(total, world):
    batch = (torch.randn(total, 2, dtype=torch.float64), {"y": torch.arange(total)}, torch.tensor(5))
    shares = [share(batch, rank, world) for rank in range(world)]
    counted = [rows for (rows, _, _), weight in shares if weight]
    assert sorted(torch.cat(counted)[:, 0].tolist()) == sorted(batch[0][:, 0].tolist())
    mean = sum(rows.mean() * weight for (rows, _, _), weight in shares) / world
    assert mean.item() == pytest.approx(batch[0].mean().item(), rel=1e-14)
    assert all(whole == 5 and len(labels["y"]) == len(rows) for (rows, labels, whole), _ in shares)


def test_a_batch_without_one_number_of_examples_is_refused():
    with pytest.raises(ValueError, match=r"not \[2, 3\]"):
        share((torch.zeros(2), torch.zeros(3)), 0, 2)
