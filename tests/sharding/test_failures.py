"""What needs processes of its own: a rank that dies in mid-step, the example, the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.sharding.launch import TESTS

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(1800)]
EXAMPLE = TESTS.parent / "examples" / "fsdp2.py"

DYING = """
import os, signal, sys, torch, torch.distributed as dist
from datetime import timedelta
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2,
                        timeout=timedelta(hours=1))
os.environ["AIDA_TEST_FOLDER"] = folder
from torch.distributed.fsdp import fully_shard
from helpers.sharding.checkpoints import save
from helpers.sharding.common import batch, mine, net, train
import aida
model = net()
fully_shard(model)
optimizer = aida.Aida(model.parameters(), lr=1e-3)
train(model, optimizer, steps=range(5))
save(model, optimizer, "last")
if rank == 1:
    dist.all_reduce = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
print("saved", flush=True)
train(model, optimizer, steps=range(5, 6))
print("not reached", flush=True)
"""

LOADING = """
import os, sys
os.environ["AIDA_TEST_FOLDER"] = sys.argv[1]
from helpers.sharding.checkpoints import load
from helpers.sharding.common import LIMIT, batch, net, reference, train, worst
import aida
model = net()
expected = reference(model, lambda params: aida.Aida(params, lr=1e-3), range(8))
optimizer = aida.Aida(model.parameters(), lr=1e-3)
load(model, optimizer, "last", no_dist=True)
train(model, optimizer, batch, range(5, 8))
assert worst(model.parameters(), expected) <= LIMIT
"""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def test_a_rank_killed_in_mid_step_leaves_an_error_and_the_last_checkpoint(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", DYING, str(rank), str(tmp_path)],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ranks[1].communicate(timeout=600)
    assert ranks[1].returncode == -9
    out, err = ranks[0].communicate(timeout=600)  # by the broken connection: the group's own limit is longer
    assert ranks[0].returncode == 1
    assert out == "saved\n"
    assert "RuntimeError" in err
    subprocess.run([sys.executable, "-c", LOADING, str(tmp_path)], env=environment(), check=True, timeout=600)


def losses(world: int, steps: int, folder: Path, *options: str) -> dict[int, float]:
    """Of each step, as the example printed them; a lone process needs no torchrun."""
    several = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"] if world > 1 else []
    )
    options = ("--steps", str(steps), "--checkpoint", str(folder), "--lr", "0.01", *options)
    lone = dict(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    done = subprocess.run(
        [sys.executable, *several, str(EXAMPLE), *options],
        env={**environment(), **({} if several else lone)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("step ")]
    return {int(words[1]): float(words[3]) for words in lines}


def test_the_example_goes_on_with_another_number_of_processes(tmp_path):
    file = tmp_path / "sums.txt"
    file.write_text("".join(f"{i} and {i} are {2 * i}.\n" for i in range(500)))
    text = ["--text", str(file)]
    whole = losses(1, 16, tmp_path / "whole", *text)
    first = losses(2, 8, tmp_path / "parts", *text)
    second = losses(1, 16, tmp_path / "parts", *text)
    assert [*first, *second] == [*whole] == [*range(16)]
    assert {**first, **second} == pytest.approx(whole, abs=1e-4)
    assert whole[15] < 0.8 * whole[0]


def test_the_benchmark_counts_messages(tmp_path):
    output = tmp_path / "sharding.json"
    command = [
        sys.executable,
        str(TESTS.parent / "benchmarks" / "sharding.py"),
        "--quick",
        "--output",
        str(output),
    ]
    subprocess.run(command, env=environment(), check=True, capture_output=True, timeout=600)
    rows = json.loads(output.read_text())["rows"]
    assert [row["collectives"] for row in rows][:1] == [1]
    assert all(row["apart"] < 1e-6 for row in rows if "apart" in row)


@pytest.mark.network
def test_the_example_fetches_its_text(tmp_path):
    assert [*losses(2, 1, tmp_path / "run")] == [0]
