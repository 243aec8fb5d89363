"""python -m gpu [PART ...] [--out FOLDER] [--dry]; without a part, the table of them."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from gpu import runner
from gpu.parts import PARTS, find
from gpu.results import Call


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", type=int, metavar="PART", help="numbers of the table")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="for each part's JSON and log")
    parser.add_argument("--work", type=Path, default=Path("build/gpu"), help="what a later call goes on from")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU and in Triton's interpreter")
    parser.add_argument("--again", action="store_true", help="try the cases that have failed once more")
    parser.add_argument("--soft", type=float, default=300, help="seconds after which no case is begun")
    parser.add_argument("--hard", type=float, default=450, help="seconds after which a case is stopped")
    parser.add_argument("--start", type=float, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if wrong := {*given.parts} - {part.number for part in PARTS}:
        parser.error(f"there is no part {min(wrong)}: they are 1 to {len(PARTS)}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler, without a word
    if given.dry:
        os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    codes = [0]
    for number in given.parts:
        call = Call(
            number, given.out.resolve(), given.work.resolve(), given.dry, given.soft, given.hard,
            given.start or time.time(),
        )  # fmt: skip
        codes.append(
            runner.work(find(number), call)
            if given.worker
            else runner.carry_out(find(number), call, given.again)
        )
    if not given.parts:
        for part in PARTS:
            print(f"{part.number}  {part.name:10}  {part.shows}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
