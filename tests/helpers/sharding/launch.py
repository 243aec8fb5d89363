"""Runs the cases of tests/sharding on real processes; `python launch.py FOLDER CASE ...` does the work.

One interpreter imports torch and the cases once and forks the ranks of each world size. A rank writes one
line a case; when a case fails, its processes are ended and the cases after it start in new ones.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2]
CASES: dict[str, Callable[[], None]] = {}  # "WORLD:MODULE:NAME", in the order of their run
GRACE = 20  # seconds that other ranks have to end by themselves after one has failed


def on_ranks(*worlds: int) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """A case for each of these world sizes: a function that raises, on any rank, what is wrong."""

    def register(case: Callable[[], None]) -> Callable[[], None]:
        for world in worlds:
            CASES[f"{world}:{case.__module__.rpartition('.')[2]}:{case.__name__}"] = case
        return case

    return register


def launch(names: Sequence[str], folder: Path) -> dict[str, str | None]:
    """Run the named cases; each one's error, or None. Cases of one world size share their processes."""
    command = [sys.executable, __file__, str(folder), *names]
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    outcomes: dict[str, str | None] = dict.fromkeys(names, f"not reached:\n{done.stderr[-4000:]}")
    if (file := folder / "outcomes.json").exists():
        outcomes.update(json.loads(file.read_text()))
    return outcomes


def case_names(file: Path) -> list[str]:
    """The cases of a file, read without importing what it imports."""
    functions = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    marks = [(f.name, mark) for f in functions for mark in f.decorator_list if isinstance(mark, ast.Call)]
    return [f"{ast.literal_eval(world)}:{file.stem}:{name}" for name, mark in marks for world in mark.args]


def main(folder: Path, names: Sequence[str]) -> None:
    os.environ["AIDA_TEST_FOLDER"] = str(folder)
    for module in {name.split(":")[1] for name in names}:
        importlib.import_module(f"sharding.{module}")
    from helpers.sharding.launch import CASES as cases  # this file as the cases know it, not as __main__

    outcomes: dict[str, str | None] = {}
    for world, of_world in groupby(sorted(names, key=_world), _world):
        left = [(name, cases[name]) for name in of_world]
        while left:
            errors = _fork(world, left, folder)
            outcomes.update(errors)
            (folder / "outcomes.json").write_text(json.dumps(outcomes))
            left = left[len(errors) :]


def _world(name: str) -> int:
    return int(name.split(":")[0])


def _fork(world: int, cases: Sequence[tuple[str, Callable[[], None]]], folder: Path) -> dict[str, str | None]:
    """Outcomes of the cases up to the first that failed."""
    logs = [folder / f"rank{rank}.jsonl" for rank in range(world)]
    store = folder / f"store-{time.monotonic_ns()}"
    ranks = {}
    for rank, log in enumerate(logs):
        log.write_text("")
        if (pid := os.fork()) == 0:
            os._exit(_work(rank, world, cases, log, store))
        ranks[pid] = rank
    limit = None
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            ranks.pop(pid)
            if status:
                limit = limit or time.monotonic() + GRACE
        elif limit and time.monotonic() > limit:
            for left in ranks:
                os.kill(left, 9)
            limit = time.monotonic() + GRACE
        else:
            time.sleep(0.05)
    lines = [[json.loads(line) for line in log.read_text().splitlines()] for log in logs]
    outcomes: dict[str, str | None] = {}
    for i, (name, _) in enumerate(cases):
        errors = [
            f"rank {rank}: {of_rank[i] if i < len(of_rank) else 'ended without a word'}"
            for rank, of_rank in enumerate(lines)
            if i >= len(of_rank) or of_rank[i]
        ]
        outcomes[name] = "\n".join(errors) or None
        if errors:
            break
    return outcomes


def _work(
    rank: int, world: int, cases: Sequence[tuple[str, Callable[[], None]]], log: Path, store: Path
) -> int:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(minutes=10)
    )
    for _, case in cases:
        error = None
        torch.manual_seed(0)
        try:
            case()
            dist.barrier()
        except BaseException:
            error = traceback.format_exc()
        with log.open("a") as file:
            file.write(json.dumps(error) + "\n")
        if error:
            return 1
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
