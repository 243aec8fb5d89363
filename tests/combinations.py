"""The optimizers' tests where the machine differs: `make test-matrix`, or this file with --only and --seed.

Eight combinations of the CPU kernel's and torch's instruction sets, threads and the tests' order. With what
`make test` itself is (LAST, on a CPU with AVX-512), each value of one meets each value of every other.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

TESTS = Path(__file__).resolve().parent
SUITE = ("family", "optimizers", "backends", "monitor", "published")
CONTROLS = ("in_force", "order", "threads")
MARKS = "not slow and not network and not gpu and not distributed and not processes"


@dataclass(frozen=True)
class Combination:
    variant: str  # AIDA_CPU_VARIANT: the CPU kernel's instruction set
    capability: str  # ATEN_CPU_CAPABILITY: torch's
    threads: int  # AIDA_TEST_THREADS
    order: str

    @property
    def environment(self) -> dict[str, str]:
        return {"AIDA_CPU_VARIANT": self.variant, "ATEN_CPU_CAPABILITY": self.capability,
                "AIDA_TEST_THREADS": str(self.threads)}  # fmt: skip

    @property
    def red(self) -> set[str]:
        """The controls that must fail here."""
        wanted = {"order": self.order == "random", "threads": self.threads > 1}
        return {control for control, fails in wanted.items() if fails}


VARIANTS = ("baseline", "avx2", "avx512")
CAPABILITIES = ("default", "avx2", "avx512")
TABLE = [
    Combination("baseline", "default", 4, "file"),
    Combination("baseline", "avx2", 1, "random"),
    Combination("baseline", "avx512", 2, "random"),
    Combination("avx2", "default", 1, "random"),
    Combination("avx2", "avx2", 2, "file"),
    Combination("avx2", "avx512", 4, "random"),
    Combination("avx512", "default", 2, "random"),
    Combination("avx512", "avx2", 4, "random"),
]
LAST = Combination("avx512", "avx512", 1, "file")


def clamped(c: Combination, variant: str, capability: str) -> Combination:
    """The same on a CPU with no more than these: torch would end with an illegal instruction."""
    return replace(
        c,
        variant=min(c.variant, variant, key=VARIANTS.index),
        capability=min(c.capability, capability, key=CAPABILITIES.index),
    )


def best() -> tuple[str, str]:
    """The widest instruction sets of this machine, of the CPU kernel (where it is built) and of torch."""
    import torch

    from aida.backends import cpu

    capability = torch.backends.cpu.get_cpu_capability().lower()
    variant = (
        VARIANTS[cpu._kernel().aida_best_variant()]
        if cpu.unsupported_reason(torch.float32) is None
        else "baseline"
    )
    return variant, capability if capability in CAPABILITIES else "default"


def pytest(c: Combination, seed: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    order = ["--random-order-bucket=global", f"--random-order-seed={seed}"] if c.order == "random" else []
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *order, *arguments]
    # Threads that wait asleep, or more of them than idle cores take minutes for seconds.
    environment = {**os.environ, **c.environment, "OMP_WAIT_POLICY": "passive"}
    environment.pop("OMP_NUM_THREADS", None)
    return subprocess.run(
        command, env=environment, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True, check=False
    )


def wrong_controls(c: Combination, seed: int) -> str:
    """What is amiss with the tests that must fail in some combinations, and with those alone."""
    files = [str(TESTS / "matrix_controls" / f"{name}.py") for name in CONTROLS]
    done = pytest(c, seed, "-rf", *files)
    red = set(re.findall(r"^FAILED \S*matrix_controls/(\w+)\.py", done.stdout, re.MULTILINE))
    if done.returncode in (0, 1) and red == c.red:
        return ""
    return f"{done.stdout}\ncontrols that failed: {sorted(red)}; that have to: {sorted(c.red)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="+", default=range(1, len(TABLE) + 1), help="1 to 8")
    parser.add_argument("--seed", type=int, default=0, help="of the random orders: SEED + the combination's")
    options = parser.parse_args()
    here = best()
    print(f"{processor()}: the kernel has {here[0]}, torch {here[1]}", flush=True)
    failed = []
    for number in options.only:
        c, seed = clamped(TABLE[number - 1], *here), options.seed + number
        values = " ".join(f"{name}={value}" for name, value in c.environment.items())
        less = "" if c == TABLE[number - 1] else " (less than asked for: this CPU has no more)"
        print(f"== {number}: {values} order={c.order} seed={seed}{less}", flush=True)
        if wrong := wrong_controls(c, seed):
            print(wrong)
            failed.append(f"{number} (controls)")
            continue
        done = pytest(c, seed, "--tb=short", "-m", MARKS, *(str(TESTS / name) for name in SUITE))
        print(done.stdout if done.returncode else done.stdout.strip().splitlines()[-1], flush=True)
        if done.returncode:
            failed.append(str(number))
    print(f"failed: {', '.join(failed)}" if failed else "== all combinations passed")
    return bool(failed)


def processor() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


if __name__ == "__main__":
    sys.exit(main())
